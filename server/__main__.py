"""python -m server: read the settings, open the engine, serve until SIGTERM."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from runtime.engine import selection
from runtime.exceptions import EngineDirectoryError
from server import settings as settings_module
from server.settings import MAX_SESSIONS_VARIABLE, Settings
from server.startup import check_access, choice_of, listen_everywhere, open_for_serving, sized, started
from server.telemetry.metrics import Metrics
from server.transports.webrtc import udp

logger = logging.getLogger("server")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serves until SIGTERM. Settings come from the environment; docs/configuration.md lists them.",
    )
    parser.add_argument("--print-engine", action="store_true", help="print the engine that would be served and exit")
    options = parser.parse_args(arguments)
    return started(print_engine if options.print_engine else serve)


def serve(settings: Settings, on_listening: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM; returns the exit status. on_listening: called once the ports are bound, before any slow work."""
    for line in settings_module.misspelt():
        logger.warning("%s", line)
    listeners = listen_everywhere(settings.listen)  # first, because opening an engine takes seconds
    on_listening()
    check_access(settings)
    settings = sized(settings, selection.check(choice_of(settings), settings.batching.max_batch))
    udp.check(settings.ice, settings.access.session_limit)
    if settings.listen.workers > 1:
        listeners.close()  # each gateway listens itself, with a shared port; it would not notice another server there
        from server.processes import supervisor

        os.environ[MAX_SESSIONS_VARIABLE] = str(settings.access.session_limit)  # the gateways get the same limit as this process
        return supervisor.run(settings)
    from server import serving  # it loads a hundred megabytes, which a supervisor does not need

    metrics = Metrics()
    engine_loop, _, tokenizer = open_for_serving(settings, metrics)
    return serving.serve(settings, engine_loop, tokenizer, metrics, listeners)


def print_engine(settings: Settings) -> int:
    """Print the engine that would be served, and whether it is usable, in one line for start.sh."""
    choice, max_batch = choice_of(settings), settings.batching.max_batch
    try:
        selection.check(choice, max_batch)
        state = "usable"
    except EngineDirectoryError:
        state = "to be built"
    print(choice.directory, choice.target, choice.precision, max_batch, state, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
