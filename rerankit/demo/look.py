"""How a page looks, and what it may fetch: nothing but from its own server."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from rerankit.demo.closed import NoAddresses

__all__ = ["launch_options"]

# The page may talk to its own server and nobody else, whatever a passage manages to smuggle in.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; frame-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_META = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="referrer" content="no-referrer">'
# The page has a base address, so a plain link to a place in it would load the page anew.
_CITE = """<script>document.addEventListener('click', (event) => {
  const cite = event.target.closest && event.target.closest('a.rk-cite');
  if (!cite) return;
  event.preventDefault();
  const source = document.getElementById(cite.hash.slice(1));
  if (!source) return;
  source.closest('details').open = true;
  document.querySelectorAll('.rk-found').forEach((other) => other.classList.remove('rk-found'));
  source.classList.add('rk-found');
  source.scrollIntoView({block: 'center'});
  source.focus({preventScroll: true});
});</script>"""


def launch_options(gr: Any) -> dict[str, Any]:
    """What every page of ours is launched with: fonts and scripts of its own, nothing counted, nothing from outside."""
    from starlette.middleware import Middleware

    return {
        "app_kwargs": {"middleware": [Middleware(NoAddresses)]},
        "prevent_thread_lock": True,
        "quiet": True,
        "show_error": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "footer_links": [],
        "theme": _theme(gr),
        "css": files(__package__).joinpath("style.css").read_text("utf-8"),
        "head": _META + _CITE,
    }


def _theme(gr: Any) -> Any:
    """Fonts of the visitor's own machine, and buttons that are dark enough for white letters."""
    base = gr.themes.Default(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    fill, hover = "*primary_700", "*primary_800"
    return base.set(
        button_primary_background_fill=fill,
        button_primary_background_fill_dark=fill,
        button_primary_background_fill_hover=hover,
        button_primary_background_fill_hover_dark=hover,
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )
