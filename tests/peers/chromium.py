"""A headless Chromium, spoken to over two pipes in its DevTools protocol: needs nothing but the browser itself."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60


def find() -> str:
    """The browser's program; empty where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


class Browser:
    """One tab. `messages` holds what the page wrote to its console and threw, `requests` what it asked of the network."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="leandet-chromium-")
        read_theirs, self.write = os.pipe()
        self.read, write_theirs = os.pipe()
        options = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
            "--force-prefers-reduced-motion", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank",
        )  # fmt: skip
        program = ("bash", "-c", f'exec "$@" 3<&{read_theirs} 4>&{write_theirs}', "bash", find(), *options)
        self.process = subprocess.Popen(program, pass_fds=(read_theirs, write_theirs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_theirs)
        os.close(write_theirs)
        self.buffer, self.number, self.events, self.session = b"", 0, [], ""
        self.messages: list[str] = []
        self.requests: list[str] = []
        tab = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def close(self) -> None:
        """End the browser and drop its profile."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        os.close(self.read)
        os.close(self.write)
        shutil.rmtree(self.profile, ignore_errors=True)

    # ---- the protocol

    def call(self, method: str, **parameters):
        """The answer of one method; AssertionError where the browser refuses it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            said = self._next()
            if said.get("id") == self.number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
        raise AssertionError(f"{method}: no answer in {PATIENCE_S} s")

    def _next(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.read, 1 << 20)
            assert piece, "the browser has ended"
            self.buffer += piece
        text, _, self.buffer = self.buffer.partition(b"\0")
        said = json.loads(text)
        self._note(said)
        return said

    def _note(self, said) -> None:
        method, about = said.get("method", ""), said.get("params", {})
        self.events += [method]
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.messages.append(str(about["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled":
            self.messages.append(str(about["args"]))
        if method == "Log.entryAdded":
            self.messages.append(about["entry"]["text"])

    # ---- what a reader does

    def open(self, path: Path, *, width: int = 1280, height: int = 900, scheme: str = "light", touch: bool = False) -> None:
        """Load a file in a window of that size."""
        self.messages, self.requests, self.events = [], [], []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def value(self, expression: str):
        """A JavaScript expression's value; AssertionError where it throws."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def press(self, key: str, *, code: int = 0, text: str = "") -> None:
        """One key, down and up."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{name: value for name, value in about.items() if name != "text"})

    def point(self, selector: str) -> None:
        """Move the mouse onto the first element that fits."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        x, y = self.value(f"(() => {{ const b = {element}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
