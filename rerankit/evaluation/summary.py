"""The outcome of a comparison as plain data: what scripts read, and what later runs are held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.evaluation.report import table
from rerankit.evaluation.results import Results

__all__ = ["FORMAT", "read_summary", "summarise", "write_summary"]

FORMAT = 1
_NAME = "summary.json"


def summarise(results: Results) -> dict[str, Any]:
    """Per arm the figures of the report's table, the verdict, and the deciding metric's value for each query.

    ``arms`` holds ``figures`` (means, milliseconds, costs), ``verdict`` (None for the baseline or without enough
    queries), ``failed`` (judged queries without a result) and ``per_query``; ``dead`` the arms that answered nothing.
    """
    figures, verdicts, metric = table(results), results.verdicts(), results.metrics[0]
    return {
        "format": FORMAT,
        "data": results.dataset.name,
        "data_sha256": results.folder.setup().get("data_sha256", ""),
        "synthetic": results.dataset.synthetic,
        "queries": len(results.judged),
        "metric": metric,
        "metrics": list(results.metrics),
        "margin": results.margin,
        "seed": results.seed,
        "problems": list(results.dataset.problems),
        "arms": {
            name: {
                "figures": dict(zip(figures.columns, row, strict=True)),
                "verdict": verdicts[name].to_dict() if name in verdicts else None,
                "failed": len(results.left_out.get(name, ())),
                "per_query": results.values[name][metric],
            }
            for name, row in figures.rows.items()
        },
        "dead": dict(results.dead),
    }


def write_summary(results: Results) -> dict[str, Any]:
    """Write ``summary.json`` into the run folder.

    Raises:
        StoreError: the folder cannot be written.
    """
    summary = summarise(results)
    results.folder.write(_NAME, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def read_summary(path: str | Path) -> Mapping[str, Any]:
    """The summary of a run folder, or of a copy of its ``summary.json`` under any name.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    place = Path(path) / _NAME if Path(path).is_dir() else Path(path)
    try:
        summary = json.loads(place.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"No summary at {place}; `rerankit compare --out FOLDER` writes one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The summary {place} cannot be read: {error}") from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT or not isinstance(summary.get("arms"), dict):
        raise InputError(f"{place} is no summary of format {FORMAT}; run the comparison again to make one")
    return summary
