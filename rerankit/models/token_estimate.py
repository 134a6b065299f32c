"""How many tokens a text has, estimated from above where the tokenizer is on another machine.

Vocabularies differ, their habits little: a word of the Latin alphabet has a token per four letters or more, digits one
each at worst, marks one each, and letters of other scripts at most about one each. A word counts here as one token per
three letters, every other character as one, and one beyond Unicode's first plane (emoji) as its four bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LETTERS_PER_TOKEN = 3
_PIECE = re.compile(r" ?(?P<word>[A-Za-z]+)|.", re.DOTALL)


def count_tokens(text: str) -> int:
    """Tokens of ``text``; for ordinary prose about half as many again as a tokenizer of today makes."""
    return sum(cost for _, _, cost in _pieces(text))


def cut(text: str, max_tokens: int) -> str:
    """The longest beginning of ``text`` that counts as at most ``max_tokens``; cut before white space."""
    left = max_tokens
    for piece, letters, cost in _pieces(text):
        if cost > left:
            end = piece.end() - letters + left * _LETTERS_PER_TOKEN if letters and left else piece.start()
            return text[:end].rstrip()
        left -= cost
    return text


def _pieces(text: str) -> Iterator[tuple[re.Match[str], int, int]]:
    """Words with the space before them and single other characters: where, how many letters, how many tokens."""
    for piece in _PIECE.finditer(text):
        letters = len(piece["word"] or "")
        if letters:
            yield piece, letters, -(-letters // _LETTERS_PER_TOKEN)
        else:
            yield piece, 0, 4 if piece[0] > "\uffff" else 1
