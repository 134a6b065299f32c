"""Every error that rerankit raises on purpose.

    RerankitError
    |-- SpecError            the spec string is wrong: what, where, and the nearest valid one
    |-- MissingExtraError    an optional dependency is absent: the command that installs it
    |-- ModelError           a model cannot be loaded or gave nonsense: which model, which file, what to do
    |-- InputError           the caller's data is wrong: which passage, which line
    |-- BackendError         a remote endpoint failed: endpoint, status, attempts
    `-- StoreError           a vector store or cache cannot be used: which one, and the way out

A message says what happened, where, and what to do next.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class RerankitError(Exception):
    """Base of all rerankit errors: catch this one to catch them all."""


class SpecError(RerankitError, ValueError):
    """A reranker spec cannot be understood."""


class MissingExtraError(RerankitError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        package: the import that failed.
        extra: the rerankit extra that brings it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(f"{purpose} needs the package '{package}'. Install it with: pip install 'rerankit[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)


class ModelError(RerankitError, RuntimeError):
    """A model is missing, damaged, of the wrong kind, or returned non-finite scores."""


class InputError(RerankitError, ValueError):
    """The caller's query, passages, files or parameters are not usable."""


class BackendError(RerankitError, RuntimeError):
    """A remote endpoint did not answer usefully.

    Attributes:
        endpoint: the address that was called (without credentials).
        status: HTTP status, or None when no response came.
        attempts: how often it was tried.
        retryable: whether the same call may succeed later.
    """

    def __init__(
        self, message: str, *, endpoint: str, status: int | None = None, attempts: int = 1, retryable: bool = False
    ) -> None:
        self.message, self.endpoint, self.status = message, endpoint, status
        self.attempts, self.retryable = attempts, retryable
        seen = f"status {status}" if status is not None else "no response"
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"{message} ({endpoint}, {seen}, {tries})")


class StoreError(RerankitError, RuntimeError):
    """A vector store, cache or index cannot be opened, read or written."""


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional ``package``, or raise :class:`MissingExtraError` naming the install command.

    ``purpose`` starts the message ("Reading PDF files", "The Chroma store").
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package.partition(".")[0], extra, purpose) from error
