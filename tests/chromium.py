"""Drives a headless Chromium through its debugging pipe: input, screenshots, complaints."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
# WebGL in software, or none.
_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_NO_WEBGL = ("--disable-gpu", "--disable-software-rasterizer", "--disable-3d-apis")
_SECONDS = 60.0


class Chromium:
    """One browser with one page.

    Attributes
    ----------
    complaints
        Errors and warnings of the console, exceptions, refusals of the security policy.
    asked_for
        Address of everything that the page loaded or tried to.
    """

    def __init__(
        self, profile: Path, width: int = 1440, height: int = 900, *, webgl: bool = False
    ) -> None:
        self.complaints: list[str] = []
        self.asked_for: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._waiting = b""
        self._number = 0
        child_reads, self._writes = os.pipe()
        self._reads, child_writes = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 60) for fd in (child_reads, child_writes)]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "-", "chromium",
             f"--user-data-dir={profile}", *(_WEBGL if webgl else _NO_WEBGL), *_FLAGS],
            pass_fds=high, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (child_reads, child_writes, *high):
            os.close(fd)
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._reads)
        os.close(self._writes)

    def resize(self, width: int, height: int) -> None:
        """Make the page so many CSS pixels large."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def open(self, path: Path) -> None:
        """Open a file, and wait until it has loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return the value of an expression, of a promise what comes of it."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true, looking at each frame that is drawn."""
        self.value(
            "new Promise((done) => { const look = () => "
            f"({condition}) ? done(true) : requestAnimationFrame(look); look(); }})"
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send `mousePressed`, `mouseMoved`, `mouseReleased` or `mouseWheel`."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({selector!r}); "
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def key(self, name: str, code: int) -> None:
        """Press a key, by its name and its virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name,
                windowsVirtualKeyCode=code,
            )  # fmt: skip

    def downloads(self, folder: Path) -> None:
        """Let pages download files, to a folder."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def downloaded(self, path: Path) -> Path:
        """Return a downloaded file, when it is there."""
        end = time.monotonic() + _SECONDS
        while not path.is_file():
            assert time.monotonic() < end, f"{path.name} was not downloaded"
            self.value("new Promise((done) => requestAnimationFrame(done))")
        return path

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what a command of the DevTools protocol answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        number = self._number
        answer = self._until(lambda one: one.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, is_it: Any) -> dict[str, Any]:
        for index, message in enumerate(self._events):
            if is_it(message):
                return self._events.pop(index)
        end = time.monotonic() + _SECONDS
        while True:
            message = self._next(end)
            if is_it(message):
                return message
            self._note(message)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            found = os.read(self._reads, 1 << 20)
            assert found, "Chromium ended"
            self._waiting += found
        text, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, values = message.get("method", ""), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(values["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(values["args"])[:500])
        elif method == "Log.entryAdded":
            self.complaints.append(json.dumps(values["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.asked_for.append(values["request"]["url"])
        elif method == "Page.loadEventFired":
            self._events.append(message)
