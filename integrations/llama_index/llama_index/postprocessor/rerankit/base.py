"""Every rerankit reranker as a node postprocessor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from rerankit import InputError, Passage, Ranking, Reranker
from rerankit.adapters import (
    METADATA_KEY,
    HeldReranker,
    finite_or_none,
    hit_record,
    public_options,
    public_spec,
    with_record,
)

__all__ = ["RerankitRerank"]

dispatcher = get_dispatcher(__name__)


class RerankitRerank(BaseNodePostprocessor):
    """Orders retrieved nodes with any rerankit reranker, on this machine unless the spec says otherwise.

        >>> rerank = RerankitRerank("default", top_n=5)
        >>> engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[rerank])  # doctest: +SKIP

    The nodes that come back are copies: the caller's are never written to. ``score`` of a result is the reranker's,
    None where it gave none; ``node.metadata["rerankit"]`` holds both scores, both ranks, the scale, the calibrated
    probability and the evidence, and is kept out of the text that embedders and language models see. Lists and
    dictionaries of the metadata are copied with the node, other values are shared.

    A deep copy, or an unpickled one, loads the model again when it is first used.

    Attributes:
        reranker: the spec; None if a built reranker was given, which cannot be serialised.
        top_n: how many nodes to return; None leaves it to the reranker, which returns all unless it is sliced.
        options: options of :func:`rerankit.load`. Secrets among them are never serialised.
        deadline_s: seconds per call; nodes that are not scored by then come last, marked ``unscored``.
        metadata_mode: which metadata the reranker sees before the text.

    Raises:
        RerankitError: the spec or an option is wrong, or the model cannot be loaded.
    """

    model_config = ConfigDict(extra="forbid")

    reranker: str | None = Field(default="default", description="The rerankit spec.")
    top_n: int | None = Field(default=None, ge=1, description="How many nodes to return.")
    options: dict[str, Any] = Field(default_factory=dict, repr=False, description="Options of load.")
    deadline_s: float | None = Field(default=None, gt=0, description="Seconds per call.")
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="Metadata that the reranker sees.")
    _held: HeldReranker = PrivateAttr()

    def __init__(
        self,
        reranker: str | Reranker | None = "default",
        top_n: int | None = None,
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        if reranker is None:
            raise InputError(
                "This postprocessor was made from a built reranker, which is not serialised; pass it again"
            )
        fields.update(reranker=reranker if isinstance(reranker, str) else None, top_n=top_n, options=options or {})
        super().__init__(**fields)
        self._held = HeldReranker(reranker, self.options)
        self._held.get()

    @property
    def _reranker(self) -> Reranker:
        return self._held.get()

    def __getstate__(self) -> dict[str, Any]:
        public = {"reranker": public_spec(self._held.spec()), "options": public_options(self.options)}
        state: dict[str, Any] = BaseModel.__getstate__(self)
        fields = {**state["__dict__"], **public, "callback_manager": CallbackManager()}  # handlers belong to a process
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised pipelines."""
        return "RerankitRerank"

    @field_serializer("reranker")
    def _without_credentials(self, spec: str | None) -> str | None:
        return None if spec is None else public_spec(spec)

    @field_serializer("options")
    def _without_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return public_options(options)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, public_spec(value) if name == "reranker" and isinstance(value, str) else value

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        nodes = list(nodes)  # the caller may go on with its own
        with self._reported(nodes, query_bundle) as (query, results):
            if nodes:
                ranking = self._reranker.rank(
                    query, self._passages(nodes), top_k=self.top_n, deadline_s=self.deadline_s
                )
                results += _in_new_order(nodes, ranking)
        return results

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        nodes = list(nodes)  # the caller may go on with its own
        reranker = await self._held.aget()
        with self._reported(nodes, query_bundle) as (query, results):
            if nodes:
                ranking = await reranker.arank(
                    query, self._passages(nodes), top_k=self.top_n, deadline_s=self.deadline_s
                )
                results += _in_new_order(nodes, ranking)
        return results

    def _passages(self, nodes: list[NodeWithScore]) -> list[Passage]:
        """What the reranker reads: metadata stand in the title, so that evidence keeps pointing into the text."""
        return [
            Passage(
                id=item.node.node_id,
                text=item.node.get_content(metadata_mode=MetadataMode.NONE),
                title=_without_record(item.node).get_metadata_str(mode=self.metadata_mode),
                metadata=item.node.metadata,
                score=finite_or_none(item.score),
            )
            for item in nodes
        ]

    @contextmanager
    def _reported(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> Iterator[tuple[str, list[NodeWithScore]]]:
        """The query and a list to put the results into, with LlamaIndex's events and callbacks around."""
        if query_bundle is None:
            raise ValueError("Missing query bundle in extra info.")
        query, results = query_bundle.query_str, list[NodeWithScore]()
        model, top_n = self._reranker.model, len(nodes) if self.top_n is None else self.top_n
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield query, results
            event.on_end(payload={EventPayload.NODES: results})
        dispatcher.event(ReRankEndEvent(nodes=results))


def _in_new_order(nodes: list[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
    """By position, because ids may repeat."""
    return [
        NodeWithScore(node=_recorded(nodes[hit.prior_rank - 1].node, hit_record(ranking, hit)), score=hit.score)
        for hit in ranking
    ]


def _without_record(node: BaseNode) -> BaseNode:
    """What an earlier step wrote is no text, whatever the mode."""
    if METADATA_KEY not in node.metadata:
        return node
    return node.model_copy(update={"metadata": {k: v for k, v in node.metadata.items() if k != METADATA_KEY}})


def _recorded(node: BaseNode, record: dict[str, Any]) -> BaseNode:
    """A copy of ``node`` that carries ``record`` where neither embedders nor language models read it."""
    return node.model_copy(
        update={
            "metadata": with_record(node.metadata, record),
            "excluded_embed_metadata_keys": _with_key(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": _with_key(node.excluded_llm_metadata_keys),
        }
    )


def _with_key(keys: list[str]) -> list[str]:
    return [*(key for key in keys if key != METADATA_KEY), METADATA_KEY]
