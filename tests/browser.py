"""A headless Chromium, driven through its debugging pipe: what a page logs, what it asks for, how it looks."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30


def find_browser() -> str | None:
    """The path of a Chromium, where one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium. A context manager.

    messages: what pages logged, exceptions among them. requests: every address that was asked for.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._loaded = False
        self._buffer = b""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        high_in, high_out = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (theirs_in, theirs_out))

        def take_pipes() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        self._process = subprocess.Popen(
            [self.path, *options, f"--user-data-dir={self._profile}", "--remote-debugging-pipe", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=take_pipes,
        )
        for one in (theirs_in, theirs_out, high_in, high_out):
            os.close(one)
        self._in, self._out = ours_in, ours_out
        os.set_blocking(self._in, False)
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, width: int, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Shows a file, as wide as a screen of `width`."""
        self.messages.clear()
        self.requests.clear()
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        self._wait(lambda: self._loaded)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives (a promise is awaited)."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        self._number += 1
        number, answers = self._number, []
        message = {"id": number, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        self._wait(lambda: bool(answers), answers, number)
        if "error" in answers[0]:
            raise RuntimeError(f"{method}: {answers[0]['error']}")
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _wait(self, done: Any, answers: list[dict[str, Any]] | None = None, number: int = 0) -> None:
        end = time.monotonic() + SECONDS
        while not done():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("the browser does not answer")
            try:
                self._buffer += os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
            *whole, self._buffer = self._buffer.split(b"\0")
            for message in map(json.loads, whole):
                if answers is not None and message.get("id") == number:
                    answers.append(message)
                self._hear(message.get("method"), message.get("params", {}))

    def _hear(self, method: str | None, values: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(values["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(f"console.{values['type']}")
        elif method == "Runtime.exceptionThrown":
            self.messages.append(values["exceptionDetails"]["text"])
