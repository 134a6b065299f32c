"""Takes the pictures of docs/demo.md from a running app with .venv-demo: `docs/make_demo_pictures.py URL`.

Needs Chromium in the PATH. Start the app with `make demo`.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ASSETS = Path(__file__).parent / "assets"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
DESK, PHONE = {"width": 1100, "height": 900}, {"width": 390, "height": 800}


def save(page: Page, name: str) -> None:
    """A small picture of what the window shows."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(ASSETS / f"demo-{name}.png", optimize=True)


def ask(browser: Browser, url: str, name: str, size: dict[str, int], scheme: str) -> None:
    """The tab Ask, with a citation opened."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto(url)
    page.fill("#ask-question textarea", "My calf has the runs. Do I take it off milk while it's on electrolytes?")
    page.click("#ask-go")
    page.locator("#ask-answer .rk-spent").wait_for()
    page.locator("#ask-answer a.rk-cite").first.click()
    page.locator("#ask-answer .rk-answer").evaluate(
        "e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 20)"
    )
    save(page, name)
    page.close()


def compare(browser: Browser, url: str) -> None:
    """The tab Compare, before the vote."""
    page = browser.new_page(viewport=DESK)
    page.goto(url)
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-go")
    page.locator("#compare-vote").wait_for()
    save(page, "compare")
    page.close()


def main() -> None:
    """All pictures."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        ask(browser, sys.argv[1], "ask", DESK, "light")
        ask(browser, sys.argv[1], "ask-dark", DESK, "dark")
        ask(browser, sys.argv[1], "phone", PHONE, "light")
        ask(browser, sys.argv[1], "phone-dark", PHONE, "dark")
        compare(browser, sys.argv[1])
        browser.close()


if __name__ == "__main__":
    main()
