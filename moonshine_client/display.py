"""Shows words as they come: on a terminal they are redrawn, elsewhere they are printed once."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from moonshine_client.client import Transcription
from moonshine_client.transcripts import Message


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Callable[[Message], None]]:
    """Show a stream. A terminal redraws text that may change; elsewhere each stable piece is printed once, on its own line."""
    if not console.is_terminal:
        yield StablePrinter(console).show
        return
    with Live(console=console, refresh_per_second=20, vertical_overflow="visible") as live:
        newest: dict[int | None, Text] = {}

        def show(interim: Message) -> None:
            text, stable, channel = interim["text"], interim["stable"], interim.get("channel")
            newest[channel] = Text.assemble(label(channel), text[:stable], (text[stable:], "dim italic"))
            live.update(Text("\n").join(newest[each] for each in sorted(newest, key=lambda each: each or 0)))

        yield show


def label(channel: int | None) -> str:
    return "" if channel is None else f"Channel {channel + 1}: "


@contextlib.contextmanager
def progress(name: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    """Show progress on a terminal. Yields a function that takes the seconds transcribed so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=seconds)
        yield lambda reached: bar.update(task, completed=reached)


class StablePrinter:
    """Prints text that has become stable, with the time up to which the audio is transcribed."""

    def __init__(self, console: Console):
        self._console = console
        self._printed: dict[int | None, int] = {}  # characters of each channel

    def show(self, interim: Message) -> None:
        text, stable, channel = interim["text"], interim["stable"], interim.get("channel")
        printed = self._printed.get(channel, 0)
        if stable > printed:
            line = f"{interim['audio_ms'] / 1000:7.2f} s  {label(channel)}{text[printed:stable].strip()}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._printed[channel] = stable


def summary(transcription: Transcription) -> str:
    final = transcription.final
    return (
        f"{transcription.audio_seconds:.1f} s of audio in {transcription.seconds:.1f} s, {len(transcription.interims)} interims, "
        f"{len(final['segments'])} segments, final {final['latency_ms']:.0f} ms after close"
    )
