"""SCTP that acknowledges several packets together, slows down a fast sender, and survives invalid packets.

aiortc sends a selective acknowledgement for every packet it receives: a quarter of the CPU that a 20 ms message takes. RFC 9260,
6.2, asks for one for every second packet, within 200 ms, which paces senders of full packets. Here one is sent for two full
packets, or for as many bytes in smaller ones, within 100 ms. Most packets hold only the next piece of their stream's next
message: these are processed at once, without the objects that other packets need. In aiortc, a packet that cannot be read ends
the receiving task silently.
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
"""Event of a channel that received an invalid message."""
ACKNOWLEDGED_BYTES = 2_200  # two full packets: browsers' have up to 1,191 bytes, aiortc's 1,228
WINDOW_BYTES = 96 * 1024
"""Bytes that a sender may have in flight: more than the largest message. A sender that is held back may also send as much: 3 s
of audio."""
LEAST_BYTES = 256  # least size that a message counts for while its sender is held back: small ones cost as much work
IMMEDIATE_FLAG = 0x08  # of a chunk whose sender asks for an acknowledgement at once
DELAY_SECONDS = 0.1  # longest delay of an acknowledgement; half of what RFC 9260 allows
HEADERS = struct.Struct("!HHL4sBBHLHHL")  # of a packet and of its first chunk of data: RFC 9260, 3.1 and 3.3.1
COMMON_BYTES, CHUNK_HEADER_BYTES, NO_CHECKSUM, CHECKSUM_AT = 12, 4, bytes(4), slice(8, 12)
DATA, LAST, FIRST, WHOLE = 0, 0x01, 0x02, 0x03  # kind and flags of a chunk; those of unordered chunks are higher


MESSAGES: dict[int, Callable[[bytes], str | bytes]] = {
    WEBRTC_STRING: bytes.decode,
    WEBRTC_BINARY: bytes,
    WEBRTC_STRING_EMPTY: lambda data: "",
    WEBRTC_BINARY_EMPTY: lambda data: b"",
}
"""Decoders of the messages, by the kind of payload (RFC 8831, 8)."""
Receive = Callable[[str | bytes], None]


def follows(flags: int, pieces: Sequence[DataChunk], last_tsn: int) -> bool:
    """Return whether a chunk with these flags directly follows the pieces of its message, the last of which has `last_tsn`."""
    if not pieces:
        return bool(flags & FIRST)
    return not flags & FIRST and not pieces[-1].flags & LAST and pieces[-1].tsn == last_tsn


def has_checksum(packet: bytes, checksum: bytes) -> bool:
    """Return whether the checksum of a packet is right (RFC 9260, 6.8)."""
    unchecked = packet[: CHECKSUM_AT.start] + NO_CHECKSUM + packet[CHECKSUM_AT.stop :]
    return bool(crc32c(unchecked) == int.from_bytes(checksum, "little"))


class PatientSctpTransport(RTCSctpTransport):
    """Delays an acknowledgement to combine it with later ones, unless a packet is missing or came twice."""

    _unacknowledged_bytes = ACKNOWLEDGED_BYTES
    """Bytes received since the last acknowledgement. The very first packet is acknowledged at once (RFC 9260, 5.1)."""
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._advertised_rwnd = WINDOW_BYTES
        self._is_holding_back = False
        self._kept_bytes = 0  # bytes received while holding back
        self._receivers: dict[int, Receive] = {}  # by the stream of their channel

    def deliver_to(self, channel: RTCDataChannel, receive: Receive) -> None:
        """Pass a channel's messages to a function instead of its event emitter, which takes as long as all other work of SCTP."""
        assert channel.id is not None, "it is open"
        self._receivers[channel.id] = receive

    def hold_back(self) -> None:
        """Stop reading: new data uses the window up, and is then dropped, so that the sender sends it again (RFC 9260, 6.2)."""
        self._is_holding_back = True

    async def go_on(self) -> None:
        """Report to the sender that there is room again. Otherwise it would find out by probes, less and less often."""
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
        except Exception as exc:  # aiortc fails on packets that a peer may send, in an assert or in unpacking
            logger.info("a packet that makes no sense was dropped: %r", exc)

    def _take_next(self, data: bytes) -> list[tuple[int, int, bytes]] | None:
        """Process a packet that holds only the next piece of a message of its stream; None leaves any other packet to aiortc.

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
        """Send an acknowledgement, or delay it. Called after every packet that asks for one."""
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
    """Make aiortc use PatientSctpTransport; there is no other way to choose the class."""
    rtcpeerconnection.RTCSctpTransport = PatientSctpTransport  # type: ignore[misc]
