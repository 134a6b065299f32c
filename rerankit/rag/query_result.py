"""Reordering what ``collection.query`` returned: Chroma's nested shape in, the same shape out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from rerankit.errors import InputError
from rerankit.rag.collection import UNKNOWN
from rerankit.rag.records import from_record
from rerankit.spec import load
from rerankit.types import Passage, Ranking

if TYPE_CHECKING:
    from chromadb.api.types import QueryResult

    from rerankit.rerankers.base import Reranker

__all__ = ["rerank_query_result"]

_PARALLEL = ("ids", "documents", "metadatas", "distances", "embeddings", "uris", "data")


def rerank_query_result(
    result: QueryResult | Mapping[str, Any],
    reranker: Reranker | str,
    query_texts: Sequence[str],
    *,
    top_k: int | None = None,
    embedding_model: str = UNKNOWN,
) -> QueryResult:
    """A query result of Chroma in the reranker's order; nothing else about it changes.

    All parallel lists move together, the keys stay, and one is added: ``rerank_scores``, a list of scores per query
    (None where the reranker gave none). A record without a document goes to the end. The argument is not changed.

    Args:
        result: what ``collection.query`` returned; ``documents`` must be among its ``include``.
        reranker: or its spec; all queries go to it in one ``rank_many`` call.
        query_texts: the text of each query, in the order of the result's lists.
        top_k: keep this many per query.
        embedding_model: id of the embedder of the collection, if embeddings are included and shall be used.

    Raises:
        InputError: ``result`` is not a query result, has no documents, or not as many queries as there are texts.
        SpecError: the spec is wrong.
    """
    _check_shape(result)
    if isinstance(query_texts, str) or len(query_texts) != len(result["ids"]):
        texts = "one string" if isinstance(query_texts, str) else f"{len(query_texts)} query texts"
        raise InputError(
            f"The result has {len(result['ids'])} queries, but got {texts}; pass a list with one text each"
        )
    reranker = load(reranker)
    candidates = [_candidates(result, row, embedding_model) for row in range(len(query_texts))]
    asked = [row for row, passages in enumerate(candidates) if passages]
    rankings = reranker.rank_many([(query_texts[row], candidates[row]) for row in asked], top_k=top_k)
    return _permuted(result, dict(zip(asked, rankings, strict=True)))


def _check_shape(result: object) -> None:
    """Chroma's shape: each key holds one list per query, and the lists of a query are equally long."""
    if not isinstance(result, Mapping) or not _is_list(ids := result.get("ids")) or not all(map(_is_list, ids)):
        raise InputError(
            "That is no query result: it needs 'ids' with one list per query, as collection.query returns them "
            "(collection.get returns flat lists)"
        )
    documents = result.get("documents")
    if documents is None or (_is_list(documents) and any(row is None for row in documents)):
        raise InputError("The result has no documents to rerank; add 'documents' to the include of the query")
    lengths = [len(row) for row in ids]
    for key in _PARALLEL:
        if (column := result.get(key)) is not None and not _fits(column, lengths):
            raise InputError(f"That is no query result of Chroma: its {key!r} do not fit its 'ids' in length")


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple, np.ndarray))


def _fits(column: Any, lengths: Sequence[int]) -> bool:
    if not _is_list(column) or len(column) != len(lengths):
        return False
    rows = zip(column, lengths, strict=True)
    return all(row is None or (_is_list(row) and len(row) == length) for row, length in rows)


def _candidates(result: Mapping[str, Any], row: int, embedding_model: str) -> list[Passage]:
    ids, documents = result["ids"][row], result["documents"][row]
    metadatas, distances, embeddings = (
        _row(result, key, row, len(ids)) for key in ("metadatas", "distances", "embeddings")
    )
    passages = []
    for key, document, metadata, distance, vector in zip(ids, documents, metadatas, distances, embeddings, strict=True):
        passage = from_record(key, document, metadata)
        passages.append(
            passage.replace(
                score=None if distance is None else -float(distance),  # the space is not in the result; the order is
                embedding=None if vector is None else np.asarray(vector, dtype=np.float32),
                embedding_model="" if vector is None else embedding_model,
            )
        )
    return passages


def _row(result: Mapping[str, Any], key: str, row: int, length: int) -> Sequence[Any]:
    """One query's column, or as many None."""
    column = result.get(key)
    values: Sequence[Any] = [None] * length if column is None or column[row] is None else column[row]
    return values


def _permuted(result: Mapping[str, Any], rankings: Mapping[int, Ranking]) -> QueryResult:
    orders = [[hit.prior_rank - 1 for hit in rankings.get(row, ())] for row in range(len(result["ids"]))]
    changed: dict[str, Any] = dict(result)
    for key in _PARALLEL:
        if result.get(key) is not None:
            changed[key] = [_taken(values, order) for values, order in zip(result[key], orders, strict=True)]
    changed["rerank_scores"] = [[hit.score for hit in rankings.get(row, ())] for row in range(len(orders))]
    return cast("QueryResult", changed)  # the same keys, and one more


def _taken(values: Any, order: Sequence[int]) -> Any:
    if values is None:
        return None
    return values[list(order)] if isinstance(values, np.ndarray) else [values[at] for at in order]
