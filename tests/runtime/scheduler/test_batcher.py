"""Which requests run next: exact, without threads, clocks or a model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine.protocol import Cores, Limits, Prediction
from runtime.exceptions import EngineFailed, RequestCancelled
from runtime.scheduler.batcher import ENCODE_BURST, Batcher
from runtime.scheduler.recording_policy import ROWS_TOGETHER
from runtime.scheduler.requests import Priority, Request
from runtime.scheduler.steps import PIECE_SAMPLES, Align, Decode, Encode

END = 2
SECOND = Clip(np.zeros(16_000, np.int16))
INTERIM, FINAL, FILE = Priority.INTERIM, Priority.FINAL, Priority.FILE


def make_batcher(
    max_batch: int = 4,
    max_wait_ms: float = 10,
    encode_rows: int = 32,
    streams: int = 0,
    lanes: int = 0,
    groups: int = 1,
    max_rows: int = 0,
    continues: bool = False,
) -> Batcher:
    limits = Limits(
        max_batch,
        160_000,
        194,
        encode_rows,
        1,
        END,
        lanes,
        max(1, lanes - 1),
        groups,
        max_rows=max_rows,
        on_processor=lanes > 0 or continues,
        continues_clips=continues,
    )
    batcher = Batcher(limits, max_wait_ms / 1000)
    for stream in range(streams):
        batcher.open_stream(f"s{stream}")
    return batcher


def request(
    number: int, priority: Priority = INTERIM, stream: str | None = None, align: bool = False, seconds: int = 1
) -> Request:
    clip = SECOND if seconds == 1 else Clip(np.zeros(seconds * SAMPLE_RATE, np.int16))
    return Request(number, stream or f"s{number}", clip, priority=priority, align=align)


def predict(step: Decode, *, ending: set[int] = frozenset()) -> list[Prediction]:
    """Every row says token 9 after everything; the rows of the requests in `ending` end."""
    return [
        Prediction(np.full(len(row.tokens), END if job.request.request_id in ending else 9), np.zeros(len(row.tokens)))
        for job, row in zip(step.jobs, step.rows, strict=True)
    ]


def ids(step) -> list[int]:
    return [job.request.request_id for job in step.jobs]


def test_a_lone_request_waits_for_company_until_the_window_closes():
    batcher = make_batcher(max_wait_ms=10, streams=2)
    batcher.submit(request(0), now=0.0)
    assert batcher.plan(now=0.009) is None, "9 ms in, the window is still open"
    assert batcher.seconds_to_deadline(now=0.009) == pytest.approx(0.001)
    assert ids(batcher.plan(now=0.010)) == [0]


def test_nobody_waits_where_no_company_can_come():
    batcher = make_batcher(streams=2)
    batcher.submit(request(0), now=0.0)
    batcher.submit(request(1), now=0.001)
    assert ids(batcher.plan(now=0.001)) == [0, 1], "both open streams are here"
    alone = make_batcher(streams=1)
    alone.submit(request(0), now=0.0)
    assert ids(alone.plan(now=0.0)) == [0]


def test_a_full_batch_and_a_final_start_at_once():
    full = make_batcher(max_batch=2, streams=9)
    full.submit(request(0), now=0.0)
    full.submit(request(1), now=0.0)
    assert ids(full.plan(now=0.0)) == [0, 1]
    final = make_batcher(streams=9)
    final.submit(request(0, FINAL), now=0.0)
    assert ids(final.plan(now=0.0)) == [0]


def test_requests_join_at_any_step_and_finished_ones_leave():
    batcher = make_batcher(streams=9)
    batcher.submit(request(0), now=0.0)
    assert isinstance(batcher.plan(now=0.1), Encode)
    first = batcher.plan(now=0.1)
    assert ids(first) == [0] and batcher.decoded(first, predict(first), now=0.2) == []
    batcher.submit(request(1), now=0.2)
    assert ids(batcher.plan(now=0.2)) == [1], "joins without waiting: the engine is not idle"
    both = batcher.plan(now=0.2)
    assert ids(both) == [0, 1]
    done = batcher.decoded(both, predict(both, ending={0}), now=0.3)
    assert [result.request.request_id for result in done] == [0] and done[0].tokens == (9,)
    assert batcher.take_freed() == [0]
    assert ids(batcher.plan(now=0.3)) == [1]


def test_finals_go_before_interims():
    batcher = make_batcher(max_batch=8, encode_rows=1, streams=9)
    for number in range(3):
        batcher.submit(request(number), now=0.0)
    batcher.submit(request(7, FINAL), now=0.0)
    assert ids(batcher.plan(now=0.1)) == [7]
    step = batcher.plan(now=0.1)
    assert isinstance(step, Decode) and ids(step) == [7], "interims do not hold up a final in flight"


def test_rows_in_flight_get_a_pass_between_bursts_of_encodes():
    batcher = make_batcher(max_batch=32, encode_rows=1, streams=40)
    for number in range(10):
        batcher.submit(request(number), now=0.0)
    kinds = []
    for _ in range(ENCODE_BURST * 2 + 2):
        step = batcher.plan(now=1.0)
        kinds.append(type(step).__name__)
        if isinstance(step, Decode):
            batcher.decoded(step, predict(step), now=1.0)
    assert kinds == (["Encode"] * ENCODE_BURST + ["Decode"]) * 2


def test_the_lowest_free_slots_are_taken():
    batcher = make_batcher(max_batch=4, streams=9)
    for number in range(4):
        batcher.submit(request(number), now=0.0)
    batcher.plan(now=0.0)
    step = batcher.plan(now=0.0)
    batcher.decoded(step, predict(step, ending={1, 2}), now=0.0)
    batcher.submit(request(5), now=0.0)
    assert [job.slot for job in batcher.plan(now=0.0).jobs] == [1]


@pytest.mark.parametrize("first", list(Priority))
@pytest.mark.parametrize("second", list(Priority))
def test_a_request_withdraws_those_of_its_stream_that_go_after_it(first, second):
    batcher = make_batcher(max_batch=1, streams=2)
    batcher.submit(request(0, first, stream="s0"), now=0.0)
    batcher.submit(request(1, FILE, stream="s1"), now=0.0)
    withdrawn = batcher.submit(request(2, second, stream="s0"), now=0.0)
    assert [result.request.request_id for result in withdrawn] == ([0] if second < first else [])


def test_a_final_withdraws_the_interim_of_its_stream():
    batcher = make_batcher(streams=2)
    batcher.submit(request(0, stream="s0"), now=0.0)
    withdrawn = batcher.submit(request(1, FINAL, stream="s0"), now=0.0)
    assert [result.request.request_id for result in withdrawn] == [0]
    assert isinstance(withdrawn[0].error, RequestCancelled)
    assert ids(batcher.plan(now=0.0)) == [1]


def test_a_stream_that_leaves_takes_its_requests_along():
    batcher = make_batcher(streams=2)
    batcher.submit(request(0), now=0.0)
    batcher.submit(request(1), now=0.0)
    batcher.plan(now=0.0)
    assert [result.request.request_id for result in batcher.close_stream("s0")] == [0]
    assert batcher.take_freed() == [0]
    assert ids(batcher.plan(now=0.0)) == [1]


def test_a_result_that_is_to_be_aligned_keeps_its_slot_until_it_is():
    batcher = make_batcher(streams=2)
    batcher.submit(request(0, align=True), now=0.0)
    batcher.submit(request(1), now=0.0)
    batcher.plan(now=0.0)
    for ending in (set(), {0}):
        step = batcher.plan(now=0.1)
        ahead = batcher.plan(now=0.1)  # fed unseen, once in vain
        assert batcher.decoded(step, predict(step, ending=ending), now=0.1) == []
        if ending:
            align = batcher.plan(now=0.2)
            assert isinstance(align, Align) and ids(align) == [0] and batcher.take_freed() == []
        batcher.decoded(ahead, predict(ahead), now=0.2)
    (result,) = batcher.aligned(align, [(0, 3, 7)], now=0.3)
    assert result.tokens == (9, 9) and result.first_frames == (0, 3, 7) and batcher.take_freed() == [0]
    assert ids(batcher.plan(now=0.3)) == [1], "the other goes on"


def test_clips_on_lanes_are_begun_one_by_one_and_the_first_alone_only_where_it_is():
    batcher = make_batcher(streams=9, lanes=2)
    batcher.submit(request(0), now=0.0)
    first = batcher.plan(now=1.0)
    assert ids(first) == [0] and first.cores is Cores.ALL
    for number in (1, 2):
        batcher.submit(request(number), now=1.0)
    second = batcher.plan(now=1.0)
    assert ids(second) == [1] and second.cores is Cores.ONE
    assert batcher.plan(now=1.0) is None, "both lanes are taken and nothing can be decoded"
    assert batcher.seconds_to_deadline(now=1.0) is None, "the next thing to happen is that one is encoded"
    batcher.encoded(first)
    assert ids(batcher.plan(now=1.0)) == [0], "while a row is decoded, one core is its own"
    batcher.encoded(second)
    assert ids(batcher.plan(now=1.0)) == [2], "and the other one is free again"


def test_a_request_that_leaves_its_lane_frees_its_slot_and_is_never_decoded():
    batcher = make_batcher(streams=2, lanes=2)
    for number in (0, 1):
        batcher.submit(request(number), now=0.0)
    steps = [batcher.plan(now=0.0), batcher.plan(now=0.0)]
    assert [result.request.request_id for result in batcher.close_stream("s0")] == [0]
    assert batcher.take_freed() == [0]
    batcher.submit(request(2), now=0.0)
    assert batcher.plan(now=0.0) is None, "the encoder does not know: its lane is not free"
    for step in steps:
        batcher.encoded(step)
    assert ids(batcher.plan(now=0.0)) == [2]
    assert ids(batcher.plan(now=0.0)) == [1]


@pytest.mark.parametrize("lanes", [0, 2])
def test_nobody_starves_while_others_keep_asking(lanes):
    """Nine streams ask again as soon as they are answered; the tenth gets its turn when those before it have had theirs."""
    batcher = make_batcher(max_batch=4, encode_rows=1, streams=10, lanes=lanes)
    for number in range(10):
        batcher.submit(request(number), now=0.0)
    begun, number = [], 10
    while 9 not in begun:
        step = batcher.plan(now=1.0)
        if isinstance(step, Encode):
            begun += ids(step)
            batcher.encoded(step)
            continue
        for result in batcher.decoded(step, predict(step, ending=set(range(1000))), now=1.0):
            batcher.submit(request(number, stream=result.request.stream_id), now=1.0)
            number += 1
    assert begun == list(range(10)), "in the order of their asking"


def test_where_cores_are_few_recordings_wait_while_anyone_who_speaks_is_served():
    batcher = make_batcher(max_batch=8, streams=9, lanes=2)
    for number in range(3):
        batcher.submit(request(number, FILE), now=0.0)
    files = [batcher.plan(now=1.0), batcher.plan(now=1.0)]
    assert [step.cores for step in files] == [Cores.SPARE, Cores.SPARE] and batcher.plan(now=1.0) is None
    batcher.encoded(files[0])
    files.append(batcher.plan(now=1.0))
    assert ids(files[2]) == [2], "the first row waits for company"
    batcher.submit(request(7), now=1.0)
    live = batcher.plan(now=1.0)
    assert ids(live) == [7] and live.cores is Cores.ALL, "what is spare does not count"
    assert batcher.plan(now=1.0) is None and batcher.seconds_to_deadline(now=1.0) is None, "nor is a recording decoded meanwhile"
    for step in (*files[1:], live):
        batcher.encoded(step)
    step = batcher.plan(now=1.0)
    assert ids(step) == [7]
    batcher.decoded(step, predict(step, ending={7}), now=1.0)
    assert ids(batcher.plan(now=1.0)) == [0, 1, 2], "and the recordings go on"


def test_rows_of_recordings_are_decoded_together_while_clips_are_still_to_be_encoded():
    batcher = make_batcher(max_batch=32, streams=9, lanes=2)
    for number in range(ROWS_TOGETHER + 4):
        batcher.submit(request(number, FILE), now=0.0)
    lanes = [batcher.plan(now=1.0), batcher.plan(now=1.0)]
    for _ in range(ROWS_TOGETHER):
        batcher.encoded(lanes.pop(0))
        step = batcher.plan(now=1.0)
        lanes += [step] if isinstance(step, Encode) else []
    assert isinstance(step, Decode) and len(step.jobs) == ROWS_TOGETHER and len(lanes) == 1, "one core is theirs now"
    batcher.decoded(step, predict(step, ending={0}), now=1.0)
    lanes.append(batcher.plan(now=1.0))
    assert isinstance(lanes[-1], Encode) and batcher.plan(now=1.0) is None, "one has ended: the others wait for the next"
    assert batcher.seconds_to_deadline(now=1.0) is None
    while lanes:
        batcher.encoded(lanes.pop())
        while isinstance(step := batcher.plan(now=1.0), Encode):
            lanes.append(step)
        if step is not None:
            batcher.decoded(step, predict(step, ending=set(range(ROWS_TOGETHER))), now=1.0)
    assert sorted(ids(batcher.plan(now=1.0))) == list(range(ROWS_TOGETHER, ROWS_TOGETHER + 4)), "at the end there are fewer"


@pytest.mark.parametrize("lanes", [0, 2])
def test_recordings_leave_slots_for_whoever_speaks_and_go_on_where_none_is_left(lanes):
    batcher = make_batcher(max_batch=4, encode_rows=1, streams=9, lanes=lanes)
    for number in range(5):
        batcher.submit(request(number, FILE), now=0.0)
    begun = []
    while isinstance(step := batcher.plan(now=1.0), Encode):
        begun += ids(step)
        batcher.encoded(step)
    assert begun == [0, 1, 2] and ids(step) == [0, 1, 2], "one of four slots stays free"
    for number in (6, 7):
        batcher.submit(request(number), now=1.0)
    batcher.decoded(step, predict(step), now=1.0)
    batcher.encoded(batcher.plan(now=1.0))
    step = batcher.plan(now=1.0)
    assert 6 in ids(step) and 7 not in ids(step)
    batcher.decoded(step, predict(step, ending={6}), now=1.0)
    assert ids(batcher.plan(now=1.0)) == [7]


event = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 9), st.sampled_from(Priority)),
    st.tuples(st.just("run"), st.sets(st.integers(0, 200), max_size=60), st.booleans(), st.booleans()),
    st.tuples(st.just("leave"), st.integers(0, 9)),
)


@settings(max_examples=300)
@given(
    events=st.lists(event, max_size=60),
    max_batch=st.integers(1, 5),
    encode_rows=st.sampled_from([1, 32]),
    lanes=st.integers(0, 3),
    groups=st.integers(1, 3),
    more_slots=st.none() | st.integers(0, 12),
)
def test_every_request_is_answered_exactly_once_whatever_happens(events, max_batch, encode_rows, lanes, groups, more_slots):
    """Random arrivals, endings, failures, departures and answers that come late; then the rest is run to its end.

    more_slots: of an engine that continues clips, those beyond the rows that it decodes at a time.
    """
    continues = more_slots is not None
    lanes = 0 if continues else lanes
    groups = 1 if lanes or continues else groups
    max_batch *= groups
    slots = max_batch + (more_slots or 0)
    batcher = make_batcher(
        slots,
        10,
        encode_rows,
        streams=10,
        lanes=lanes,
        groups=groups,
        max_rows=max_batch if continues else 0,
        continues=continues,
    )
    submitted, answered, interims, pieces = set(), [], {}, {}
    unanswered, encoding, since = [], [], {}
    now = 0.0

    def most_seconds(job) -> float:
        in_pieces = continues and job.request.priority is FILE and not job.continues
        return PIECE_SAMPLES / SAMPLE_RATE if in_pieces else job.request.clip.seconds

    def take(results) -> None:
        for result in results:
            answered.append(result.request.request_id)
            if interims.get(result.request.stream_id) == result.request.request_id:
                del interims[result.request.stream_id]

    def answer(ending: set[int], leaving: int = 0) -> None:
        while len(unanswered) > leaving:
            step = unanswered.pop(0)
            take(batcher.decoded(step, predict(step, ending=ending), now))

    def run(ending: set[int], failing: bool, late: bool) -> bool:
        decodes = batcher.in_flight > len(encoding)
        step = batcher.plan(now)
        if step is None:
            if not lanes and not unanswered:
                assert batcher.seconds_to_deadline(now) != 0.0, "a step is due, and there is none"
            if batcher.waiting and not batcher.in_flight and not encoding:
                assert now - min(since[number] for number in submitted - set(answered)) < 0.010, (
                    "longer than the limit for company"
                )
            answer(ending)
            if encoding:
                batcher.encoded(encoding.pop(0))
            return batcher.in_flight + batcher.waiting > 0
        assert len(step.jobs) <= max_batch // groups
        assert len({job.slot // (slots // groups) for job in step.jobs}) == 1, "of one group of slots"
        assert len({job.slot for job in step.jobs}) == len(step.jobs), "nobody shares a slot"
        priorities = [job.request.priority for job in step.jobs]
        if isinstance(step, Encode):
            for job, clip in zip(step.jobs, step.clips, strict=True):
                assert clip.seconds <= pieces.get(job.request.request_id, 0) + most_seconds(job)
                pieces[job.request.request_id] = clip.seconds
            assert priorities == sorted(priorities), "finals first"
            if lanes:
                beside = [each for each in encoding if priorities == [FILE] or each.jobs[0].request.priority is not FILE]
                others = 0 if priorities == [FILE] else decodes  # rows of recordings wait while there are clips of them
                assert len(beside) < max(1, lanes - others), "no more than there are lanes; recordings take what is spare"
                encoding.append(step)
        if failing:
            take(batcher.fail(step.jobs, EngineFailed("on purpose"), now))
            if step in encoding:  # its lane is free, and nothing is in its slot
                encoding.remove(step)
                batcher.encoded(step)
        elif isinstance(step, Align):
            take(batcher.aligned(step, [range(len(job.decoding.tokens) + 1) for job in step.jobs], now))
        elif isinstance(step, Decode):
            assert all(pieces[job.request.request_id] == job.request.clip.seconds for job in step.jobs), (
                "all of its clip is encoded"
            )
            unanswered.append(step)
            answer(ending, leaving=groups if late else 0)
        assert batcher.in_flight <= max_batch
        return True

    for kind, *details in events:
        now += 0.003
        if kind == "submit":
            stream, priority = f"s{details[0]}", details[1]
            if priority is INTERIM and stream in interims:
                continue  # a session never asks for two at once
            number = len(submitted)
            submitted.add(number)
            since[number] = now
            if priority is INTERIM:
                interims[stream] = number
            seconds = 1 + 5 * (number % 2)  # recordings are encoded in pieces of four
            take(batcher.submit(request(number, priority, stream, align=number % 3 == 0, seconds=seconds), now))
        elif kind == "run":
            run(*details)
        else:
            take(batcher.close_stream(f"s{details[0]}"))
            batcher.open_stream(f"s{details[0]}")
    now += 1.0
    while run(submitted, failing=False, late=False):
        pass
    answer(submitted)
    assert sorted(answered) == sorted(submitted)
    assert batcher.waiting == batcher.in_flight == 0
    assert batcher.seconds_to_deadline(now) is None


def answer(batcher: Batcher, number: int, stream: str) -> int:
    """Let a stream's request run to its end; returns its slot."""
    batcher.submit(request(number, FINAL, stream), now=0.0)
    step = batcher.plan(now=0.0)
    assert isinstance(step, Encode) and ids(step) == [number]
    decode = batcher.plan(now=0.0)
    batcher.decoded(decode, predict(decode, ending={number}), now=0.0)
    return step.jobs[0].slot


