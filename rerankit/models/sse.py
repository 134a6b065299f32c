"""Server-sent events (WHATWG HTML, section 9.2), as far as chat endpoints use them: JSON in ``data:`` lines."""

from __future__ import annotations


class EventDecoder:
    """Turns blocks of bytes, cut anywhere, into the data of events; all other lines are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[str]:
        """The data of the lines that ``block`` completes."""
        # split at \n only: str.splitlines also splits at U+2028 and others, which JSON strings may hold
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [data for line in lines if (data := _data(line))]

    def finish(self) -> list[str]:
        """The data of a last line that no line break ended."""
        return self.feed(b"\n")


def _data(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    if text.startswith("error:"):  # llama.cpp's server reports a failure in mid-stream this way
        return '{"error": ' + (text.removeprefix("error:").strip() or '"unknown"') + "}"
    return text.removeprefix("data:").strip() if text.startswith("data:") else ""
