"""Draws docs/assets/ask.svg from a real run: ``.venv/bin/python docs/make_assets.py ["question"]``."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.text import Text

from rerankit.cli import show
from rerankit.cli.app import app
from rerankit.demo.tab_ask import EXAMPLES

TARGET = Path(__file__).parent / "assets" / "ask.svg"


def main() -> None:
    """Ask once in another process, so that the corpus is indexed, and draw the second run from its beginning."""
    question = sys.argv[1] if len(sys.argv) > 1 else EXAMPLES[0]
    with tempfile.TemporaryDirectory() as store:
        arguments = ["ask", question, "--store", store, "--corpus", "sample:farm", "--top-k", "4"]
        subprocess.run([sys.executable, "-m", "rerankit.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
        console = Console(file=io.StringIO(), record=True, width=100, highlight=False, markup=False, emoji=False)
        command = "make ask" if question == EXAMPLES[0] else f'make ask Q="{question}"'
        console.print(Text.assemble(("$ ", "dim"), command))
        with mock.patch.object(show, "results", return_value=console):
            app(arguments, standalone_mode=False)
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="rerankit ask"), flags=re.DOTALL)  # no web fonts
    TARGET.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
