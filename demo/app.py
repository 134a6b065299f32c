"""The app for hosts that start a file: `python demo/app.py`. Everywhere else: `rerankit demo`."""

from __future__ import annotations

from rerankit.demo.app import launch
from rerankit.demo.settings import Settings

if __name__ == "__main__":
    launch(Settings())
