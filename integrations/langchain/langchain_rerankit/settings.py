"""What compressor and retriever have in common: which reranker, and how it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer, model_validator

from rerankit import Reranker
from rerankit.adapters import HeldReranker, public_options, public_spec

__all__ = ["RerankerSettings"]


class RerankerSettings(BaseModel):
    """A reranker by spec or as an object.

    A deep copy, or an unpickled one, loads the model again when it is first used; neither can be made where a built
    reranker was given. A pickle holds what ``model_dump`` gives of ``reranker`` and ``options``: no secrets.

    Attributes:
        reranker: a rerankit spec or a built reranker; the latter is written as None by ``model_dump``.
        options: options of :func:`rerankit.load`. Secrets among them are never shown or dumped.
        deadline_s: seconds per call; documents not scored by then come last, marked ``unscored``.

    Raises:
        ValidationError: the spec, an option or a field is wrong. What was given is left out of the message.
        MissingExtraError: the family needs a package that is not installed.
        ModelError: the model cannot be loaded.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)

    reranker: str | Reranker = "default"
    options: dict[str, Any] = Field(default_factory=dict, repr=False)
    deadline_s: float | None = Field(default=None, gt=0)
    _held: HeldReranker = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._held = HeldReranker(self.reranker, self.options)
        self._held.get()
        return self

    @property
    def _reranker(self) -> Reranker:
        return self._held.get()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        self._held.spec()
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        public = {"reranker": public_spec(self._held.spec()), "options": public_options(self.options)}
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], **public}}

    @field_serializer("reranker")
    def _without_credentials(self, reranker: str | Reranker) -> str | None:
        return public_spec(reranker) if isinstance(reranker, str) else None

    @field_serializer("options")
    def _without_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return public_options(options)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, public_spec(value) if name == "reranker" and isinstance(value, str) else value
