"""An event loop that stands still is noticed, and its process ended."""

import subprocess
import sys
import textwrap

import pytest

from server.telemetry.heartbeat import STALLED_STATUS, Listener


class Heard:
    """What a listener did, with a heart in the test's hand."""

    def __init__(self) -> None:
        self.beats, self.said = 0, list[str]()
        self.listener = Listener(
            lambda: self.beats, lambda: self.said.append("stalled"), lambda: self.said.append("lost"), 3.0, 8.0
        )

    def look(self, times: int, beating: bool) -> list[str]:
        for _ in range(times):
            self.beats += beating
            self.listener.look(0.5)
        return self.said


def test_silence_is_said_once_and_then_is_the_end():
    heard = Heard()
    assert heard.look(100, beating=True) == []
    assert heard.look(5, beating=False) == []
    assert heard.look(1, beating=False) == ["stalled"]
    assert heard.look(9, beating=False) == ["stalled"]
    assert heard.look(20, beating=False) == ["stalled", "lost"]


def test_a_beat_begins_the_silence_anew():
    heard = Heard()
    heard.look(1, beating=True)
    heard.look(7, beating=False)
    heard.look(1, beating=True)
    assert heard.look(5, beating=False) == ["stalled"]


def test_nobody_is_hurried_before_the_first_beat():
    """An engine takes its time to start."""
    assert Heard().look(1000, beating=False) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stall", "status"), [("time.sleep(60)", STALLED_STATUS), ("time.sleep(0)", 0), ("hold_the_log()", STALLED_STATUS)]
)
def test_a_process_whose_loop_stands_still_ends_and_says_where(stall, status):
    program = f"""
        import asyncio, logging, time
        from server.telemetry.heartbeat import beating
        logging.basicConfig()
        async def the_culprit(beaten):
            await beaten.wait()  # nobody is hurried before
            {stall}
        def hold_the_log():  # as whoever writes to a pipe that nobody reads
            logging.getLogger().handlers[0].acquire()
            time.sleep(60)
        async def main():
            beaten = asyncio.Event()
            async with beating(lambda lag: beaten.set(), stalled_seconds=0.5, lost_seconds=1.0):
                await the_culprit(beaten)
        asyncio.run(main())
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert ended.returncode == status
    assert ("the_culprit" in ended.stderr) == ("stalled" in ended.stderr) == (stall == "time.sleep(60)")
    assert "Traceback" not in ended.stderr
