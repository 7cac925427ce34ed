"""Many sessions at once against a running server, and what they had to wait."""

import asyncio
import statistics
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from moonshine_client.client import Transcription, transcribe
from moonshine_client.errors import StreamError
from moonshine_client.transports import reason_of
from tests import arguments


def main() -> int:
    parser = arguments.parser("Streams a file many times at once and sums up the latencies.", file="short.wav", rtf=1.0)
    parser.add_argument("--n", type=int, default=8, help="sessions in all")
    parser.add_argument("--concurrency", type=int, default=4, help="sessions at once")
    options = parser.parse_args()
    audio = arguments.load_audio(options.file)
    done, failed = asyncio.run(run_sessions(options, audio))
    report(done, failed, options.full_text)
    return 0 if done and not failed else 1


async def run_sessions(options, audio) -> tuple[list[Transcription], list[Exception]]:
    places = asyncio.Semaphore(options.concurrency)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("sessions", total=options.n)

        async def one() -> Transcription | Exception:
            async with places:
                try:
                    return await transcribe(options.server, audio, options.rtf, options.path)
                except (StreamError, OSError) as exc:
                    return exc
                finally:
                    progress.advance(task)

        outcomes = await asyncio.gather(*(one() for _ in range(options.n)))
    return (
        [each for each in outcomes if isinstance(each, Transcription)],
        [each for each in outcomes if isinstance(each, Exception)],
    )


def report(done: list[Transcription], failed: list[Exception], full_text: bool) -> None:
    console = Console()
    table = Table("", "count", "p50", "p95", "max", title="latency, ms")
    for name, values in (
        ("interim", [interim["latency_ms"] for each in done for interim in each.interims]),
        ("final", [each.final["latency_ms"] for each in done]),
    ):
        if values:
            p50, p95 = quantile(values, 0.50), quantile(values, 0.95)
            table.add_row(name, str(len(values)), f"{p50:.0f}", f"{p95:.0f}", f"{max(values):.0f}")
    console.print(table)
    audio_seconds = sum(each.audio_seconds for each in done)
    texts = {each.final["text"] for each in done}
    console.print(
        f"{len(done)} sessions, {audio_seconds:.0f} s of audio, {len(texts)} different texts, {len(failed)} failed",
        highlight=False,
    )
    for error in failed[:5]:
        console.print(f"[red]failed:[/] {reason_of(error)}", highlight=False)
    if full_text:
        for text in sorted(texts):
            print(text)


def quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1] if len(values) > 1 else values[0]


if __name__ == "__main__":
    sys.exit(main())
