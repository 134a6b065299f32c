"""No fetching for visitors: Gradio would get any address that a request names, as a file or to pass it on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rerankit.errors import InputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["NoAddresses", "take_uploads_only"]

Taking = Callable[[Any], Awaitable[Any]]


def take_uploads_only(blocks: Any) -> None:
    """Make all components refuse addresses in place of files; a request past the page may put one into any of them."""
    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = _refusing(block.async_move_resource_to_block_cache)


def _refusing(take: Taking) -> Taking:
    async def taking(path: Any) -> Any:
        if "://" in str(path):
            raise InputError("Only uploaded files are read here, no addresses.")
        return await take(path)

    return taking


class NoAddresses:
    """ASGI middleware that closes the routes ``/file=ADDRESS`` and ``/proxy=ADDRESS``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless its path holds an address."""
        from starlette.responses import PlainTextResponse

        closed = "://" in scope.get("path", "")
        answer: ASGIApp = PlainTextResponse("No other server is asked from here.", 403) if closed else self._app
        await answer(scope, receive, send)
