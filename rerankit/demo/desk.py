"""Behind all tabs: the corpus, the rerankers and the writers, loaded once and shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rerankit.demo.choice import Choice, facets
from rerankit.demo.settings import EXTRACTIVE, Settings
from rerankit.errors import InputError, require
from rerankit.rag.events import Event
from rerankit.rag.pipeline import RagPipeline
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.spec import load

if TYPE_CHECKING:
    from rerankit.rag.answer import Generator
    from rerankit.rag.chroma import ChromaRetriever
    from rerankit.rerankers.base import Reranker

__all__ = ["Desk", "sample_store"]

_TYPED = 16
"""Rerankers from typed specs that are kept; they share the embedded models, so each is small."""


class Desk:
    """Answers questions.

    Args:
        settings: of the app.

    Raises:
        StoreError: the store cannot be used.
        RerankitError: a writer's address is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        require("chromadb", extra="chroma", purpose="The demo")
        from rerankit.rag.extractive import ExtractiveGenerator

        self.settings = settings
        self._lock = threading.RLock()
        self._named: dict[str, Reranker] = {}
        self._typed: OrderedDict[str, Reranker] = OrderedDict()
        self._writers: dict[str, Generator] = {EXTRACTIVE: ExtractiveGenerator()}
        if settings.writers:
            from rerankit.rag.generative import ChatGenerator

            self._writers |= {name: ChatGenerator(spec) for name, spec in settings.writers.items()}
        self.corpus = _corpus(settings)
        self.filters = facets(passage.metadata for passage in self.corpus.passages())

    @property
    def writers(self) -> list[str]:
        """Names of the writers."""
        return list(self._writers)

    def reranker(self, choice: str) -> Reranker:
        """The reranker of that name or spec; the first time it may take as long as loading a model does.

        Raises:
            RerankitError: it cannot be loaded.
        """
        with self._lock:
            if choice in self.settings.rerankers:
                if choice not in self._named:
                    self._named[choice] = load(self.settings.rerankers[choice])
                return self._named[choice]
            if choice not in self._typed:
                self._typed[choice] = load(choice)
            self._typed.move_to_end(choice)
            while len(self._typed) > _TYPED:
                self._typed.popitem(last=False)
            return self._typed[choice]

    def ask(self, question: str, choice: Choice, retriever: ChromaRetriever | None = None) -> Iterator[Event]:
        """The stages of the answer, as they end.

        Raises:
            RerankitError: the question, a setting, or a stage is wrong; the message is for the visitor.
        """
        question = self.check_question(question)
        choice.check(self.settings)
        pipeline = RagPipeline(
            retriever or self.corpus,
            self.reranker(choice.reranker),
            self._writers[choice.writer],
            fetch_k=choice.depth,
            top_k=choice.top_k,
            on_generator_error="extractive",
        )
        yield from pipeline.stream(question, where=choice.where(), deadline_s=self.settings.limits.seconds)

    def check_question(self, question: object) -> str:
        """The question without control characters.

        Raises:
            InputError: it is empty or too long.
        """
        text = clean(question) if isinstance(question, str) else ""
        if is_blank(text):
            raise InputError("The question is empty. Type one, or pick an example.")
        if len(text) > self.settings.limits.question:
            raise InputError(f"The question has {len(text)} characters; {self.settings.limits.question} are allowed.")
        return text.strip()

    def warm_up(self) -> None:
        """Load the first reranker and the writer, so that the first visitor does not wait for them."""
        first = next(iter(self.settings.rerankers))
        for _ in self.ask("Is everything ready?", Choice(first)):
            pass

    def close(self) -> None:
        """Release the store."""
        self.corpus.close()


def _corpus(settings: Settings) -> ChromaRetriever:
    from rerankit.rag.chroma import ChromaRetriever

    if settings.store is not None:
        return ChromaRetriever(settings.store, collection=settings.collection)
    from rerankit.samples import farm

    retriever = sample_store()
    retriever.index(farm.passages(), prune=True)
    return retriever


def sample_store() -> ChromaRetriever:
    """Where the sample corpus is indexed, once for all apps of this user."""
    from rerankit.models.files import cache_folder
    from rerankit.rag.chroma import ChromaRetriever

    return ChromaRetriever(cache_folder("stores") / "demo")
