"""moonshine-asr cluster: replicas of the server on the machines of a Ray cluster, or two of them on this machine to try it."""

import argparse
import asyncio
import os
import signal
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from moonshine_client.command_line import Parser
from server import settings as settings_module
from server.errors import SettingsError
from server.ray import replica
from server.settings import Settings
from server.startup import EVERY_ADDRESS, EVERY_IPV4_ADDRESS, SETTINGS_STATUS, failed

APP = "moonshine-asr"
LOOK_SECONDS = 0.5
THREADS_VARIABLE = "ASR_CPU_THREADS"
DESCRIPTION = """Serves with replicas on a Ray cluster. Settings come from the environment, as for `moonshine-asr serve`.
Without --address it starts a cluster on this machine, shares the cores out among the replicas, and ends them at Ctrl-C; a second
Ctrl-C ends them at once. With --address the replicas go on when the command has ended. Running it again replaces them, a fifth at
a time."""
EXAMPLES = ("moonshine-asr cluster", "moonshine-asr cluster --address auto --max-replicas 8")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        if options.address is None:
            share_cores(options.max_replicas or options.replicas)
        settings = settings_module.load()
    except SettingsError as exc:
        return failed(exc, SETTINGS_STATUS)
    asyncio.run(run(options, settings))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_parser().parse_args(arguments)
    if options.max_replicas is None and options.replicas is None:
        options.replicas = replica.REPLICAS
    return options


def make_parser() -> Parser:
    parser = Parser("moonshine-asr cluster", DESCRIPTION, EXAMPLES)
    parser.add_argument("--address", help="of the cluster; auto: the one that this machine is part of")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--replicas", type=int, help="how many (default: 2 without --max-replicas)")
    size.add_argument("--max-replicas", type=int, help="as many as the live sessions need, at most this many")
    parser.add_argument("--min-replicas", type=int, default=1, help="with --max-replicas (default: %(default)s)")
    target = "with --max-replicas: share of the places to fill before there is another replica (default: %(default)s)"
    parser.add_argument("--target", type=float, default=replica.TARGET_SHARE, help=target)
    surge = "percentage of extra replicas that an update may start before it ends old ones; each needs a free GPU (default: 0)"
    parser.add_argument("--surge-percent", type=int, help=surge)
    parser.add_argument("--engine", default=replica.OPENER, help=argparse.SUPPRESS)
    return parser


def share_cores(replicas: int) -> None:
    """Share the cores of one machine among its replicas; otherwise each would take all of them."""
    os.environ.setdefault(THREADS_VARIABLE, str(max(1, (os.cpu_count() or 1) // max(1, replicas))))


async def run(options: argparse.Namespace, settings: Settings) -> None:
    is_ours = options.address is None
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": cores_of(options, settings)} if is_ours else {}
    ray.init(address=options.address or "local", **own)
    serve.start(proxy_location=ProxyLocation.EveryNode, http_options=http_options(settings))
    said = {name: value for name, value in vars(options).items() if value is not None and name != "address"}
    await asyncio.to_thread(serve.run, replica.build(said), name=APP, route_prefix="/", blocking=False)
    print("\n".join(addresses(settings)), file=sys.stderr, flush=True)
    await until_signal()
    if is_ours:
        await end(settings)
    ray.shutdown()


async def end(settings: Settings) -> None:
    """End the application; Serve's own shutdown would first end the proxies and every WebSocket. A second signal ends at once."""
    seconds = settings.listen.drain_seconds
    print(f"open sessions may go on for {seconds:g} s, then get their finals", file=sys.stderr, flush=True)
    signal_again = asyncio.create_task(until_signal())
    ending = asyncio.create_task(until_deleted())
    await asyncio.wait([signal_again, ending], return_when=asyncio.FIRST_COMPLETED)


async def until_deleted() -> None:
    """Delete the application and wait until it has ended. Serve itself waits for a minute at most."""
    await asyncio.to_thread(serve.delete, APP, _blocking=False)
    while APP in (await asyncio.to_thread(serve.status)).applications:  # noqa: ASYNC110 - Ray offers nothing to wait on
        await asyncio.sleep(LOOK_SECONDS)


def cores_of(options: argparse.Namespace, settings: Settings) -> int:
    """Return the number of cores for Ray. It would refuse more replicas than there are cores; here replicas share them."""
    wanted: int = (options.max_replicas or options.replicas) * (settings.model.cpu_threads or 1)
    return max(os.cpu_count() or 1, wanted)


def http_options(settings: Settings) -> HTTPOptions:
    listening = settings.listen
    tls: dict[str, Any] = {}
    if listening.has_tls:
        tls = {"ssl_certfile": str(listening.tls_cert), "ssl_keyfile": str(listening.tls_key)}
    host = EVERY_IPV4_ADDRESS if listening.host == EVERY_ADDRESS else listening.host  # Ray's proxies have one socket each
    return HTTPOptions(host=host, port=listening.port, **tls)


def addresses(settings: Settings) -> list[str]:
    """Return lines with the addresses of the cluster, where every node has a proxy."""
    listening = settings.listen
    scheme, port = "https" if listening.has_tls else "http", listening.port
    nodes = sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})
    hosts = nodes if listening.host in (EVERY_ADDRESS, EVERY_IPV4_ADDRESS) else [listening.host]
    where = [f"serving on {scheme}://{host}:{port}" for host in hosts]
    return [*where, f"in another terminal: moonshine-asr transcribe FILE --live --server {hosts[0]}:{port}"]


async def until_signal() -> None:
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()
