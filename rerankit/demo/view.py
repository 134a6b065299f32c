"""What a visitor sees of an answer: the text with its sources, both orders side by side, time and cost per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rerankit.demo.html import highlighted, linked, milliseconds, note, text
from rerankit.rag.answer import Answer
from rerankit.rag.context import Context
from rerankit.rag.events import RagResult
from rerankit.redaction import without_addresses
from rerankit.types import Hit, Passage, Ranking, Usage

__all__ = ["answered", "both_orders", "figures", "retrieved_only", "spent", "writing"]


def writing(so_far: str) -> str:
    """The answer while it is written."""
    return (
        f'<div class="rk-answer" aria-busy="true"><p dir="auto">{text(so_far)}<span class="rk-caret"></span></p></div>'
    )


def answered(result: RagResult, panel: str) -> str:
    """The finished answer, what is doubtful about it, and what it cost."""
    anchors = {citation.number: _anchor(panel, citation.number) for citation in result.answer.citations}
    answer = result.answer
    kind = "rk-answer rk-abstained" if answer.abstained else "rk-answer"
    sure = f"{answer.confidence:.0%} sure that the passages support this" if answer.confidence is not None else ""
    doubts = "".join(f'<p class="rk-small" dir="auto">{text(item)}</p>' for item in (sure, answer.reason) if item)
    body = f'<p dir="auto">{linked(answer.text, anchors)}</p>'
    return f'<div class="{kind}">{body}{doubts}</div>{spent(result)}'


def spent(result: RagResult) -> str:
    """Time and cost per stage, folded away."""
    seconds = result.timings
    rows = [("Retrieve", seconds.get("retrieve", 0.0), f"{len(result.candidates)} candidates")]
    rows.append(("Rerank", seconds.get("rerank", 0.0), _cost(result.ranking.usage)))
    if len(result.ranking.stages) > 1:
        rows += [(f"&ndash; {_family(s.model)}", s.usage.seconds, _cost(s.usage)) for s in result.ranking.stages]
    writing = seconds.get("pack", 0.0) + seconds.get("generate", 0.0)
    rows.append(("Answer", writing, _cost(result.answer.usage)))
    total = milliseconds(sum(seconds.values()))
    cells = "".join(
        f"<tr><th scope='row'>{name}</th><td>{milliseconds(time)}</td><td>{text(what)}</td></tr>"
        for name, time, what in rows
    )
    return (
        f'<details class="rk-spent"><summary>Time and cost: {total}</summary>'
        f'<table class="rk-figures"><tbody>{cells}</tbody></table></details>'
    )


def _family(model: str) -> str:
    """The family of a spec, which is short; the whole as a tooltip."""
    return f'<span title="{text(without_addresses(model))}">{text(model.partition(":")[0])}</span>'


def _cost(usage: Usage) -> str:
    known = {
        "model batches": usage.forward_passes,
        "tokens in": usage.input_tokens,
        "tokens out": usage.output_tokens,
        "model calls": usage.llm_calls,
    }
    parts = [f"{count:,} {name}" for name, count in known.items() if count]
    return ", ".join([*parts, f"cost {usage.cost:.4f}"] if usage.cost else parts)


def retrieved_only(candidates: Sequence[Passage]) -> str:
    """The first stage's order, while the reranker works."""
    if not candidates:
        return note("Nothing was found. Remove a filter, or add documents.")
    items = "".join(_before(rank, passage, None) for rank, passage in enumerate(candidates, 1))
    return _columns(items, "<li class='rk-note'>Reranking …</li>")


def both_orders(
    candidates: Sequence[Passage], ranking: Ranking, context: Context, answer: Answer | None, panel: str
) -> str:
    """Retrieved and reranked lists beside each other, with what moved, the scores and the evidence."""
    if not candidates:
        return note("Nothing was found. Remove a filter, or add documents.")
    new_rank = {hit.prior_rank: hit.rank for hit in ranking}
    before = "".join(_before(rank, item, new_rank.get(rank)) for rank, item in enumerate(candidates, 1))
    numbers = {block.hit.prior_rank: block.number for block in context.blocks}
    after = "".join(_after(hit, numbers.get(hit.prior_rank), answer, panel) for hit in ranking)
    status = "" if ranking.status == "scored" else note(f"The reranker did less than planned: {ranking.reason}")
    heading = f'<p class="rk-small">Scores are on the scale “{text(ranking.scale)}” of {_family(ranking.model)}.</p>'
    return status + _columns(before, after) + heading


def _columns(before: str, after: str) -> str:
    return (
        '<div class="rk-columns"><section><h3>As retrieved</h3>'
        f'<ol class="rk-list">{before}</ol></section><section><h3>Reranked</h3><ol class="rk-list">{after}</ol>'
        "</section></div>"
    )


def _before(rank: int, passage: Passage, now: int | None) -> str:
    goes = f'<span class="rk-move">→ {now}</span>' if now is not None else ""
    score = f'<span class="rk-score">{passage.score:.3f}</span>' if passage.score is not None else ""
    return f'<li><span class="rk-rank">{rank}</span>{_title(passage)}{score}{goes}</li>'


def _after(hit: Hit, number: int | None, answer: Answer | None, panel: str) -> str:
    cites = [c for c in (answer.citations if answer else ()) if c.number == number]
    places = [(citation.start, citation.end) for citation in cites]
    body = highlighted(hit.text, hit.evidence, places, _anchor(panel, number) if number and places else "")
    figures = [f"score {hit.score:.3f}" if hit.score is not None else "not scored"]
    figures += [f"relevant with probability {hit.probability:.2f}"] if hit.probability is not None else []
    figures += [f"{hit.truncated_tokens} tokens not read"] if hit.truncated_tokens else []
    context = f'<span class="rk-badge" title="Passage {number} of the context">[{number}]</span>' if number else ""
    return (
        f'<li><details{" open" if places else ""}><summary><span class="rk-rank">{hit.rank}</span>'
        f"{_title(hit.passage)}{context}{_moved(hit)}</summary>"
        f'<p class="rk-small">{text(", ".join(figures))}</p><p class="rk-text" dir="auto">{body}</p></details></li>'
    )


def _moved(hit: Hit) -> str:
    if hit.moved == 0:
        return '<span class="rk-move" title="did not move">=</span>'
    up = hit.moved > 0
    word = f"{'up' if up else 'down'} {abs(hit.moved)} from {hit.prior_rank}"
    arrow = "▲" if up else "▼"
    return f'<span class="rk-move {"rk-up" if up else "rk-down"}" title="{word}">{arrow} {abs(hit.moved)}</span>'


def _title(passage: Passage) -> str:
    shown = passage.title or passage.text[:80] or passage.id
    return f'<bdi class="rk-title">{text(shown)}</bdi>'


def _anchor(panel: str, number: int | None) -> str:
    return f"{panel}-source-{number}"


def figures(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    """A plain table: a name, then text per column."""
    head = "".join(f"<th scope='col'>{text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th scope='row'>{text(name)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f'<table class="rk-figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
