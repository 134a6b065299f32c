"""What must be known about a model beyond its files: prompts, pooling, read-out, pair frame, length. Data, no code.

A checkpoint's own files win where they speak (``modules.json``, ``config_sentence_transformers.json``, ...); this
table fills what they leave out. Sources: the model cards on the Hugging Face hub.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Literal

Pooling = Literal["mean", "cls", "last"]
ReadOut = Literal["single", "difference", "second"]
Activation = Literal["identity", "sigmoid"]


@dataclass(frozen=True, slots=True)
class PairFrame:
    """Text around query and passage where the tokenizer's own pair layout is not what the model was trained on.

    Parsed with special tokens on, unlike query and passage.
    """

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Facts:
    """One row.

    Attributes:
        pattern: shell pattern for the lower-case model name; the last path component of a local folder counts too.
        pooling: token vectors to text vector, for embedding models.
        query_prompt, passage_prompt: put before the text, for embedding models and pairs alike.
        read_out: classifier outputs to score. ``single``: the one logit; ``difference``: logit of label 1 minus that
            of label 0 (the log odds); ``second``: logit of label 1.
        activation: what makes the score the model's own idea of a probability.
        frame: replaces the tokenizer's pair layout.
        max_tokens: where the files promise more than the model can do.
    """

    pattern: str
    pooling: Pooling | None = None
    query_prompt: str = ""
    passage_prompt: str = ""
    read_out: ReadOut | None = None
    activation: Activation | None = None
    frame: PairFrame | None = None
    max_tokens: int | None = None


_BGE = "Represent this sentence for searching relevant passages: "
_QWEN3 = PairFrame(
    prefix=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a '
        "web search query, retrieve relevant passages that answer the query\n<Query>:"
    ),
    middle="\n<Document>:",
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)

CATALOG: tuple[Facts, ...] = (
    # Embedding models
    Facts(
        "*multilingual-e5-*-instruct",
        pooling="mean",
        query_prompt="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    ),
    Facts("*e5-mistral-*", pooling="last"),
    Facts("*e5-*", pooling="mean", query_prompt="query: ", passage_prompt="passage: "),
    Facts("*bge-m3*", pooling="cls"),
    Facts("*bge-reranker-*", read_out="single", max_tokens=512),
    Facts("*bge-*-en*", pooling="cls", query_prompt=_BGE),
    Facts("*bge-*-zh*", pooling="cls", query_prompt="为这个句子生成表示以用于检索相关文章\uff1a"),
    Facts("*mxbai-embed-*", pooling="cls", query_prompt=_BGE),
    Facts("*snowflake-arctic-embed*v2*", pooling="cls", query_prompt="query: "),
    Facts("*snowflake-arctic-embed*", pooling="cls", query_prompt=_BGE),
    Facts("*nomic-embed-text-*", pooling="mean", query_prompt="search_query: ", passage_prompt="search_document: "),
    Facts("*gte-modernbert-base*", pooling="cls"),
    Facts(
        "*qwen3-embedding-*",
        pooling="last",
        query_prompt="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    ),
    # Cross-encoders
    Facts("*ms-marco-*", read_out="single", activation="identity", max_tokens=512),
    Facts("*mxbai-rerank-*-v1", read_out="single", activation="sigmoid", max_tokens=512),
    Facts("*monoelectra*", read_out="second", activation="identity", max_tokens=512),
    Facts("*monobert*", read_out="difference", max_tokens=512),
    Facts("*qwen3-reranker-*-seq-cls*", read_out="single", frame=_QWEN3, query_prompt=" ", passage_prompt=" "),
    Facts("*rankllama*", read_out="single", query_prompt="query: ", passage_prompt="document: "),
)


def facts(name: str) -> Facts:
    """The first row whose pattern matches ``name``; an empty row if none does."""
    lowered = name.lower()
    return next((row for row in CATALOG if fnmatch.fnmatchcase(lowered, row.pattern)), Facts(name))
