"""How long a visitor of `rerankit demo` waits, in Chromium, with the app and the browser on the same machine.

    python benchmarks/demo.py --questions 20

Prints seconds: until the page is interactive (the question box takes text and the button can be pressed; each time in a
new browser context, nothing cached), and from pressing *Ask* to an answer with its sources, for questions of the sample
corpus that are asked one after the other. The models are warm, as the app warms them before it opens its door; passages
that no question has met yet are still encoded when one does. The bar for the medians: 3 s each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from rerankit.samples import farm

BAR = 3.0
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@contextmanager
def app() -> Iterator[str]:
    """The app on a free port; its address."""
    command = [sys.executable, "-u", "-m", "rerankit.cli", "demo", "--port", "0"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        environment["GRADIO_TEMP_DIR"] = folder
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield next(line.split()[-1] for line in process.stdout or () if line.startswith("rerankit demo at "))
        finally:
            process.terminate()
            process.wait()


def opening(browser: Browser, url: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.fill("#ask-question textarea", "ready?")
    page.click("#ask-go", trial=True)
    seconds = time.perf_counter() - started
    context.close()
    return seconds


def answers(browser: Browser, url: str, questions: list[str]) -> Iterator[float]:
    page = browser.new_page()
    page.goto(url)
    for question in questions:
        page.fill("#ask-question textarea", question)
        page.evaluate("document.querySelector('#ask-answer .prose').replaceChildren()")
        started = time.perf_counter()
        page.click("#ask-go")
        page.locator("#ask-answer .rk-answer:not([aria-busy])").wait_for(timeout=120_000)
        yield time.perf_counter() - started


def report(what: str, seconds: list[float]) -> None:
    middle = statistics.median(seconds)
    verdict = "holds" if middle <= BAR else "does not hold"
    print(f"{what:30} p50 {middle:.2f} s   worst {max(seconds):.2f} s   n = {len(seconds)}   {BAR:g} s {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--openings", type=int, default=5)
    given = parser.parse_args()
    asked = farm.questions()
    step = max(1, len(asked) // given.questions)
    questions = [question.text for question in asked[::step]][: given.questions]
    with app() as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        report("page interactive", [opening(browser, url) for _ in range(given.openings)])
        report("question to cited answer", list(answers(browser, url, questions)))
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        browser.close()


if __name__ == "__main__":
    main()
