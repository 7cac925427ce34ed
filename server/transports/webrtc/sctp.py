"""SCTP that acknowledges packets together, holds a hasty sender back, and outlives what a peer must not send.

aiortc sends a selective acknowledgement for every packet it receives: a quarter of the CPU that a 20 ms message takes. RFC 9260,
6.2, asks for one for every second packet, within 200 ms, which paces senders of full packets. Here two full ones count, or as
many bytes in smaller ones, within 100 ms. Most packets are the next message of their stream and nothing else: these are passed on
at once, without the objects that other packets need. And what cannot be read ends aiortc's receiving task, in silence.
"""

import asyncio
import contextlib
import logging
import struct
from typing import Any

from aiortc import rtcpeerconnection
from aiortc.rtcsctptransport import DataChunk, RTCSctpTransport
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
COMMON_BYTES, NO_CHECKSUM, CHECKSUM_AT = 12, bytes(4), slice(8, 12)
DATA, WHOLE_IN_ORDER = 0, 0x03  # kind and flags of a chunk that is a whole message, in the order of its stream


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
            if (message := self._next_message(data)) is None:
                await super()._handle_data(data)
            else:
                await self._data_channel_receive(*message)
                await self._send_sack()
        except ConnectionError:
            raise
        except Exception as exc:  # aiortc asserts what a peer may do, and unpacks what it may send
            logger.info("a packet that makes no sense was dropped: %r", exc)

    def _next_message(self, data: bytes) -> tuple[int, int, bytes] | None:
        """Take a packet that is the next message of its stream and nothing else; None for any other, which is left as it is.

        Returns its stream, its protocol and its payload.
        """
        last_tsn = self._last_received_tsn
        if len(data) <= HEADERS.size or last_tsn is None or self._sack_misordered or self._is_holding_back:
            return None
        _, _, tag, checksum, kind, flags, length, tsn, stream_id, number, protocol = HEADERS.unpack_from(data)
        stream = self._inbound_streams.get(stream_id)
        is_alone = kind == DATA and flags == WHOLE_IN_ORDER and len(data) == COMMON_BYTES + length + -length % 4
        if stream is None or not is_alone or tag != self._local_verification_tag or tsn != (last_tsn + 1) % 2**32:
            return None
        if stream.reassembly or stream.sequence_number != number or self._reconfig_deferred is not None:
            return None
        unchecked = data[: CHECKSUM_AT.start] + NO_CHECKSUM + data[CHECKSUM_AT.stop :]
        if crc32c(unchecked) != int.from_bytes(checksum, "little"):
            return None
        self._last_received_tsn, stream.sequence_number = tsn, (number + 1) % 2**16
        return stream_id, protocol, data[HEADERS.size : COMMON_BYTES + length]

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if self._is_holding_back:
            kept = max(len(data), LEAST_BYTES)
            self._advertised_rwnd -= kept
            self._kept_bytes += kept
        try:
            await super()._data_channel_receive(stream_id, pp_id, data)
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
