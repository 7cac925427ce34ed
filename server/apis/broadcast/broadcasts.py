"""Broadcasts of this process: senders whose words are read under the name of a session, or of a channel."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator

from server.apis.broadcast.session import BroadcastSession
from server.errors import ServerError
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import MessageQueue, Outbox

KEPT_SECONDS = 300.0  # time after the end for which the words are kept
MOST_ENDED = 1024  # most ended broadcasts that are kept
PING_SECONDS = 15.0  # time without words before a ping, which shows readers and proxies that the stream is alive


def new_session_id(api: Api) -> str:
    """Return a session name that nobody can guess. Readers distinguish sessions by it, also those of different processes."""
    return f"{api.value}-{uuid.uuid4()}"


class Broadcast:
    """The words of one sender."""

    def __init__(self, api: Api, name: str, channel: str, session: BroadcastSession, metrics: Metrics):
        """name: name of the session, which nobody can guess. channel: a name that readers know; may be empty."""
        self.name, self.channel, self.session = name, channel, session
        self._api, self._metrics = api, metrics

    @property
    def has_left(self) -> bool:
        """True if the sender sends no more audio; its last words may still be on their way."""
        return self.session.is_finishing

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events: the messages of the data channel, from the text so far to the final."""
        unsent = MessageQueue()

        def give_up(_: ServerError) -> None:
            unsent.end()

        outbox = Outbox(self._api, unsent, self._metrics, asyncio.get_running_loop().time, give_up)
        remove = self.session.add_reader(outbox.send, unsent.end)
        try:
            async for text in until_ended(unsent):
                yield text
        finally:
            remove()


class Broadcasts:
    """Finds broadcasts that are live, and those that ended a short time ago."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._by_name: dict[str, Broadcast] = {}
        self._by_channel: dict[str, Broadcast] = {}
        self._ended: deque[Broadcast] = deque()

    def begin(self, api: Api, name: str, channel: str, session: BroadcastSession) -> Broadcast:
        """Make the words of a session readable under its name, also for a while after its end."""
        self._by_name[name] = broadcast = Broadcast(api, name, channel, session, self._metrics)
        session.on_end = lambda: self._forget_later(broadcast)
        return broadcast

    def publish(self, broadcast: Broadcast) -> None:
        """Make the words also readable under the channel's name. Of two broadcasts with one channel the newer one is read."""
        if broadcast.channel:
            self._by_channel[broadcast.channel] = broadcast

    def find(self, name: str) -> Broadcast | None:
        return self._by_name.get(name)

    def find_channel(self, channel: str) -> Broadcast | None:
        """Return the last broadcast on a channel."""
        return self._by_channel.get(channel)

    def _forget_later(self, broadcast: Broadcast) -> None:
        self._ended.append(broadcast)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, broadcast)
        while len(self._ended) > MOST_ENDED:
            self._forget(self._ended[0])

    def _forget(self, broadcast: Broadcast) -> None:
        if broadcast in self._ended:
            self._ended.remove(broadcast)
        if self._by_name.get(broadcast.name) is broadcast:
            del self._by_name[broadcast.name]
        if self._by_channel.get(broadcast.channel) is broadcast:
            del self._by_channel[broadcast.channel]


async def until_ended(unsent: MessageQueue) -> AsyncIterator[str]:
    while True:
        try:
            text = await asyncio.wait_for(unsent.next(), PING_SECONDS)
        except TimeoutError:
            yield ": ping\n\n"
            continue
        if text is None:
            return
        yield f"data: {text}\n\n"
