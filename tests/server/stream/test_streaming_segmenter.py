"""Clips for a model that encodes streams: they only grow, whatever the audio and however it comes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE, Clip
from server.stream.segmenter import Cut, CutKind
from server.stream.streaming_segmenter import LEAD_SAMPLES, StreamingSegmenter
from tests.server.stream.test_segmenter import noise, quiet, speech

LONGEST_WAIT_SAMPLES = SAMPLE_RATE // 10  # audio that has no level yet
LOUDNESS = st.lists(st.sampled_from([0.0002, 0.0002, 0.002, 0.03, 0.3]), min_size=4, max_size=40)
"""Of stretches of a quarter of a second."""


def audio_of(loudness: list[float]) -> np.ndarray:
    return np.concatenate([noise(0.25, rms, seed) for seed, rms in enumerate(loudness)])


def clips_of(audio: np.ndarray, frames: list[int], max_seconds: float = 5.0) -> list[tuple[Clip, Cut | None]]:
    """What is asked for with every frame of audio, frames given in hundredths of a second, and where a segment ends."""
    segmenter, clips, begin = StreamingSegmenter(max_seconds), [], 0
    while begin < len(audio):
        count = frames[len(clips) % len(frames)] * 160
        segmenter.append(audio[begin : begin + count].tobytes())
        begin += count
        while cut := segmenter.find_cut():
            clips.append((segmenter.closing_clip(cut), cut))
            segmenter.advance(cut.position if cut.kind is not CutKind.LENGTH else segmenter.place(cut, ()))
        clips.append((segmenter.clip_so_far(segmenter.end_of_update), None))
    end = Cut(segmenter.end, CutKind.END)
    return [*clips, (segmenter.closing_clip(end), end)]


@settings(max_examples=60)
@given(LOUDNESS, st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_a_clip_continues_the_one_before_until_its_segment_is_closed(loudness, frames):
    held = None
    for clip, cut in clips_of(audio_of(loudness), frames):
        is_new = cut is not None and cut.kind is CutKind.QUIET  # whose clip is all quiet, as it is
        if held is not None and held.ranges and not is_new:
            assert clip.continues(held), "nothing that was transcribed is taken back"
        held = None if cut else clip


@settings(max_examples=40)
@given(LOUDNESS, st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_what_is_transcribed_depends_on_the_audio_alone(loudness, frames):
    """Segments are closed with the same clips, in whatever frames the audio came."""
    audio = audio_of(loudness)
    closing = [[clip for clip, cut in clips_of(audio, each) if cut] for each in ([10], frames)]
    assert [clip.ranges for clip in closing[0]] == [clip.ranges for clip in closing[1]]
    assert [clip.gains for clip in closing[0]] == [clip.gains for clip in closing[1]]


def test_quiet_that_lasts_is_left_out_until_sound_comes_back():
    segmenter = StreamingSegmenter()
    segmenter.append(speech(2.0).tobytes())
    segmenter.append(quiet(1.5).tobytes())
    paused = segmenter.clip_so_far(segmenter.end_of_update)
    assert 2.3 < paused.seconds < 2.6, "0.4 s of quiet, and no more"
    segmenter.append(speech(1.0).tobytes())
    clip = segmenter.clip_so_far(segmenter.end_of_update)
    (_, end), (begin, _) = clip.ranges
    assert clip.continues(paused) and begin - end > 0.7 * SAMPLE_RATE
    assert begin == pytest.approx(3.5 * SAMPLE_RATE - LEAD_SAMPLES, abs=400), "and some quiet before the sound"


def test_new_sound_is_transcribed_with_at_most_a_tenth_of_a_second_of_delay():
    segmenter = StreamingSegmenter()
    segmenter.append(quiet(1.0).tobytes())
    for frame in np.split(speech(2.0), 100):
        segmenter.append(frame.tobytes())
        clip = segmenter.clip_so_far(segmenter.end_of_update)
        if segmenter.end > SAMPLE_RATE + 2 * LONGEST_WAIT_SAMPLES:
            assert clip.ranges[-1][1] >= segmenter.end - LONGEST_WAIT_SAMPLES


def test_a_segment_whose_quiet_was_transcribed_goes_on_from_there():
    segmenter = StreamingSegmenter()
    segmenter.append(quiet(4.0).tobytes())
    cut = segmenter.find_cut()
    assert cut.kind is CutKind.QUIET and segmenter.closing_clip(cut).sample_count > 0
    segmenter.keep_open()
    first = segmenter.clip_so_far(segmenter.end_of_update)
    assert first.ranges[0][0] == 0 and first.sample_count > 0
    segmenter.append(speech(1.0).tobytes())
    assert segmenter.clip_so_far(segmenter.end_of_update).continues(first)


def test_a_pause_is_never_cut_before_the_end_of_what_was_transcribed_in_quiet():
    segmenter = StreamingSegmenter()
    segmenter.append(quiet(4.0).tobytes())
    segmenter.find_cut()
    segmenter.keep_open()
    first = segmenter.clip_so_far(segmenter.end_of_update)
    cut = segmenter.find_cut()
    assert cut.kind is CutKind.PAUSE and segmenter.closing_clip(cut).continues(first)


def test_quiet_that_ends_before_a_segments_first_sound_is_transcribed_as_quiet():
    segmenter = StreamingSegmenter()
    segmenter.append(quiet(0.5).tobytes())
    flushed = Cut(segmenter.end, CutKind.END)
    before = segmenter.closing_clip(flushed)
    segmenter.append(np.concatenate((quiet(0.3), speech(1.0))).tobytes())
    after = segmenter.closing_clip(flushed)
    assert after.sample_count == before.sample_count > 0, "whatever has come since"


def test_sound_in_the_last_samples_is_transcribed_at_the_end():
    """Before it has a level."""
    segmenter = StreamingSegmenter()
    segmenter.append(np.concatenate((speech(1.0), quiet(2.0), speech(1.0)[:1000])).tobytes())
    clip = segmenter.closing_clip(Cut(segmenter.end, CutKind.END))
    assert clip.ranges[-1][1] == segmenter.end and len(clip.ranges) == 2
