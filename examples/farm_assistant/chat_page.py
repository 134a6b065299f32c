"""The farm assistant as a page in the browser. Needs rerankit[demo].

python chat_page.py                                       # the sample corpus, offline, at http://127.0.0.1:7861
python chat_page.py --llm http://localhost:11434/v1#qwen3:8b leaflets/*.pdf

Visitors are known by a random number that is theirs while the page is open; nobody sees what others asked.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from farm_assistant import build, mistakes_in_one_line

from rerankit.demo.closed import take_uploads_only
from rerankit.demo.html import error, highlighted, linked, note, text
from rerankit.demo.look import launch_options
from rerankit.errors import RerankitError
from rerankit.rag.agent import Assistant
from rerankit.rag.agent_events import Finished, Searched, Turn
from rerankit.rag.events import Delta

SECONDS, SHOWN, KEPT_S = 60.0, 30, 3600
EXAMPLES = ["How deep should I sow wheat into moist soil?", "What about barley?", "How far apart do I plant garlic?"]
EMPTY = note("Ask about crops, soils, pests or livestock. I answer from my documents and say so when they do not know.")


@dataclass
class Visit:
    """One visitor's conversation."""

    user: str = field(default_factory=lambda: f"page:{uuid.uuid4().hex}")
    conversation: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[Turn] = field(default_factory=list)

    def shown(self, more: str = "") -> str:
        """The last turns, and what is under way."""
        return "".join(map(said, self.turns[-SHOWN:])) + more or EMPTY


def said(turn: Turn) -> str:
    """A question, its answer, and the passages it cites."""
    blocks = {block.number: block.hit for block in turn.context.blocks}
    anchors = {citation.number: f"turn-{turn.id}-{citation.number}" for citation in turn.answer.citations}
    sources = ""
    for number in sorted(set(anchors) & set(blocks)):
        hit = blocks[number]
        places = [(cited.start, cited.end) for cited in turn.answer.citations if cited.number == number]
        sources += (
            f'<details><summary>[{number}] <bdi>{text(hit.passage.title or hit.id)}</bdi></summary><p class="rk-text" '
            f'dir="auto">{highlighted(hit.text, (), places, anchors[number])}</p></details>'
        )
    doubts = "".join(f'<p class="rk-small" dir="auto">{text(remark)}</p>' for remark in turn.notes)
    kind = "rk-answer" if turn.kind == "answer" else "rk-answer rk-abstained"
    return (
        f'{asked(turn.question)}<div class="{kind}" role="status"><p dir="auto">{linked(turn.text, anchors)}</p>'
        f"{sources}{doubts}</div>"
    )


def asked(question: str) -> str:
    """A visitor's own words."""
    return f'<p class="rk-asked" dir="auto">{text(question)}</p>'


class ChatPage:
    """What happens on the page. A visit comes in and goes out with every event."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant

    def ask(self, visit: Visit | None, question: str) -> Iterator[tuple[Visit, str, str]]:
        """The conversation while the answer is made; the question box is emptied at the end."""
        visit, answer = visit or Visit(), ""
        try:
            for event in self.assistant.stream(
                question, user=visit.user, conversation=visit.conversation, deadline_s=SECONDS
            ):
                match event:
                    case Searched(query=query):
                        yield visit, visit.shown(asked(question) + note(f"Searching: {query}")), question
                    case Delta(text=piece):
                        answer += piece
                        yield visit, visit.shown(asked(question) + f'<p class="rk-answer">{text(answer)}</p>'), question
                    case Finished(turn=turn):
                        visit.turns.append(turn)
            yield visit, visit.shown(), ""
        except RerankitError as failure:
            yield visit, visit.shown(error(failure)), question

    def judge(self, visit: Visit | None, helpful: bool, correction: str = "") -> str:
        """What the visitor thinks of the last answer."""
        if visit is None or not visit.turns:
            return error("There is no answer to judge yet.")
        try:
            self.assistant.feedback(visit.turns[-1].id, user=visit.user, helpful=helpful, correction=correction)
        except RerankitError as failure:
            return error(failure)
        return note("Thank you, your correction is noted." if correction else "Thank you, noted.")

    def forget(self, visit: Visit | None) -> tuple[None, str, str]:
        """Delete what this visitor asked and thought of it, and begin anew."""
        count = self.assistant.memory.forget(visit.user) if visit else 0
        return None, EMPTY, note(f"Deleted: {count} {'question' if count == 1 else 'questions'}.")


def page(assistant: Assistant) -> gr.Blocks:
    """The page, not yet served."""
    chat = ChatPage(assistant)
    with gr.Blocks(title="Farm assistant", analytics_enabled=False) as blocks:
        gr.HTML('<div class="rk-head"><h1>Farm assistant</h1></div>')
        visit = gr.State(None, time_to_live=KEPT_S)
        talk = gr.HTML(EMPTY, elem_id="talk")
        with gr.Row(equal_height=True):
            question = gr.Textbox(label="Your question", lines=1, scale=5, min_width=260, elem_id="question")
            ask = gr.Button("Ask", variant="primary", scale=1, min_width=90, elem_id="ask")
        gr.Examples(EXAMPLES, question, label="Examples")
        with gr.Row(equal_height=True):
            up = gr.Button("Helpful", size="sm", elem_id="up")
            down = gr.Button("Not helpful", size="sm", elem_id="down")
            anew = gr.Button("New conversation", size="sm", elem_id="anew")
            forget = gr.Button("Delete what I asked", size="sm", elem_id="forget")
        right = gr.Textbox(label="Was it wrong? Write what is right, and press Enter", elem_id="right", max_length=2000)
        thanks = gr.HTML("", elem_id="thanks")
        shown: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": talk}
        gr.on([ask.click, question.submit], chat.ask, [visit, question], [visit, talk, question], **shown)
        up.click(lambda v: chat.judge(v, True), visit, thanks, api_name="up")
        down.click(lambda v: chat.judge(v, False), visit, thanks, api_name="down")
        right.submit(lambda v, said: chat.judge(v, False, said), [visit, right], thanks, api_name="right")
        anew.click(lambda v: (v and Visit(v.user), EMPTY, ""), visit, [visit, talk, thanks], api_name="anew")
        forget.click(chat.forget, visit, [visit, talk, thanks])
    take_uploads_only(blocks)
    return blocks.queue(default_concurrency_limit=2, max_size=100)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="documents; default: the sample corpus")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--llm", metavar="URL#MODEL", help="a chat endpoint")
    parser.add_argument("--rerank", default="default", metavar="SPEC")
    args = parser.parse_args()
    with mistakes_in_one_line():
        assistant = build(args.files, rerank=args.rerank, llm=args.llm)
        assistant.ask("Is everything ready?", user="warm-up")  # loads the models before the first visitor comes
        assistant.memory.forget("warm-up")
        blocks = page(assistant)
        _, address, _ = blocks.launch(server_name=args.host, server_port=args.port, **launch_options(gr))
    print(f"The farm assistant is at {address}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
