"""Telegram's Bot API, as much of it as a chat needs: over httpx, by long polling, with patience.

https://core.telegram.org/bots/api describes the methods. The token stands in every address, so it is kept out of
messages and of httpx's log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx

__all__ = ["LIMIT", "BotApi", "BotError", "split_message"]

LIMIT = 4096
"""Longest message, in UTF-16 code units, which is how Telegram counts."""

_LONGEST_WAIT, _DAY = 300.0, 86_400

logger = logging.getLogger(__name__)


class BotError(Exception):
    """The Bot API refused, or could not be reached.

    Attributes:
        code: its error code, or None.
        passing: whether the same call may succeed later.
        retry_after: seconds that the server asks to wait, or None if it says nothing sensible.
    """

    def __init__(
        self, message: str, code: int | None = None, *, passing: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.passing, self.retry_after = code, passing, retry_after


class BotApi:
    """Calls methods of one bot.

    Args:
        token: from BotFather.
        base_url: of the server; one of your own (telegram-bot-api) works too.
        poll_s: how long the server may hold a poll open.
        retries: further tries after a failure that may pass: no connection, status 429 or 5xx.
        backoff_s: wait before the first of them; doubles each time. 429 says itself how long.
        stop: set it to end all waiting.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: str = "https://api.telegram.org",
        poll_s: int = 30,
        retries: int = 5,
        backoff_s: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        if not token or any(character.isspace() or character in "/?#" for character in token):
            raise BotError("The bot's token is missing or malformed; BotFather gives one")
        self._token, self._poll_s, self._retries, self._backoff_s = token, poll_s, retries, backoff_s
        self.stop = stop or threading.Event()
        self._client = httpx.Client(base_url=f"{base_url.rstrip('/')}/bot{token}/", timeout=poll_s + 10.0)
        logging.getLogger("httpx").addFilter(self._scrubbed)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a method.

        Raises:
            BotError: it was refused, or failed too often; the message does not hold the token.
        """
        for attempt in range(self._retries + 1):
            try:
                return self._once(method, parameters)
            except BotError as error:
                if not error.passing or attempt == self._retries:
                    raise
                logger.warning("%s; attempt %d of %d", error, attempt + 1, self._retries + 1)
                wait = self._backoff_s * 2**attempt if error.retry_after is None else error.retry_after
                if self.stop.wait(min(wait, _LONGEST_WAIT)):
                    raise
        raise AssertionError("unreachable")

    def _once(self, method: str, parameters: dict[str, Any]) -> Any:
        try:
            reply = self._client.post(method, json=parameters)
        except httpx.HTTPError as failure:
            said = self._clean(f"{method}: {type(failure).__name__}: {failure}")
            raise BotError(said, passing=True) from None  # httpx's own errors hold the address
        body, code = _object(reply), reply.status_code
        if code == 200 and body.get("ok") is True:
            return body.get("result")
        description = body.get("description")
        said = self._clean(f"{method}: status {code} {description if isinstance(description, str) else ''}".rstrip())
        passing = code == 429 or not 400 <= code < 500
        raise BotError(said, code, passing=passing, retry_after=_retry_after(body) if code == 429 else None)

    def updates(self) -> Iterator[dict[str, Any]]:
        """Updates one by one until ``stop`` is set; each is confirmed when the next are asked for, or at the end.

        What is no update is passed over, and what cannot be read does not come again. Close the iterator, so that no
        update that was handled comes again after a restart.

        Raises:
            BotError: the token is refused, another program polls for this bot, or the server is gone for good.
        """
        offset = confirmed = 0
        try:
            while not self.stop.is_set():
                allowed = ["message", "callback_query"]
                found = self.call("getUpdates", offset=offset, timeout=self._poll_s, allowed_updates=allowed)
                confirmed = offset
                for update in found if isinstance(found, list) else []:
                    number = update.get("update_id") if isinstance(update, dict) else None
                    if isinstance(number, int) and number >= offset:
                        yield update
                        offset = number + 1
                    if self.stop.is_set():
                        break
                if not found:
                    self.stop.wait(min(0.1, self._backoff_s))  # a server that does not hold the poll is not hammered
        finally:
            if offset > confirmed and not self._client.is_closed:
                self._confirm(offset)

    def _confirm(self, offset: int) -> None:
        """Have the updates before ``offset`` not come again."""
        try:
            self._once("getUpdates", {"offset": offset, "timeout": 0, "limit": 1})
        except BotError as error:
            logger.warning("The last updates will come again, for they could not be confirmed: %s", error)

    def send(self, chat: int, text: str, keyboard: list[list[dict[str, str]]] | None = None) -> None:
        """A message as plain text, in as many pieces as it takes, the keyboard under the last."""
        pieces = split_message(text)
        for n, piece in enumerate(pieces, 1):
            options: dict[str, Any] = {"link_preview_options": {"is_disabled": True}}
            if keyboard and n == len(pieces):
                options["reply_markup"] = {"inline_keyboard": keyboard}
            self.call("sendMessage", chat_id=chat, text=piece, **options)

    def close(self) -> None:
        """Close the connections."""
        self.stop.set()
        self._client.close()
        logging.getLogger("httpx").removeFilter(self._scrubbed)

    def _clean(self, text: str) -> str:
        return text.replace(self._token, "TOKEN")

    def _scrubbed(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._clean(record.getMessage()), None
        return True


def split_message(text: str, limit: int = LIMIT) -> list[str]:
    """Pieces of at most ``limit`` UTF-16 code units, cut behind a paragraph, line, sentence or word if possible."""
    pieces, rest = [], text.strip()
    while rest:
        end = _fitting(rest, limit)
        if end < len(rest):
            cuts = (rest.rfind(mark, 1, end) + len(mark.rstrip()) for mark in ("\n\n", "\n", ". ", " "))
            end = next((cut for cut in cuts if cut > end // 2), end)
        pieces.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return pieces or ["\u2026"]


def _fitting(text: str, limit: int) -> int:
    """How many characters of ``text`` take at most ``limit`` code units."""
    units = 0
    for position, character in enumerate(text):
        units += 2 if ord(character) > 0xFFFF else 1
        if units > limit:
            return position
    return len(text)


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(body: dict[str, Any]) -> float | None:
    parameters = body.get("parameters")
    seconds = parameters.get("retry_after") if isinstance(parameters, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds <= _DAY else None
