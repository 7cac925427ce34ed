"""What a replica of the tests opens in place of an engine with weights."""

import os
from pathlib import Path

from benchmarks.harness.null_server import NullEngine
from runtime.engine.protocol import Engine
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server.settings import Settings
from server.telemetry.metrics import Metrics

DIRECTORY_VARIABLE = "TEST_REPLICAS"
"""Where each replica leaves its process id, under its name."""


def open_null(settings: Settings, metrics: Metrics) -> tuple[EngineLoop, Engine, Tokenizer]:
    (Path(os.environ[DIRECTORY_VARIABLE]) / settings.listen.replica_name).write_text(str(os.getpid()))
    engine = NullEngine(settings.batching.max_batch)
    return EngineLoop(engine, settings.batching.max_wait_ms / 1000, metrics), engine, Tokenizer(["", "", ""])
