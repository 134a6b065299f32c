"""What a chat endpoint turned out to accept: every server speaks a dialect of one API, and few say which."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rerankit.errors import BackendError
from rerankit.models.chat_messages import TOP_LOGPROBS

__all__ = ["Habits"]

logger = logging.getLogger(__name__)

_REFUSED = (400, 403, 422)
_FEWER_LOGPROBS = 5  # where 20 are refused: the limit of the older completions API, and of careful administrators


@dataclass(slots=True)
class Habits:
    """The dialect of one server and model, learnt from what it refuses and leaves out.

    Attributes:
        max_tokens_field: its name for the length limit; newer OpenAI models want ``max_completion_tokens``.
        takes_zero_temperature: reasoning models of OpenAI refuse any temperature.
        schema: whether replies can be held to any JSON schema: ``strict``; or ``loose``: OpenAI holds strictly only to
            schemas that close every object; or ``none``.
        top_logprobs: how many it gives per position; 0 for none.
        label_tokens: how many tokens it takes to name a label ("Passage A" takes two); 0 while that is not known.
    """

    max_tokens_field: str = "max_tokens"
    takes_zero_temperature: bool = True
    schema: Literal["strict", "loose", "none"] = "strict"
    top_logprobs: int = TOP_LOGPROBS
    label_tokens: int = 0

    def spoken(self, body: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
        """A request in this dialect; one for labels is shortened to what it takes to name one, unless ``whole``."""
        said = dict(body)
        if not self.takes_zero_temperature and said.get("temperature") == 0:
            del said["temperature"]
        if "response_format" in said and self.schema != "strict":
            held = said.pop("response_format")
            if self.schema == "loose":
                said["response_format"] = {**held, "json_schema": {**held["json_schema"], "strict": False}}
        if "logprobs" in said:
            self._say_logprobs(said, whole)
        said[self.max_tokens_field] = said.pop("max_tokens")
        return said

    def _say_logprobs(self, said: dict[str, Any], whole: bool) -> None:
        if not self.top_logprobs:
            del said["logprobs"], said["top_logprobs"]
            return
        said["top_logprobs"] = self.top_logprobs
        if self.label_tokens and not whole:
            said["max_tokens"] = min(said["max_tokens"], self.label_tokens)

    def guess(self, error: BackendError, said: Mapping[str, Any]) -> dict[str, Any]:
        """The habits that would explain why the server refused ``said``; none where nothing can be said differently.

        A refusal may also repeat words of the prompt: only a request that then succeeds shows that the guess is right.
        """
        about = error.message.lower() if error.status in _REFUSED else ""
        if "max_tokens" in about and "max_completion_tokens" in about and "max_tokens" in said:
            return {"max_tokens_field": "max_completion_tokens"}
        if "logprobs" in about and "logprobs" in said:
            fewer = _FEWER_LOGPROBS if said["top_logprobs"] > _FEWER_LOGPROBS else 0
            return {"top_logprobs": min(self.top_logprobs, fewer)}
        if "temperature" in about and said.get("temperature") == 0:
            return {"takes_zero_temperature": False}
        if ("response_format" in about or "schema" in about) and "response_format" in said:
            return {"schema": "loose" if said["response_format"]["json_schema"]["strict"] else "none"}
        return {}

    def keep(self, guesses: Mapping[str, Any]) -> None:
        """Take over guesses that turned out right."""
        if guesses:
            logger.info("The server refuses a field; from now on it is asked with %s", dict(guesses))
        for name, value in guesses.items():
            setattr(self, name, value)