def test_a_stream_comes_back_to_the_slot_that_holds_its_audio():
    batcher = make_batcher(streams=3, continues=True)
    assert [answer(batcher, number, f"s{number}") for number in range(3)] == [0, 1, 2]
    assert (batcher.take_resting(), batcher.take_freed()) == ([0, 1, 2], []), "their audio stays"
    assert [answer(batcher, 10 + number, f"s{number}") for number in (2, 0, 1)] == [2, 0, 1]


def test_with_more_streams_than_slots_the_one_that_was_away_for_longest_loses_its_audio():
    batcher = make_batcher(max_batch=2, streams=3, continues=True)
    assert [answer(batcher, number, f"s{number}") for number in (0, 1)] == [0, 1]
    assert answer(batcher, 2, "s0") == 0
    assert answer(batcher, 3, "s2") == 1 and batcher.take_freed() == [1], "what it held of s1 is of no use"
    assert answer(batcher, 4, "s1") == 0 and batcher.take_freed() == [0]


def test_a_stream_that_leaves_gives_its_slot_back():
    batcher = make_batcher(streams=2, continues=True)
    answer(batcher, 0, "s0")
    batcher.close_stream("s0")
    assert batcher.take_freed() == [0] and answer(batcher, 1, "s1") == 0
    batcher.submit(request(2, FINAL, "s1"), now=0.0)
    batcher.plan(now=0.0)
    batcher.close_stream("s1")
    assert batcher.take_freed() == [0], "with its request"


