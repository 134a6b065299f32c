"""The farm assistant on Telegram. Needs rerankit[embedded,chroma].

TELEGRAM_TOKEN=... python telegram_bot.py            # the token comes from BotFather; it is never logged
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from contextlib import closing, suppress
from typing import Any

from bot_api import BotApi, BotError
from farm_assistant import build, mistakes_in_one_line

from rerankit.errors import InputError, RerankitError
from rerankit.rag.agent import Assistant
from rerankit.rag.agent_events import Turn

logger = logging.getLogger(__name__)

HELP = (
    "Ask me about crops, soils, pests and livestock. I answer from my documents, name the sources, and say so when "
    "they do not hold the answer.\n\n"
    "/wrong TEXT: the last answer was wrong, and this is right\n"
    "/new: change the subject\n/forget: delete everything I know about you"
)


class FarmBot:
    """Turns updates into turns of the assistant. Users are known by Telegram's number alone."""

    def __init__(self, api: BotApi, assistant: Assistant) -> None:
        self.api, self.assistant = api, assistant
        self._begun: dict[tuple[int, str], str] = {}
        self._handling = False

    def run(self) -> None:
        """Serve until the API's ``stop`` is set.

        Raises:
            BotError: the API cannot be used any more.
        """
        with closing(self.api.updates()) as updates:
            for update in updates:
                self._handling = True
                try:
                    self.handle(update)
                except BotError as error:  # one chat that cannot be written to (blocked, deleted) ends nobody else's
                    logger.warning("An update could not be answered: %s", error)
                except Exception:
                    logger.exception("An update could not be handled")
                finally:
                    self._handling = False

    def stop(self, *_: object) -> None:
        """As a signal's handler: end behind the update that is being handled; when idle or asked again, at once.

        Raises:
            KeyboardInterrupt: to end at once.
        """
        if self.api.stop.is_set() or not self._handling:
            raise KeyboardInterrupt
        self.api.stop.set()

    def handle(self, update: dict[str, Any]) -> None:
        """One update; what is neither a text nor a thumb is passed over."""
        if message := _text_message(update.get("message")):
            chat, user, text = message
            self._message(chat, user, text)
        elif isinstance(update.get("callback_query"), dict):
            self._thumb(update["callback_query"])

    def _message(self, chat: int, user: str, text: str) -> None:
        name, rest = (*text.split(maxsplit=1), "", "")[:2]
        match name.split("@")[0]:
            case "/start" | "/help":
                self.api.send(chat, HELP)
            case "/forget":
                self.api.send(chat, f"Deleted: {self.assistant.memory.forget(user)} messages.")
            case "/new":
                self._begun[chat, user] = f"{chat}/{time.time_ns()}"
                self.api.send(chat, "Fine. What is it about?")
            case "/wrong":
                self._correct(chat, user, rest)
            case _:
                self._ask(chat, user, text)

    def _ask(self, chat: int, user: str, text: str) -> None:
        try:
            self.api.call("sendChatAction", chat_id=chat, action="typing")
        except BotError as error:
            logger.warning("A chat was not told that its answer is on the way: %s", error)
        try:
            turn = self.assistant.ask(text, user=user, conversation=self._conversation(chat, user))
        except InputError as error:
            self.api.send(chat, str(error))
        except RerankitError:
            logger.exception("A question could not be answered")
            self.api.send(chat, "Sorry, something went wrong here. Try again later.")
        else:
            thumbs = {"\U0001f44d": f"up:{turn.id}", "\U0001f44e": f"down:{turn.id}"}
            row = [{"text": thumb, "callback_data": data} for thumb, data in thumbs.items()]
            self.api.send(chat, reply(turn), [row])

    def _conversation(self, chat: int, user: str) -> str:
        """The one begun last in this chat, also before a restart."""
        known = (name for name in self.assistant.memory.conversations(user) if name.startswith(f"{chat}/"))
        return self._begun.get((chat, user)) or next(known, f"{chat}/0")

    def _correct(self, chat: int, user: str, text: str) -> None:
        said = self.assistant.memory.history(user, self._conversation(chat, user), limit=1)
        if not said or not text:
            self.api.send(chat, "Write /wrong and the right answer behind it, after I have answered something.")
            return
        try:
            self.assistant.feedback(said[-1].id, user=user, helpful=False, correction=text)
        except InputError:
            self.api.send(chat, "I cannot note that. Write the right answer in plain text.")
        else:
            self.api.send(chat, "Thank you, noted.")

    def _thumb(self, query: dict[str, Any]) -> None:
        user, data = _user(query.get("from")), query.get("data")
        verb, _, number = data.partition(":") if isinstance(data, str) else ("", "", "")
        said = "I don't know that answer any more."
        if user and verb in ("up", "down") and number.isascii() and number.isdigit() and len(number) < 19:
            try:
                self.assistant.feedback(int(number), user=user, helpful=verb == "up")
                said = "Thank you!"
            except InputError:
                pass  # somebody else's answer, or a forgotten one
        if isinstance(query.get("id"), str):
            self.api.call("answerCallbackQuery", callback_query_id=query["id"], text=said)


def reply(turn: Turn) -> str:
    """The answer and its sources, as plain text."""
    titles = {block.number: block.passage.title or block.passage.id for block in turn.context.blocks}
    cited = sorted({citation.number for citation in turn.answer.citations})
    sources = "\n".join(f"[{number}] {titles[number]}" for number in cited if number in titles)
    return f"{turn.text}\n\n{sources}" if sources else turn.text


def _text_message(message: object) -> tuple[int, str, str] | None:
    """Chat, user and text of a message, if it has them."""
    if not isinstance(message, dict) or not isinstance(chat := message.get("chat"), dict):
        return None
    number, user, text = chat.get("id"), _user(message.get("from")), message.get("text")
    return (number, user, text) if isinstance(number, int) and user and isinstance(text, str) else None


def _user(sender: object) -> str:
    number = sender.get("id") if isinstance(sender, dict) else None
    return f"telegram:{number}" if isinstance(number, int) else ""


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="documents; default: the sample corpus")
    parser.add_argument("--base-url", default="https://api.telegram.org", help="a Bot API server of your own")
    parser.add_argument("--llm", metavar="URL#MODEL", help="a chat endpoint")
    parser.add_argument("--rerank", default="default", metavar="SPEC")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    with mistakes_in_one_line(BotError), suppress(KeyboardInterrupt):
        api = BotApi(os.environ.get("TELEGRAM_TOKEN", ""), base_url=args.base_url)
        bot = FarmBot(api, build(args.files, rerank=args.rerank, llm=args.llm))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, bot.stop)
        bot.run()


if __name__ == "__main__":
    main()
