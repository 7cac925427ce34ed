"""The name of the replica in every answer, for servers that share one address."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPLICA_HEADER = "X-ASR-Replica"
ANSWERS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class ReplicaHeader:
    """Middleware that adds the replica's name to every answer. It comes before everything that answers."""

    def __init__(self, app: ASGIApp, replica: str):
        self._app, self._replica = app, replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(message: Message) -> None:
            if message["type"] in ANSWERS:
                message = {"headers": [], **message}
                MutableHeaders(scope=message)[REPLICA_HEADER] = self._replica
            await send(message)

        await self._app(scope, receive, say if scope["type"] in ("http", "websocket") else send)
