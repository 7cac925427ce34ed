"""The WebSocket protocol, with a limit for everything that a client may send.

Messages go to the application by ASGI, or directly if it asks for that: ASGI's queue, task and coroutines take longer than all
other work for a message of 20 ms of audio.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import frames, http11
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

PIECE_BYTES = 8 * 1024  # parsed in one turn of the event loop: at most 1,365 frames, some 10 ms
MOST_FRAGMENTS = 16_384  # of one message; clients that split messages make fragments of 16 KiB and more
MOST_UNREAD_BYTES = 1024 * 1024  # of pongs, for a client that does not read
MESSAGE_BYTES = 2 * 1024 * 1024
NO_HANDSHAKE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"this is no WebSocket handshake\n"
)
PONG_SECONDS = 60.0  # the pong of a client that is read slowly waits after its audio
NOT_TEXT, POLICY = 1007, 1008  # RFC 6455, 7.4.1
DIRECT = "direct"  # the scope's extension that holds a socket which can pass messages on directly
WHOLE_TEXT, WHOLE_BINARY, MASKED, LONGEST_SHORT, LENGTH_16 = 0x81, 0x82, 0x80, 125, 126  # RFC 6455, 5.2
END_OF_HEAD = b"\r\n\r\n"
http11.MAX_LINE_LENGTH = 64 * 1024  # as for the whole head: 200 keyterms in an address do not fit into the library's 8 KiB


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with limits. uvicorn parses all received data at once, and holds any number of fragments."""

    long_messages: ClassVar[Mapping[str, int]] = {}
    """Largest message in bytes, by path, for paths that accept more than MESSAGE_BYTES."""

    @classmethod
    def with_long_messages(cls, long_messages: Mapping[str, int]) -> type["BoundedWebSocket"]:
        """Make a subclass that accepts larger messages at some paths."""
        return type(cls.__name__, (cls,), {"long_messages": long_messages})

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._unparsed = bytearray()
        self._is_scheduled = False  # the rest will be parsed in another turn of the event loop
        self._is_held_back = False
        self._pending_bytes = 0  # bytes that the library has and has not returned as a frame
        self._take: Callable[[str | bytes], None] | None = None

    # The application, directly

    def deliver_to(self, take: Callable[[str | bytes], None]) -> None:
        """Pass messages to a function from now on, instead of ASGI's receive, which then only reports that the client left."""
        self._take = take
        for _ in range(self.queue.qsize()):
            event = self.queue.get_nowait()
            if event["type"] != "websocket.receive":
                self.queue.put_nowait(event)
            elif (message := event["bytes"] if event.get("text") is None else event["text"]) is not None:
                take(message)
        self.read_paused = False
        self._go_on_reading()

    def hold_back(self) -> None:
        """Read nothing more until go_on()."""
        self._is_held_back = True
        self.transport.pause_reading()

    def go_on(self) -> None:
        self._is_held_back = False
        if not self._is_scheduled:
            self._parse_piece()

    def write_text(self, text: str) -> bool:
        """Write a message at once; False if the socket is closing."""
        if self.close_sent or self.disconnected or self.transport.is_closing() or self.conn.state is not State.OPEN:
            return False
        self.conn.send_text(text.encode())
        self.transport.writelines(self.conn.data_to_send())
        return True

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    # The wire

    def data_received(self, data: bytes) -> None:
        if not self._unparsed and not self._is_held_back and len(data) <= PIECE_BYTES:
            self._parse(data)
            return
        self._unparsed += data
        if not self._is_scheduled and not self._is_held_back:
            self._parse_piece()

    def _parse_piece(self) -> None:
        self._is_scheduled = False
        if self._is_held_back:
            return
        piece = bytes(self._unparsed[:PIECE_BYTES])
        del self._unparsed[:PIECE_BYTES]
        self._parse(piece)
        if self.transport.is_closing():
            self._unparsed.clear()
        elif self._unparsed:
            self.transport.pause_reading()
            self._is_scheduled = True
            self.loop.call_soon(self._parse_piece)
        else:
            self._go_on_reading()

    def _go_on_reading(self) -> None:
        if not (self.read_paused or self._is_held_back or self.transport.is_closing()):
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        if self.disconnected or self.transport.is_closing():
            return
        if self._take is None or (messages := self._whole_messages(data)) is None:
            self._parse_by_library(data)
        else:
            for message in messages:
                self._take(message)

    def _whole_messages(self, data: bytes) -> list[str | bytes] | None:
        """Return the messages in data that consists of whole messages; None if the library must parse it."""
        is_within_message = self._pending_bytes or self.frames or self.close_sent
        return None if is_within_message else whole_messages(data)

    def _parse_by_library(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._pending_bytes += len(data)
        else:  # frames that a client sends before the answer are never counted right; the library parses them
            self._pending_bytes = int(not data.endswith(END_OF_HEAD))
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.write(NO_HANDSHAKE)
            self.transport.close()
        elif self._take is None and self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.transport.abort()

    def shutdown(self) -> None:
        if self.handshake_initiated:
            super().shutdown()
        else:
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        self.conn.max_size = self.long_messages.get(event.path.partition("?")[0], MESSAGE_BYTES)
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"] = {**self.scope["extensions"], DIRECT: cast(dict[object, object], self)}

    def handle_events(self) -> None:
        self._pending_bytes -= sum(map(bytes_of, self.conn.events))
        super().handle_events()

    def handle_ping(self) -> None:
        """Answer a ping, but not to a client that reads nothing: its last message may be among the unsent data."""
        if self._take is not None and self.unsent_bytes > MOST_UNREAD_BYTES:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MOST_FRAGMENTS:
            self._refuse(POLICY, f"a message may have {MOST_FRAGMENTS:,} fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not is_utf8(self.frames):
            self._refuse(NOT_TEXT, "a text message must be UTF-8")
        elif self._take is not None:
            self._pass_on(self._take)
        else:
            super().send_receive_event_to_app()

    def _pass_on(self, take: Callable[[str | bytes], None]) -> None:
        payload, self.frames = b"".join(self.frames), []
        if not self.close_sent:
            take(payload.decode() if self.curr_msg_data_type == "text" else payload)

    def _refuse(self, code: int, reason: str) -> None:
        self.frames = []
        self._unparsed.clear()
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Close the connection. Before the handshake is answered, no reason can be sent."""
        if self.conn.close_sent is None:
            self.transport.abort()
        else:
            super().handle_parser_exception()


def whole_messages(data: bytes) -> list[str | bytes] | None:
    """Return the messages of data that has only masked frames with a whole message each; None if the library must parse it."""
    messages: list[str | bytes] = []
    start, end = 0, len(data)
    try:
        while start < end:
            kind, length, mask_at = data[start], data[start + 1] - MASKED, start + 2
            if length == LENGTH_16:
                length, mask_at = int.from_bytes(data[mask_at : mask_at + 2]), mask_at + 2
            elif not 0 <= length <= LONGEST_SHORT:
                return None
            begin = mask_at + 4
            start = begin + length
            if kind not in (WHOLE_TEXT, WHOLE_BINARY) or start > end:
                return None
            payload = frames.apply_mask(data[begin:start], data[mask_at:begin])
            messages.append(payload if kind == WHOLE_BINARY else payload.decode())
    except (IndexError, UnicodeDecodeError):
        return None
    return messages


def bytes_of(event: object) -> int:
    """Return the bytes that a masked frame had on the wire, if its header was no longer than needed; 0 for a request."""
    if not isinstance(event, Frame):
        return 0
    length = len(event.data)
    return 2 + (0 if length <= LONGEST_SHORT else 2 if length < 65_536 else 8) + 4 + length


def is_utf8(fragments: Sequence[bytes]) -> bool:
    try:
        b"".join(fragments).decode()
    except UnicodeDecodeError:
        return False
    return True
