"""Where audio is cut: a function of the samples alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE
from server.stream.segmenter import LEVEL_SAMPLES, CutKind, Segmenter


def noise(seconds: float, rms: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE)) * rms * 32_768
    return np.clip(samples, -32_768, 32_767).astype(np.int16)


def speech(seconds: float) -> np.ndarray:
    """Loud, rising and falling by 4 dB four times a second, with a dip in every half: what the segmenter sees of speech."""
    loud = noise(seconds, 0.1).astype(np.float32)
    times = np.arange(len(loud)) / SAMPLE_RATE
    loud *= 10 ** (np.sin(times * 4 * 2 * np.pi) * 4 / 20)
    dips = times % 0.5 > 0.44
    loud[dips] *= 0.003
    return loud.astype(np.int16)


def quiet(seconds: float, rms: float = 0.0005) -> np.ndarray:
    return noise(seconds, rms, seed=1)


def cuts_of(segmenter: Segmenter) -> list:
    cuts = []
    while cut := segmenter.find_cut():
        if cut.kind is CutKind.LENGTH:
            cut = dataclasses.replace(cut, position=segmenter.place(cut, ()))
        cuts.append(cut)
        segmenter.advance(cut.position)
    return cuts


def cut_all(*parts: np.ndarray, chunk: int | None = None, **options) -> list:
    """Feed the parts in chunks of so many samples (default: all at once), cutting as soon as can be."""
    audio, segmenter, cuts = np.concatenate(parts), Segmenter(**options), []
    for start in range(0, len(audio), chunk or len(audio)):
        segmenter.append(audio[start : start + (chunk or len(audio))].tobytes())
        cuts += cuts_of(segmenter)
    return cuts


def seconds(cut) -> float:
    return cut.position / SAMPLE_RATE


def test_a_pause_after_speech_ends_the_segment_in_its_middle():
    cut = cut_all(speech(5.0), quiet(4.0))[0]
    assert cut.kind is CutKind.PAUSE
    assert 6.0 < seconds(cut) < 6.5


def test_the_longer_the_segment_the_shorter_the_pause_that_ends_it():
    assert cut_all(speech(4.0), quiet(2.0), speech(3.0)) == []
    assert cut_all(speech(9.0), quiet(0.6), speech(1.0))[0].kind is CutKind.PAUSE


def test_a_long_pause_within_a_segment_is_heard_as_a_short_one():
    segmenter = Segmenter()
    segmenter.append(np.concatenate([speech(3.0), quiet(2.0), speech(3.0)]).tobytes())
    assert segmenter.find_cut() is None
    clip = segmenter.clip(segmenter.end)
    assert clip.seconds == pytest.approx(6.0 + 0.6, abs=0.1)
    loudness = np.abs(clip.samples.astype(float))
    assert loudness[: 2 * SAMPLE_RATE].mean() > 1000 < loudness[-2 * SAMPLE_RATE :].mean(), "the sound on both sides is whole"


def test_quiet_before_sound_is_cut_off_shortly_before_it():
    cuts = cut_all(quiet(2.0), speech(3.0))
    assert [cut.kind for cut in cuts] == [CutKind.QUIET]
    assert 1.4 < seconds(cuts[0]) < 1.7


def test_little_quiet_before_sound_stays_where_it_is():
    assert cut_all(quiet(0.6), speech(3.0)) == []


def test_endless_quiet_is_closed_every_few_seconds():
    cuts = cut_all(quiet(20.0))
    assert {cut.kind for cut in cuts} == {CutKind.QUIET} and len(cuts) == 7


def test_unbroken_sound_is_cut_at_the_quietest_point_of_the_window():
    loud = speech(15.0)
    dip = int(10.1 * SAMPLE_RATE)
    loud[dip : dip + 1600] = 0  # 100 ms
    cut = cut_all(loud, max_seconds=12, window_seconds=3)[0]
    assert cut.kind is CutKind.LENGTH
    assert 10.1 <= seconds(cut) <= 10.2


def test_unbroken_speech_is_cut_between_words_where_the_model_says_they_are():
    loud = speech(15.0)
    segmenter = Segmenter(max_seconds=12, window_seconds=3)
    segmenter.append(loud.tobytes())
    cut = segmenter.find_cut()
    assert (cut.kind, cut.earliest / SAMPLE_RATE, seconds(cut)) == (
        CutKind.LENGTH,
        pytest.approx(9, abs=0.1),
        pytest.approx(12, abs=0.1),
    )
    for between, expected in ((9.55, 9.47), (10.5, 10.47), (10.41, 10.47)):  # speech() dips at the end of every half second
        position = segmenter.place(cut, [int(3.0 * SAMPLE_RATE), int(between * SAMPLE_RATE)])
        assert position / SAMPLE_RATE == pytest.approx(expected, abs=0.04)
    nowhere = segmenter.place(cut, [int(3.0 * SAMPLE_RATE)])
    assert nowhere == segmenter.place(cut, ()), "no word ends in the window: the quietest point of all"


def test_steady_noise_becomes_background():
    segmenter = Segmenter()
    segmenter.append(noise(30.0, 0.01).tobytes())
    cuts_of(segmenter)
    segmenter.append(noise(3.0, 0.01, seed=5).tobytes())
    segmenter.find_cut()
    assert not segmenter.has_sound
    segmenter.append((noise(1.0, 0.01, seed=6) + speech(1.0)).tobytes())
    cuts_of(segmenter)
    assert segmenter.has_sound, "speech 20 dB above it is still heard"


def test_a_dc_offset_is_no_sound():
    segmenter = Segmenter()
    segmenter.append((quiet(2.0) + 5000).astype(np.int16).tobytes())
    segmenter.find_cut()
    assert not segmenter.has_sound


def test_quiet_with_words_in_it_is_kept_open():
    segmenter = Segmenter()
    segmenter.append(quiet(4.0).tobytes())
    assert segmenter.find_cut().kind is CutKind.QUIET
    segmenter.keep_open()
    cut = segmenter.find_cut()
    assert segmenter.has_sound and (cut is None or cut.kind is CutKind.PAUSE)


stretch = st.tuples(st.sampled_from([quiet, speech, lambda length: noise(length, 0.03)]), st.floats(0.05, 4.0))


@settings(max_examples=40)
@given(ranges=st.lists(stretch, min_size=1, max_size=8), chunk=st.sampled_from([1, 160, 321, 5000]))
def test_cuts_do_not_depend_on_how_the_audio_arrives(ranges, chunk):
    parts = [make(length) for make, length in ranges]
    if chunk == 1:
        parts = [part[:800] for part in parts]
    assert cut_all(*parts, chunk=chunk) == cut_all(*parts)


@settings(max_examples=40)
@given(ranges=st.lists(stretch, min_size=1, max_size=10))
def test_every_sample_is_in_one_segment_none_is_too_long_and_only_background_is_left_out(ranges):
    audio = np.concatenate([make(length) for make, length in ranges])
    segmenter = Segmenter(max_seconds=6, window_seconds=2)
    segments = []
    for start in range(0, len(audio), 320):
        segmenter.append(audio[start : start + 320].tobytes())
        while cut := segmenter.find_cut():
            clip = segmenter.clip(cut.position)
            assert clip.position == segmenter.start and clip.seconds <= 6.1
            assert cut.position % LEVEL_SAMPLES == 0
            position = segmenter.place(cut, ()) if cut.kind is CutKind.LENGTH else cut.position
            segments.append((segmenter.start, position, segmenter.clip(position)))
            segmenter.advance(position)
    segments.append((segmenter.start, segmenter.end, segmenter.clip(segmenter.end)))
    assert [first for first, _, _ in segments] == [0, *(last for _, last, _ in segments[:-1])]
    assert segments[-1][1] == len(audio)
    energy = (audio.astype(float) ** 2).sum()
    heard = sum((clip.samples.astype(float) ** 2).sum() for _, _, clip in segments)
    left_out = len(audio) - sum(len(clip.samples) for _, _, clip in segments)
    assert left_out == 0 or (energy - heard) / left_out <= 2 * max_background(ranges), "no louder than the background"


def max_background(ranges) -> float:
    """Mean square of the loudest steady stretch there is: it may become the background. Speech is never steady."""
    return max((float((make(1.0).astype(float) ** 2).mean()) for make, _ in ranges if make is not speech), default=0.0)


def test_advancing_past_the_audio_is_a_defect():
    segmenter = Segmenter()
    segmenter.append(bytes(3200))
    with pytest.raises(AssertionError, match="cut at 5000 outside 0..1600"):
        segmenter.advance(5000)


def test_the_offset_is_the_mean_of_what_is_transcribed(monkeypatch):
    """It is put together from the sums of whole levels; a faint one counts where the speaker is raised."""
    monkeypatch.setattr("runtime.audio.LEAST_OFFSET", 0)
    segmenter, random = Segmenter(12.0), np.random.default_rng(0)
    for samples in random.integers(1, 9000, 40).tolist():
        segmenter.append((random.normal(0, 2000, samples) + random.integers(-900, 900)).astype(np.int16).tobytes())
        if (cut := segmenter.find_cut()) is not None:
            segmenter.advance(cut.position - int(random.integers(0, 300)))
        clip = segmenter.clip(segmenter.end - int(random.integers(0, min(samples, segmenter.end - segmenter.start))))
        heard = np.concatenate([clip.pcm[first - clip.position : last - clip.position] for first, last in clip.ranges])
        assert clip.offset == (round(int(heard.sum(dtype=np.int64)) / len(heard)) if len(heard) else 0)
