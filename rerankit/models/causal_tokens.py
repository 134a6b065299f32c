"""Prompts to token ids: control tokens count in the template's own words, never in data.

A prompt is tokenised in one go, so that its ids are those of the joint text. What separates the template's
``<|im_end|>`` from the same characters in a passage is a copy of the tokenizer in which every control token is spelt as
its number between two Unicode noncharacters: the template's words are respelt before they are read, data cannot spell
it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from rerankit.errors import ModelError, require
from rerankit.models.prompt import Data, Part, Prompt, RawPrompt, as_chat

__all__ = ["PromptReader"]

_OPEN, _CLOSE = "\U0010fffe", "\U0010ffff"
_UNREADABLE = re.compile(f"[\ud800-\udfff{_OPEN}{_CLOSE}]")
"""Lone surrogates, which no tokenizer takes, and the two noncharacters that we use ourselves."""

_VOCABULARY = re.compile(r"[\w\s\u2581]*")
"""Added tokens of letters and spaces extend the vocabulary (words, runs of blanks); all others control the model."""

_PLACE = re.compile(f"{_OPEN}d(\\d+){_CLOSE}")
_START = f"{_OPEN}s{_CLOSE}"
_MARKS = (":", ".", "x", "1")
"""Stand for the text before a piece of a prompt, where a tokenizer would put a blank before the piece itself."""

_DATE = "26 Jul 2024"
"""What the Llama templates fall back to; with today's date scores would change from day to day."""

_CHARACTERS = 8
"""A first guess of the characters per token, above what prose has; wrong only costs a second reading."""


class PromptReader:
    """Turns prompts into token ids.

    Args:
        tokenizer: of transformers, with a tokenizer of the ``tokenizers`` library inside.
        name: of the model, for messages.
        end: closes a prompt where there is no chat template.

    Attributes:
        tokenizer: the one given, unchanged.
        controls: the control tokens' spellings and ids.
    """

    def __init__(self, tokenizer: Any, name: str, *, end: str = "\n") -> None:
        self.tokenizer, self.name, self._end = tokenizer, name, end
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        tokens = [token for token in description["added_tokens"] if token["content"]]
        self.controls = {token["content"]: token["id"] for token in tokens if _is_control(token)}
        self._adds_blank = _adds_blank(description)
        self._plain = _without_controls(description, self.controls)
        self._ids = {self._plain.token_to_id(_spelling(number)): number for number in self.controls.values()}
        longest_first = sorted(self.controls, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._layout = functools.lru_cache(4096)(self._lay_out)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, as a model reads them.

        Raises:
            ModelError: the chat template cannot lay a prompt out.
        """
        return self._read([self._marked(self.parts(prompt)) for prompt in prompts])

    def continuation(self, parts: Sequence[Part]) -> list[int]:
        """Token ids of what follows a prompt."""
        return self._read([_START + self._marked(parts)])[0][1:]

    def located(self, parts: Sequence[Part], *, starts: bool = False) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """Token ids of a piece of a prompt, and the characters ``[start, end)`` of each.

        Offsets count in the joined parts; behind a control token they are off by its respelling.

        Args:
            parts: the piece.
            starts: it begins the prompt; otherwise it follows a text, and no tokenizer adds a blank before it.
        """
        text = self._marked(parts)
        fronts = ("",) if starts else (*(_START + mark for mark in _MARKS if self._adds_blank), _START)
        for front in fronts:
            encoding = self._plain.encode(front + text, add_special_tokens=False)
            skip = sum(end <= len(front) for _, end in encoding.offsets) if front else 0
            if all(start >= len(front) for start, _ in encoding.offsets[skip:]):
                break
        ids = tuple(self._ids.get(token, token) for token in encoding.ids[skip:])
        return ids, [(start - len(front), end - len(front)) for start, end in encoding.offsets[skip:]]

    def first_token(self, text: str) -> int | None:
        """The token that begins ``text`` when it follows a prompt, tokens of blanks aside."""
        ids = self.continuation([text])
        return next((token for token in ids if self.tokenizer.decode([token]).strip()), None)

    def parts(self, prompt: Prompt) -> tuple[Part, ...]:
        """The prompt as one text, laid out by the chat template where there is one."""
        if isinstance(prompt, RawPrompt):
            return prompt.parts
        chat = as_chat(prompt)
        data: list[str] = []
        messages = tuple((message.role, _with_places(message.parts, data)) for message in chat.messages)
        laid_out = self._layout(messages, chat.thinking) + _clean(chat.reply)
        pieces = _PLACE.split(laid_out)
        return tuple(Data(data[int(piece)]) if i % 2 else piece for i, piece in enumerate(pieces) if piece)

    def count(self, text: str) -> int:
        """Tokens of ``text`` read as data."""
        return len(self._plain.encode(_clean(text), add_special_tokens=False).ids)

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` within ``max_tokens``, never splitting a character."""
        if max_tokens < 1:
            return ""
        size = _CHARACTERS * max_tokens
        while True:
            head = _clean(text[:size])
            offsets = self._plain.encode(head, add_special_tokens=False).offsets
            if len(offsets) > max_tokens or size >= len(text):
                break
            size *= 2
        keep = max_tokens
        while len(offsets) > max_tokens and keep:
            end = min(offsets[keep - 1][1], offsets[keep][0])  # a character may have several tokens
            if self.count(head[:end]) <= max_tokens:
                return text[:end]
            keep -= 1
        return text if len(offsets) <= max_tokens else ""

    @functools.cached_property
    def has_chat_template(self) -> bool:
        """Whether prompts are laid out as the model was trained, not just joined."""
        return bool(self.tokenizer.chat_template)

    def _read(self, texts: Sequence[str]) -> list[list[int]]:
        known = self._ids
        encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[known.get(token, token) for token in encoding.ids] for encoding in encodings]

    def _marked(self, parts: Sequence[Part]) -> str:
        return "".join(_clean(part.text) if isinstance(part, Data) else self._respelt(part) for part in parts)

    def _respelt(self, words: str) -> str:
        return self._control.sub(lambda found: _spelling(self.controls[found.group()]), _clean(words))

    def _lay_out(self, messages: tuple[tuple[str, str], ...], thinking: bool | None) -> str:
        if not self.has_chat_template:
            return self.bos + _plain_layout(messages) + self._end
        if not self._takes_system:
            messages = _fold_system(messages)
        text = self._apply([{"role": role, "content": content} for role, content in messages], thinking)
        if lost := set(_PLACE.findall("".join(content for _, content in messages))) - set(_PLACE.findall(text)):
            raise ModelError(f"The chat template of {self.name!r} leaves out {len(lost)} parts of a prompt")
        if thinking is False and text.rstrip().endswith("<think>"):
            text = text.rstrip() + "\n\n</think>\n\n"  # a template that opens the reasoning itself and cannot be told
        return text

    def _apply(self, messages: list[dict[str, str]], thinking: bool | None) -> str:
        require("jinja2", extra="torch", purpose="Laying out a prompt by a chat template")
        from jinja2.exceptions import TemplateError

        switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, date_string=_DATE, **switches
            )
        except (
            TemplateError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            AttributeError,
            RecursionError,
        ) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"The chat template of {self.name!r} refuses turns of {roles}: {error}") from error
        return str(text)

    @functools.cached_property
    def _takes_system(self) -> bool:
        probe = [{"role": "system", "content": f"{_OPEN}d0{_CLOSE}"}, {"role": "user", "content": "x"}]
        try:
            return bool(_PLACE.search(self._apply(probe, None)))
        except ModelError:
            return False

    @functools.cached_property
    def bos(self) -> str:
        """The token that the tokenizer puts before a text by itself, or nothing."""
        first = self.tokenizer("a")["input_ids"][:1]
        return str(self.tokenizer.bos_token) if first == [self.tokenizer.bos_token_id] else ""


