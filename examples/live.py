"""This project's own client: stable text, and what still moves: python examples/live.py [FILE]"""

import asyncio
import os
import sys

from moonshine_client import audio_file
from moonshine_client.client import transcribe


def show(interim: dict) -> None:
    text, stable = interim["text"], interim["stable"]
    print(f"{text[:stable]}[{text[stable:]}]")


async def main() -> None:
    samples = audio_file.load(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav")
    done = await transcribe(os.environ.get("SERVER", "localhost:8000"), samples, on_interim=show)
    print(done.final["text"])


asyncio.run(main())
