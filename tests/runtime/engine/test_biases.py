"""Biases of tokens' logits, asked of every engine."""

import numpy as np
import pytest

from benchmarks.harness.simulation import run_step
from runtime.audio import Clip
from runtime.engine.protocol import MAX_BIAS_LISTS, MAX_BIASED_TOKENS, Row, TokenBiases
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.keyterms import Keyterms, Spelling
from runtime.scheduler.requests import Priority, Request
from server.stream.confidence import END_BIAS
from server.stream.terms import Term, keyterms_of
from tests import greedy

START = 1
FIRST = 739
NAMES = ["native_fp32", "native_int8", "fp32", "int8", "torch_fp32", "host_tensorrt_fp16"]


@pytest.fixture(params=NAMES)
def opened(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def words(opened) -> list[int]:
    """Tokens that the model may write: those of other writing systems are ruled out."""
    vocabulary = range(300, 32_000)
    return [each for each in vocabulary if opened.tokenizer.starts_word(each) and opened.tokenizer.text([each]).isascii()]


@pytest.fixture
def engine(opened, clips):
    opened.engine.encode([1, 2], [Clip(clips[18].samples)] * 2)
    yield opened.engine
    opened.engine.free(1)
    opened.engine.free(2)


def biased(**values: float) -> TokenBiases:
    """Biases by token, named `t` and its number."""
    numbers = sorted(int(name[1:]) for name in values)
    return TokenBiases(np.array(numbers), np.array([values[f"t{number}"] for number in numbers], np.float32))


def one(engine, biases: TokenBiases | None, slot: int = 1) -> tuple[int, float]:
    (prediction,) = engine.decode([Row(slot, (START,), 0, biases=() if biases is None else (biases,))])
    return int(prediction.tokens[0]), float(prediction.log_probs[0])


def test_a_bias_tips_the_choice_where_it_is_more_than_the_difference_and_not_before(engine):
    best, best_log_prob = one(engine, None)
    forced, log_prob = one(engine, biased(t9000=100.0))
    assert forced == 9000 and log_prob < best_log_prob, "the log-probability has no bias in it"
    difference = best_log_prob - log_prob
    assert one(engine, biased(t9000=difference + 0.01)) == (9000, log_prob)
    assert one(engine, biased(t9000=difference - 0.01)) == (best, best_log_prob)


def test_the_highest_of_many_wins_wherever_it_stands_in_the_vocabulary(engine, words):
    favoured = words[:: len(words) // MAX_BIASED_TOKENS][:MAX_BIASED_TOKENS]
    for winner in (favoured[0], favoured[200], favoured[-1]):
        values = {f"t{token}": 50.0 for token in favoured} | {f"t{winner}": 90.0}
        assert one(engine, biased(**values))[0] == winner


def test_a_row_is_the_same_to_the_bit_beside_one_with_biases(engine):
    def rows(*lists: TokenBiases) -> list[Row]:
        return [Row(1, (START, FIRST, 338), 0), Row(2, (START, FIRST, 338), 0, biases=lists)]

    alone = engine.decode(rows())
    beside = engine.decode(rows(*[biased(t9000=100.0, t500=50.0)] * 3))
    assert np.array_equal(alone[0].tokens, beside[0].tokens) and np.array_equal(alone[0].log_probs, beside[0].log_probs)
    assert beside[1].tokens.tolist() == [9000] * 3


def test_each_token_fed_has_a_list_of_its_own_also_more_than_a_pass_takes(engine, words):
    count = MAX_BIAS_LISTS + 40
    lists = tuple(biased(**{f"t{token}": 100.0}) for token in words[:count])
    (prediction,) = engine.decode([Row(1, (START, *[FIRST] * (count - 1)), 0, biases=lists)])
    assert prediction.tokens.tolist() == words[:count]


def test_several_rows_have_more_lists_than_a_pass_takes(engine, clips, words):
    slots = range(1, 7)
    engine.encode(slots, [Clip(clips[18].samples)] * len(slots))
    wanted = {slot: words[100 * slot : 100 * slot + 60] for slot in slots}
    lists = {slot: tuple(biased(**{f"t{token}": 100.0}) for token in wanted[slot]) for slot in slots}
    predictions = engine.decode([Row(slot, (START, *[FIRST] * 59), 0, biases=lists[slot]) for slot in slots])
    for slot, prediction in zip(slots, predictions, strict=True):
        assert prediction.tokens.tolist() == wanted[slot]
        engine.free(slot)


def test_a_list_for_some_of_the_tokens_is_refused(engine):
    with pytest.raises(ValueError, match="slot 1: 1 lists of biases for 2 tokens"):
        engine.decode([Row(1, (START, FIRST), 0, biases=(biased(t5=1.0),))])


def transcribed(engine, clips: list[Clip], terms: list[Keyterms | None], drafts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    batcher, said = Batcher(engine.limits, max_wait_seconds=0.0), {}
    for number, (clip, keyterms, draft) in enumerate(zip(clips, terms, drafts, strict=True)):
        priority = Priority.FINAL
        batcher.submit(Request(number, str(number), clip, draft, 0, priority, END_BIAS, keyterms=keyterms), now=0.0)
    while (step := batcher.plan(now=0.0)) is not None:
        for result in run_step(engine, batcher, step, now=0.0):
            assert result.error is None
            said[result.request.request_id] = result.tokens
    return [said[number] for number in range(len(clips))]


EXACT = [("native_fp32", 0), ("native_fp32", 1), ("native_fp32", 2), ("fp32", 0), ("torch_fp32", 0)]
"""Engines whose sums do not depend on how a row is cut into blocks, but for the last digits, and seeds. Torch takes its time."""


@pytest.mark.parametrize(("name", "seed"), EXACT)
def test_drafts_and_neighbours_change_no_word_of_rows_with_terms(request, clips, name, seed):
    """Random terms: pieces of what is said, and of what is not, with random boosts."""
    engine, random = request.getfixturevalue(name).engine, np.random.default_rng(seed)
    chosen = [Clip(clips[index].samples) for index in (18, 14, 5)]
    plain = [tuple(greedy.decode(engine, clip).tokens) for clip in chosen]
    said = [token for tokens in plain for token in tokens]
    spellings = []
    for _ in range(20):
        begin, length = random.integers(len(said) - 4), random.integers(1, 4)
        pieces = said[begin : begin + length] if random.random() < 0.5 else random.integers(300, 30_000, length).tolist()
        spellings.append(Spelling(tuple(map(int, pieces)), float(random.uniform(0.5, 6.0))))
    terms = Keyterms(tuple(spellings))
    alone = [transcribed(engine, [clip], [terms], [()])[0] for clip in chosen]
    assert alone != plain, "the terms change something"
    drafts = [tuple(plain[0]), alone[1][:5] + alone[1][6:], (*alone[2], 400, 500)]
    assert transcribed(engine, chosen, [terms] * 3, drafts) == alone
    mixed = transcribed(engine, chosen, [terms, None, terms], drafts)
    assert mixed == [alone[0], plain[1], alone[2]]


HEARD_AND_MEANT = {
    4: ("Call me Ishmeel", "Call me Ishmael", Term("Ishmael")),
    5: ("For a score in seven", "Four score and seven", Term("Four score")),
}


@pytest.mark.parametrize("index", HEARD_AND_MEANT)
def test_a_name_comes_out_as_it_was_given(opened, clips, index):
    """The model takes the name for another word, which the draft has. Terms of no relation change nothing."""
    engine, tokenizer = opened.engine, opened.tokenizer
    wrong, right, term = HEARD_AND_MEANT[index]
    clip, unrelated = Clip(clips[index].samples), (Term("Kubernetes"), Term("hydrochloride"))
    (plain,) = transcribed(engine, [clip], [None], [()])
    assert wrong in tokenizer.text(plain)
    assert transcribed(engine, [clip], [keyterms_of(unrelated, tokenizer)], [plain]) == [plain]
    (said,) = transcribed(engine, [clip], [keyterms_of((term, *unrelated), tokenizer)], [plain])
    assert tokenizer.text(said).startswith(tokenizer.text(plain).partition(wrong)[0] + right)
