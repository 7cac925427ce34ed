"""Replicas on Ray Serve. Each is a complete server with its own sessions, on one GPU or some cores of a machine of the cluster.

Started by `serve run server.ray.replica:build`, or by moonshine-asr cluster. Media goes directly to a replica's own address.
"""

import asyncio
import contextlib
import logging
import os
import pkgutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, RequestRouterConfig
from ray.serve.metrics import Gauge
from ray.serve.schema import ReplicaState
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from runtime.engine.protocol import Engine
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server import settings as settings_module
from server.app import create_app
from server.ray.child_server import ChildServer
from server.sessions.admission import Counts
from server.sessions.registry import Sessions
from server.settings import PROCESS_KEY, SECRET_KEY_VARIABLE, SESSIONS_PER_CORE, Settings
from server.startup import raise_file_limit, set_up_log
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import exporting

logger = logging.getLogger("server.replica")

NAME = "moonshine-asr"
OPENER = "server.startup:open_for_serving"
Opener = Callable[[Settings, Metrics], tuple[EngineLoop, Engine, Tokenizer]]

COUNT_SECONDS = 1.0  # time between two reports of counts to Ray
UNASKED_SECONDS = 4.0
OTHER_REQUESTS = 4096  # at once, in addition to the sessions' WebSockets: readers of captions stay for as long as somebody speaks
KILL_SECONDS = 20.0  # beyond its own limits, for a replica to end
LOOK_BACK_SECONDS = 5.0  # over which Ray averages the counts
SCALE_DOWN_SECONDS = 300.0
REPLICAS = 2
TARGET_SHARE = 0.7  # of the places; the rest is for sessions that come while another replica starts
ROUTER, POLICY = "server.ray.router:SessionRouter", "server.ray.replica:BySessions"
ICE_VARIABLE, REPLICA_VARIABLE = "ASR_ICE_ADDRESSES", "ASR_REPLICA"
PLACES_VARIABLE, ENGINES_VARIABLE = "ASR_MAX_SESSIONS", "ASR_ENGINE_DIR"
NODE_VARIABLES = (ICE_VARIABLE, "ASR_ADVERTISED_ADDRESS", "ASR_UDP_PORTS", ENGINES_VARIABLE)
"""Variables that each node may have of its own, in the environment in which Ray was started there."""


class ReplicaServer(Protocol):
    """The server of a replica: in this process, or a child of it."""

    @property
    def app(self) -> ASGIApp: ...

    def counts(self) -> Counts: ...

    def check(self) -> None:
        """Raises RuntimeError if the server cannot go on."""

    async def drain(self) -> None:
        """Take no new sessions, let the open ones go on for their time, then give them their finals. May be called twice."""


class InProcessServer:
    """A server in the replica's own process, with one engine and one event loop."""

    def __init__(self, settings: Settings, opener: Opener):
        self._metrics = Metrics()
        transcriber, _, tokenizer = opener(settings, self._metrics)
        self._until_end = contextlib.ExitStack()
        tracing = self._until_end.enter_context(exporting(self._metrics.registry))
        self._sessions = Sessions(transcriber, tokenizer, settings, self._metrics, tracing=tracing)
        self._listen = settings.listen
        self._has_defect = False
        self._draining: asyncio.Task[None] | None = None
        self._sessions.on_defect = self._note_defect
        self.app = create_app(self._sessions, self._metrics, settings)
        begin_and_end = self.app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with begin_and_end(app):
                await self._until_warm()
                yield
                await self.drain()
            self._until_end.close()

        self.app.router.lifespan_context = lifespan

    def _note_defect(self) -> None:
        self._has_defect = True

    async def _until_warm(self) -> None:
        """Wait until the engine is warm: Serve sends requests as soon as the lifespan has begun. Raises RuntimeError."""
        warm = asyncio.ensure_future(self._sessions.until_warm())
        while not warm.done():
            self.check()
            await asyncio.wait([warm], timeout=COUNT_SECONDS)

    def counts(self) -> Counts:
        return self._sessions.counts()

    def check(self) -> None:
        if self._has_defect:
            raise RuntimeError("the engine is lost, or a task that all sessions need has ended; the log has the cause")

    async def drain(self) -> None:
        self._draining = self._draining or asyncio.create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        await self._sessions.drain(self._listen.drain_seconds)
        await self._sessions.finish_all(self._listen.shutdown_timeout_seconds)


