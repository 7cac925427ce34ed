"""The command moonshine-asr. What a subcommand needs is imported when it is asked for."""

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console

from moonshine_client import audio_file, display, formats, live, recordings
from moonshine_client.addresses import default_server
from moonshine_client.audio_file import AudioFileError
from moonshine_client.client import transcribe
from moonshine_client.errors import StreamError
from moonshine_client.formats import OutputFormat
from moonshine_client.live import NoMicrophone

DISTRIBUTION = "moonshine-asr"
MICROPHONE, PIPE = "mic", "-"
FILE_REASONS = ("invalid_file", "audio_too_short", "audio_too_long", "file_too_large")
FAILED_STATUS, FILE_STATUS, INTERRUPTED_STATUS = 1, 2, 130
ENTRIES = {
    "serve": ("server.command", "server"),
    "cluster": ("server.ray.command", "cluster"),
    "build": ("engine_build.build", "server"),
    "doctor": ("server.doctor", "server"),
    "bench": ("moonshine_client.bench", "server"),
}
"""Subcommands that are packages of their own: the module that has its main(), and the extra that it needs."""


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
        print(f"{DISTRIBUTION} {name} needs {exc.name}: install the package with its extra [{extra}]", file=sys.stderr)
        return 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=DISTRIBUTION, description="Real-time speech-to-text with Moonshine models.")
    parser.add_argument("--version", action="version", version=f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("serve", help="build the engine where it is missing, and serve", add_help=False)
    commands.add_parser("cluster", help="serve with replicas on a Ray cluster", add_help=False)
    commands.add_parser("build", help="build the engine that is served", add_help=False)
    commands.add_parser("doctor", help="what this machine can do, what is missing, and what to type", add_help=False)
    commands.add_parser("bench", help="how many live streams this machine carries, in a minute", add_help=False)
    add_transcribe(commands)
    add_listen(commands)
    return parser.parse_args(arguments)


def add_transcribe(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "transcribe",
        help="transcribe files with a running server",
        description="Text on standard output, all else on standard error. Exit status: 0, or 1 where the server could not do it, "
        "2 where a file could not be read, 130 after Ctrl-C.",
    )
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="audio of any format and rate; - is standard input, mic a microphone"
    )
    add_common(command)
    command.add_argument(
        "--rtf", type=float, metavar="X", help="stream it live at X times the speed of speech; 0: as fast as possible"
    )
    command.add_argument(
        "--live", action="store_true", help="stream it live at the speed of speech, and show the words as they come"
    )
    command.add_argument("--path", default="/webrtc", help="path of the offer of a live stream (default: %(default)s)")
    command.set_defaults(run=transcribe_files)


def add_listen(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "listen",
        help="transcribe a microphone, or audio from a pipe, as it is spoken",
        description="Words as they come on standard error, the text on standard output when the audio ends or Ctrl-C is pressed.",
    )
    command.add_argument(
        "source",
        nargs="?",
        default=MICROPHONE,
        choices=[MICROPHONE, PIPE],
        help="mic, or - for PCM16 at 16 kHz, mono, on standard input (default: %(default)s)",
    )
    add_common(command)
    command.add_argument("--device", help="name or number of the microphone")
    command.set_defaults(run=listen)


def add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--server",
        default=default_server(),
        metavar="HOST:PORT",
        help="where it is; else ASR_SERVER, or ASR_HOST and ASR_PORT (default: %(default)s)",
    )
    command.add_argument(
        "--format", type=OutputFormat, choices=list(OutputFormat), default=OutputFormat.TXT, help="what is printed (default: txt)"
    )


def transcribe_files(options: argparse.Namespace) -> int:
    """One after the other; what goes wrong with one keeps none of the others back. Returns the worst exit status."""
    if options.files == [MICROPHONE]:
        return listen(argparse.Namespace(**vars(options), source=MICROPHONE, device=None))
    is_live = options.live or options.rtf is not None
    work = stream_file if is_live else upload_file
    worst = 0
    for name in options.files:
        status = guarded(partial(work, name, options))
        worst = max(worst, status)
        if status == INTERRUPTED_STATUS:
            break
    return worst


def guarded(work: Callable[[], None]) -> int:
    """The exit status; what went wrong is said in a line."""
    try:
        work()
    except (AudioFileError, NoMicrophone) as exc:
        print(exc, file=sys.stderr)
        return FILE_STATUS
    except (StreamError, OSError) as exc:
        display.print_failure(exc)
        return FILE_STATUS if isinstance(exc, StreamError) and exc.reason in FILE_REASONS else FAILED_STATUS
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    return 0


def printed(text: str) -> None:
    """Whoever reads it may have read enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def upload_file(name: str, options: argparse.Namespace) -> None:
    """Transcribe as a file: in parallel, many times as fast as speech. Raises AudioFileError, StreamError, OSError."""
    seconds = seconds_of(name)
    with opened(name) as file, display.progress(name, seconds) as advance:
        for found in recordings.transcribe_file(options.server, file, Path(name).name):
            advance(found.end_seconds)
            if options.format is OutputFormat.JSONL and not found.is_all and found.segments:
                printed(formats.written(OutputFormat.JSONL, found.text, found.segments))
    if options.format is not OutputFormat.JSONL:
        printed(formats.written(options.format, found.text, found.segments))


@contextlib.contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """Standard input is no file that can be sent twice, or measured: it is read to its end first."""
    if name == PIPE:
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    with open(name, "rb") as file:
        yield file


def seconds_of(name: str) -> float | None:
    """None where nothing is known. Raises AudioFileError for what is no audio."""
    return None if name == PIPE else audio_file.seconds(Path(name))


def stream_file(name: str, options: argparse.Namespace) -> None:
    """Transcribe as live speech. Raises AudioFileError, StreamError, OSError."""
    console, rtf = Console(stderr=True), 1.0 if options.rtf is None else options.rtf
    audio, words = (
        audio_file.load(io.BytesIO(sys.stdin.buffer.read()) if name == PIPE else Path(name)),
        options.format is not OutputFormat.TXT,
    )
    if options.live:
        done = asyncio.run(display.transcribe_shown(options.server, audio, rtf, options.path, console, words))
    else:
        done = asyncio.run(transcribe(options.server, audio, rtf, options.path, words))
    console.print(display.summary(done), highlight=False)
    printed(formats.written(options.format, done.final["text"], live.segments_of(done.final)))


def listen(options: argparse.Namespace) -> int:
    return guarded(lambda: listen_to(options))


def listen_to(options: argparse.Namespace) -> None:
    """Raises NoMicrophone, StreamError, OSError."""
    audio = live.piped(sys.stdin.buffer) if options.source == PIPE else live.spoken(options.device)
    console = Console(stderr=True)
    with display.shown(console) as show:
        final = asyncio.run(live.listen(options.server, audio, show, console.print))
    printed(formats.written(options.format, final["text"], live.segments_of(final)))


if __name__ == "__main__":
    sys.exit(main())
