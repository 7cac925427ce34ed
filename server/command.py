"""moonshine-asr serve: builds the engine if it is missing, then serves. Every environment variable is also a flag."""

import argparse
import logging
import os
import signal
import subprocess
import sys
from functools import partial

from moonshine_client.command_line import Parser
from runtime.engine import selection
from runtime.exceptions import EngineDirectoryError
from runtime.version import DISTRIBUTION, version
from server import __main__ as server_main
from server import greeting, settings
from server.settings import Settings
from server.startup import choice_of, listen_everywhere, started

logger = logging.getLogger("server")

SHORT_FLAGS = {"MOONSHINE_MODEL_ID": "--model", "ASR_HOST": "--host", "ASR_PORT": "--port", "MOONSHINE_PRECISION": "--precision"}


def main(arguments: list[str] | None = None) -> int:
    options = vars(parse(arguments))
    build_only, opens_browser = options.pop("build_only"), options.pop("open")
    os.environ.update({name: value for name, value in options.items() if value is not None})  # child processes read them, too
    return started(provide_engine if build_only else partial(build_and_serve, opens_browser=opens_browser))


def build_and_serve(settings: Settings, opens_browser: bool) -> int:
    listen_everywhere(settings.listen).close()  # reports a port in use before a build that takes minutes
    provide_engine(settings)
    is_shown = settings.telemetry.log_format == "console"
    return server_main.serve(settings, on_listening=lambda: greeting.begin(settings.listen, opens_browser, is_shown))


def provide_engine(settings: Settings) -> int:
    """Build the best engine for the settings on this machine, unless this version has built it.

    If the build fails, an older engine is served. Raises EngineDirectoryError if there is none.
    """
    model, max_batch = settings.model, settings.batching.max_batch
    target = model.engine_target or selection.target_to_build(model.precision)[0]
    try:
        choice = selection.choose(model.engines_path, model.model_id, model.precision, target)
        if selection.check(choice, max_batch).versions.get(DISTRIBUTION) == version():
            return 0
        logger.info("building the engine again: another version built it")
    except EngineDirectoryError as exc:
        logger.info("building the engine: %s", str(exc).partition("; run:")[0])
    asked = ["--model", model.model_id, "--target", model.target, "--out", str(model.engines_path), "--max-batch", str(max_batch)]
    if model.precision:
        asked += ["--precision", model.precision]
    if model.cpu_threads:
        asked += ["--cpu-threads", str(model.cpu_threads)]
    failed = run_build([sys.executable, "-m", "engine_build.build", *asked])
    try:
        selection.check(choice_of(settings), max_batch)
    except EngineDirectoryError as exc:
        if failed:
            raise EngineDirectoryError("there is no engine to serve: the build above failed") from exc
        raise
    return 0


def run_build(command: list[str]) -> int:
    """Run the build; returns its exit status. SIGTERM and Ctrl-C also stop the build, which then leaves no partial engine."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as build:
        before = signal.signal(signal.SIGTERM, lambda *_: build.send_signal(signal.SIGINT))
        try:
            return build.wait()
        except KeyboardInterrupt:  # the terminal has sent SIGINT to the build, too
            return build.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the values by environment variable. Exits if a flag is unknown."""
    return make_parser().parse_args(arguments)


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr serve",
        "Builds the engine where it is missing, and serves until SIGTERM. Every flag is an environment variable, "
        "too: --asr-port is ASR_PORT. A flag wins.",
        (
            "moonshine-asr serve --port 9000 --open",
            "moonshine-asr serve --model UsefulSensors/moonshine-tiny --precision fp32",
            "ASR_API_KEYS=$(openssl rand -hex 24) moonshine-asr serve",
        ),
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser when the server is ready")
    parser.add_argument("--build-only", action="store_true", help="build the engine where it is missing, and exit")
    for group in settings.Settings.model_fields:
        section = parser.add_argument_group(group)
        for _, name, field in (each for each in settings.variables() if each[0] == group):
            default = settings.default_of(field)
            meaning = settings.meaning_of(field) + (f" (default: {default})" if default else "")
            flags = [SHORT_FLAGS[name]] if name in SHORT_FLAGS else []
            section.add_argument(*flags, flag_of(name), dest=name, metavar="VALUE", help=meaning.replace("%", "%%"))
    return parser


def flag_of(variable: str) -> str:
    """Return the flag of a variable: --asr-port for ASR_PORT."""
    return "--" + variable.lower().replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
