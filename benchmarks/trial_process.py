"""Runs one trial in its own process: python -m benchmarks.trial_process JSON; prints the outcome as JSON."""

import asyncio
import dataclasses
import json
import sys

import uvloop

from benchmarks.speakers import engine_process, try_in_processes
from benchmarks.trial import Trial, recordings_of, try_in_process, try_over_webrtc


def main() -> int:
    asked = json.loads(sys.argv[1])
    trial = Trial(**asked["trial"])
    recordings_of(trial.speech)  # decoded before the speakers begin: on the event loop it would delay all streams
    if trial.way == "in process":
        outcome = uvloop.run(try_in_process(trial, asked["references"]))
    elif trial.way == "processes":
        with engine_process(trial) as engine:
            outcome = try_in_processes(trial, asked["references"], engine)
    else:
        outcome = asyncio.run(try_over_webrtc(trial, asked["references"]))
    print(json.dumps(dataclasses.asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
