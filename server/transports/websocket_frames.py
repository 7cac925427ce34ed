"""The WebSocket protocol on the wire, with a bound for everything that a stranger may send."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.frames import Frame
from websockets.http11 import Request

PIECE_BYTES = 8 * 1024  # parsed in one turn of the event loop: at most 1,365 frames, some 10 ms
MOST_FRAGMENTS = 16_384  # of one message; clients that split messages at all do so at 16 KiB and more
MOST_UNREAD_BYTES = 1024 * 1024  # of pongs, for a client that does not read
MESSAGE_BYTES = 2 * 1024 * 1024
NO_HANDSHAKE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"this is no WebSocket handshake\n"
)
PONG_SECONDS = 60.0  # a client that is read slowly has its pong wait behind its audio
NOT_TEXT, POLICY = 1007, 1008  # RFC 6455, 7.4.1
http11.MAX_LINE_LENGTH = 64 * 1024  # as the whole head may have: 200 keyterms in an address do not fit into the library's 8 KiB


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's, which parses whatever has come in one go, and holds any number of fragments."""

    long_messages: ClassVar[Mapping[str, int]] = {}
    """Largest messages, in bytes, of the paths that take larger ones than MESSAGE_BYTES."""

    @classmethod
    def with_long_messages(cls, long_messages: Mapping[str, int]) -> type["BoundedWebSocket"]:
        """The same with larger messages at some paths."""
        return type(cls.__name__, (cls,), {"long_messages": long_messages})

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._unparsed = bytearray()
        self._is_scheduled = False  # a turn of the event loop for the rest

    def data_received(self, data: bytes) -> None:
        if not self._unparsed and len(data) <= PIECE_BYTES:
            self._parse(data)
            return
        self._unparsed += data
        if not self._is_scheduled:
            self._parse_piece()

    def _parse_piece(self) -> None:
        self._is_scheduled = False
        piece = bytes(self._unparsed[:PIECE_BYTES])
        del self._unparsed[:PIECE_BYTES]
        self._parse(piece)
        if self.transport.is_closing():
            self._unparsed.clear()
        elif self._unparsed:
            self.transport.pause_reading()
            self._is_scheduled = True
            self.loop.call_soon(self._parse_piece)
        elif not self.read_paused:
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        if self.disconnected or self.transport.is_closing():
            return
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.write(NO_HANDSHAKE)
            self.transport.close()
        elif self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.transport.abort()

    def shutdown(self) -> None:
        if self.handshake_initiated:
            super().shutdown()
        else:
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        self.conn.max_size = self.long_messages.get(event.path.partition("?")[0], MESSAGE_BYTES)
        super().handle_connect(event)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MOST_FRAGMENTS:
            self._refuse(POLICY, f"a message may have {MOST_FRAGMENTS:,} fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not is_utf8(self.frames):
            self._refuse(NOT_TEXT, "a text message must be UTF-8")
        else:
            super().send_receive_event_to_app()

    def _refuse(self, code: int, reason: str) -> None:
        self.frames = []
        self._unparsed.clear()
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Close the connection; before the handshake is answered there is nobody to tell."""
        if self.conn.close_sent is None:
            self.transport.abort()
        else:
            super().handle_parser_exception()


def is_utf8(fragments: Sequence[bytes]) -> bool:
    try:
        b"".join(fragments).decode()
    except UnicodeDecodeError:
        return False
    return True
