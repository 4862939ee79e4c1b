"""A real Chromium, driven by Playwright. Without one these tests fail: CONTRIBUTING.md says how to install it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str:
    """Playwright's own builds are not taken: what the system keeps up to date is."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, "no Chromium on the PATH: apt-get install chromium"
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(),
            # CI runs as root in containers, where Chromium's own sandbox cannot be set up
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


def context(
    browser: Browser, *, scheme: str = "light", width: int = 1280, **more: object
) -> BrowserContext:
    made = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 900},
        **more,  # type: ignore[arg-type]
    )
    made.set_default_timeout(15_000)
    return made


def serious(page: Page) -> list[str]:
    """What Axe finds serious or critical on a page, with the places."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {n['target']} {n.get('failureSummary', '')}"
        for v in found
        if v["impact"] in {"serious", "critical"}
        for n in v["nodes"]
    ]
