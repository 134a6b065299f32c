"""Which tokens begin which label, and how much of the model's mass they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rerankit.errors import InputError, ModelError

__all__ = ["first_tokens", "gather"]

_FORMS = ("", " ")
"""A label as it is, and after a space."""


def first_tokens(
    labels: Sequence[str], first: Callable[[str], int | None], name: str, *, variants: bool = True
) -> list[list[int]]:
    """Token ids that each label can begin with. A spelling counts for all labels or for none.

    Args:
        labels: two or more, or one.
        first: the token that begins a text, blanks aside.
        name: of the model, for messages.
        variants: also count the label after a space.

    Raises:
        InputError: there is no label, an empty one, or one twice.
        ModelError: two labels begin with the same token.
    """
    if not labels or not all(label.strip() for label in labels):
        raise InputError("Labels must be given and not be empty")
    if len({label.strip() for label in labels}) < len(labels):
        raise InputError(f"A label is there twice, blanks aside: {list(labels)!r:.80}")
    forms = [[first(form + label) for label in labels] for form in _FORMS[: 2 if variants else 1]]
    usable: list[list[int]] = [[] for _ in labels]
    for form in forms:
        new = [token for token in form if token is not None]
        if len(set(new)) == len(labels) and not _taken(new, usable):
            for ids, token in zip(usable, new, strict=True):
                if token not in ids:
                    ids.append(token)
    if not usable[0]:
        raise ModelError(
            f"{name!r} reads the labels {_clash(labels, forms[0])} as the same first token, so one token cannot tell "
            "them apart. Put what they share into the prompt's reply, or choose labels such as A, B, C."
        )
    return usable


def _taken(new: Sequence[int], usable: Sequence[Sequence[int]]) -> bool:
    """Whether a token already stands for another label."""
    return any(token in other for i, token in enumerate(new) for j, other in enumerate(usable) if i != j)


def _clash(labels: Sequence[str], form: Sequence[int | None]) -> list[str]:
    return [label for label, token in zip(labels, form, strict=True) if form.count(token) > 1] or list(labels)


def gather(scores: Any, tokens: Sequence[Sequence[int]]) -> Any:
    """Scores ``[rows, columns]`` of each label's columns, as the logarithm of the sum of their exponentials."""
    import torch

    return torch.stack([torch.logsumexp(scores[:, list(columns)], dim=-1) for columns in tokens], dim=-1)
