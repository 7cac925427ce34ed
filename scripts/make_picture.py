"""Draws docs/words-arriving.svg from a real session: python scripts/make_picture.py [--server HOST:PORT] [--file FILE]

Needs a running server. A file is streamed in real time; what its client had in sight is drawn once a second.
"""

import argparse
import asyncio
import html
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[0] = str(PROJECT)  # run as a script: its own folder is on the path, the project is not

from moonshine_client import audio_file  # noqa: E402
from moonshine_client.client import transcribe  # noqa: E402
from moonshine_client.resend_buffer import SAMPLE_RATE  # noqa: E402
from moonshine_client.transcripts import Message  # noqa: E402

PICTURE = PROJECT / "docs" / "words-arriving.svg"
CHARACTER_PIXELS, LINE_PIXELS, LEFT_PIXELS, TOP_PIXELS = 8.4, 22, 76, 64
LINE_CHARACTERS = 84
STYLE = """
  text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre }
  .paper { fill: #ffffff } .time, .legend { fill: #656d76 } .rule { stroke: #d0d7de }
  .stable { fill: #1f2328; font-weight: 600 } .moving { fill: #656d76; font-style: italic }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .time, .legend { fill: #8b949e } .rule { stroke: #30363d }
    .stable { fill: #f0f6fc } .moving { fill: #8b949e }
  }
"""


async def watch(server: str, file: Path, seconds: float) -> list[tuple[float, Message]]:
    """What came, and how much audio had been sent by then, in seconds."""
    audio = audio_file.load(file)[: int(seconds * SAMPLE_RATE)]
    heard, sent = [], 0.0

    def note_sent(until: float) -> None:
        nonlocal sent
        sent = until

    done = await transcribe(server, audio, on_interim=lambda interim: heard.append((sent, interim)), on_sent=note_sent)
    return [*heard, (sent + done.final_seconds, done.final)]


def rows_of(heard: list[tuple[float, Message]], interval: float) -> list[tuple[float, str, int]]:
    """Time, text and stable characters: the newest message at each time, and the last of all."""
    rows, end = [], heard[-1][0]
    for number in range(1, int(end / interval) + 1):
        seen = [message for at, message in heard if at <= number * interval]
        if seen and (not rows or (seen[-1]["text"], seen[-1]["stable"]) != rows[-1][1:]):
            rows.append((number * interval, seen[-1]["text"], seen[-1]["stable"]))
    final = heard[-1][1]
    return [*rows, (end, final["text"], len(final["text"]))]


def draw(rows: list[tuple[float, str, int]]) -> str:
    width = LEFT_PIXELS + LINE_CHARACTERS * CHARACTER_PIXELS + 16
    body, y = [], TOP_PIXELS
    for at, text, stable in rows:
        body.append(f'<text class="time" x="16" y="{y}">{at:4.1f} s</text>')
        for start, end in lines_of(text):
            kept = min(max(stable, start), end)
            parts = (("stable", text[start:kept]), ("moving", text[kept:end]))
            spans = "".join(f'<tspan class="{name}">{html.escape(part)}</tspan>' for name, part in parts if part)
            body.append(f'<text x="{LEFT_PIXELS}" y="{y}" xml:space="preserve">{spans}</text>')
            y += LINE_PIXELS
        y += 6
    legend = (
        f'<text class="legend" x="16" y="28">audio</text><text x="{LEFT_PIXELS}" y="28" xml:space="preserve">'
        '<tspan class="stable">stable: never changes again</tspan><tspan class="legend">   </tspan>'
        '<tspan class="moving">moving: may still change</tspan></text>'
        f'<line class="rule" x1="16" y1="40" x2="{width - 16:.0f}" y2="40"/>'
    )
    height = y - LINE_PIXELS + 18
    title = "<title>Words arriving while the speaker is still speaking: a real session</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}">'
        f'{title}<style>{STYLE}</style><rect class="paper" width="100%" height="100%" rx="8"/>{legend}{"".join(body)}</svg>\n'
    )


def lines_of(text: str) -> list[tuple[int, int]]:
    """Where the lines of a text begin and end, broken between words."""
    lines, start = [], 0
    while len(text) - start > LINE_CHARACTERS:
        end = text.rfind(" ", start, start + LINE_CHARACTERS)
        lines.append((start, end))
        start = end + 1
    return [*lines, (start, len(text))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="127.0.0.1:8000")
    parser.add_argument("--file", type=Path, default=PROJECT / "samples" / "short.wav")
    parser.add_argument("--seconds", type=float, default=12.0, help="of the file")
    options = parser.parse_args()
    heard = asyncio.run(watch(options.server, options.file, options.seconds))
    PICTURE.write_text(draw(rows_of(heard, interval=1.0)))
    print(PICTURE.relative_to(PROJECT))


if __name__ == "__main__":
    main()
