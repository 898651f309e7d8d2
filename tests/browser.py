"""Pages in a real browser: headless Chromium, which reports what goes wrong in them and what leaves this machine.

Chromium comes from the system (`apt-get install chromium`), or from where `CHROMIUM` says; without, tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

WIDTHS = (390, 1400)
"""A phone and a desk, in CSS pixels."""
LOCAL = ("127.0.0.1", "localhost", "")


@dataclass
class Watched:
    """A page, and what was seen while it was used.

    Attributes:
        page: Playwright's.
        errors: Errors on the console and uncaught ones.
        left: Addresses outside of this machine that were asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What axe finds that is serious or critical, a line each."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{v['id']}: {n['target']} {n['failureSummary']}"
            for v in found
            if v["impact"] in ("serious", "critical")
            for n in v["nodes"]
        ]

    def too_wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. Playwright keeps an event loop running in this thread, so while it is there no test can start one of
    its own: it is started for each module that needs it, and no test of such a module calls `asyncio.run`."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Any]:
    """Opens an address: `browse(url, width=390, dark=True)` gives a `Watched` page. No page may ask for anything
    outside of this machine: such a request is stopped, and the test fails at its end, as it does after an error on the
    console."""
    opened: list[Watched] = []

    def open_page(url: str, width: int = WIDTHS[1], dark: bool = False) -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", bypass_csp=False
        )
        watched = Watched(context.new_page())
        opened.append(watched)

        def route(route: Any) -> None:
            if urlsplit(route.request.url).scheme in ("http", "https", "ws", "wss") and (
                urlsplit(route.request.url).hostname not in LOCAL
            ):
                watched.left.append(route.request.url)
                route.abort()
            else:
                route.continue_()

        context.route("**/*", route)
        watched.page.on("console", lambda m: watched.errors.append(m.text) if m.type == "error" else None)
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.goto(url)
        return watched

    yield open_page
    for watched in opened:
        watched.page.context.close()
    assert [w.left for w in opened if w.left] == []
    assert [w.errors for w in opened if w.errors] == []
