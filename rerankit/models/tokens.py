"""Text to token ids, once: the ids of a passage are kept between queries."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError, require

if TYPE_CHECKING:
    import tokenizers

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it, without special tokens.

    Attributes:
        ids: int32 ``[t]``.
        offsets: int32 ``[t, 2]``, characters ``[start, end)`` of the text.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


class TokenCache:
    """Texts to token ids, remembering the latest ones. Safe between threads.

    Special-token parsing is off: ``[SEP]`` inside a text is five plain characters, so a passage cannot forge the
    model's own frame.

    Args:
        tokenizer: a fast tokenizer; owned by this object from now on.
        capacity: how many tokens to keep, over all texts.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, capacity: int = 4_000_000) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.capacity = capacity
        self.misses = 0
        self._known: OrderedDict[str, Tokens] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids and offsets of each text; lone surrogates count as one U+FFFD each."""
        with self._lock:
            known = self._known
            found = {text: known[text] for text in texts if text in known}
            for text in found:
                known.move_to_end(text)
        if len(found) < len(texts):
            new = [text for text in dict.fromkeys(texts) if text not in found]
            found.update(zip(new, self._encode_new(new), strict=True))
            self._remember(new, found)
        return [found[text] for text in texts]

    def _encode_new(self, texts: Sequence[str]) -> list[Tokens]:
        clean = [_SURROGATE.sub("\ufffd", text) for text in texts]
        encodings = self.tokenizer.encode_batch(clean, add_special_tokens=False)
        return [
            Tokens(np.array(one.ids, np.int32), np.array(one.offsets, np.int32).reshape(-1, 2)) for one in encodings
        ]

    def _remember(self, texts: Sequence[str], found: dict[str, Tokens]) -> None:
        with self._lock:
            self.misses += len(texts)
            for text in texts:
                if text not in self._known:
                    self._known[text] = found[text]
                    self._held += _weight(text, found[text])
            while self._held > self.capacity:
                text, tokens = self._known.popitem(last=False)
                self._held -= _weight(text, tokens)


def _weight(text: str, tokens: Tokens) -> int:
    """What an entry holds, in tokens; the key's characters count too (a token is about four)."""
    return len(tokens) + len(text) // 4 + 1


def load_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint folder: ``tokenizer.json``, else whatever transformers makes of the folder.

    Raises:
        ModelError: the file is damaged, or there is no tokenizer that works without remote code.
        MissingExtraError: the needed package is not installed.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        library = require("tokenizers", extra="torch", purpose="Tokenising")
        try:
            loaded: tokenizers.Tokenizer = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a file it cannot parse
            raise ModelError(f"{path} is not a tokenizer file ({error}). Download the model again.") from error
        return loaded
    # Without this check transformers makes an empty tokenizer from config.json alone.
    if not any(next(folder.glob(pattern), None) for pattern in ("vocab.*", "*.model")):
        raise ModelError(f"{folder} has no tokenizer.json and no vocabulary; download the model again")
    library = require("transformers", extra="torch", purpose=f"Reading the tokenizer in {folder}")
    try:
        slow = library.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend: tokenizers.Tokenizer = slow.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"{folder} has no tokenizer.json and no tokenizer that can be converted: {error}") from error
    return backend


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint, ``{}`` if there is no file.

    Raises:
        ModelError: the file is damaged, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} should hold a JSON object, not {str(content)[:40]!r}. Download the model again.")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file of a checkpoint, ``{}`` if there is none.

    Raises:
        ModelError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}). Download the model again.") from error
