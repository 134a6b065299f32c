"""The rerank wire formats: Cohere v1 and v2, Jina, Voyage, vLLM, Infinity, and TEI, all at once.

One request model reads them all. A body with ``texts`` and without ``model`` is TEI's and gets TEI's bare list; any
other gets one object that holds what each of the other clients looks for.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rerankit.errors import InputError
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.server.problems import Problem
from rerankit.server.scores import raw_scores, relevance
from rerankit.server.settings import Limits
from rerankit.types import Passage, Ranking

__all__ = ["RerankReply", "RerankRequest", "TeiHit", "as_object", "as_tei", "passages_of"]


class RerankRequest(BaseModel):
    """A query and the documents to order; fields that a dialect has beyond these are accepted and not used."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: str = Field(description="What to rank by; not empty.", examples=["How deep is maize sown?"])
    documents: list[str | dict[str, Any]] | None = Field(
        None,
        fail_fast=True,
        description="Texts, or objects with a `text` and possibly a `title`.",
        examples=[["Maize is sown 5 cm deep.", "Sheep are shorn in spring."]],
    )
    texts: list[str] | None = Field(None, fail_fast=True, description="TEI's name for the documents.")
    model: str | None = Field(None, description="One of `/v1/models`; by default the first.")
    top_n: int | None = Field(None, ge=0, description="How many results; 0 or null for all.")
    top_k: int | None = Field(None, ge=0, description="Voyage's name for `top_n`.")
    return_documents: bool | None = Field(None, description="Put each document into its result.")
    return_text: bool | None = Field(None, description="TEI's name for `return_documents`.")
    raw_scores: bool | None = Field(None, description="The reranker's own scores in place of those in [0, 1].")
    rank_fields: list[str] | None = Field(
        None, fail_fast=True, max_length=100, description="Cohere v1: which fields of a document count, each once."
    )
    deadline_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Seconds for this request; what is not scored by then comes last."
    )

    @property
    def is_tei(self) -> bool:
        """Whether the answer is TEI's bare list."""
        return self.texts is not None and self.model is None

    @property
    def given(self) -> list[str | dict[str, Any]]:
        """The documents, whatever they are called.

        Raises:
            Problem: they are there twice, or not at all.
        """
        if (self.documents is None) == (self.texts is None):
            raise Problem(422, "Give the documents as 'documents', or as 'texts' to speak TEI's dialect")
        return self.documents if self.documents is not None else list(self.texts or ())


class Document(BaseModel):
    """A document in a result."""

    model_config = ConfigDict(extra="allow")

    text: str


class Result(BaseModel):
    """One document in its new place."""

    index: int = Field(description="Position in the request, from 0.")
    relevance_score: float
    document: Document | None = None
    status: Literal["unscored"] | None = Field(None, description="There if no model scored this document.")


class Tokens(BaseModel):
    """What was read, as Jina, Voyage and OpenAI count it."""

    prompt_tokens: int
    total_tokens: int


class RerankReply(BaseModel):
    """What all dialects but TEI get."""

    id: str
    object: Literal["rerank"]
    model: str
    results: list[Result] = Field(description="Best first.")
    data: list[Result] = Field(description="Voyage's name for the results.")
    usage: Tokens
    meta: dict[str, Any]
    status: Literal["scored", "partial", "fallback"] = Field(description="`partial`: time ran out for some documents.")
    reason: str = Field(description="Why the status is not `scored`.")
    scale: str = Field(description="What the reranker's own scores mean.")


class TeiHit(BaseModel):
    """One text in its new place."""

    index: int
    score: float
    text: str | None = None


def passages_of(body: RerankRequest, limits: Limits) -> list[Passage]:
    """The documents as passages, in their order; ids are their positions.

    Raises:
        InputError: the query is empty, a document has no text, or there is more than one request may hold.
    """
    if is_blank(clean(body.query)):
        raise InputError("The query is empty: there is nothing to rank by")
    given = body.given
    if len(given) > limits.passages:
        raise Problem(413, f"{len(given)} documents in one request; {limits.passages} are allowed")
    fields = list(dict.fromkeys(body.rank_fields or ()))
    pieces = [_pieces(position, document, fields) for position, document in enumerate(given)]
    characters = len(body.query) + sum(len(piece) for texts, title in pieces for piece in (*texts, title))
    if characters > limits.characters:  # before they are joined
        raise Problem(413, f"{characters} characters in one request; {limits.characters} are allowed")
    return [Passage(str(position), "\n".join(texts), title) for position, (texts, title) in enumerate(pieces)]


def _pieces(position: int, document: str | dict[str, Any], fields: list[str]) -> tuple[list[str], str]:
    """The lines of a document's text, and its title."""
    if isinstance(document, str):
        return [document], ""
    if fields:
        known = [(name, document[name]) for name in fields if isinstance(document.get(name), (str, int, float))]
        return [f"{name}: {value}" for name, value in known], ""
    text, title = document.get("text"), document.get("title", "")
    if not isinstance(text, str):
        raise InputError(f"documents.{position}: an object must have its text as a string under 'text'")
    return [text], title if isinstance(title, str) else ""


def _view(body: RerankRequest, count: int) -> int:
    return body.top_n or body.top_k or count


def as_tei(body: RerankRequest, ranking: Ranking) -> list[dict[str, Any]]:
    """TEI's answer: a list, best first."""
    scores = raw_scores(ranking) if body.raw_scores else relevance(ranking)
    hits = [
        {"index": hit.prior_rank - 1, "score": score} | ({"text": hit.text} if body.return_text else {})
        for hit, score in zip(ranking, scores, strict=True)
    ]
    return hits[: _view(body, len(hits))]


def as_object(body: RerankRequest, ranking: Ranking, *, name: str, request_id: str) -> dict[str, Any]:
    """Everybody else's answer."""
    given, usage = body.given, ranking.usage
    scores = raw_scores(ranking) if body.raw_scores else relevance(ranking)
    results: list[dict[str, Any]] = []
    for hit, score in zip(ranking[: _view(body, len(given))], scores, strict=False):
        result: dict[str, Any] = {"index": hit.prior_rank - 1, "relevance_score": score}
        if body.return_documents or body.return_text:
            result["document"] = _document(given[hit.prior_rank - 1], hit.text)
        if hit.status == "unscored":
            result["status"] = "unscored"
        results.append(result)
    return {
        "id": request_id,
        "object": "rerank",
        "model": name,
        "results": results,
        "data": results,
        "usage": {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens + usage.output_tokens},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
        },
        "status": ranking.status,
        "reason": "" if ranking.status == "scored" else _reason(ranking),
        "scale": ranking.scale,
    }


def _document(given: str | dict[str, Any], text: str) -> dict[str, Any]:
    """As it was given; with a ``text`` in any case."""
    if isinstance(given, str):
        return {"text": text}
    return given if isinstance(given.get("text"), str) else {**given, "text": text}


def _reason(ranking: Ranking) -> str:
    """Of a failed model only that it failed: the rest is the server's own affair."""
    if ranking.status == "fallback":
        return "the model failed; the input order was kept"
    if any(stage.status == "fallback" for stage in ranking.stages):
        return "a part of the model failed"
    return "time ran out before every document was scored"
