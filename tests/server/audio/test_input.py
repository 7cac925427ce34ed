"""Audio in every form comes out as the same sound, however it is cut into messages."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE
from server.audio.input import AudioFormat, AudioInput, Resampler, SampleEncoding


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (12_000 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def taken(audio_format: AudioFormat, audio: bytes, cuts: list[int] = []) -> np.ndarray:  # noqa: B006
    front, parts, begin = AudioInput(audio_format), [], 0
    for end in [*sorted(cuts), len(audio)]:
        parts += front.take(audio[begin:end])
        begin = end
    return np.frombuffer(b"".join([*parts, *front.finish()]), np.int16)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    length = min(len(first), len(second))
    return float(np.corrcoef(first[:length], second[:length])[0, 1])


def test_the_usual_form_passes_untouched():
    audio = tone(SAMPLE_RATE).tobytes()
    assert AudioInput(AudioFormat()).take(audio)[0] is audio


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_every_rate_is_heard_at_16_khz_and_no_sample_is_lost(rate):
    heard = taken(AudioFormat(rate=rate), tone(rate).tobytes())
    assert abs(len(heard) - SAMPLE_RATE) <= 2
    assert likeness(heard, tone(SAMPLE_RATE)) > 0.999


@pytest.mark.parametrize(("encoding", "loudest"), [(SampleEncoding.MULAW, 32_124), (SampleEncoding.ALAW, 32_256)])
def test_telephone_codes_reach_the_values_of_g711(encoding, loudest):
    """ITU-T G.711, tables 1 and 2, in 16 bits: 256 codes, as many of one sign as of the other."""
    decoded = taken(AudioFormat(encoding, SAMPLE_RATE), bytes(range(256))).astype(int)
    assert len(decoded) == 256 and decoded.max() == loudest == -decoded.min()
    assert sorted(decoded) == sorted(-decoded)


@pytest.mark.parametrize(
    ("encoding", "dtype", "shift"), [(SampleEncoding.PCM8, np.uint8, 8), (SampleEncoding.PCM32, np.int32, -16)]
)
def test_a_wider_and_a_narrower_sample_sound_alike(encoding, dtype, shift):
    samples = tone(SAMPLE_RATE).astype(np.int64)
    written = (samples >> shift) + 128 if shift > 0 else samples << -shift
    heard = np.frombuffer(taken(AudioFormat(encoding), written.astype(dtype).tobytes()), np.int16)
    assert np.abs(heard - samples).max() < 2 ** max(0, shift)


@settings(max_examples=40)
@given(
    encoding=st.sampled_from(SampleEncoding),
    rate=st.sampled_from([8_000, 16_000, 44_100]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_the_sound_does_not_depend_on_how_it_is_cut(encoding, rate, channels, cuts):
    audio_format = AudioFormat(encoding, rate, channels)
    audio = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    whole, pieces = taken(audio_format, audio), taken(audio_format, audio, cuts)
    assert np.array_equal(whole, pieces)


@settings(max_examples=40)
@given(
    encoding=st.sampled_from(SampleEncoding),
    rate=st.sampled_from([8_000, 16_000, 44_100]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_channels_that_are_split_are_each_as_if_it_came_alone(encoding, rate, channels, cuts):
    """Bytes that fill no sample of every channel wait for the rest."""
    audio = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8)
    split, parts, begin = AudioInput(AudioFormat(encoding, rate, channels), is_split=True), [b""] * channels, 0
    for end in [*sorted(cuts), len(audio)]:
        parts = [*map(bytes.__add__, parts, split.take(audio[begin:end].tobytes()))]
        begin = end
    whole = audio[: len(audio) - len(audio) % (channels * encoding.sample_bytes)].reshape(-1, channels, encoding.sample_bytes)
    for channel, (received, held) in enumerate(zip(parts, split.finish(), strict=True)):
        alone = taken(AudioFormat(encoding, rate), whole[:, channel].tobytes())
        assert np.array_equal(np.frombuffer(received + held, np.int16), alone)


def test_channels_are_mixed():
    left, right = tone(SAMPLE_RATE), np.zeros(SAMPLE_RATE, np.int16)
    heard = taken(AudioFormat(channels=2), np.stack([left, right], axis=1).tobytes())
    assert np.abs(heard - left / 2).max() <= 1


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_channels_of_opposite_phase_do_not_cancel_out(rate):
    """One miswired cable used to make silence of a recording."""
    left = tone(rate)
    heard = taken(AudioFormat(rate=rate, channels=2), np.stack([left, -left], axis=1).tobytes())
    assert abs(likeness(heard, tone(SAMPLE_RATE))) > 0.999 and np.abs(heard).max() > 11_000


@pytest.mark.parametrize(("rate", "channels"), [(7_999, 1), (48_001, 1), (16_000, 0), (16_000, 9)])
def test_what_cannot_be_taken_is_refused(rate, channels):
    with pytest.raises(ValueError, match="are taken"):
        AudioFormat(rate=rate, channels=channels)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_one_channel_is_taken_alone_and_frames_that_lack_it_are_silence(rate):
    both = np.stack([tone(rate), tone(rate, hertz=700.0)], axis=1).reshape(1, -1)
    found = []
    for channel in range(3):
        resampler = Resampler(range(channel, channel + 1))
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate = rate
        found.append(np.frombuffer(b"".join([*resampler.take(frame), *resampler.finish()]), np.int16))
    assert likeness(found[0], tone(SAMPLE_RATE)) > 0.999 and likeness(found[1], tone(SAMPLE_RATE, hertz=700.0)) > 0.999
    assert len(found[2]) == len(found[0]) and not found[2].any()