def _is_control(token: dict[str, Any]) -> bool:
    return bool(token["special"]) or not _VOCABULARY.fullmatch(token["content"])


def _spelling(number: int) -> str:
    return f"{_OPEN}c{number}{_CLOSE}"


def _clean(text: str) -> str:
    return _UNREADABLE.sub("\ufffd", text)


def _without_controls(description: dict[str, Any], controls: dict[str, int]) -> Any:
    """The tokenizer in which only our own spelling makes a control token."""
    import tokenizers

    for token in description["added_tokens"]:
        if token["content"] in controls:
            token.update(content=_spelling(token["id"]), single_word=False, normalized=False)
    description["post_processor"] = description["truncation"] = description["padding"] = None
    _rename(description["model"], controls)
    plain = tokenizers.Tokenizer.from_str(json.dumps(description))
    plain.add_special_tokens([tokenizers.AddedToken(_START, normalized=False)])
    return plain


def _adds_blank(description: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a blank before whatever follows a control token, as SentencePiece's do."""
    steps = [description.get("normalizer"), description.get("pre_tokenizer")]
    while steps:
        step = steps.pop()
        if not step:
            continue
        adds = step.get("prepend_scheme", "never") != "never" or step.get("add_prefix_space")
        if step["type"] == "Prepend" or adds:
            return True
        steps += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
    return False


def _rename(model: dict[str, Any], controls: dict[str, int]) -> None:
    """Respell control tokens that the vocabulary holds too, so that no merge or lattice arrives at them."""

    def name(piece: str) -> str:
        return _spelling(controls[piece]) if piece in controls else piece

    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # a unigram model
        model["vocab"] = [[name(piece), score] for piece, score in vocabulary]
    elif vocabulary and not controls.keys().isdisjoint(vocabulary):
        model["vocab"] = {name(piece): number for piece, number in vocabulary.items()}
        if "merges" in model:
            model["merges"] = [merge for merge in model["merges"] if controls.keys().isdisjoint(_pieces(merge))]
    if model.get("unk_token") in controls:
        model["unk_token"] = name(model["unk_token"])


def _pieces(merge: str | Sequence[str]) -> tuple[str, str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right


def _with_places(parts: Sequence[Part], data: list[str]) -> str:
    """The message with a place for each piece of data, which is appended to ``data``.

    Blanks around the data stay outside, because templates trim messages.
    """
    words = []
    for part in parts:
        if isinstance(part, str):
            words.append(_clean(part))
            continue
        text = part.text
        core = text.strip()
        start = text.index(core)
        words.append(text[:start] + (f"{_OPEN}d{len(data)}{_CLOSE}" if core else "") + text[start + len(core) :])
        if core:
            data.append(core)
    return "".join(words)


def _fold_system(messages: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """What the system turn says, at the head of the first user turn."""
    said = [content for role, content in messages if role == "system"]
    rest = [(role, content) for role, content in messages if role != "system"]
    if not said:
        return messages
    if not rest or rest[0][0] != "user":
        rest.insert(0, ("user", ""))
    return (("user", "\n\n".join(filter(None, [*said, rest[0][1]]))), *rest[1:])


def _plain_layout(messages: tuple[tuple[str, str], ...]) -> str:
    """A prompt for a model without a chat template: one question is just text; several turns are named."""
    spoken = [role for role, _ in messages if role != "system"]
    if len(spoken) < 2:
        return "\n\n".join(content for _, content in messages)
    named = [content if role == "system" else f"{role.title()}: {content}" for role, content in messages]
    return "\n\n".join([*named, "Assistant:"])
