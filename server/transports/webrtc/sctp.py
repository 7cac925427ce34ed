"""SCTP that acknowledges every second packet, holds a hasty sender back, and outlives what a peer must not send.

aiortc sends a selective acknowledgement for every packet it receives: a quarter of the CPU that a 20 ms message takes. RFC 9260,
6.2, asks for one for every second packet, within 200 ms. And what cannot be read ends its receiving task, in silence.
"""

import asyncio
import contextlib
import logging
import struct
from typing import Any

from aiortc import rtcpeerconnection
from aiortc.rtcsctptransport import DataChunk, RTCSctpTransport

logger = logging.getLogger(__name__)

MALFORMED = "malformed"
"""Said by a channel: what came on it is no message."""
ACKNOWLEDGED_PACKETS = 2
WINDOW_BYTES = 96 * 1024
"""Bytes that a sender may have under way: more than the largest message. One that is held back sends as much: 3 s of audio."""
LEAST_BYTES = 256  # that a message counts for while its sender is held back: tiny ones cost no less to take
IMMEDIATE_FLAG = 0x08  # of a chunk whose sender asks not to be kept waiting
DELAY_SECONDS = 0.1  # for a packet that no other one follows; half of what RFC 9260 allows


class PatientSctpTransport(RTCSctpTransport):
    """Holds an acknowledgement back for the next packet, unless something is missing or came twice."""

    _held = ACKNOWLEDGED_PACKETS - 1
    """Packets received since the last acknowledgement; the first one of all is acknowledged at once (RFC 9260, 5.1)."""
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
        try:
            await super()._handle_data(data)
        except ConnectionError:
            raise
        except Exception as exc:  # aiortc asserts what a peer may do, and unpacks what it may send
            logger.info("a packet that makes no sense was dropped: %r", exc)

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
            self._held = ACKNOWLEDGED_PACKETS
        if self._is_holding_back and len(chunk.user_data) > self._advertised_rwnd:
            self._sack_needed = True
        else:
            await super()._receive_data_chunk(chunk)

    async def _send_sack(self) -> None:
        """Called behind every packet that asks for an acknowledgement."""
        self._held += 1
        is_in_order = not self._sack_misordered and not self._sack_duplicates
        if is_in_order and self._held < ACKNOWLEDGED_PACKETS:
            self._sack_needed = False
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self._send_held)
            return
        self._held = 0
        await super()._send_sack()

    def _send_held(self) -> None:
        self._timer = None
        if self._held and self._association_state == self.State.ESTABLISHED:
            self._held = 0
            self._sending = asyncio.ensure_future(self._send_late())

    async def _send_late(self) -> None:
        with contextlib.suppress(ConnectionError):  # the peer has left meanwhile
            await super()._send_sack()


def install() -> None:
    """Make aiortc's connections use it; there is no other way to choose the class."""
    rtcpeerconnection.RTCSctpTransport = PatientSctpTransport  # type: ignore[misc]
