"""moonshine-asr transcribe: transcribes recordings into text, subtitles or JSON, with a running server."""

import argparse
import asyncio
import contextlib
import io
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console

from moonshine_client import audio_file, display, formats, listen_command, live, recordings
from moonshine_client.audio_file import printable
from moonshine_client.client import transcribe
from moonshine_client.command_line import Parser
from moonshine_client.formats import OutputFormat
from moonshine_client.server_options import (
    INTERRUPTED_STATUS,
    MICROPHONE,
    PIPE,
    add_server_options,
    guarded,
    printed,
    use_server_options,
)

JOINABLE = (OutputFormat.TXT, OutputFormat.JSONL)
"""Formats whose outputs may follow each other on standard output."""


def main(arguments: list[str]) -> int:
    """Transcribe one file after the other; an error of one does not stop the others. Returns the worst exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    use_server_options(options)
    if options.output_dir and options.output_dir.suffix == f".{options.format}":
        parser.error(f"-o names a directory, and {options.output_dir} looks like a file")
    if MICROPHONE in options.files and (len(options.files) > 1 or options.output_dir):
        parser.error("mic is transcribed alone, to standard output")
    if options.files == [MICROPHONE]:
        return listen_command.run(argparse.Namespace(**vars(options) | {"source": MICROPHONE, "device": None, "channels": 1}))
    if len(options.files) > 1 and options.format not in JOINABLE and options.output_dir is None:
        parser.error(f"several files in {options.format} need a file each: give -o DIRECTORY")
    return run(options)


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr transcribe",
        "Transcribes recordings with a running server. The text goes to standard output or to files, all else to standard error. "
        "Exit status: 0, or 1 where the server could not do it, 2 where a file could not be read, 130 after Ctrl-C.",
        (
            "moonshine-asr transcribe talk.mp3",
            "moonshine-asr transcribe --format srt -o subtitles *.mp4",
            "moonshine-asr transcribe --live talk.wav",
            "moonshine-asr transcribe --keyterm Ishmael --keyterm 'white whale' chapter1.mp3",
            "ffmpeg -i talk.mkv -f wav - | moonshine-asr transcribe -",
        ),
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="audio or video of any format and rate; - is standard input, mic a microphone"
    )
    add_server_options(parser)
    parser.add_argument(
        "-o", "--output-dir", type=Path, metavar="DIRECTORY", help="write one file here for each input, named like it"
    )
    parser.add_argument(
        "--rtf", type=float, metavar="X", help="stream it live at X times the speed of speech; 0: as fast as possible"
    )
    parser.add_argument(
        "--live", action="store_true", help="stream it live at the speed of speech, and show the words as they come"
    )
    parser.add_argument(
        "--channels", action="store_true", help="transcribe each channel by itself: two speakers of a telephone call, say"
    )
    parser.add_argument("--path", default="/webrtc", help="path of the offer of a live stream (default: %(default)s)")
    return parser


def run(options: argparse.Namespace) -> int:
    work = stream_file if options.live or options.rtf is not None else upload_file
    worst, outputs = 0, output_paths(options)
    for number, name in enumerate(options.files, 1):
        label = f"{printable(name)}, {number} of {len(options.files)}" if len(options.files) > 1 else printable(name)
        status = guarded(partial(work, name, label, outputs.get(number), options), options, name)
        worst = max(worst, status)
        if status == INTERRUPTED_STATUS:
            break
    return worst


def output_paths(options: argparse.Namespace) -> dict[int, Path]:
    """Return the file to write for each input, by its number from 1. Inputs of the same name get numbers."""
    if options.output_dir is None:
        return {}
    paths: dict[int, Path] = {}
    for number, name in enumerate(options.files, 1):
        stem = "standard-input" if name == PIPE else Path(name).stem
        names = (f"{stem}-{count}" if count else stem for count in itertools.count())
        possible = (options.output_dir / f"{each}.{options.format}" for each in names)
        paths[number] = next(path for path in possible if path not in paths.values())
    return paths


def upload_file(name: str, label: str, output: Path | None, options: argparse.Namespace) -> None:
    """Transcribe as a file: in parallel, many times as fast as speech. Raises AudioFileError, StreamError, OSError."""
    seconds = None if name == PIPE else audio_file.seconds(Path(name))
    at_once = options.format is OutputFormat.JSONL and output is None and not options.channels
    with opened(name) as file, display.progress(label, seconds) as advance:
        for found in recordings.transcribe_file(options.server, file, Path(name).name, options.keyterm, options.channels):
            advance(found.end_seconds)
            if at_once and not found.is_all and found.segments:
                printed(formats.written(OutputFormat.JSONL, found.text, found.segments))
    if not at_once:
        deliver(formats.written(options.format, found.text, found.segments), name, output)


def deliver(text: str, name: str, output: Path | None) -> None:
    """Print the text, or write it to its file and report that. Raises OSError."""
    if output is None:
        printed(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"{text}\n", encoding="utf-8")
    print(f"{printable(name)} → {printable(output)}", file=sys.stderr)


@contextlib.contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """Open the input. Standard input cannot be sent twice, or measured, so it is read to its end first."""
    if name == PIPE:
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    with open(name, "rb") as file:
        yield file


def stream_file(name: str, label: str, output: Path | None, options: argparse.Namespace) -> None:
    """Transcribe as live speech. Raises AudioFileError, StreamError, OSError."""
    console, rtf = Console(stderr=True), 1.0 if options.rtf is None else options.rtf
    audio = audio_file.load(io.BytesIO(sys.stdin.buffer.read()) if name == PIPE else Path(name), options.channels)
    channels, words = audio[:1].size if options.channels else 1, options.format is not OutputFormat.TXT
    with display.shown(console) if options.live else contextlib.nullcontext(lambda interim: None) as show:
        done = asyncio.run(
            transcribe(options.server, audio, rtf, options.path, words, show, keyterms=options.keyterm, channels=channels)
        )
    console.print(display.summary(done), highlight=False)
    deliver(formats.written(options.format, done.final["text"], live.segments_of(done.final)), name, output)
