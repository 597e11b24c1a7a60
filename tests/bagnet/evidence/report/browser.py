"""A headless Chromium that tests drive by its DevTools protocol."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 30  # seconds; the machine may be busy


class Browser:
    """One page, which records its errors and requests.

    Attributes:
        errors: Exceptions and error messages of the console since the page was opened.
        requests: Requested URLs since the page was opened.
    """

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self._loop = asyncio.new_event_loop()
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        try:
            self._run(self._connect(folder / "DevToolsActivePort"))
        except BaseException:
            self._process.kill()
            raise

    def open(self, page: Path) -> None:
        """Open a file in a light window of 1280x900 pixels, and wait until it has loaded."""
        self.resize(1280, 900)
        self.prefer(dark=False)
        for url in ("about:blank", page.as_uri()):
            self._loaded.clear()
            self.errors.clear()
            self.requests.clear()
            self.call("Page.navigate", url=url)
            self._run(self._loaded.wait())
        self.settle()

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def settle(self) -> None:
        """Wait until the last changes are on the screen."""
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def js(self, expression: str) -> Any:
        """Evaluate an expression in the page, and await it if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({selector!r}).innerText")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height in the window, in CSS pixels."""
        return tuple(
            self.js(
                f"(b => [b.x, b.y, b.width, b.height])"
                f"(document.querySelector({selector!r}).getBoundingClientRect())"
            )
        )

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def click(self, selector: str) -> None:
        """Scroll to an element and press the mouse in its middle."""
        self.js(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.box(selector)
        where = {"x": left + width / 2, "y": top + height / 2}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
        self.settle()

    def touch(self, *points: tuple[float, float]) -> None:
        """Touch the first point, drag over the others, and let go."""
        for number, (x, y) in enumerate(points):
            kind = "touchMove" if number else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def press(self, key: str) -> None:
        """Press a key by its DOM name, such as `ArrowLeft` or `n`."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
        codes |= {"Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34}
        event: dict[str, Any] = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": codes.get(key, 0),
        }
        if key == "Enter":
            event["text"] = "\r"  # without it, buttons are not pressed
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)
        self.settle()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        return self._run(self._call(method, parameters))

    def close(self) -> None:
        self._listener.cancel()
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))

    async def _connect(self, port_file: Path) -> None:
        self._session = aiohttp.ClientSession()
        deadline = time.monotonic() + PATIENCE
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < deadline, "Chromium did not start"
            await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = await answer.json(content_type=None)
        url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        self._listener = asyncio.ensure_future(self._listen())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable", {})

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "method": method, "params": parameters}
        await self._socket.send_json(message)
        return await answer

    async def _listen(self) -> None:
        async for message in self._socket:
            content = message.json()
            parameters = content.get("params", {})
            if "id" in content:
                answer = self._answers.pop(content["id"])
                if "error" in content:
                    answer.set_exception(AssertionError(content["error"]))
                else:
                    answer.set_result(content["result"])
            elif content["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif content["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            elif content["method"] == "Runtime.consoleAPICalled" and parameters["type"] == "error":
                self.errors.append(str(parameters["args"]))
            elif content["method"] == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith("data:"):
                    self.requests.append(url)
