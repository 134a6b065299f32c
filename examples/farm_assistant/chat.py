"""Talk to the farm assistant. Needs rerankit[embedded,chroma].

python chat.py                                            # the sample corpus, offline
python chat.py --llm http://localhost:11434/v1#qwen3:8b leaflets/*.pdf

/up and /down judge the last answer, /wrong TEXT corrects it, /export FILE writes what was judged, /new begins anew,
/forget deletes everything, /quit ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid

from farm_assistant import build, mistakes_in_one_line

from rerankit.cli.output import printable
from rerankit.errors import InputError, RerankitError
from rerankit.rag.agent import Assistant
from rerankit.rag.agent_events import Finished, Searched, Turn
from rerankit.rag.feedback_prior import export_feedback

USER = "me"


def show(turn: Turn) -> None:
    """The answer and its sources."""
    print(f"\n{printable(turn.text)}\n")
    titles = {block.number: block.passage.title or block.passage.id for block in turn.context.blocks}
    for number in sorted({citation.number for citation in turn.answer.citations}):
        print(f"  [{number}] {printable(titles[number])}")
    for note in turn.notes:
        print(f"  ({printable(note)})")


def ask(assistant: Assistant, question: str, conversation: str) -> int:
    """One turn, with its steps on standard error; returns its id."""
    for event in assistant.stream(question, user=USER, conversation=conversation):
        if isinstance(event, Searched):
            print(f"  searching: {printable(event.query)}", file=sys.stderr)
        elif isinstance(event, Finished):
            show(event.turn)
            return event.turn.id
    return 0


def command(assistant: Assistant, line: str, last: int) -> int:
    """A line that begins with a slash; returns the id of the turn that can be judged next, 0 if there is none."""
    name, _, text = line.partition(" ")
    if name in ("/up", "/down", "/wrong"):
        print(judge(assistant, name, text, last))
    elif name == "/export":
        print(f"{export_feedback(assistant.memory, os.path.expanduser(text or 'feedback.jsonl'))} lines")
    elif name == "/forget":
        print(f"{assistant.memory.forget(USER)} turns deleted")
        return 0
    elif name != "/new":
        print("Commands: /up /down /wrong TEXT /export FILE /new /forget /quit")
    return last


def judge(assistant: Assistant, name: str, text: str, last: int) -> str:
    """Keep what is thought of the last answer; returns what to say to that."""
    if not last:
        return "There is no answer to judge yet"
    if name == "/wrong" and not text:
        return "What is right? Say it behind the command: /wrong TEXT"
    assistant.feedback(last, user=USER, helpful=name == "/up", correction=text if name == "/wrong" else "")
    return "Noted"


def talk(assistant: Assistant) -> None:
    """Read lines until they end.

    Raises:
        InputError: a line is no text.
    """
    conversation, last = uuid.uuid4().hex, 0
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise InputError(f"The input is not {error.encoding} text") from error
        try:
            if line == "/quit":
                return
            if line == "/new":
                conversation = uuid.uuid4().hex
            if line.startswith("/"):
                last = command(assistant, line, last)
            elif line:
                last = ask(assistant, line, conversation)
        except (RerankitError, OSError) as error:
            print(f"Error: {printable(str(error))}", file=sys.stderr)


def main() -> None:
    """Parse the command line and talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="documents; default: the sample corpus")
    parser.add_argument("--llm", metavar="URL#MODEL", help="a chat endpoint")
    parser.add_argument("--rerank", default="default", metavar="SPEC")
    args = parser.parse_args()
    with mistakes_in_one_line():
        talk(build(args.files, rerank=args.rerank, llm=args.llm))


if __name__ == "__main__":
    main()
