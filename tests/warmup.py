"""A health check: one streaming session from connect to final. The exit code tells."""

import asyncio
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from moonshine_client.client import transcribe
from moonshine_client.errors import StreamError
from moonshine_client.transports import reason_of
from tests import arguments


def main() -> int:
    options = arguments.parser("Runs one streaming session; exit code 0 if it gives words.", "short.wav", rtf=4.0).parse_args()
    audio = arguments.load_audio(options.file)
    try:
        transcription = asyncio.run(transcribe(options.server, audio, options.rtf, options.path))
    except (StreamError, OSError) as exc:
        print(f"unhealthy: {reason_of(exc)}", file=sys.stderr)
        return 1
    final = transcription.final
    if not final["text"]:
        print("unhealthy: the final is empty", file=sys.stderr)
        return 1
    print(f"healthy: {len(transcription.interims)} interims, final {final['latency_ms']:.0f} ms after close")
    if options.full_text:
        print(final["text"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
