"""From the environment to an engine that serves: what every process of the server begins with."""

import logging
import sys

from runtime.engine import selection
from runtime.engine.protocol import Engine
from runtime.engine.selection import Choice
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server import settings as settings_module
from server.settings import Settings, SettingsError
from server.telemetry.metrics import Metrics

logger = logging.getLogger("server")

SEGMENT_MARGIN_SECONDS = 1.0  # a segment may grow past its maximum by what arrives with one message before it is cut


def load_settings() -> Settings:
    """Exits with status 2 and one line where a variable cannot be used."""
    try:
        return settings_module.load()
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)


def set_up_log(settings: Settings) -> None:
    """Set up logging."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aioice", "aiortc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def choice_of(settings: Settings) -> Choice:
    return selection.choose(settings.engine_dir, settings.model_id, settings.precision, settings.engine_target)


def open_for_serving(settings: Settings, metrics: Metrics) -> tuple[EngineLoop, Engine, Tokenizer]:
    """The engine, its tokenizer, and the loop that will own it, not started.

    Raises EngineDirectoryError, and DeviceError or EngineFailed where the engine's device is missing or fails.
    """
    choice = choice_of(settings)
    if choice.remark:
        logger.warning("%s", choice.remark)
    engine, tokenizer, found = selection.open_engine(
        choice, settings.max_batch, settings.cpu_threads or None, settings.max_segment_seconds + SEGMENT_MARGIN_SECONDS
    )
    logger.info("engine: %s, %s, weights: %s", engine.name, found.model, found.weights_source)
    metrics.watch(engine)
    return EngineLoop(engine, settings.max_batch_wait_ms / 1000, metrics), engine, tokenizer
