"""Rich renderings of rankings, answers and reports. Passage text is hostile: it is cleaned and never read as markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rerankit.cli.output import printable, results

if TYPE_CHECKING:
    from rerankit.rag.answer import Answer
    from rerankit.rag.context import Context
    from rerankit.rag.pipeline import Event
    from rerankit.types import Hit, Ranking

NARROW = 80
"""Columns below which a table keeps only what matters most."""

_EVIDENCE = "bold yellow"


def heading(text: str, note: str = "") -> Text:
    """A line above a block."""
    return Text.assemble("\n", (printable(text), "bold"), ("  " + printable(note) if note else "", "dim"))


def before_after(ranking: Ranking, top_k: int, *, width: int, plain: bool = False) -> RenderableType:
    """The best ``top_k`` hits with where they came from, and what they pushed out of the first ``top_k``."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    wide = width >= NARROW
    for name in ("now", "moved", "was", "retrieval", "rerank") if wide else ("now", "moved"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("passage", ratio=1, overflow="fold")
    room = max(20, width - (32 if wide else 11))
    for hit in ranking[:top_k]:
        numbers = [Text(str(hit.rank), "bold"), movement(hit.moved, plain=plain)]
        numbers += [Text(str(hit.prior_rank)), _score(hit.prior_score), _score(hit.score)] if wide else []
        table.add_row(*numbers, passage_cell(hit, room))
    return Group(table, *_pushed_out(ranking, top_k, plain=plain))


def movement(moved: int, *, plain: bool = False) -> Text:
    """Places gained or lost."""
    if moved == 0:
        return Text("=", "dim")
    up, down = ("+", "-") if plain else ("▲", "▼")
    return Text(f"{up}{moved}", "green") if moved > 0 else Text(f"{down}{-moved}", "red")


def passage_cell(hit: Hit, room: int) -> Text:
    """Title or id, and the part of the text that carried the score."""
    name = hit.passage.title or hit.id
    mark = "" if hit.status != "unscored" else "  (not scored)"
    return Text.assemble((printable(name), "bold"), (mark, "dim"), "\n", snippet(hit, 2 * room - 10))


def snippet(hit: Hit, room: int) -> Text:
    """About ``room`` characters of the passage around its best evidence, the evidence highlighted."""
    text = printable(hit.text)
    best = max(hit.evidence, key=lambda span: span.weight, default=None)
    start, end = _window(text, (best.start, best.end) if best else (0, 0), room)
    shown = Text(text[start:end])
    for span in hit.evidence:
        shown.stylize(_EVIDENCE, max(0, span.start - start), max(0, span.end - start))
    return Text.assemble("… " if start else "", shown, " …" if end < len(text) else "")


def _window(text: str, span: tuple[int, int], room: int) -> tuple[int, int]:
    """``room`` characters that hold the start of ``span``, cut between words where that is near."""
    if len(text) <= room:
        return 0, len(text)
    slack = max(0, room - (span[1] - span[0])) // 2
    start = min(max(0, span[0] - slack), len(text) - room)
    end = start + room
    if start and (space := text.find(" ", start, start + 20)) >= 0:
        start = min(space + 1, span[0]) if span[1] else space + 1
    if end < len(text) and (space := text.rfind(" ", end - 20, end)) > start:
        end = space
    return start, end


def _score(score: float | None) -> Text:
    return Text("-", "dim") if score is None else Text(f"{score:.3f}")


def _pushed_out(ranking: Ranking, top_k: int, *, plain: bool) -> list[RenderableType]:
    """What retrieval alone would have handed on."""
    fallen = sorted((hit for hit in ranking[top_k:] if hit.prior_rank <= top_k), key=lambda hit: hit.prior_rank)
    lines = [_fallen(hit, plain=plain) for hit in fallen]
    return [Text(f"\nNo longer among the first {top_k}:", "dim"), *lines] if lines else []


def _fallen(hit: Hit, *, plain: bool) -> Text:
    name = printable(hit.passage.title or hit.id)
    line = Text(f"  was {hit.prior_rank}, now {hit.rank}  ", "dim", overflow="ellipsis", no_wrap=True)
    return line.append_text(movement(hit.moved, plain=plain)).append(f"  {name}")


def timings(seconds: Mapping[str, float]) -> Text:
    """One line: each stage's share and the sum."""
    return Text(" · ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), "dim")


def pairs(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def show_answer(
    events: Iterable[Event], top_k: int, merged: Callable[[Mapping[str, float]], Mapping[str, float]]
) -> None:
    """A pipeline's events as they come: the table, the answer while it is written, the sources, the timings."""
    from rich.live import Live

    from rerankit.rag.pipeline import Delta, Done, Reranked

    console, text = results(), ""
    with Live(Text("Retrieving and reranking", "dim"), console=console, transient=True) as live:
        for event in events:
            if isinstance(event, Reranked):
                _show_ranking(event.ranking, top_k)
                live.update(Text("Answering", "dim"))
            elif isinstance(event, Delta):
                text += event.text
                live.update(_paragraph(text))
            elif isinstance(event, Done):
                result = event.result
    console.print(answer_block(result.answer, result.context), "", timings(merged(result.timings)), sep="\n")


def _show_ranking(ranking: Ranking, top_k: int) -> None:
    console = results()
    console.print(heading(ranking.query))
    if ranking.status != "scored":
        console.print(Text(f"{ranking.status}: {printable(ranking.reason)}", "yellow"))
    plain = "utf" not in console.encoding.lower()
    console.print("", before_after(ranking, top_k, width=console.width, plain=plain), heading("Answer"), sep="\n")


def answer_block(answer: Answer, context: Context) -> RenderableType:
    """The answer and the passages that it cites."""
    parts: list[RenderableType] = [_paragraph(answer.text)]
    if answer.reason:
        parts.append(Text(f"\n({printable(answer.reason)})", "dim"))
    if answer.citations:
        parts += [heading("Sources"), *_sources(answer, context)]
    return Group(*parts)


def _sources(answer: Answer, context: Context) -> Iterator[RenderableType]:
    """Each cited passage once, with the sentences that are cited."""
    titles = {block.number: block.passage.title for block in context.blocks}
    for number in dict.fromkeys(citation.number for citation in answer.citations):
        cited = [citation for citation in answer.citations if citation.number == number]
        key = printable(cited[0].passage_id)
        title = printable(titles.get(number, "")) or key
        yield Text.assemble((f"[{number}] {title}", "bold"), (f"  {key}" if title != key else "", "dim"))
        for quote in dict.fromkeys(citation.quote for citation in cited):
            yield Padding(Text(f"“{printable(quote)}”", "dim"), (0, 0, 0, 4), expand=False)


def _paragraph(text: str) -> Text:
    return Text("\n".join(printable(line) for line in text.splitlines()))


def show_index(counts: Mapping[str, float], problems: Sequence[str]) -> None:
    """What ``index`` did, and what it could not read."""
    console = results()
    for problem in problems:
        console.print(Text(printable(problem), "yellow"))
    done = ", ".join(f"{counts[name]} {name}" for name in ("added", "updated", "unchanged", "deleted", "skipped"))
    console.print(Text(f"{done} in {counts['seconds']:.1f} s"))


def show_report(report: Mapping[str, Any]) -> None:
    """What ``doctor`` found."""
    console = results()
    cpu, auto, model, cache = (report[key] for key in ("processor", "auto", "embedded_model", "cache"))
    memory = f", {cpu['memory_gib']} GiB memory" if cpu["memory_gib"] else ""
    chosen = auto.get("error") or f"backend {auto['backend']}, device {auto['device']}, dtype {auto['dtype']}"
    rows = [
        ("rerankit", f"{report['rerankit']}, Python {report['python']}"),
        ("platform", report["platform"]),
        ("processor", f"{cpu['name']}: {cpu['cores']} core(s){memory}"),
        ("features", ", ".join(cpu["features"]) or "none of those that matter, or unknown"),
        ("devices", ", ".join(report["devices"])),
        ("auto picks", chosen),
        ("embedded model", model.get("error") or f"{model['name']}, sha256 {model['sha256'][:12]} as published"),
        ("cache folder", cache.get("error") or f"{cache['folder']}{'' if cache['writable'] else ' (temporary!)'}"),
    ]
    console.print(pairs(rows))
    versions = [(name, found or "not installed") for name, found in report["packages"].items()]
    console.print(heading("Packages"), Padding(pairs(versions), (0, 0, 0, 2)))
    for title, lines in (("Problems", report["problems"]), ("To install", report["advice"])):
        if lines:
            console.print(heading(title), *(Text(f"  {printable(line)}") for line in lines), sep="\n")


def show_models(catalogue: Mapping[str, Any]) -> None:
    """What ``models`` lists."""
    console = results()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("family", no_wrap=True)
    table.add_column("what it does", ratio=1)
    table.add_column("installed")
    for family in catalogue["families"]:
        ready = Text("yes", "green") if family["install"] is None else Text(family["install"], "yellow")
        table.add_row(Text(family["name"], "bold"), Text(printable(family["summary"])), ready)
    console.print(table, heading("Short names"), Padding(pairs(list(catalogue["aliases"].items())), (0, 0, 0, 2)))
    console.print(heading("Checkpoints with known facts", "others work too, from what their own files say"))
    known = [(row["pattern"].strip("*"), _facts(row)) for row in catalogue["checkpoints"]]
    console.print(Padding(pairs(known), (0, 0, 0, 2)))


def _facts(row: Mapping[str, Any]) -> str:
    """The facts of a checkpoint in a few words."""
    words = {
        "pooling": "{} pooling", "read_out": "{} read-out", "activation": "{}", "max_tokens": "{} tokens",
        "query_prompt": "query prompt", "passage_prompt": "passage prompt", "frame": "own pair frame",
    }  # fmt: skip
    return ", ".join(text.format(row[name]) for name, text in words.items() if str(row.get(name, "")).strip())
