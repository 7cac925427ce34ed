"""moonshine-asr listen: transcribes a microphone or a pipe live."""

import argparse
import asyncio
import sys

from rich.console import Console

from moonshine_client import display, formats, live
from moonshine_client.command_line import Parser
from moonshine_client.server_options import (
    FILE_STATUS,
    MICROPHONE,
    PIPE,
    add_server_options,
    guarded,
    printed,
    use_server_options,
)


def main(arguments: list[str]) -> int:
    options = make_parser().parse_args(arguments)
    use_server_options(options)
    return run(options)


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr listen",
        "Transcribes live audio. The words appear on standard error as they come; the text goes to standard output when the "
        "audio ends or Ctrl-C is pressed.",
        (
            "moonshine-asr listen",
            "moonshine-asr listen --server asr.example.com:8000 --api-key KEY",
            "ffmpeg -i rtsp://camera/audio -f s16le -ar 16000 -ac 1 - | moonshine-asr listen -",
            "ffmpeg -i call.wav -f s16le -ar 16000 - | moonshine-asr listen --channels 2 -",
        ),
    )
    parser.add_argument(
        "source",
        nargs="?",
        default=MICROPHONE,
        choices=[MICROPHONE, PIPE],
        help="mic, or - for PCM16 at 16 kHz on standard input (default: %(default)s)",
    )
    add_server_options(parser)
    parser.add_argument("--device", help="name or number of the microphone")
    parser.add_argument(
        "--channels", type=int, default=1, metavar="N", help="channels on standard input, each transcribed by itself (default: 1)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    if options.source == MICROPHONE and options.channels != 1:
        print("a microphone has one channel: --channels is for standard input", file=sys.stderr)
        return FILE_STATUS
    return guarded(lambda: listen(options), options)


def listen(options: argparse.Namespace) -> None:
    """Transcribe until the audio ends. Raises NoMicrophone, StreamError, OSError."""
    audio = live.piped(sys.stdin.buffer) if options.source == PIPE else live.spoken(options.device)
    console = Console(stderr=True)
    with display.shown(console) as show:
        final = asyncio.run(live.listen(options.server, audio, show, console.print, options.keyterm, options.channels))
    printed(formats.written(options.format, final["text"], live.segments_of(final)))
