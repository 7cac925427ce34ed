"""python -m server: read the settings, open the engine, serve until SIGTERM."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator

import uvicorn

from runtime import engines
from runtime.exceptions import DeviceError, EngineDirectoryError, EngineError
from runtime.loop import EngineLoop
from server import settings as settings_module
from server.app import create_app
from server.hub import Hub
from server.metrics import Metrics
from server.session import SessionLimits
from server.settings import Settings, SettingsError

logger = logging.getLogger("server")

SEGMENT_MARGIN_SECONDS = 1.0  # a segment may grow past its maximum by what arrives with one message before it is cut


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server", description="Serves until SIGTERM. Settings come from the "
                                     "environment; the README lists them.")  # fmt: skip
    parser.add_argument("--print-engine", action="store_true", help="print the engine that would be served and exit")
    options = parser.parse_args()
    try:
        settings = settings_module.load()
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        return 2
    if options.print_engine:
        choice = engines.choose(settings.engine_dir, settings.model_id, settings.precision, settings.engine_target)
        try:
            engines.check(choice, settings.max_batch)
            state = "usable"
        except DeviceError as exc:
            print(exc, file=sys.stderr)
            return 3
        except EngineDirectoryError:
            state = "to be built"
        print(choice.directory, choice.target, choice.precision, settings.max_batch, state, sep="\t")
        return 0
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aioice", "aiortc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for line in settings_module.misspelt():
        logger.warning("%s", line)
    try:
        server = build_server(settings)
    except EngineError as exc:
        print(exc, file=sys.stderr)
        return 3
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve())
    return 0


def build_server(settings: Settings) -> uvicorn.Server:
    """Raises EngineDirectoryError, and DeviceError or EngineFailed where the engine's device is missing or fails."""
    choice = engines.choose(settings.engine_dir, settings.model_id, settings.precision, settings.engine_target)
    if choice.remark:
        logger.warning("%s", choice.remark)
    engine, tokenizer, found = engines.open_engine(
        choice, settings.max_batch, settings.cpu_threads or None, settings.max_segment_seconds + SEGMENT_MARGIN_SECONDS
    )
    logger.info("engine: %s, %s, weights: %s", engine.name, found.model, found.weights_source)
    metrics = Metrics()
    metrics.uncaptured_runs.set_function(lambda: engine.uncaptured_runs)
    engine_loop = EngineLoop(engine, settings.max_batch_wait_ms / 1000, metrics)
    hub = Hub(engine_loop, tokenizer, session_limits(settings), settings.session_limit, metrics)
    app = create_app(hub, metrics, settings)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, loop="uvloop", http="httptools", ws="none",
                            log_level=settings.log_level, access_log=False, timeout_graceful_shutdown=5)  # fmt: skip
    return QuietServer(config)


def session_limits(settings: Settings) -> SessionLimits:
    return SessionLimits(
        max_batch=settings.max_batch,
        max_buffer_seconds=settings.max_buffer_seconds,
        interim_interval_seconds=settings.interim_interval_ms / 1000,
        max_segment_seconds=settings.max_segment_seconds,
        init_timeout_seconds=settings.init_timeout_seconds,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        close_timeout_seconds=settings.close_timeout_seconds,
        stable_agreement=settings.stable_agreement,
    )


class QuietServer(uvicorn.Server):
    """uvicorn, ending with exit status 0 after an orderly shutdown: it would raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


if __name__ == "__main__":
    sys.exit(main())
