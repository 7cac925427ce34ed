"""Recordings that are damaged, joined, or made to be dangerous: what can be heard is, at its time, and what cannot is refused."""

import io
import struct
import subprocess
import sys
import wave
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest

from server.audio import container
from server.errors import ClientError
from tests.conftest import PROJECT

BEEPS = ((1.0, 1.2), (3.0, 3.2))  # in seconds
SECONDS = 4.0
SLACK_SECONDS = 0.15  # of times after damage: less than a gap that is filled, and a codec's block
FORMATS = {
    "mp3": ("mp3", "libmp3lame", 16_000),
    "aac": ("adts", "aac", 16_000),
    "flac": ("flac", "flac", 16_000),
    "opus in ogg": ("ogg", "libopus", 48_000),
    "opus in webm": ("webm", "libopus", 48_000),
    "aac in mp4": ("mp4", "aac", 44_100),
    "flac in matroska": ("matroska", "flac", 16_000),
    "aac in mpegts": ("mpegts", "aac", 44_100),
    "wav": ("wav", "pcm_s16le", 16_000),
    "aiff": ("aiff", "pcm_s16be", 22_050),
}
IN_PAGES = "opus in ogg"  # of a second: all of one is lost with any byte of it
LOST_START = dict.fromkeys(FORMATS, 0) | {IN_PAGES: 25}
"""Damage up to that percentage takes the recording's start with it: times count from what is left."""


