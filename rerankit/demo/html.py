"""Small pieces of HTML from text that nobody vouches for.

Everything from a passage, a file name, a model or a visitor goes through :func:`text`, which leaves no markup, and
into an element with a direction of its own, so that right-to-left text cannot reorder what stands around it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rerankit.rag.safe_text import DIRECTION
from rerankit.rerankers.prepare import clean
from rerankit.types import Span

__all__ = ["error", "highlighted", "linked", "milliseconds", "note", "text"]

_LONGEST = 6000
_MARK = re.compile(r"\[(\d{1,9})\]")


def text(value: object) -> str:
    """``value`` as text that a browser only shows. Characters that turn the writing direction become spaces."""
    # Braces and the dollar sign too: the page's framework has templates in which they mean something.
    escaped = html.escape(DIRECTION.sub(" ", clean(str(value))), quote=True)
    return escaped.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;").replace("`", "&#96;")


def error(message: object) -> str:
    """What went wrong, in words, announced to screen readers."""
    return f'<p class="rk-error" role="alert">{text(message)}</p>'


def note(message: object) -> str:
    """A remark in place of a result."""
    return f'<p class="rk-note" role="status">{text(message)}</p>'


def milliseconds(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def linked(answer: str, anchors: Mapping[int, str]) -> str:
    """The answer, its ``[n]`` marks as links to ``anchors[n]``."""
    parts, end = [], 0
    for mark in _MARK.finditer(answer):
        anchor = anchors.get(int(mark[1]))
        parts.append(text(answer[end : mark.start()]))
        shown = text(mark[0])
        title = f"Show source {mark[1]}"
        parts.append(f'<a class="rk-cite" href="#{anchor}" title="{title}">{shown}</a>' if anchor else shown)
        end = mark.end()
    return "".join([*parts, text(answer[end:])]).replace("\n", "<br>")


def highlighted(passage: str, evidence: Sequence[Span], cited: Sequence[tuple[int, int]], anchor: str = "") -> str:
    """A passage with its evidence shaded by weight and its cited sentences underlined.

    Args:
        passage: the text that the spans point into.
        evidence: what carried the score.
        cited: what the answer rests on.
        anchor: id of the first cited place.
    """
    shown = passage[:_LONGEST]
    heaviest = max((span.weight for span in evidence), default=0.0) or 1.0
    cuts = {0, len(shown)}
    for start, end in [*((span.start, span.end) for span in evidence), *cited]:
        cuts |= {min(max(0, start), len(shown)), min(max(0, end), len(shown))}
    places, parts, pending = sorted(cuts), [], anchor
    for start, end in pairwise(places):
        weight = max((s.weight / heaviest for s in evidence if s.start <= start and end <= s.end), default=0.0)
        in_cited = any(first <= start and end <= last for first, last in cited)
        parts.append(_piece(shown[start:end], weight, in_cited, pending if in_cited else ""))
        pending = "" if in_cited else pending
    return "".join(parts) + (" …" if len(passage) > _LONGEST else "")


def _piece(piece: str, weight: float, cited: bool, anchor: str) -> str:
    inner = text(piece)
    if not weight and not cited:
        return inner
    name = " ".join(["rk-evidence"] * bool(weight) + ["rk-cited"] * cited)
    place = f' id="{anchor}" tabindex="-1"' if anchor else ""
    return f'<mark class="{name}" style="--w:{weight:.2f}"{place}>{inner}</mark>'