@serve.ingress()
class Replica:
    """The class that Ray runs. Its methods are Ray Serve's hooks: coroutines, because Ray calls other functions in a thread."""

    def __init__(self, variables: Mapping[str, str], opener: str):
        """variables: settings of the process that deploys.

        opener: module:function that opens the engine.
        """
        own = variables_of(variables, str(serve.get_replica_context().replica_id.unique_id), ray.util.get_node_ip_address())
        settings = settings_module.load(own)
        set_up_log(settings)
        raise_file_limit()
        self._proxies = [str(network) for network in settings.listen.trusted_proxies]
        has_processes = settings.listen.workers > 1
        self._server: ReplicaServer = (
            ChildServer(settings, own) if has_processes else InProcessServer(settings, pkgutil.resolve_name(opener))
        )
        self._gauges = gauges()
        self._asked_at = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        if not self._proxies:
            return self._server.app
        return ProxyHeadersMiddleware(self._server.app, self._proxies)  # type: ignore[arg-type,return-value]  # uvicorn's own ASGI types

    async def check_health(self) -> None:
        """Raises RuntimeError if the replica cannot go on, or must be replaced.

        Ray calls this until it stops the replica. A replica that drains although Ray has not stopped it would accept no sessions.
        """
        self._server.check()
        if self._server.counts().is_draining:
            raise RuntimeError("the replica drains, and Ray has not stopped it")

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return the counts for the routers. Ray calls this every second, until it stops the replica."""
        self._asked_at = time.monotonic()
        self._watching = self._watching or asyncio.create_task(self._drain_when_stopped())
        counts = self._server.counts()
        places = 0 if counts.is_draining else counts.max_sessions
        for gauge, value in zip(self._gauges, (counts.sessions, counts.max_sessions, counts.is_draining), strict=True):
            gauge.set(value)
        return {"sessions": counts.sessions, "places": places, "at": time.time()}

    async def _drain_when_stopped(self) -> None:
        """Drain when Ray stops the replica. Ray itself first waits for open WebSockets, whose sessions would not be informed."""
        is_stopped = False
        while not is_stopped:
            await asyncio.sleep(COUNT_SECONDS)  # Ray offers nothing to wait on
            if self._is_unasked():
                try:
                    is_stopped = await asyncio.to_thread(is_one_stopping) and self._is_unasked()
                except Exception as exc:  # Ray raises any error of the remote call; the controller may be away
                    logger.warning("Ray does not say whether this replica is to end: %r", exc)
        await self._server.drain()

    def _is_unasked(self) -> bool:
        return time.monotonic() - self._asked_at > UNASKED_SECONDS

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {"sessions": float(self._server.counts().sessions)}


def is_one_stopping() -> bool:
    """True if any replica of the deployment is stopping. If Ray no longer asks this one, it is among them."""
    application = serve.status().applications.get(serve.get_replica_context().app_name)
    deployment = application.deployments.get(NAME) if application else None
    return deployment is None or deployment.replica_states.get(ReplicaState.STOPPING, 0) > 0


def gauges() -> list[Gauge]:
    """Make the gauges. Each node's agent exports them by replica; /metrics through Serve's proxy is that of any one replica."""
    return [
        Gauge("asr_sessions_open", "Sessions connected now"),
        Gauge("asr_sessions_max", "Sessions that may be open at once"),
        Gauge("asr_draining", "1 while the server is about to end"),
    ]


def variables_of(variables: Mapping[str, str], replica: str, address: str) -> dict[str, str]:
    """Return the variables of a replica on a node with this address: clients find it there, wherever it was deployed from."""
    return {ICE_VARIABLE: address, **variables, **found(NODE_VARIABLES), REPLICA_VARIABLE: replica}


def found(names: Sequence[str]) -> dict[str, str]:
    """Return those of the variables that this process has."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


