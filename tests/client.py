"""Talks to a server by hand: streams a file and prints the words as they come."""

import asyncio
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from moonshine_client import display
from moonshine_client.client import transcribe
from moonshine_client.errors import StreamError
from moonshine_client.transports import reason_of
from tests import arguments


def main() -> int:
    options = arguments.parser("Streams an audio file and prints the words as they come.", file="short.wav", rtf=1.0).parse_args()
    audio = arguments.load_audio(options.file)
    try:
        with display.shown(Console()) as show:
            done = asyncio.run(transcribe(options.server, audio, options.rtf, options.path, on_interim=show))
    except (StreamError, OSError) as exc:
        print(f"failed: {reason_of(exc)}", file=sys.stderr)
        return 1
    if options.full_text:
        print(f"\n{done.final['text']}\n")
    print(display.summary(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
