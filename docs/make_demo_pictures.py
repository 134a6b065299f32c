"""Takes the pictures of docs/demo.md from a running app: `docs/make_demo_pictures.py URL`.

Needs Chromium in the PATH. Start the app with `make demo`.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, ViewportSize, sync_playwright

from rerankit.demo.tab_ask import EXAMPLES

ASSETS = Path(__file__).parent / "assets"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
DESK: ViewportSize = {"width": 1100, "height": 900}
TALL: ViewportSize = {"width": 1100, "height": 1250}
PHONE: ViewportSize = {"width": 390, "height": 1640}
WAIT = 600_000
"""Milliseconds for any step, on a machine that is busy with other things."""
Scheme = Literal["light", "dark"]


def save(page: Page, name: str, *, whole: bool = False) -> None:
    """A small picture of what the window shows, or of the whole page."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(ASSETS / f"demo-{name}.png", optimize=True)


def ask(browser: Browser, url: str, name: str, size: ViewportSize, scheme: Scheme) -> None:
    """The tab Ask, with a citation opened."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.fill("#ask-question textarea", EXAMPLES[0])
    page.click("#ask-go")
    page.locator("#ask-answer .rk-spent").wait_for()
    page.locator("#ask-answer a.rk-cite").first.click()
    page.evaluate("window.scrollTo(0, 0)")
    save(page, name)
    page.close()


def compare(browser: Browser, url: str) -> None:
    """The tab Compare, before the vote."""
    page = opened(browser, url, "Compare", "light")
    page.click("#compare-go")
    page.locator("#compare-vote").wait_for()
    save(page, "compare")
    page.close()


def documents(browser: Browser, url: str) -> None:
    """The tab Your documents, with one that was asked and one that cannot be read."""
    page = opened(browser, url, "Your documents", "dark")
    text = b"Leaf rust shows as orange pustules on the upper side of wheat leaves. It spreads in mild, moist weather."
    files: list[FilePayload] = [
        {"name": "rust.txt", "mimeType": "text/plain", "buffer": text},
        {"name": "photos.zip", "mimeType": "application/zip", "buffer": b"PK"},
    ]
    page.set_input_files("#docs-files input[type=file]", files)
    page.locator("#docs-list .rk-figures").wait_for()
    page.fill("#docs-question textarea", "What does leaf rust look like?")
    page.click("#docs-go")
    page.locator("#docs-answer .rk-spent").wait_for()
    save(page, "documents-dark", whole=True)
    page.close()


def experiments(browser: Browser, url: str) -> None:
    """The tab Experiments, with a small one made on the spot."""
    page = opened(browser, url, "Experiments", "light")
    page.fill("#runs-questions input[type=number]", "40")
    page.click("#runs-go")
    page.frame_locator("#runs-report iframe").locator("svg").first.wait_for()
    save(page, "experiments", whole=True)
    page.close()


def opened(browser: Browser, url: str, tab: str, scheme: Scheme) -> Page:
    """A tab of the app in a new window."""
    page = browser.new_page(viewport=DESK, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.get_by_role("tab", name=tab).click()
    return page


def main() -> None:
    """All pictures."""
    url = sys.argv[1]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        experiments(browser, url)  # first, so that the times below are those of an app that has its models loaded
        compare(browser, url)
        documents(browser, url)
        ask(browser, url, "ask", TALL, "light")
        ask(browser, url, "ask-dark", TALL, "dark")
        ask(browser, url, "phone", PHONE, "light")
        ask(browser, url, "phone-dark", PHONE, "dark")
        browser.close()


if __name__ == "__main__":
    main()
