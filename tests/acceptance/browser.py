# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, controlled over its debugging protocol, which opens pages as a person does.

``with Browser(folder) as browser: page = browser.open(url); page.run("document.title")``
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.acceptance.programs import find
from tests.servers import end_with_parent

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0


def find_chromium() -> str:
    """The path of the program. Without it the test is skipped, or fails in CI."""
    return find(*NAMES, package="chromium")


class Browser:
    """One browser process with a profile of its own in ``folder``."""

    def __init__(self, folder: Path) -> None:
        # The sandbox of Chromium does not work for root.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        quiet = ["--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"]
        quiet += ["--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server", "--mute-audio"]
        self._profile = folder / "profile"
        self._log = folder / "chromium.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    find_chromium(),
                    "--headless=new",
                    "--remote-debugging-port=0",
                    f"--user-data-dir={self._profile}",
                    *sandbox,
                    *quiet,
                    "about:blank",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(folder)},
                preexec_fn=end_with_parent,
            )
        self._open = ExitStack()
        try:
            self._connection = self._connect()
        except BaseException:
            self._end()
            raise
        self._numbers = itertools.count(1)

    def _connect(self) -> ClientConnection:
        file, deadline = self._profile / "DevToolsActivePort", time.monotonic() + SECONDS
        while not file.exists() or len(lines := file.read_text().splitlines()) < 2:
            assert self._process.poll() is None, f"it ended:\n{self._log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"it does not start:\n{self._log.read_text(errors='replace')}"
            time.sleep(0.02)
        url = f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        return self._open.enter_context(connect(url, max_size=None, proxy=None, compression=None))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call("Browser.close")
        self._open.close()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol; events that come before it are passed over."""
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            asked["sessionId"] = session
        self._connection.send(json.dumps(asked))
        while True:
            answer = json.loads(self._connection.recv(SECONDS))
            if answer.get("id") == number:
                break
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> Page:
        """A new tab with this page, as soon as it is loaded."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, awaited if it is a promise."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def fill(self, name: str, text: str) -> None:
        """Type into the field of that name, replacing its text."""
        self.run(f"document.getElementsByName({json.dumps(name)})[0].select()")
        self.run(f"document.getElementsByName({json.dumps(name)})[0].focus()")
        if text:
            self._browser.call("Input.insertText", self._session, text=text)
        else:
            self.run("document.execCommand('delete')")

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        box = self.run(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._browser.call(
                "Input.dispatchMouseEvent", self._session, type=kind, x=box[0], y=box[1], button="left", clickCount=1
            )

    def text(self, selector: str) -> str:
        """The text of the element as a person reads it."""
        found: str = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def wait_for(self, condition: str, *, seconds: float = SECONDS) -> None:
        """Wait until a JavaScript expression is true. Fails, and shows the page, if that takes too long."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"not {condition}:\n{self.run('document.body.innerText')}"
            time.sleep(0.02)

    def wait_for_text(self, selector: str, text: str, *, seconds: float = SECONDS) -> None:
        """Wait until an element has this text."""
        self.wait_for(
            f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(text)})", seconds=seconds
        )
