"""Lanes: clips are encoded in parallel with each other and the decoder, each on its own core. For engines on the processor."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Cores, Limits

LaneResult = TypeVar("LaneResult")


def threads_beside_encode(threads: int) -> int:
    """Return the decoder's number of threads while clips are encoded on the others: half of them, one at least."""
    return max(1, threads // 2)


def limits_of(manifest: Manifest, max_batch: int, threads: int) -> Limits:
    """Return the limits of an engine that encodes on lanes; with one thread there are no lanes."""
    return Limits(
        max_batch=max_batch,
        max_samples=manifest.max_samples,
        max_positions=manifest.max_positions,
        encode_rows=1,
        encode_lanes=threads if threads > 1 else 0,
        lanes_beside_decode=threads - threads_beside_encode(threads),
        start_token=manifest.start_token,
        end_token=manifest.end_token,
        token_scale=manifest.token_scale,
        on_processor=threads > 1,
    )


class Lanes(Generic[LaneResult]):
    """Owns a few threads that encode. All other work runs on the engine loop's thread."""

    def __init__(self, threads: int, fill: Callable[[int, LaneResult], None]):
        """fill: puts the output of the encoder into its slot."""
        self._fill = fill
        self._cores = ThreadPoolExecutor(threads, "encode")
        self._spare_cores = ThreadPoolExecutor(threads, "encode spare", initializer=yield_to_all)
        self._under_way: dict[int, LaneEncoding[LaneResult]] = {}  # by slot

    @property
    def are_busy(self) -> bool:
        return bool(self._under_way)

    def begin(self, slot: int, cores: Cores, encode: Callable[[], LaneResult]) -> "LaneEncoding[LaneResult]":
        """Start a new encoding for the slot; the one in progress is given up."""
        threads = self._spare_cores if cores is Cores.SPARE else self._cores
        encoding = LaneEncoding(self, slot, threads.submit(encode))
        self._under_way[slot] = encoding
        return encoding

    def finish(self, encoding: "LaneEncoding[LaneResult]") -> None:
        """Fill the slot, if it still waits for this encoding."""
        encoded = encoding.encoded.result()
        if self._under_way.get(encoding.slot) is encoding:
            del self._under_way[encoding.slot]
            self._fill(encoding.slot, encoded)

    def forget(self, slot: int) -> None:
        """Give up the encoding in progress for the slot."""
        self._under_way.pop(slot, None)

    def close(self) -> None:
        self._cores.shutdown()
        self._spare_cores.shutdown()


@dataclass(frozen=True, eq=False)
class LaneEncoding(Generic[LaneResult]):
    """See runtime.engine.protocol.Encoding."""

    lanes: Lanes[LaneResult]
    slot: int
    encoded: Future[LaneResult]

    def when_done(self, callback: Callable[[], None]) -> None:
        self.encoded.add_done_callback(lambda _: callback())

    def finish(self) -> None:
        self.lanes.finish(self)


def yield_to_all() -> None:
    """Let this thread run only while no other thread wants its core; a step in progress cannot be stopped."""
    if sys.platform == "linux":  # with `nice` a core changes over at its next tick: updates took 1.4 times as long, not 1.2
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
