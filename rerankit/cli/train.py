"""``rerankit train``: train models, or find retrieval heads, on your data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli import train_options as opt
from rerankit.cli.output import JsonOption, counting, emit, printable, reporting, results
from rerankit.cli.sink import check_target
from rerankit.cli.train_compressed import compressed
from rerankit.cli.train_cross_encoder import cross_encoder
from rerankit.cli.train_reader import reader
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.training.heads import Detection

app = typer.Typer(no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train models, or find retrieval heads, on your data."""


app.command("compressed")(compressed)
app.command("cross-encoder")(cross_encoder)
app.command("reader")(reader)


@app.command("heads")
def heads(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Local folder, or name on the Hugging Face hub.")],
    data: Annotated[
        str, typer.Option(metavar="DIR|FILE", help="A test collection, or jsonl of query, positive, negatives.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="File to write the heads to.")],
    method: Annotated[
        str, typer.Option(help="How heads are scored: core (contrastive) or qr (attention mass).")
    ] = "core",
    top: Annotated[int, typer.Option(min=1, help="How many heads to keep.")] = 8,
    queries: Annotated[
        int, typer.Option(min=4, help="How many lists to use; half choose the heads, half check them.")
    ] = 128,
    negatives: Annotated[int, typer.Option(min=1, help="Irrelevant passages per list.")] = 31,
    temperature: Annotated[
        float, typer.Option(help="Temperature of core: 0.1 for Llama and Phi, 0.001 for Mistral and Granite.")
    ] = 0.1,
    max_depth: Annotated[int | None, typer.Option(min=1, help="Use heads of the first N layers only.")] = None,
    split: Annotated[str, typer.Option(help="Judgements of a BEIR folder to use: qrels/SPLIT.tsv.")] = "train",
    corpus: opt.Corpus = None,
    device: opt.Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    seed: opt.Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the attention heads of a causal model that retrieve; use them as 'in-context:MODEL[heads=FILE.json]'.

    Takes one forward pass per list. The file is valid for exactly these weights of the model.
    """
    with reporting(as_json):
        from rerankit.models.causal import LocalLM
        from rerankit.training.head_examples import read_examples
        from rerankit.training.heads import detect_heads, save_heads

        if method not in ("core", "qr"):
            raise InputError(f"--method is core or qr, got {method!r}")
        check_target(out)
        examples = read_examples(data, count=queries, negatives=negatives, split=split, corpus=corpus, seed=seed)
        lm = LocalLM(model, device=device, dtype=dtype)
        with counting("lists", len(examples)) as advance:
            found = detect_heads(
                lm, examples, method="core" if method == "core" else "qr", top=top, temperature=temperature,
                max_depth=max_depth, seed=seed, progress=advance,
            )  # fmt: skip
        save_heads(found, lm, out, data=str(data))
        if as_json:
            emit({"output": str(out), **dataclasses.asdict(found)})
        else:
            _show(found, out)


def _show(found: Detection, out: Path) -> None:
    checked = ", ".join(f"{name} {value:.3f}" for name, value in found.held_out.items())
    lines = [
        f"{len(found.heads)} heads of {found.depth} of {found.layers} layers, written to {out}",
        *(f"  {head.head}: score {head.score:.4f}, alone nDCG@10 {head.ndcg:.3f}" for head in found.heads),
        *([f"{found.cut} lists did not fit the context: their passages were cut"] if found.cut else []),
        f"nDCG@10 on {found.lists[1]} lists that took no part in the choice: {checked}",
    ]
    results().print(*map(printable, lines), sep="\n")
