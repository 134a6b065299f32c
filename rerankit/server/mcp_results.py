"""What the MCP tools take and give: typed, so that every agent is told the schema. Descriptions are for agents."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AskResult", "Candidate", "Citation", "Collection", "Collections", "CompareResult", "Found", "GivenPassage",
    "Models", "Move", "NamedReranker", "Order", "Overlap", "Ranked", "RerankResult", "SearchResult",
]  # fmt: skip


class GivenPassage(BaseModel):
    """A passage to rank."""

    model_config = ConfigDict(extra="forbid")

    text: str
    title: str = ""
    id: Annotated[str, Field(description="Your name for it; default its position from 0.")] = ""


class Ranked(BaseModel):
    """One passage in its new place."""

    rank: int = Field(description="From 1, best first.")
    index: int = Field(description="Position in the list that was given, from 0.")
    id: str
    score: float | None = Field(description="On the scale that the result names; null if it was not judged.")
    probability: float | None = Field(description="Calibrated probability of relevance, where there is one.")
    status: str = Field(description="scored, cached or unscored.")


class Judged(BaseModel):
    """How an order came to be."""

    reranker: str = Field(description="The name under which it was asked for.")
    model: str
    scale: str = Field(description="What a score means; only 'probability' compares between rerankers.")
    status: str = Field(description="scored; partial (time ran out); fallback (it failed: the order was kept).")
    reason: str = Field(description="Why the status is not 'scored', and what else is doubtful.")
    seconds: float


class RerankResult(Judged):
    """The passages, best first."""

    hits: list[Ranked]


class Found(BaseModel):
    """A passage of a collection."""

    rank: int = Field(description="From 1, best first.")
    id: str
    title: str
    text: str
    is_cut: bool = Field(description="Whether the text was shortened.")
    metadata: dict[str, Any]
    score: float | None
    probability: float | None
    status: str
    found_rank: int = Field(description="Its place before reranking, from 1.")
    found_score: float | None = Field(description="Similarity in the vector store.")


class SearchResult(Judged):
    """What a collection holds on a question, best first."""

    collection: str
    candidates: int = Field(description="How many passages were found and reranked.")
    hits: list[Found]


class Citation(BaseModel):
    """Where a statement of the answer comes from."""

    number: int = Field(description="The [number] in the answer.")
    passage_id: str
    title: str
    quote: str = Field(description="The supporting sentence, word for word.")
    start: int = Field(description="First character of the quote in the passage.")
    end: int
    metadata: dict[str, Any]


class AskResult(BaseModel):
    """An answer with its sources, or the admission that the documents do not hold it."""

    answer: str
    abstained: bool = Field(description="True: the documents do not answer this; do not present the text as an answer.")
    reason: str = Field(description="Why it abstained, or what is doubtful.")
    confidence: float | None = Field(description="Probability that the sources support the answer, where there is one.")
    citations: list[Citation]
    collection: str
    reranker: str
    generator: str
    seconds: dict[str, float] = Field(description="By stage: retrieve, rerank, pack, generate.")


class Candidate(BaseModel):
    """A passage that rerankers were compared on."""

    index: int
    id: str
    title: str
    text: str


class Move(BaseModel):
    """A passage that a reranker moved into its top."""

    index: int
    from_rank: int = Field(description="Place in the list as it was found or given, from 1.")
    to_rank: int


class Order(Judged):
    """One reranker's top."""

    top: list[int] = Field(description="Indices of candidates, best first.")
    moves: list[Move] = Field(description="Those of the top whose place is new.")


class Overlap(BaseModel):
    """How alike two rerankers are on this question."""

    first: str
    second: str
    shared: int = Field(description="Passages that both have in their top.")
    kendall_tau: float | None = Field(description="Rank correlation over all candidates: 1 same, -1 reversed.")


class CompareResult(BaseModel):
    """Orders, overlaps, movements and latency of several rerankers on one question."""

    candidates: int = Field(description="How many passages each reranker ordered.")
    top_k: int
    orders: list[Order]
    overlaps: list[Overlap]
    passages: list[Candidate] = Field(description="Those that are in any top.")


class Collection(BaseModel):
    """What a collection holds."""

    name: str
    count: int
    embedder: str = Field(description="Model of the vectors, if it is recorded.")
    dimension: int | None
    space: str
    sample_ids: list[str]


class Collections(BaseModel):
    """The collections that can be searched."""

    collections: list[Collection]


class NamedReranker(BaseModel):
    """A reranker that tools may be asked to use."""

    name: str
    stages: list[str] = Field(description="Families, in the order in which they work.")
    is_default: bool
    is_loaded: bool


class Models(BaseModel):
    """The models behind the tools."""

    rerankers: list[NamedReranker]
    generator: str | None
