"""SCTP that acknowledges packets together, holds a hasty sender back, and outlives what a peer must not send.

aiortc sends a selective acknowledgement for every packet it receives: a quarter of the CPU that a 20 ms message takes. RFC 9260,
6.2, asks for one for every second packet, within 200 ms, which paces senders of full packets. Here two full ones count, or as
many bytes in smaller ones, within 100 ms. Most packets are the next piece of their stream's next message and nothing else: these
are taken at once, without the objects that other packets need. And what cannot be read ends aiortc's receiving task, in silence.
"""

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Any

from aiortc import RTCDataChannel, rtcpeerconnection
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    DataChunk,
    RTCSctpTransport,
)
from google_crc32c import value as crc32c

logger = logging.getLogger(__name__)

MALFORMED = "malformed"
"""Said by a channel: what came on it is no message."""
ACKNOWLEDGED_BYTES = 2_200  # two full packets: browsers' have up to 1,191 bytes, aiortc's 1,228
WINDOW_BYTES = 96 * 1024
"""Bytes that a sender may have under way: more than the largest message. One that is held back sends as much: 3 s of audio."""
LEAST_BYTES = 256  # that a message counts for while its sender is held back: tiny ones cost no less to take
IMMEDIATE_FLAG = 0x08  # of a chunk whose sender asks not to be kept waiting
DELAY_SECONDS = 0.1  # for packets that no other one follows; half of what RFC 9260 allows
HEADERS = struct.Struct("!HHL4sBBHLHHL")  # of a packet and of its first chunk of data: RFC 9260, 3.1 and 3.3.1
COMMON_BYTES, CHUNK_HEADER_BYTES, NO_CHECKSUM, CHECKSUM_AT = 12, 4, bytes(4), slice(8, 12)
DATA, LAST, FIRST, WHOLE = 0, 0x01, 0x02, 0x03  # kind and flags of a chunk; those of one that is out of order are higher


MESSAGES: dict[int, Callable[[bytes], str | bytes]] = {
    WEBRTC_STRING: bytes.decode,
    WEBRTC_BINARY: bytes,
    WEBRTC_STRING_EMPTY: lambda data: "",
    WEBRTC_BINARY_EMPTY: lambda data: b"",
}
"""The messages of RFC 8831, 8: what each kind of payload is."""
Receive = Callable[[str | bytes], None]


def follows(flags: int, pieces: Sequence[DataChunk], last_tsn: int) -> bool:
    """Return whether a chunk with these flags goes on where the pieces of its message end, which the last packet brought."""
    if not pieces:
        return bool(flags & FIRST)
    return not flags & FIRST and not pieces[-1].flags & LAST and pieces[-1].tsn == last_tsn


def has_checksum(packet: bytes, checksum: bytes) -> bool:
    """Return whether a packet has the checksum that it says (RFC 9260, 6.8)."""
    unchecked = packet[: CHECKSUM_AT.start] + NO_CHECKSUM + packet[CHECKSUM_AT.stop :]
    return bool(crc32c(unchecked) == int.from_bytes(checksum, "little"))


