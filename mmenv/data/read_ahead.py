"""Files read by threads, several at a time, for a consumer that takes them in their order.

Threads unpack text and take it apart, in code that holds no lock of Python's. All that one file has to know
of those before it is left to the consumer, whose rows are therefore the same however many threads there are.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from mmenv.data.lines import FilesInTurn
from mmenv.data.problems import Report

HELD: Final = 4
"""Blocks of each file being read that wait for the consumer."""


class Source(Protocol):
    """Files, and how far they have been read."""

    @property
    def files(self) -> FilesInTurn:
        """Which ones."""

    def only(self, at: int) -> Any:
        """A copy that reads the file of this number alone, from its beginning or from where this one is."""


Found = TypeVar("Found")
From = TypeVar("From", bound=Source)


@dataclass
class _Block(Generic[From, Found]):
    """What came of a block of a file."""

    found: Found | None
    """None at the end of the file."""
    source: From
    """How far it has been read."""
    report: Report
    error: Exception | None = None


class ReadAhead(Generic[From, Found]):
    """A source, and what `pull` makes of it. A pickled copy goes on with the next block.

    `readers` is how many files may be read at a time. Close it where not all of them have been.
    """

    def __init__(self, source: From) -> None:
        self.source, self.readers = source, 1
        self._turns: deque[queue.Queue[_Block[From, Found]]] | None = None
        self._stop = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": copy.copy(self.source), "readers": self.readers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]
        self.readers = state["readers"]

    def pull(self, report: Report, read: Callable[[From, Report], Found | None]) -> Found | None:
        """What `read` makes of the next block, None after the last; `report` is told in the order of files.

        `read` gets a source that nobody else has, and must not rest on what it has read before. It may return
        None only where the file has ended.
        """
        if self.readers == 1:
            return read(self.source, report)
        if self._turns is None:
            self._turns = self._begin(report, read)
        paths = self.source.files.paths
        while self._turns:
            block = self._turns[0].get()
            if block.error is not None:
                raise block.error
            report.add_all(block.report)
            self.source = block.source
            self.source.files.paths = paths
            if block.found is not None:
                return block.found
            self._turns.popleft()
        return None

    def close(self) -> None:
        """Let the threads end; `pull` would begin anew where they have been followed to."""
        self._stop.set()
        self._turns, self._stop = None, threading.Event()

    def _begin(
        self, report: Report, read: Callable[[From, Report], Found | None]
    ) -> deque[queue.Queue[_Block[From, Found]]]:
        files = self.source.files
        sources = [self.source.only(at) for at in range(files.at, len(files.paths))]
        turns = [queue.Queue[_Block[From, Found]](HELD) for _ in sources]
        # A thread takes the next file when it is done with one: of those that wait, the first is always read.
        waiting, stop = zip(sources, turns, strict=True), self._stop
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    mine = next(waiting, None)
                if mine is None or not _read_file(*mine, report, read, stop):
                    return

        for _ in range(min(self.readers, len(sources))):
            threading.Thread(target=work, daemon=True).start()
        return deque(turns)


def _read_file(
    source: From,
    turn: queue.Queue[_Block[From, Found]],
    report: Report,
    read: Callable[[From, Report], Found | None],
    stop: threading.Event,
) -> bool:
    """Read a file to its end; whether it was, and nobody stopped it."""
    while not stop.is_set():
        told = report.empty()
        try:
            found, error = read(source, told), None
        except Exception as raised:
            found, error = None, raised
        block = _Block(found, copy.copy(source), told, error)
        while not stop.is_set():
            try:
                turn.put(block, timeout=0.1)
                break
            except queue.Full:
                continue
        if found is None:
            return error is None
    return False
