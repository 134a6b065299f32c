"""How long a visitor of `rerankit demo` waits, in Chromium, and whether visitors who come at once stay apart.

    python benchmarks/demo.py

Prints seconds: until the page is interactive (the question box takes text and the button can be pressed; each time in a
new browser context, nothing cached), and from pressing *Ask* to the first meaningful answer: a whole one with its
sources, or a plain no, for all questions of the sample corpus, asked one after the other. The models are warm, as the
app warms them before it opens its door; passages that no question has met yet are still encoded when one does. The bar
for the medians: 3 s each. App and browser share the machine.

Then 20 users at once, each a program of its own: everyone adds a document that holds a secret and asks for it. Prints
how many saw a file or a secret of another user, or not their own. The bar: none.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gradio_client
from playwright.sync_api import Browser, sync_playwright

from rerankit.demo.settings import EXTRACTIVE
from rerankit.samples import farm

BAR = 3.0
PATIENCE = 300
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
        page.locator("#ask-answer :is(.rk-answer:not([aria-busy]), .rk-error)").wait_for(timeout=PATIENCE * 1000)
        seconds = time.perf_counter() - started
        if page.locator("#ask-answer .rk-error").count():
            raise SystemExit(f"{question!r}: {page.locator('#ask-answer').inner_text()}")
        yield seconds


def user(url: str, number: int, folder: Path) -> tuple[bool, float]:
    """Whether one of many users saw all of their own and nothing of others, and how long they waited."""
    own = f"secret{number:03}"
    file = folder / f"paddock-{number}.txt"
    file.write_text(f"The gate code of paddock {number} is {own}. Close the gate behind you.")
    client = gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    started = time.perf_counter()
    listing, *_ = client.predict([gradio_client.handle_file(str(file))], api_name="/add")
    question = f"What is the gate code of paddock {number}?"
    shown = client.predict(question, "default", 10, 3, [], EXTRACTIVE, api_name="/ask_documents")
    seconds = time.perf_counter() - started
    client.close()
    files, secrets = set(re.findall(r"paddock-\d+\.txt", listing)), set(re.findall(r"secret\d{3}", "".join(shown)))
    return files == {file.name} and secrets == {own}, seconds


def crowd(url: str, users: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(users) as pool:
        seen = list(pool.map(lambda number: user(url, number, Path(folder)), range(users)))
    mixed, seconds = sum(not right for right, _ in seen), [waited for _, waited in seen]
    waits = f"p50 {statistics.median(seconds):.2f} s   worst {max(seconds):.2f} s"
    print(f"{f'{users} users at once':30} {waits}   mixed up: {mixed}   0 {'does not hold' if mixed else 'holds'}")


def report(what: str, seconds: list[float]) -> None:
    middle = statistics.median(seconds)
    verdict = "holds" if middle <= BAR else "does not hold"
    print(f"{what:30} p50 {middle:.2f} s   worst {max(seconds):.2f} s   n = {len(seconds)}   {BAR:g} s {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, help="only so many, evenly spread; default: all")
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--users", type=int, default=20)
    given = parser.parse_args()
    asked = [question.text for question in farm.questions()]
    count = min(given.questions or len(asked), len(asked))
    questions = [asked[number * len(asked) // count] for number in range(count)]
    with app() as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        report("page interactive", [opening(browser, url) for _ in range(given.openings)])
        report("question to answer", list(answers(browser, url, questions)))
        browser.close()
        crowd(url, given.users)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
