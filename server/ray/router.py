"""Routes Ray Serve's requests to replicas: new sessions by placement.py, and requests about a session to its replica."""

import hashlib
import pickle
import random
import time
from collections import defaultdict
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from server.apis.session_names import CHANNEL_PATH, SESSION_PATH
from server.ray.placement import Load, ranked


class SessionRouter(RequestRouter):
    """The router of one proxy. Without Serve's FIFO mixin, every request gets the replica that was chosen for it."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._loads: defaultdict[str, Load] = defaultdict(Load)
        self._dice = random.Random()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return one replica in each rank: within a rank, Serve would choose by its own count of open requests."""
        path = scope_of(pending_request).get("path", "")
        order = ranked([self._load_of(replica) for replica in candidate_replicas], self._dice)
        chosen = [candidate_replicas[index] for index in order]
        if session := SESSION_PATH.fullmatch(path):
            owner = session["replica"]
            chosen.sort(key=lambda replica: name_of(replica.replica_id) != owner)
        elif named := CHANNEL_PATH.fullmatch(path):
            channel = named["channel"]
            chosen.sort(key=lambda replica: weight(name_of(replica.replica_id), channel))
        return [[replica] for replica in chosen]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        if opens_session(scope_of(pending_request)):
            self._loads[name_of(replica_id)].sent(time.time())

    def _load_of(self, replica: RunningReplica) -> Load:
        load, told = self._loads[name_of(replica.replica_id)], replica.routing_stats
        if told:
            load.count(told["sessions"], told["places"], told["at"])
        return load

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        there = {name_of(replica.replica_id) for replica in replicas}
        for name in self._loads.keys() - there:
            del self._loads[name]


def weight(replica: str, channel: str) -> bytes:
    """Return a weight. The replica of least weight has the channel: its sender and readers meet there, through any proxy."""
    return hashlib.sha256(f"{replica} {channel}".encode()).digest()


def name_of(replica_id: ReplicaID) -> str:
    """Return a replica's own name, as in ASR_REPLICA."""
    return str(replica_id.unique_id)


def scope_of(request: PendingRequest | None) -> dict[str, Any]:
    """Return the ASGI scope, which Serve's proxy sends pickled; empty for a call that came through no proxy."""
    argument = request.args[0] if request and request.args else None
    if not isinstance(argument, bytes):
        return {}
    return pickle.loads(argument).asgi_scope  # type: ignore[no-any-return]  # made by this very process


def opens_session(scope: dict[str, Any]) -> bool:
    return scope.get("type") == "websocket" or scope.get("method") == "POST"
