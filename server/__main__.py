"""python -m server: read the settings, open the engine, serve until SIGTERM."""

import argparse
import logging
import sys

from runtime.engine import selection
from runtime.exceptions import DeviceError, EngineDirectoryError, EngineError
from server import settings as settings_module
from server.cluster import gateway, supervisor
from server.settings import Settings
from server.startup import choice_of, load_settings, open_for_serving, set_up_log
from server.telemetry.metrics import Metrics

logger = logging.getLogger("server")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server", description="Serves until SIGTERM. Settings come from the "
                                     "environment; the README lists them.")  # fmt: skip
    parser.add_argument("--print-engine", action="store_true", help="print the engine that would be served and exit")
    options = parser.parse_args()
    settings = load_settings()
    if options.print_engine:
        return print_engine(settings)
    set_up_log(settings)
    for line in settings_module.misspelt():
        logger.warning("%s", line)
    try:
        if settings.workers > 1:
            selection.check(choice_of(settings), settings.max_batch)
            return supervisor.run(settings)
        metrics = Metrics()
        engine_loop, _, tokenizer = open_for_serving(settings, metrics)
        gateway.run(gateway.build_server(settings, engine_loop, tokenizer, metrics))
    except EngineError as exc:
        print(exc, file=sys.stderr)
        return 3
    return 0


def print_engine(settings: Settings) -> int:
    """Which engine would be served, and whether it is there: one line for start.sh."""
    choice = choice_of(settings)
    try:
        selection.check(choice, settings.max_batch)
        state = "usable"
    except DeviceError as exc:
        print(exc, file=sys.stderr)
        return 3
    except EngineDirectoryError:
        state = "to be built"
    print(choice.directory, choice.target, choice.precision, settings.max_batch, state, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
