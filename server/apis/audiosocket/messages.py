"""Frames of Asterisk's AudioSocket: a kind, a length, a payload. No I/O, no clock.

https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/
"""

import enum
import struct
import uuid

from server.audio.input import AudioFormat
from server.errors import ClientError, Code

HEADER = struct.Struct(">BH")
UUID_BYTES = 16
RATES = {0x10: 8_000, 0x11: 12_000, 0x12: 16_000, 0x13: 24_000, 0x14: 32_000, 0x15: 44_100, 0x16: 48_000}
"""Rates of PCM16 by the kind of the frame."""
UNUSED_RATES = (0x17, 0x18)  # 96 and 192 kHz


class Kind(enum.IntEnum):
    """Kinds of frames that are not audio."""

    HANG_UP = 0x00
    UUID = 0x01
    DIGIT = 0x03
    ERROR = 0xFF


def audio_format(kind: int) -> AudioFormat | None:
    """Return the format of a frame's audio; None if it has none. Raises ClientError."""
    if kind in UNUSED_RATES:
        raise ClientError(Code.UNSUPPORTED_SAMPLE_RATE, "audio of 96 and 192 kHz is not taken")
    return AudioFormat(rate=RATES[kind]) if kind in RATES else None


def call_name(payload: bytes) -> str:
    """Return the call's UUID as text. Raises ClientError."""
    if len(payload) != UUID_BYTES:
        raise ClientError(Code.BAD_MESSAGE, f"a UUID has {UUID_BYTES} bytes, not {len(payload)}")
    return str(uuid.UUID(bytes=payload))
