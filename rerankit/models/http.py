"""A JSON endpoint over HTTP that may hang, break, refuse or lie.

Every way to fail ends in a :class:`~rerankit.errors.BackendError` that names the address without credentials, the
status and the number of attempts. Keys appear in no message, log or ``repr``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import json
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from rerankit.errors import BackendError, InputError
from rerankit.models.retry import RetryPolicy, is_retryable, parse_retry_after
from rerankit.models.sse import EventDecoder
from rerankit.redaction import public_options

logger = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_SECRET = 8
"""Characters of a key that is looked for in replies."""


@dataclass(slots=True)
class _Call:
    """One request with all its attempts."""

    endpoint: str
    deadline: float  # time.monotonic()
    attempts: int = 0
    status: int | None = None
    retry_after: float | None = None

    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    def failed(self, message: str, *, retryable: bool = False) -> BackendError:
        return BackendError(
            message, endpoint=self.endpoint, status=self.status, attempts=self.attempts, retryable=retryable
        )


class Endpoint:
    """POSTs JSON to paths under one base URL, with retries, deadlines, and bounds on size and concurrency.

    The coroutines run on the background loop: call them through :mod:`rerankit.models.loop`.

    Args:
        base_url: ``http(s)://host[:port][/path]``; ``user:password@`` becomes basic authentication.
        api_key: sent as ``Authorization: Bearer``.
        headers: further headers.
        timeout_s: longest silence of the server.
        connect_timeout_s: longest wait for a connection.
        deadline_s: longest time for one call, all attempts and waits together.
        retry: when to try again.
        max_concurrency: simultaneous requests; more wait in line.
        max_response_bytes: a longer response is refused.

    Raises:
        InputError: the base URL or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 300.0,
        retry: RetryPolicy | None = None,
        max_concurrency: int = 8,
        max_response_bytes: int = 16 * 2**20,
    ) -> None:
        _require_positive(timeout_s, connect_timeout_s, deadline_s, max_concurrency, max_response_bytes)
        url = _checked_url(base_url)
        self.url = str(url.copy_with(userinfo=b"")).rstrip("/")
        self.retry = retry or RetryPolicy()
        self._auth = (url.username, url.password) if url.userinfo else None
        self._headers = _checked_headers(api_key.strip(), headers or {})
        self._secrets = [secret for secret in (api_key.strip(), url.password, *_keys_in(headers or {})) if secret]
        self._timeout = httpx.Timeout(timeout_s, connect=connect_timeout_s, pool=None)
        self._deadline_s, self._max_concurrency, self._max_bytes = deadline_s, max_concurrency, max_response_bytes
        self._client: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None
        if self._secrets and url.scheme == "http" and not is_local(url.host):
            logger.warning("The key for %s travels unencrypted; use https", self.url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def post(
        self,
        path: str,
        payload: Mapping[str, Any],
        read: Callable[[dict[str, Any]], T],
        deadline_s: float | None = None,
    ) -> T:
        """What ``read`` makes of the JSON object that ``path`` answers; it raises ``ValueError`` if that is of no use.

        Raises:
            BackendError: no usable answer within the retries and the deadline.
        """
        return await self.ask(path, payload, lambda data: read(_as_object(data)), deadline_s)

    async def ask(
        self,
        path: str,
        payload: Mapping[str, Any] | None,
        read: Callable[[Any], T],
        deadline_s: float | None = None,
    ) -> T:
        """:meth:`post` for answers of any JSON type; without a payload it is a GET."""
        call = self._call(path, deadline_s)

        async def attempt() -> bytes:
            async with self._opened(call, payload) as response:
                return b"".join([block async for block in self._blocks(call, response)])

        body = await self._within(call, self._retrying(call, attempt))
        try:
            return read(_parsed(self._unspoken(body)))
        except ValueError as error:
            raise call.failed(self._clean(str(error))) from error

    async def events(
        self,
        path: str,
        payload: Mapping[str, Any],
        is_last: Callable[[dict[str, Any]], bool],
        deadline_s: float | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a streamed response, as they come, up to ``[DONE]`` or the end of the response.

        Only the opening is tried again, never a started stream. A server that answers with one plain JSON object
        instead of a stream gives one event.

        Args:
            path: below the base URL.
            payload: the request's body.
            is_last: says whether an event completes the reply; without one, and without ``[DONE]``, it was cut off.
            deadline_s: replaces the endpoint's deadline.

        Raises:
            BackendError: the stream cannot be opened, breaks, tells an error, is too large or outlives the deadline.
        """
        call = self._call(path, deadline_s)
        complete = False
        async with contextlib.AsyncExitStack() as stack:

            async def attempt() -> httpx.Response:
                return await stack.enter_async_context(self._opened(call, payload))

            response = await self._within(call, self._retrying(call, attempt))
            async for data in self._data(call, response):
                if data == "[DONE]":
                    return
                event = self._event(call, data)
                complete = complete or is_last(event)
                yield event
        if not complete:
            raise call.failed("The stream ended before the reply was complete", retryable=True)

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._client is not None:
            _, client = self._client
            self._client = None
            await client.aclose()

    def _call(self, path: str, deadline_s: float | None) -> _Call:
        return _Call(self.url + path, time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s))

    def _connected(self) -> httpx.AsyncClient:
        running = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not running:  # a fork starts a new loop
            client = httpx.AsyncClient(
                auth=self._auth,
                headers=self._headers,
                timeout=self._timeout,
                limits=httpx.Limits(max_connections=self._max_concurrency),
                verify=_certificates(),
            )
            self._client = running, client
        return self._client[1]

    async def _retrying(self, call: _Call, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            call.attempts, call.status, call.retry_after = call.attempts + 1, None, None
            try:
                return await attempt()
            except BackendError as failure:
                wait = self.retry.delay(call.attempts, call.retry_after)
                if not failure.retryable or call.attempts > self.retry.max_retries or wait >= call.remaining():
                    raise
                logger.info("%s; trying again in %.1f s", failure, wait)
            await asyncio.sleep(wait)

    @contextlib.asynccontextmanager
    async def _opened(self, call: _Call, payload: Mapping[str, Any] | None) -> AsyncIterator[httpx.Response]:
        """A successful response whose body is still to be read; everything else is a BackendError."""
        method, content = ("GET", None) if payload is None else ("POST", _encoded(payload))
        try:
            async with self._connected().stream(method, call.endpoint, content=content) as response:
                call.status = response.status_code
                call.retry_after = parse_retry_after(response.headers.get("retry-after"))
                if not response.is_success:
                    raise await self._refused(call, response)
                yield response
        except httpx.TimeoutException as error:
            raise call.failed(f"The server did not answer in time ({type(error).__name__})", retryable=True) from error
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError) as error:
            raise call.failed(f"The exchange failed: {self._clean(str(error))}") from error
        except httpx.TransportError as error:
            raise call.failed(f"The connection failed: {self._clean(repr(error))}", retryable=True) from error

    async def _blocks(self, call: _Call, response: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        async for block in response.aiter_bytes():
            size += len(block)
            if size > self._max_bytes:
                raise call.failed(f"The response is larger than max_response_bytes={self._max_bytes}")
            yield block

    async def _data(self, call: _Call, response: httpx.Response) -> AsyncIterator[str]:
        blocks = self._blocks(call, response)
        if "json" in response.headers.get("content-type", ""):
            yield b"".join([block async for block in blocks]).decode(errors="replace")
            return
        decoder = EventDecoder()
        while block := await self._within(call, anext(blocks, b"")):
            for data in decoder.feed(block):
                yield data
        for data in decoder.finish():
            yield data

    def _event(self, call: _Call, data: str) -> dict[str, Any]:
        try:
            event = _json_object(self._unspoken(data.encode()))
        except ValueError as error:
            raise call.failed(f"The stream cannot be read: {error}") from error
        if event.get("error"):
            said = self._clean(_error_text(data.encode()))
            raise call.failed(f"The server broke off the reply: {said}", retryable=True)
        return event

    async def _refused(self, call: _Call, response: httpx.Response) -> BackendError:
        body = b""
        async for block in response.aiter_bytes():
            body += block
            if len(body) > 4096:
                break
        said = self._clean(_error_text(body))
        hint = " Redirects are not followed; set the final address." if response.is_redirect else ""
        return call.failed(
            f"The server refused{': ' + said if said else ''}.{hint}", retryable=is_retryable(call.status or 0)
        )

    async def _within(self, call: _Call, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, max(0.0, call.remaining()))
        except TimeoutError as error:
            raise call.failed("The deadline passed before the answer came", retryable=True) from error

    def _unspoken(self, body: bytes) -> bytes:
        """A reply without the secrets that its server repeats, so that none gets into a ranking, a trace or a cache.

        Short ones, such as "none", are no secrets, and would be found by chance.
        """
        for secret in self._secrets:
            if len(secret) >= LEAST_SECRET:
                body = body.replace(secret.encode(), b"***")
        return body

    def _clean(self, text: str) -> str:
        """One printable line without secrets, of bounded length."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading the certificate store takes a tenth of a second: once is enough."""
    return httpx.create_ssl_context()


def _require_positive(*values: float) -> None:
    if any(not 0 < value < math.inf for value in values):
        raise InputError("Timeouts, deadlines, max_concurrency and max_response_bytes must be finite and above 0")


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError("The base URL cannot be parsed; expected something like http://localhost:11434/v1") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(
            "The base URL must start with http:// or https:// and name a host, like http://localhost:11434/v1"
        )
    if url.port is not None and not 0 < url.port < 2**16:
        raise InputError(f"The base URL names the port {url.port}; ports go from 1 to 65535")
    if url.query or url.fragment:
        raise InputError("The base URL must have no '?' or '#' part; pass keys as api_key= or headers=")
    return url


def _checked_headers(api_key: str, headers: Mapping[str, str]) -> dict[str, str]:
    if not (api_key.isascii() and (not api_key or api_key.isprintable())):
        raise InputError("The API key holds characters that no HTTP header can carry")
    for name, value in headers.items():
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise InputError(f"The header {name!r} holds something that no HTTP header can carry, such as a line break")
    # identity: a small compressed body cannot unfold into gigabytes
    plain = {"Accept-Encoding": "identity", "Content-Type": "application/json", "User-Agent": "rerankit"}
    return {**plain, **({"Authorization": f"Bearer {api_key}"} if api_key else {}), **headers}


def _keys_in(headers: Mapping[str, str]) -> list[str]:
    """What is secret in headers, without ``Bearer`` before it; other headers may say what a reply may say too."""
    public = public_options(headers)
    keys = [value.rpartition(" ")[2] for name, value in headers.items() if name not in public]
    return [key for key in keys if len(key) >= LEAST_SECRET]


def is_local(host: str) -> bool:
    """Whether only this machine can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _encoded(payload: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"The request cannot be written as JSON: {error}") from error


def _json_object(body: bytes | str) -> dict[str, Any]:
    return _as_object(_parsed(body))


def _parsed(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("The answer is not JSON. Is this the right base URL? It often ends in /v1") from error


def _as_object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"The answer is a JSON {type(data).__name__}, not an object")
    return data


def _error_text(body: bytes) -> str:
    """What an error body says: ``error.message``, ``error``, ``message`` or ``detail`` of JSON, else its first text."""
    text = body.decode(errors="replace")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return text
    if isinstance(data, dict):
        said = next((data[key] for key in ("error", "message", "detail") if data.get(key)), text)
        return str(said.get("message", said) if isinstance(said, dict) else said)
    return text
