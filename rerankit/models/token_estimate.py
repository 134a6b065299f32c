"""How many tokens a text has, estimated from above where the tokenizer is on another machine.

Vocabularies differ, their habits little: a word of the Latin alphabet has a token per four letters or more, digits one
each at worst, marks one each, and letters of other scripts at most about one each. A word counts here as one token per
three letters, every other character as one, and one beyond Unicode's first plane (emoji) as its four bytes.
"""

from __future__ import annotations

import re

_UNIT = re.compile(r" ?[A-Za-z]{1,3}|.", re.DOTALL)
_LETTERS = re.compile(r" ?[A-Za-z]{1,3}")
_BEYOND = re.compile("[\U00010000-\U0010ffff]")


def count_tokens(text: str) -> int:
    """Tokens of ``text``; for ordinary prose about half as many again as a tokenizer of today makes."""
    return len(_LETTERS.sub("x", text)) + 3 * len(_BEYOND.findall(text))


def cut(text: str, max_tokens: int) -> str:
    """The longest beginning of ``text`` that counts as at most ``max_tokens``; cut before white space.

    Reads no further than that, however long the text is.
    """
    left = max_tokens
    for unit in _UNIT.finditer(text):
        left -= 4 if unit[0] > "\uffff" else 1
        if left < 0:
            return text[: unit.start()].rstrip()
    return text