class BySessions:
    """The autoscaling policy: enough replicas to keep this number of sessions on each. Runs in Ray's controller."""

    def __init__(self, sessions_wanted: float):
        """sessions_wanted: number of sessions that a replica should have."""
        self._wanted = sessions_wanted

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas. One that drains, or has not counted yet, is not in the sum. Without counts, it stays."""
        counted = (context.aggregated_metrics or {}).get("sessions", {})
        return (sum(counted.values()) / self._wanted if counted else context.target_num_replicas), {}


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Make the application. Settings come from the environment.

    arguments: replicas, or min_replicas and max_replicas; target, a share of the places; surge_percent, the percentage of extra
    replicas that a rolling update may start; engine, a module:function. All may be strings.

    Raises SettingsError, or ValueError for an argument.
    """
    variables = {
        SECRET_KEY_VARIABLE: PROCESS_KEY,
        **found(settings_module.variable_names()),
    }  # every replica accepts the tokens of all
    settings = settings_module.load(variables)
    variables[ENGINES_VARIABLE] = str(settings.model.engines_path.resolve())  # Ray runs replicas in a directory of its own
    threads = settings.model.cpu_threads or os.cpu_count() or 1
    places = settings.access.max_sessions or SESSIONS_PER_CORE * threads
    variables[PLACES_VARIABLE] = str(places)  # otherwise each node would have its own number
    listening = settings.listen
    routing: dict[str, Any] = {"request_router_class": ROUTER, "request_routing_stats_period_s": COUNT_SECONDS}
    deploy: Callable[..., serve.Deployment] = serve.deployment(
        name=NAME,
        max_ongoing_requests=places + OTHER_REQUESTS,
        graceful_shutdown_timeout_s=listening.drain_seconds + listening.shutdown_timeout_seconds + KILL_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2,
        health_check_timeout_s=30,
        request_router_config=RequestRouterConfig(**routing),
        **resources_of(settings),
        **size_of(arguments, places),
    )
    application: serve.Application = deploy(Replica).bind(variables, str(arguments.get("engine", OPENER)))
    return application


def size_of(arguments: Mapping[str, Any], places: int) -> dict[str, Any]:
    """Options for the number of replicas."""
    surge = {"max_surge_percent": int(arguments["surge_percent"])} if "surge_percent" in arguments else {}
    if "max_replicas" not in arguments:
        return surge | {"num_replicas": int(arguments.get("replicas", REPLICAS))}
    wanted = max(1.0, float(arguments.get("target", TARGET_SHARE)) * places)
    return surge | {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=int(arguments.get("min_replicas", 1)),
            max_replicas=int(arguments["max_replicas"]),
            policy=AutoscalingPolicy(policy_function=POLICY, policy_kwargs={"sessions_wanted": wanted}),
            metrics_interval_s=COUNT_SECONDS / 2,
            look_back_period_s=LOOK_BACK_SECONDS,
            aggregation_function="max",  # a mean would follow a sudden rise seconds late
            upscale_delay_s=0,
            downscale_delay_s=float(arguments.get("scale_down_seconds", SCALE_DOWN_SECONDS)),
        )
    }


def resources_of(settings: Settings) -> dict[str, Any]:
    """Return the resources of a replica: a GPU if the cluster has any, else cores. With all cores, it is alone on its node."""
    if ray.is_initialized() and ray.cluster_resources().get("GPU"):
        return {"ray_actor_options": {"num_gpus": 1, "num_cpus": 1}}
    threads = settings.model.cpu_threads
    return {"ray_actor_options": {"num_cpus": threads or 1}} | ({} if threads else {"max_replicas_per_node": 1})
