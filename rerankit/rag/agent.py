"""Assistant: understand, search, rerank, judge, try again or admit it, answer with checked citations, remember.

    assistant = Assistant(retriever, rerankit.load("default"), memory="memory.sqlite")
    turn = assistant.ask("How deep should I sow wheat?", user="ann")
    turn = assistant.ask("What about barley?", user="ann")
    assistant.feedback(turn.id, user="ann", helpful=True)

It works with the embedded models alone; a language model understands, decides and writes better.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from rerankit.checks import check_bool, check_whole, is_number
from rerankit.errors import InputError
from rerankit.models.chat import ChatLM
from rerankit.models.language import LanguageModel, language_model
from rerankit.models.protocols import Embedder
from rerankit.rag.agent_events import AgentEvent, Finished, Judged, Searched, Turn, Understood
from rerankit.rag.agent_prompts import AgentPrompts
from rerankit.rag.agent_run import Aspect, Run
from rerankit.rag.agent_words import joined, lacking, missing_words, options, other_words, question_back, refusal
from rerankit.rag.answer import Answer, Generator
from rerankit.rag.aspects import covering, split
from rerankit.rag.claims import FLOOR, check_claims, doubts, marked
from rerankit.rag.context import PackOptions, pack
from rerankit.rag.conversation import condense, dangling
from rerankit.rag.events import Delta, Packed, Reranked
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.rag.feedback_prior import FeedbackPrior
from rerankit.rag.generative import ChatGenerator
from rerankit.rag.memory import Memory
from rerankit.rag.pipeline import Retriever
from rerankit.rag.planner import Decision, Planner
from rerankit.rag.safe_text import defused, defused_stream
from rerankit.rerankers.base import Reranker
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.types import Usage

__all__ = ["Assistant"]

logger = logging.getLogger(__name__)

_LONGEST_NOTE = 500  # characters of the questions that are left out


class Assistant:
    """Answers questions from documents, in conversations, and says so when the documents do not hold the answer.

    Safe to share between threads and users; a conversation is named by ``user`` and ``conversation``.

    Args:
        retriever: finds candidates, e.g. a :class:`~rerankit.rag.chroma.ChromaRetriever`.
        reranker: orders them.
        generator: writes answers; default: a chat model given as ``llm``, else the best sentences, quoted.
        llm: a language model, or its spec (``http://host/v1#name``, or a local model), which makes follow-ups
            standalone, splits questions, and decides what to do when the search found too little. Where it fails,
            the rules that work without it take over.
        memory: conversations and feedback: a :class:`~rerankit.rag.memory.Memory`, a path, or None to forget all of
            it with this object.
        judge: says how probable it is that passages answer; its ``floor`` is the probability that suffices.
        embedder: understands follow-ups by the rules; default the embedded model.
        prompts: what the language model is told, and which tools it has.
        fetch_k: candidates per search.
        top_k: passages that an answer rests on at most.
        attempts: searches per aspect at most, the first one included.
        max_aspects: separate questions in one message that are searched for one by one, the others being named in
            ``Turn.notes``; 1 never splits.
        feedback_weight: how far thumbs move passages, see :class:`~rerankit.rag.feedback_prior.FeedbackPrior`; 0 is
            off.
        ask_back: whether to ask back when a question is too general, or a pronoun in it refers to nothing.
        claim_floor: lowest match of a generated sentence with its source, from 0 to 1.
        max_question: longest message, in characters.
        **packing: as for :class:`~rerankit.rag.pipeline.RagPipeline`.

    Raises:
        InputError: an option is out of range.
        SpecError: ``llm`` cannot be read.
        StoreError: the memory cannot be opened.
    """

    def __init__(
        self,
        retriever: Retriever,
        reranker: Reranker,
        generator: Generator | None = None,
        *,
        llm: LanguageModel | str | None = None,
        memory: Memory | str | Path | None = None,
        judge: ExtractiveGenerator | None = None,
        embedder: Embedder | None = None,
        prompts: AgentPrompts | None = None,
        fetch_k: int = 30,
        top_k: int = 5,
        attempts: int = 2,
        max_aspects: int = 3,
        feedback_weight: float = 0.1,
        ask_back: bool = True,
        claim_floor: float = FLOOR,
        max_question: int = 4000,
        **packing: Unpack[PackOptions],
    ) -> None:
        check_whole(
            1, fetch_k=fetch_k, top_k=top_k, attempts=attempts, max_aspects=max_aspects, max_question=max_question
        )
        check_bool(ask_back=ask_back)
        if not is_number(claim_floor) or not 0 <= claim_floor <= 1:
            raise InputError(f"claim_floor must be a number from 0 to 1, got {claim_floor!r:.80}")
        pack((), **packing)  # refuses wrong options now and not at the first question
        self.retriever, self.reranker = retriever, reranker
        model = None if llm is None else language_model(llm)
        self.judge = judge or ExtractiveGenerator()
        self.generator = generator or (ChatGenerator(model) if isinstance(model, ChatLM) else self.judge)
        self.memory = memory if isinstance(memory, Memory) else Memory(memory or ":memory:")
        self.prior = FeedbackPrior(self.memory, weight=feedback_weight)
        self.planner = None if model is None else Planner(model, prompts or AgentPrompts.bundled())
        self.fetch_k, self.top_k, self.attempts, self.max_aspects = fetch_k, top_k, attempts, max_aspects
        self.ask_back, self.claim_floor, self.max_question, self.packing = ask_back, claim_floor, max_question, packing
        self._embedder = embedder

    @property
    def embedder(self) -> Embedder:
        """Understands follow-ups."""
        if self._embedder is None:
            from rerankit.models.embedded import embedder

            self._embedder = embedder()
        return self._embedder

    def ask(
        self,
        question: str,
        *,
        user: str = "",
        conversation: str = "",
        where: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
    ) -> Turn:
        """Answer a message of a conversation.

        Args:
            question: the message.
            user: whose conversation; should be a pseudonym.
            conversation: which of theirs.
            where: a filter on metadata, in the retriever's language.
            deadline_s: seconds from now for all steps, which keep to it as well as they can.

        Raises:
            InputError: the message is empty or too long, or an argument makes no sense.
            RerankitError: retrieval, reranking or the memory failed. A failing language model raises nothing: rules
                and quoted sentences take its place, and ``Turn.notes`` says so.
        """
        *_, last = self.stream(question, user=user, conversation=conversation, where=where, deadline_s=deadline_s)
        assert isinstance(last, Finished)  # noqa: S101 (tells the type checker)
        return last.turn

    async def aask(self, question: str, **options: Any) -> Turn:
        """:meth:`ask` in a worker thread, for asynchronous programs."""
        return await asyncio.to_thread(self.ask, question, **options)

    def stream(
        self,
        question: str,
        *,
        user: str = "",
        conversation: str = "",
        where: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[AgentEvent]:
        """The steps of :meth:`ask` as they end, the words as they are written, and :class:`Finished` at the end.

        The final text replaces the pieces: sentences without support are marked in it. A stream that is left early
        leaves nothing in the memory.
        """
        text = self._checked(question)
        run = Run.start(text, user, conversation, where, deadline_s)
        run.history = self.memory.history(user, conversation)
        return self._steps(run)

    async def astream(self, question: str, **options: Any) -> AsyncIterator[AgentEvent]:
        """:meth:`stream` with its steps in worker threads, for asynchronous programs."""
        steps = self.stream(question, **options)
        while (event := await asyncio.to_thread(next, steps, None)) is not None:
            yield event

    def feedback(
        self,
        turn: int,
        *,
        user: str = "",
        helpful: bool | None = None,
        correction: str = "",
        passages: Sequence[str] = (),
    ) -> None:
        """What a user thinks of a turn; see :meth:`~rerankit.rag.memory.Memory.vote`.

        Raises:
            InputError: nothing is said, or this user has no such turn.
        """
        self.memory.vote(turn, user, helpful=helpful, correction=correction, passages=passages)

    def close(self) -> None:
        """Close the memory's file."""
        self.memory.close()

    def _checked(self, question: str) -> str:
        if isinstance(question, str) and len(question) > self.max_question:
            raise InputError(f"The question has {len(question):,} characters, at most {self.max_question:,} are read")
        if not isinstance(question, str) or is_blank(text := clean(question).strip()):
            raise InputError("The question is empty; ask something")
        return text

    def _steps(self, run: Run) -> Iterator[AgentEvent]:
        with run.timed("understand"):
            self._understand(run)
        yield Understood(run.question, run.standalone, tuple(aspect.text for aspect in run.aspects))
        yield from self._gather(run)
        run.ranking = covering(run.standalone, [aspect.ranking for aspect in run.aspects])
        run.context = pack(run.ranking.hits, limit=self.top_k, **self.packing)
        yield Packed(run.context)
        yield from self._respond(run)
        yield Finished(self._remembered(run))

    def _understand(self, run: Run) -> None:
        """Rules first where there is no model; a model that fails is noted and replaced by them."""
        if self.planner is not None:
            with run.tolerating("understanding the message by rules"):
                run.standalone, texts = self.planner.understand(run.question, run.history, self.max_aspects, run.work())
                run.aspects = [Aspect(text) for text in texts]
                return
        run.standalone = condense(run.question, run.history, self.embedder)
        texts = split(run.standalone) if self.max_aspects > 1 else [run.standalone]
        run.aspects = [Aspect(text) for text in texts[: self.max_aspects]]
        if left := textwrap.shorten(" ".join(texts[self.max_aspects :]), _LONGEST_NOTE, placeholder=" ..."):
            run.notes.append(f"{self.max_aspects} of {len(texts)} questions were looked up. Ask again: {left}")

    def _gather(self, run: Run) -> Iterator[AgentEvent]:
        """Search for every aspect, and again in other words for those that are not answered, within the budget."""
        for attempt in range(1, self.attempts + 1):
            for aspect in run.aspects:
                if attempt == 1 or self._again(run, aspect):
                    with run.timed("search"):
                        found = self._search(run, aspect)
                    yield Searched(aspect.queries[-1], attempt, found)
                    yield Reranked(aspect.ranking)
                    yield Judged(aspect.text, aspect.probability, aspect.sufficient)

    def _again(self, run: Run, aspect: Aspect) -> bool:
        """Whether to search once more for an aspect; its next query is then set."""
        if aspect.sufficient or aspect.decision.tool != "search" or run.expired:
            return False
        aspect.decision = Decision("search", other_words(aspect, self.judge.vocabulary))
        if self.planner is not None:
            with run.tolerating("deciding by rules"):
                found = [block.text[:300] for block in aspect.context.blocks]
                aspect.decision = self.planner.decide(aspect.text, aspect.queries, found, run.work())
        return aspect.decision.tool == "search" and bool(aspect.decision.text) and not aspect.asked_already

    def _search(self, run: Run, aspect: Aspect) -> int:
        """Candidates for the aspect's next query beside those that are there, all reranked and judged anew."""
        query = aspect.next_query()
        found = aspect.add(self.retriever.retrieve(query, k=self.fetch_k, where=run.where))
        if found or not aspect.judged:
            count = max(1, len(aspect.candidates))  # all, also from a reranker that is sliced to fewer
            ranking = self.reranker.rank(aspect.text, [*aspect.candidates], top_k=count, deadline_s=run.remaining())
            aspect.ranking = self.prior.apply(ranking)
            aspect.context = pack(aspect.ranking.hits, limit=self.top_k, **self.packing)
            aspect.judged = self.judge.generate(aspect.text, aspect.context)
            run.usage += ranking.usage + aspect.judged.usage
        return found

    def _respond(self, run: Run) -> Iterator[Delta]:
        with run.timed("answer"):
            if asked := self._unclear(run):
                run.kind, run.answer = "question", Answer(asked, model=self.judge.model)
            elif not any(aspect.sufficient for aspect in run.aspects):
                run.kind = "abstention"
                run.missing = missing_words(run.standalone, run.context)
                run.answer = refusal(run.aspects, run.missing)
            else:
                yield from self._write(run)
                return
            run.answer = dataclasses.replace(run.answer, text=defused(run.answer.text))
            yield Delta(run.answer.text)

    def _unclear(self, run: Run) -> str:
        """The question to ask back, or nothing. Never twice in a row."""
        if not self.ask_back or (run.history and run.history[-1].kind == "question"):
            return ""
        asked = [aspect.decision.text for aspect in run.aspects if aspect.decision.tool == "ask_back"]
        if asked and not any(aspect.sufficient for aspect in run.aspects):
            return asked[0]
        if self.planner is None and not run.history and (pronoun := dangling(run.question)):
            return f'What does "{pronoun}" mean here?'
        return question_back(options(run.standalone, run.context))

    def _write(self, run: Run) -> Iterator[Delta]:
        if self.generator is self.judge:
            self._quote(run)
            yield Delta(run.answer.text)
            return
        try:
            yield from map(Delta, defused_stream(self._pieces(run)))
        except Exception as error:  # generators are anybody's, and the quoted sentences need none
            run.note("quoting the best sentences", error)
            self._quote(run)
            return
        run.usage += run.answer.usage
        text = defused(run.answer.text)
        if run.answer.abstained:
            run.kind, run.missing = "abstention", missing_words(run.standalone, run.context)
            run.answer = dataclasses.replace(run.answer, text=f"{text} {lacking(run.missing)}".strip())
            return
        run.claims = check_claims(text, run.context, self.judge.embedder, floor=self.claim_floor)
        run.answer = dataclasses.replace(
            run.answer,
            text=marked(text, run.claims),
            reason=". ".join(filter(None, (run.answer.reason, doubts(run.claims)))),
            confidence=max(aspect.probability for aspect in run.aspects),
        )

    def _quote(self, run: Run) -> None:
        answer = joined(run.aspects, run.context, self.judge)
        run.usage += answer.usage if len(run.aspects) > 1 else Usage()  # else it was judged, and counted, before
        run.kind = "abstention" if answer.abstained else "answer"
        run.answer = dataclasses.replace(answer, text=defused(answer.text))

    def _pieces(self, run: Run) -> Iterator[str]:
        for item in self.generator.stream(run.standalone, run.context, deadline_s=run.remaining()):
            if isinstance(item, Answer):
                run.answer = item
            else:
                yield item

    def _remembered(self, run: Run) -> Turn:
        cited = [citation.passage_id for citation in run.answer.citations]
        titles = {block.passage.id: block.passage.title for block in run.context.blocks}
        number = self.memory.add(
            run.user,
            run.conversation,
            run.question,
            run.standalone,
            run.kind,
            run.answer.text,
            topic=clean(titles.get(cited[0], "")) if cited and run.kind == "answer" else "",
            shown=list(titles),
            cited=cited if run.kind == "answer" else (),
        )
        return run.turn(number)
