"""An engine process with a modelled device: python -m benchmarks.modelled_engine, started by benchmarks/speakers.py."""

import functools
import json
import os
import sys

from benchmarks.modelled_device import Costs, open_modelled
from benchmarks.speakers import COSTS_VARIABLE
from runtime.engine.protocol import Engine
from runtime.scheduler.inbox import Inbox
from runtime.scheduler.loop import EngineLoop
from server.processes.engine_process import run
from server.settings import Settings
from server.startup import SEGMENT_MARGIN_SECONDS, started
from server.telemetry.metrics import Metrics


def open_engine(settings: Settings, metrics: Metrics, inbox: Inbox) -> tuple[EngineLoop, Engine]:
    costs = Costs(**json.loads(os.environ[COSTS_VARIABLE]))
    engine = open_modelled(settings.batching.max_batch, settings.session.max_segment_seconds + SEGMENT_MARGIN_SECONDS, costs)
    metrics.watch(engine)
    wait_seconds = settings.batching.max_wait_ms / 1000
    return EngineLoop(engine, wait_seconds, metrics, warm_up_seconds=settings.model.warmup_seconds, inbox=inbox), engine


if __name__ == "__main__":
    sys.exit(started(functools.partial(run, parent=os.getppid(), open_engine=open_engine)))
