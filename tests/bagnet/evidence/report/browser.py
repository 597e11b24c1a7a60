"""A headless Chromium that tests drive by its DevTools protocol, over a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60  # seconds without a message; the machine may be busy
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
KEYS |= {"Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34}


class Browser:
    """One page, which records its errors and requests.

    Attributes:
        errors: Exceptions and error messages of the console since the page was opened.
        requests: Requested URLs since the page was opened.
    """

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self._unread = b""
        # Chromium reads from 3 and writes to 4, so the numbers of the pipes must be others.
        reads, self._write = map(_above_ten, os.pipe())
        self._read, writes = map(_above_ten, os.pipe())

        def connect() -> None:
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdout=null, stderr=null, pass_fds=(3, 4), preexec_fn=connect
        )
        os.close(reads)
        os.close(writes)
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path) -> None:
        """Open a file in a light window of 1280x900 pixels, and wait until it has loaded."""
        self.resize(1280, 900)
        self.prefer(dark=False)
        for url in ("about:blank", page.as_uri()):
            self._loaded = False
            self.errors.clear()
            self.requests.clear()
            self.call("Page.navigate", url=url)
            while not self._loaded:
                self._receive()
        self.settle()

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

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
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        if key == "Enter":
            event["text"] = "\r"  # without it, buttons are not pressed
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)
        self.settle()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _receive(self) -> dict[str, Any]:
        """Read one message, and note what it reports."""
        while b"\0" not in self._unread:
            assert select.select([self._read], [], [], PATIENCE)[0], "Chromium does not answer"
            received = os.read(self._read, 1 << 20)
            assert received, "Chromium ended"
            self._unread += received
        text, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(text)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.errors.append(str(parameters["args"]))
            case "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith("data:"):
                    self.requests.append(url)
        return message


def _above_ten(descriptor: int) -> int:
    duplicate = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return duplicate