def test_no_more_rows_are_in_flight_than_the_engine_decodes_at_a_time():
    batcher = make_batcher(max_batch=8, max_rows=2, streams=4, continues=True)
    for number in range(4):
        batcher.submit(request(number, FINAL), now=0.0)
    first = batcher.plan(now=0.0)
    assert ids(first) == [0, 1]
    decode = batcher.plan(now=0.0)
    assert isinstance(decode, Decode)
    batcher.decoded(decode, predict(decode, ending={0, 1}), now=0.0)
    assert ids(batcher.plan(now=0.0)) == [2, 3]


def test_someone_who_speaks_is_served_behind_a_burst_of_recordings():
    """Recordings rest while somebody waits: their rows are no reason to wait for a pass."""
    batcher = make_batcher(max_batch=8, max_rows=8, encode_rows=1, continues=True)
    for number in range(ENCODE_BURST):
        batcher.submit(request(number, FILE), now=0.0)
        assert ids(batcher.plan(now=0.0)) == [number]
    batcher.submit(request(9, INTERIM), now=0.0)
    assert ids(batcher.plan(now=1.0)) == [9]


def test_audio_that_a_slot_holds_is_not_encoded_again_because_its_stream_is_fast():
    batcher = make_batcher(max_batch=4, max_rows=4, encode_rows=1, streams=1, continues=True)
    for number, seconds in enumerate((7, 9)):
        batcher.submit(request(number, FILE, stream="s0", seconds=seconds), now=0.0)
        steps = [batcher.plan(now=1.0)]
        while isinstance(steps[-1], Encode):
            steps.append(batcher.plan(now=1.0))
        assert [step.clips[0].seconds for step in steps[:-1]] == ([4, 7] if number == 0 else [9])
        batcher.decoded(steps[-1], predict(steps[-1], ending={number}), now=1.0)


def test_a_recording_is_encoded_in_pieces_and_whoever_speaks_comes_between_them():
    """A segment of Streaming Small takes a sixth of a second at once, which live speech would wait for."""
    batcher = make_batcher(max_batch=4, max_rows=4, encode_rows=1, streams=2, continues=True)
    batcher.submit(request(0, FILE, seconds=10), now=0.0)
    assert batcher.plan(now=1.0).clips[0].seconds == 4
    assert batcher.seconds_to_deadline(now=1.0) == 0.0
    batcher.submit(request(1, INTERIM), now=1.0)
    assert ids(batcher.plan(now=1.0)) == [1]
    decode = batcher.plan(now=1.0)
    assert ids(decode) == [1], "the recording rests while somebody speaks"
    batcher.decoded(decode, predict(decode, ending={1}), now=1.0)
    assert [batcher.plan(now=1.0).clips[0].seconds for _ in range(2)] == [8, 10]
    decode = batcher.plan(now=1.0)
    assert isinstance(decode, Decode) and ids(decode) == [0]