class PatientSctpTransport(RTCSctpTransport):
    """Holds an acknowledgement back for the next packets, unless something is missing or came twice."""

    _unacknowledged_bytes = ACKNOWLEDGED_BYTES
    """Received since the last acknowledgement; the first packet of all is acknowledged at once (RFC 9260, 5.1)."""
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._advertised_rwnd = WINDOW_BYTES
        self._is_holding_back = False
        self._kept_bytes = 0  # came while holding back
        self._receivers: dict[int, Receive] = {}  # by the stream of their channel

    def deliver_to(self, channel: RTCDataChannel, receive: Receive) -> None:
        """Pass a channel's messages on to a function, in place of its event emitter, which takes as long as the rest of SCTP."""
        assert channel.id is not None, "it is open"
        self._receivers[channel.id] = receive

    def hold_back(self) -> None:
        """Stop reading: new data uses the window up, and is then dropped, for the sender to send again (RFC 9260, 6.2)."""
        self._is_holding_back = True

    async def go_on(self) -> None:
        """The sender is told that there is room again; else it would find out by probing, ever more seldom."""
        self._is_holding_back = False
        self._advertised_rwnd, self._kept_bytes = self._advertised_rwnd + self._kept_bytes, 0
        if self._association_state == self.State.ESTABLISHED:
            await self._send_late()

    async def _handle_data(self, data: bytes) -> None:
        self._unacknowledged_bytes += len(data)
        try:
            if (messages := self._take_next(data)) is None:
                await super()._handle_data(data)
                return
            for message in messages:
                await self._data_channel_receive(*message)
            await self._send_sack()
        except ConnectionError:
            raise
        except Exception as exc:  # aiortc asserts what a peer may do, and unpacks what it may send
            logger.info("a packet that makes no sense was dropped: %r", exc)

    def _take_next(self, data: bytes) -> list[tuple[int, int, bytes]] | None:
        """Take a packet that is the next piece of a message of its stream and nothing else; None leaves any other to aiortc.

        Returns the messages that it completes: of each its stream, its protocol and its payload.
        """
        last_tsn = self._last_received_tsn
        if len(data) <= HEADERS.size or last_tsn is None or self._sack_misordered or self._is_holding_back:
            return None
        _, _, tag, checksum, kind, flags, length, tsn, stream_id, number, protocol = HEADERS.unpack_from(data)
        stream = self._inbound_streams.get(stream_id)
        is_alone = kind == DATA and flags <= WHOLE and len(data) == COMMON_BYTES + length + -length % 4
        if stream is None or not is_alone or tag != self._local_verification_tag or tsn != (last_tsn + 1) % 2**32:
            return None
        is_next = stream.sequence_number == number and follows(flags, stream.reassembly, last_tsn)
        if not is_next or self._reconfig_deferred is not None or not has_checksum(data, checksum):
            return None
        self._last_received_tsn = tsn
        if flags == WHOLE:
            stream.sequence_number = (number + 1) % 2**16
            return [(stream_id, protocol, data[HEADERS.size : COMMON_BYTES + length])]
        piece = DataChunk(flags, data[COMMON_BYTES + CHUNK_HEADER_BYTES : COMMON_BYTES + length])
        stream.reassembly.append(piece)
        self._advertised_rwnd -= len(piece.user_data)
        messages = list(stream.pop_messages()) if flags & LAST else []
        self._advertised_rwnd += sum(len(message) for _, _, message in messages)
        return messages

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if self._is_holding_back:
            kept = max(len(data), LEAST_BYTES)
            self._advertised_rwnd -= kept
            self._kept_bytes += kept
        try:
            if (receive := self._receivers.get(stream_id)) is None or (decode := MESSAGES.get(pp_id)) is None:
                await super()._data_channel_receive(stream_id, pp_id, data)
            else:
                receive(decode(data))
        except (UnicodeDecodeError, AssertionError, struct.error) as exc:
            logger.info("a message that makes no sense was dropped: %r", exc)
            if channel := self._data_channels.get(stream_id):
                channel.emit(MALFORMED)

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        if chunk.flags & IMMEDIATE_FLAG:
            self._unacknowledged_bytes = ACKNOWLEDGED_BYTES
        if self._is_holding_back and len(chunk.user_data) > self._advertised_rwnd:
            self._sack_needed = True
        else:
            await super()._receive_data_chunk(chunk)

    async def _send_sack(self) -> None:
        """Called behind every packet that asks for an acknowledgement."""
        is_in_order = not self._sack_misordered and not self._sack_duplicates
        if is_in_order and self._unacknowledged_bytes < ACKNOWLEDGED_BYTES:
            self._sack_needed = False
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self._send_held)
            return
        self._unacknowledged_bytes = 0
        await super()._send_sack()

    def _send_held(self) -> None:
        self._timer = None
        if self._unacknowledged_bytes and self._association_state == self.State.ESTABLISHED:
            self._unacknowledged_bytes = 0
            self._sending = asyncio.ensure_future(self._send_late())

    async def _send_late(self) -> None:
        with contextlib.suppress(ConnectionError):  # the peer has left meanwhile
            await super()._send_sack()


def install() -> None:
    """Make aiortc's connections use it; there is no other way to choose the class."""
    rtcpeerconnection.RTCSctpTransport = PatientSctpTransport  # type: ignore[misc]
