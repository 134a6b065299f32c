"""One app, one browser, and for each test a page that may reach nothing but the app."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chat_server import ChatServer, fail
from demo_server import PATIENCE, served, write_dataset
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=PATIENCE * 1000)


def pytest_collection_modifyitems(items):
    """Time for several waits that all take long."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(5 * PATIENCE))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with one finished comparison."""
    from rerankit.demo.datasets import SAMPLE, Datasets
    from rerankit.demo.experiments import small_report
    from rerankit.demo.settings import Settings

    settings = Settings()
    page = small_report(settings, Datasets(settings), SAMPLE, ["lexical", "none (as retrieved)"], 4)
    folder = tmp_path_factory.mktemp("runs")
    (folder / "lexical").mkdir()
    (folder / "lexical" / "report.html").write_text(page)
    (folder / "lexical" / "experiment.json").write_text("{}")
    return folder


class HeldWriter(ChatServer):
    """A chat model that says nothing until it is released, and then fails.

    Attributes:
        released: lets those who wait go.
    """

    def __init__(self):
        super().__init__()
        self.released = threading.Event()
        self.script = [self._refuse]

    def _refuse(self, handler):
        self.released.wait(PATIENCE)
        fail(400)(handler)


@pytest.fixture(scope="session")
def held_writer():
    with HeldWriter() as server:
        yield server


@pytest.fixture(scope="session")
def app(tmp_path_factory, runs, held_writer):
    data = tmp_path_factory.mktemp("data")
    paddocks = write_dataset(data / "paddocks")
    (paddocks / "README.md").write_text("# Paddocks\n\n**License:** MIT <img src=x onerror='window.pwned = 1'>\n")
    write_dataset(data / "unjudged", judged=False)
    options = ["--runs", str(runs), "--llm", "http://127.0.0.1:9/v1#absent", "--llm", f"{held_writer.url}#held"]
    options += ["--data", str(paddocks), "--data", str(data / "unjudged")]
    with served(tmp_path_factory.mktemp("app"), options) as running:
        yield running
        assert running.outside() == ""


@pytest.fixture(scope="session")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium in the PATH: make chromium")
    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = play.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens pages; afterwards none of them has asked anybody but its own server for anything, or run into an error."""
    contexts, outside, broken = [], [], []

    def opened(url: str, ready: str, **options):
        host = urlsplit(url).netloc

        def watch(request):
            address = urlsplit(request.url)
            if address.scheme not in ("data", "blob", "about") and address.netloc != host:
                outside.append(request.url)

        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("request", watch)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(url)
        page.locator(ready).wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert outside == []
    assert broken == []


@pytest.fixture
def new_page(visit, app):
    """Opens pages of the app."""

    def opened(query: str = "", **options):
        return visit(app.url + query, "#ask-question textarea", **options)

    return opened


@pytest.fixture
def page(new_page):
    return new_page(viewport={"width": 1200, "height": 900})
