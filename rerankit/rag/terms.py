"""Words as comparable terms, for cheap lexical overlap in any language."""

from __future__ import annotations

import re

__all__ = ["is_function_word", "terms"]

_WORD = re.compile(r"[^\W_]+")
_SCRIPT_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_STEM = 5
_FUNCTION_WORDS = frozenset(
    _WORD.findall("""
    a about after all also am an and any are as at be because been before being between both but by can could did
    do does doing done during each for from get give had has have having he her here him his how i if in into is
    it its just many may me might more most much must my no nor not of on one or other our out over own shall she
    should so some such tell than that the their them then there these they this those through to too under up us
    very was we were what when where which while who whom whose why will with would you your
    """)
)


def terms(text: str) -> list[str]:
    """The terms of ``text``, in order: words folded and cut to five letters, so that "sowing" meets "sown" and "sowed".

    Numbers stay whole. Runs of scripts that put no space between words (Chinese, Japanese, Thai ...) give their
    overlapping pairs of characters.
    """
    found: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if _SCRIPT_WITHOUT_SPACES.search(word):
            found.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            found.append(word if any(map(str.isdigit, word)) else word[:_STEM])
    return found


def is_function_word(word: str) -> bool:
    """Whether ``word`` is an English function or question word, which no answer turns on."""
    return word.casefold() in _FUNCTION_WORDS
