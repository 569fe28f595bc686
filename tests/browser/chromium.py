# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Chromium without a window, as a distribution packages it, and pages of the report for it."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import shutil
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.batch import Batch
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.documents import read_jobs
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.evidence import Pictures
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.page import page
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.tools import sample_jobs

#: The names of program and driver where they are packaged.
_PROGRAMS = ("chromium", "chromium-browser")
_FLAGS = (
    "--headless=new",
    # Its sandbox refuses to work as root; what it is shown here is what these tests made.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # Whatever would be asked of a network fails, and is seen in the log of requests.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Browser:
    """One window."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = next(filter(None, map(shutil.which, _PROGRAMS)))
        for flag in _FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(300)

    def open(self, path: pathlib.Path, scheme: str = "light", *, scripts: bool = True, part: str = "") -> None:
        """Open a file as a reader sees it whose system prefers the colours ``scheme``; ``part`` is its fragment."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.driver.get("about:blank")
        self._drain()
        self.driver.get(path.as_uri() + part)

    def command(self, name: str, **arguments: t.Any) -> dict[str, t.Any]:
        """Give a command of the browser's own protocol."""
        found: dict[str, t.Any] = self.driver.execute_cdp_cmd(name, arguments)
        return found

    def run(self, script: str, *arguments: t.Any) -> t.Any:
        """Run a script in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened, without their data."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url.partition(",")[0] for url in asked]

    def picture(self, path: pathlib.Path, width: int, height: int) -> None:
        """Write what a window of this size shows."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def _drain(self) -> None:
        for log in ("browser", "performance"):
            self.driver.get_log(log)


@contextlib.contextmanager
def browser() -> t.Iterator[Browser]:
    """Give a browser that ends with the block."""
    one = Browser()
    try:
        yield one
    finally:
        one.driver.quit()


def write_page(path: pathlib.Path, jobs: list[sample_jobs.Job], title: str = "Wave 1") -> pathlib.Path:
    """Write the report about ``jobs``, with the recorded screenshots."""
    records, unreadable = read_jobs(jobs)
    path.write_text(page(Batch.of(title, records, unreadable), Pictures(sample_jobs.OUTPUT_ROOT)), encoding="utf-8")
    return path
