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

    def learn(self, error: BackendError, said: Mapping[str, Any]) -> bool:
        """Take note of what the server refused in ``said``; whether it can be left out or said differently."""
        about = error.message.lower() if error.status in _REFUSED else ""
        if "max_tokens" in about and "max_completion_tokens" in about and "max_tokens" in said:
            self.max_tokens_field = "max_completion_tokens"
        elif "logprobs" in about and "logprobs" in said:
            asked = said["top_logprobs"]
            self.top_logprobs = min(self.top_logprobs, _FEWER_LOGPROBS if asked > _FEWER_LOGPROBS else 0)
        elif "temperature" in about and said.get("temperature") == 0:
            self.takes_zero_temperature = False
        elif ("response_format" in about or "schema" in about) and "response_format" in said:
            self.schema = "loose" if said["response_format"]["json_schema"]["strict"] else "none"
        else:
            return False
        logger.info("%s From now on it is asked without that", error)
        return True
