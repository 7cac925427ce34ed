"""Firefox without a screen, driven by WebDriver BiDi, which it speaks itself. Without a loudspeaker it runs no audio at all,
so that PulseAudio gives it one that nobody hears."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import websockets

FIREFOX = (shutil.which("firefox-esr") or shutil.which("firefox")) if shutil.which("pulseaudio") else None
PREFERENCES = {
    "media.navigator.streams.fake": True,  # a microphone that hums
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "ui.systemUsesDarkTheme": 1,
    "browser.download.folderList": 2,  # the folder of browser.download.dir
    "browser.download.alwaysOpenPanel": False,
}
SOUND = ["pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "-n", "-L", "module-null-sink", "-L"]
DOWNLOADS = "downloads"
BEGINNING = "WebDriver BiDi listening on "
START_SECONDS = 30


class Firefox:
    """One tab."""

    def __init__(self, socket: websockets.ClientConnection):
        self._socket, self._numbers, self.errors = socket, itertools.count(1), []
        self._context = ""

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(await self._socket.recv())).get("id") != number:
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(message["params"]["text"])
        if message["type"] == "error":
            raise RuntimeError(f"{method}: {message['message']}")
        return message["result"]

    async def open(self, url: str) -> None:
        await self.send("session.new", capabilities={})
        await self.send("session.subscribe", events=["log.entryAdded"])
        self._context = (await self.send("browsingContext.getTree"))["contexts"][0]["context"]
        await self.send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """expression: its value is a string, a number or a boolean."""
        target = {"context": self._context}
        found = await self.send("script.evaluate", expression=expression, target=target, awaitPromise=True)
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    async def until(self, expression: str, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not await self.evaluate(expression):  # noqa: ASYNC110 - the page's policy allows no script that would wait
                await asyncio.sleep(0.1)

    async def click(self, selector: str) -> None:
        """Click with the mouse. Browsers let a page run its audio only after a click."""
        element = await self._element(selector)
        move = {"type": "pointerMove", "x": 0, "y": 0, "origin": {"type": "element", "element": element}}
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        actions = [{"type": "pointer", "id": "mouse", "actions": [move, *press]}]
        await self.send("input.performActions", context=self._context, actions=actions)

    async def choose_files(self, selector: str, *paths: Path) -> None:
        element = await self._element(selector)
        await self.send("input.setFiles", context=self._context, element=element, files=[str(path) for path in paths])

    async def screenshot(self) -> bytes:
        return base64.b64decode((await self.send("browsingContext.captureScreenshot", context=self._context))["data"])

    async def _element(self, selector: str) -> dict[str, str]:
        locator = {"type": "css", "value": selector}
        (node,) = (await self.send("browsingContext.locateNodes", context=self._context, locator=locator))["nodes"]
        return {"sharedId": node["sharedId"]}


@contextlib.asynccontextmanager
async def firefox(profile: Path, url: str) -> AsyncIterator[Firefox]:
    assert FIREFOX
    preferences = {**PREFERENCES, "browser.download.dir": str(profile / DOWNLOADS)}
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items())
    (profile / "user.js").write_text("".join(lines))
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    environment = os.environ | {"HOME": str(profile), "XDG_RUNTIME_DIR": str(profile), "PULSE_SERVER": f"unix:{profile}/sound"}
    sound = [*SOUND, f"module-native-protocol-unix socket={profile}/sound"]
    async with running(sound, environment), running(command, environment) as process:
        async with websockets.connect(f"{await address(process)}/session", max_size=None) as socket:
            tab = Firefox(socket)
            await tab.open(url)
            yield tab
            await tab.send("browser.close")
        await asyncio.wait_for(process.wait(), START_SECONDS)


@contextlib.asynccontextmanager
async def running(command: list[str], environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    pipes = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, env=environment, **pipes)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr
    async with asyncio.timeout(START_SECONDS):
        while line := (await process.stderr.readline()).decode():
            if line.startswith(BEGINNING):
                return line.removeprefix(BEGINNING).strip()
    raise RuntimeError("Firefox has ended")
