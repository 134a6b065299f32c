"""Which specs a visitor may type: offline families without a model, and options that are plain numbers and words.

A spec can name files and models to fetch, so what comes from a browser is read before it is built.
"""

from __future__ import annotations

import re

from rerankit.errors import InputError
from rerankit.spec import Stage, parse

__all__ = ["check_spec"]

_OPTIONS = {
    "none": frozenset[str](),
    "dense": frozenset[str](),
    "late-interaction": frozenset[str](),
    "lexical": frozenset({"k1", "b"}),
    "fusion": frozenset({"method", "weights", "k"}),
    "mmr": frozenset({"depth", "lambda_"}),
    "dpp": frozenset({"depth", "lambda_"}),
    "cap": frozenset({"key", "per"}),
    "freshness": frozenset({"key", "half_life_days", "weight"}),
}
_LONGEST = 200
_MOST_STAGES = 5
_PLUS_OUTSIDE_BRACKETS = re.compile(r"\+(?![^\[]*\])")


def check_spec(spec: str) -> None:
    """Refuse a spec that could load, fetch, read or write anything.

    Raises:
        InputError: it names a family, model or option that is not for visitors.
        SpecError: it does not follow the grammar.
    """
    if len(spec) > _LONGEST:
        raise InputError(f"The spec has {len(spec)} characters; {_LONGEST} are allowed")
    stages = parse(spec)
    if len(stages) > _MOST_STAGES:
        raise InputError(f"The spec has {len(stages)} stages; {_MOST_STAGES} are allowed")
    for stage in stages:
        _check(stage, members=True)


def _check(stage: Stage, *, members: bool) -> None:
    known = _OPTIONS.get(stage.family)
    if known is None:
        raise InputError(
            f"{stage.family!r} is not open to visitors of this app. Here are: default, rrf, {', '.join(_OPTIONS)}; "
            "whoever starts the app can add others with --rerank"
        )
    if unknown := sorted(set(stage.options) - known):
        raise InputError(f"The option {unknown[0]!r} of {stage.family!r} is not open to visitors of this app")
    if stage.family == "fusion" and members:
        for part in _PLUS_OUTSIDE_BRACKETS.split(stage.model):
            for member in parse(part):
                _check(member, members=False)
    elif stage.model:
        raise InputError(f"Models are chosen when the app starts (--rerank), so {stage.family!r} takes none here")
