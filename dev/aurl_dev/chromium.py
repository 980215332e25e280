"""Debian's headless Chromium, driven by chromedriver over the W3C WebDriver protocol."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from aurl_dev.cluster import system
from aurl_dev.ports import free_port
from aurl_dev.waiting import wait_for

PACKAGES = ("chromium", "chromium-driver")

# No requests to its vendor, no display, no GPU, no sandbox.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


@dataclass
class Browser:
    """One browser window."""

    session: str

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Send one WebDriver command and return its value; AssertionError with the browser's message."""
        answer = requests.request(
            method, f"{self.session}{path}", json=body if method == "POST" else None, timeout=60
        ).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer["message"]
        return answer

    def open(self, url: str) -> None:
        """Load a page; clears the console of the previous one."""
        self.call("POST", "/url", url="about:blank")
        self.console()
        self.call("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the result of `script`, the body of a function."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element that matches a CSS selector."""
        return list(
            self.run(
                "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
            )
        )

    def text(self, selector: str) -> str:
        """Return the text of the first of them, or an empty string."""
        return next(iter(self.texts(selector)), "")

    def console(self) -> list[str]:
        """Return what the page has written to the console since the last call, blocked loads included."""
        return [entry["message"] for entry in self.call("POST", "/se/log", type="browser")]

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in pixels, over the Chrome DevTools Protocol."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = "Emulation.setDeviceMetricsOverride"
        self.call("POST", "/goog/cdp/execute", cmd=command, params=metrics)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser with an empty profile in `folder`."""
    system.ensure(PACKAGES, print)
    port = free_port()
    driver = f"http://127.0.0.1:{port}"
    with (folder / "chromedriver.log").open("wb") as log:
        process = subprocess.Popen(
            [str(system.program("chromedriver")), f"--port={port}"], stdout=log, stderr=log
        )
    try:
        wait_for("chromedriver", lambda: _ready(driver), 60)
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "binary": str(system.program("chromium")),
                "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
            },
        }
        answer = requests.post(
            f"{driver}/session", json={"capabilities": {"alwaysMatch": wanted}}, timeout=120
        ).json()["value"]
        assert "sessionId" in answer, f"Chromium does not start: {answer}"
        window = Browser(f"{driver}/session/{answer['sessionId']}")
        try:
            yield window
        finally:
            window.call("DELETE", "")
    finally:
        process.terminate()
        process.wait(30)


def _ready(driver: str) -> bool:
    try:
        return bool(requests.get(f"{driver}/status", timeout=2).json()["value"]["ready"])
    except requests.ConnectionError:
        return False