def recording(kind: str, rate: int | None = None, layout: str = "mono") -> bytes:
    """Two beeps in faint noise."""
    form, codec, usual_rate = FORMATS[kind]
    rate = rate or usual_rate
    time = np.arange(int(SECONDS * rate)) / rate
    is_beep = np.logical_or.reduce([(begin < time) & (time < end) for begin, end in BEEPS])
    samples = np.sin(2 * np.pi * 700 * time) * 12_000 * is_beep + np.random.default_rng(0).normal(0, 60, len(time))
    frame = av.AudioFrame.from_ndarray(samples.astype(np.int16).reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    written, fifo = io.BytesIO(), av.AudioFifo()
    with av.open(written, "w", format=form) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        for each in av.AudioResampler(stream.codec_context.format.name, layout, rate).resample(frame):
            fifo.write(each)
        while (block := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            output.mux(stream.encode(block))
        output.mux(stream.encode(None))
    return written.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(container.blocks(io.BytesIO(data))), np.int16)


def beeps(samples: np.ndarray) -> list[float]:
    """Where they begin, in seconds."""
    loud = np.abs(samples[: len(samples) // 160 * 160].astype(float)).reshape(-1, 160).mean(axis=1) > 2000
    begins = [index for index in range(1, len(loud)) if loud[index] and not loud[max(0, index - 10) : index].any()]
    return [index / 100 for index in begins]


def is_at(seconds: float, found: list[float]) -> bool:
    return any(abs(each - seconds) <= SLACK_SECONDS for each in found)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_before_and_after_damage_is_heard_at_its_time(kind):
    """Eight bytes, at every twentieth of the file. One damaged packet used to end a recording in silence."""
    data = recording(kind)
    whole = decoded(data)
    assert len(beeps(whole)) == 2
    for place in range(10, 100, 5):
        damaged, at = bytearray(data), len(data) * place // 100
        damaged[at : at + 8] = bytes(byte ^ 0x5A for byte in damaged[at : at + 8])
        samples = decoded(bytes(damaged))
        found, is_early, is_late = beeps(samples), LOST_START[kind] < place < 55, place > 45
        assert not is_early or is_at(3.0, found), f"{place}%: {found}"
        assert not is_late or is_at(1.0, found), f"{place}%: {found}"
        if kind != IN_PAGES:
            assert abs(len(samples) - len(whole)) / 16_000 <= SLACK_SECONDS, f"{place}%"


@pytest.mark.parametrize(("rate", "layout"), [(44_100, "mono"), (16_000, "stereo"), (22_050, "stereo")])
def test_joined_recordings_of_another_kind_are_one(rate, layout):
    """As radio archives join them: the second used never to be heard."""
    found = beeps(decoded(recording("mp3") + recording("mp3", rate, layout)))
    assert [round(each) for each in found] == [1, 3, 5, 7]


def test_a_track_that_starts_late_and_has_a_gap_keeps_its_times():
    """Broadcasts and screen recorders have them: cues used to come early by what was missing."""
    written, second = io.BytesIO(), np.arange(16_000) / 16_000
    beep = (np.sin(2 * np.pi * 700 * second) * 12_000 * (second < 0.2)).astype(np.int16).reshape(1, -1)
    with av.open(written, "w", format="matroska") as output:
        output.add_stream("flac", rate=16_000, layout="mono")  # silence from the beginning: the container's clock begins with it
        stream = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        output.streams[0].disposition, stream.disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for track, samples, begin in ((output.streams[0], beep * 0, 0), (stream, beep, 2), (stream, beep, 6)):
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), begin * 16_000
            output.mux(track.encode(frame))
        for track in output.streams:
            output.mux(track.encode(None))
    found = beeps(decoded(written.getvalue()))
    assert len(found) == 2 and is_at(2.0, found) and is_at(6.0, found), found


def test_the_default_track_is_taken():
    """Screen recorders write the desktop's sound first."""
    written, time = io.BytesIO(), np.arange(32_000) / 16_000
    with av.open(written, "w", format="matroska") as output:
        streams = [output.add_stream("flac", rate=16_000, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, loud in zip(streams, (0, 12_000), strict=True):
            samples = (np.sin(2 * np.pi * 700 * time) * loud).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
            output.mux([*stream.encode(frame), *stream.encode(None)])
    assert np.abs(decoded(written.getvalue())).max() > 10_000


@pytest.mark.parametrize("rate", [1, 10, 100, 1000])
def test_a_rate_that_makes_gigabytes_of_a_few_bytes_is_refused(rate):
    data = bytearray(recording("flac"))
    assert data[:4] == b"fLaC"
    data[18:21] = ((int.from_bytes(data[18:21], "big") & 0xF) | rate << 4).to_bytes(3, "big")  # of STREAMINFO
    while (at := data.find(b"\xff\xf8")) >= 0:
        data[at + 2] = data[at + 2] & 0xF0  # frames take the rate from there
        data[at] = 0xFE  # done
    with pytest.raises(ClientError) as refused:
        decoded(bytes(data).replace(b"\xfe\xf8", b"\xff\xf8"))
    assert refused.value.code in ("invalid_file", "audio_too_short")


def test_nothing_but_damage_is_refused():
    with pytest.raises(ClientError, match="could not be decoded"):
        decoded(recording("mp3")[:10] + bytes(range(256)) * 40)


def png(pixels: int) -> bytes:
    """A black square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(3 * pixels)) * pixels
    header = struct.pack(">IIBBBBB", pixels, pixels, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def with_cover(mp3: bytes, picture: bytes) -> bytes:
    """An ID3v2.4 tag with a picture before the audio."""

    def size(number: int) -> bytes:
        return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))

    body = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + size(len(body)) + b"\0\0" + body
    return b"ID3\4\0\0" + size(len(frame)) + frame + mp3


def test_a_cover_picture_is_not_decoded(tmp_path):
    """One of half a megabyte took half a gigabyte and seconds before the first sound."""
    pixels, path = 6_000, tmp_path / "cover.mp3"
    path.write_bytes(with_cover(recording("mp3"), png(pixels)))
    code = (
        "import resource, sys; from server.audio import container; peak = lambda: resource.getrusage(0).ru_maxrss * 1024;"
        "before = peak(); print(sum(map(len, container.blocks(open(sys.argv[1], 'rb')))) / 32_000, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=PROJECT)
    seconds, grown = map(float, done.stdout.split())
    assert seconds == pytest.approx(SECONDS, abs=SLACK_SECONDS) and grown < 3 * pixels * pixels / 2, "half the picture's pixels"


def test_a_recording_of_opposite_phase_is_not_silence():
    left = np.frombuffer(recording("wav")[44:], np.int16)
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.stack([left, -left], axis=1).tobytes())
    assert np.allclose(beeps(decoded(written.getvalue())), [begin for begin, _ in BEEPS], atol=SLACK_SECONDS)
