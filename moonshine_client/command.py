"""The command moonshine-asr: serve, build, transcribe. What a subcommand needs is imported when it is asked for."""

import argparse
import asyncio
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from moonshine_client import audio_file, display
from moonshine_client.audio_file import AudioFileError
from moonshine_client.client import StreamError, transcribe

DISTRIBUTION = "moonshine-asr"
ENTRIES = {"serve": ("server.command", "server"), "build": ("engine_build.build", "build")}
"""Of subcommands that are packages of their own: the module that has its main(), and the extra that it needs."""


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ENTRIES:
        return run_entry(arguments[0], arguments[1:])
    options = parse(arguments)
    return int(options.run(options))


def run_entry(name: str, arguments: list[str]) -> int:
    module, extra = ENTRIES[name]
    try:
        entry: Callable[[list[str]], int] = importlib.import_module(module).main
        return entry(arguments)
    except ModuleNotFoundError as exc:
        print(f"{DISTRIBUTION} {name} needs {exc.name}: pip install '{DISTRIBUTION}[{extra}]'", file=sys.stderr)
        return 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=DISTRIBUTION, description="Real-time speech-to-text with Moonshine models.")
    parser.add_argument("--version", action="version", version=f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("serve", help="serve until SIGTERM", add_help=False)
    commands.add_parser("build", help="build the engine that is served", add_help=False)
    file = commands.add_parser(
        "transcribe", help="stream a file to a running server", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    file.add_argument("file", type=Path, help="audio of any format and rate")
    file.add_argument("--server", default="127.0.0.1:8000", metavar="HOST:PORT", help="where the server listens")
    file.add_argument("--path", default="/webrtc", help="path of the offer")
    file.add_argument("--rtf", type=float, default=1.0, metavar="X", help="speed: 1 is real time, 0 as fast as possible")
    file.add_argument("--live", action="store_true", help="show the words as they come, on standard error")
    file.set_defaults(run=transcribe_file)
    return parser.parse_args(arguments)


def transcribe_file(options: argparse.Namespace) -> int:
    """The text on standard output, all else on standard error."""
    console = Console(stderr=True)
    try:
        audio = audio_file.load(options.file)
        if options.live:
            done = asyncio.run(display.transcribe_shown(options.server, audio, options.rtf, options.path, console))
        else:
            done = asyncio.run(transcribe(options.server, audio, options.rtf, options.path))
    except AudioFileError as exc:
        print(exc, file=sys.stderr)
        return 2
    except (StreamError, OSError) as exc:
        display.print_failure(exc)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(display.summary(done), highlight=False)
    print(done.final["text"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
