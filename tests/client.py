"""Talks to a server by hand: streams a file and prints the words as they come."""

import asyncio
import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from moonshine_client.client import StreamError, Transcription, transcribe
from tests import arguments


def main() -> int:
    options = arguments.parser("Streams an audio file and prints the words as they come.", file="short.wav", rtf=1.0).parse_args()
    audio = arguments.load_audio(options.file)
    console = Console()
    try:
        transcription = asyncio.run(stream(options, audio, console))
    except (StreamError, OSError, TimeoutError) as exc:
        print(f"failed: {exc}", file=sys.stderr)
        if isinstance(exc, StreamError) and exc.details.get("text"):
            print(f"text so far: {exc.details['text']}", file=sys.stderr)
        return 1
    report(transcription, options.full_text)
    return 0


async def stream(options, audio, console: Console) -> Transcription:
    """On a terminal the moving text is redrawn in place; elsewhere each stable piece is printed once, in its own line."""
    if not console.is_terminal:
        printed = 0

        def print_stable(interim: dict) -> None:
            nonlocal printed
            if interim["stable"] > printed:
                print(f"{interim['audio_ms'] / 1000:7.2f} s  {interim['text'][printed : interim['stable']].strip()}", flush=True)
                printed = interim["stable"]

        return await transcribe(options.server, audio, options.rtf, options.path, on_interim=print_stable)
    with Live(console=console, refresh_per_second=20, vertical_overflow="visible") as live:

        def show(interim: dict) -> None:
            text, stable = interim["text"], interim["stable"]
            live.update(Text.assemble(text[:stable], (text[stable:], "dim italic")))

        return await transcribe(options.server, audio, options.rtf, options.path, on_interim=show)


def report(transcription: Transcription, full_text: bool) -> None:
    final = transcription.final
    if full_text:
        print(f"\n{final['text']}\n")
    print(
        f"{transcription.audio_seconds:.1f} s of audio in {transcription.seconds:.1f} s, {len(transcription.interims)} interims, "
        f"{len(final['segments'])} segments, final {final['latency_ms']:.0f} ms after close"
    )


if __name__ == "__main__":
    sys.exit(main())
