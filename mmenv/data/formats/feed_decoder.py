"""Messages of a websocket feed of one symbol to rows, as they come: by the importer of captures of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.data.formats.base import ImportOptions
from mmenv.data.formats.feed import MALFORMED, Book, FeedImporter, Odd
from mmenv.data.formats.feed_rows import WHOLE
from mmenv.data.problems import Report
from mmenv.data.source import Source


class FeedDecoder:
    """Turns messages into rows and checks their sequence numbers and times, as the importer does.

    `valid` is whether the book is whole: a gap makes it false until the next snapshot.
    """

    def __init__(self, importer: type[FeedImporter], source: Source, report: Report) -> None:
        self.source, self.report = source, report
        self.line = self.local_ns = 0
        self.valid = self.unfounded = False
        """Whether the book is whole; whether the newest message changes it while it is not."""
        self._importer = importer(source, (), ImportOptions())
        self._odd, self._update = Odd(self._importer.places), -1

    @property
    def name(self) -> str:
        """What the feed is called."""
        return self.report.name(0)

    def problem(self, kind: str, text: str) -> None:
        """Report what is wrong with the message of this line."""
        self.report.add(self.name, self.line, self.local_ns, kind, text)

    def message(self, local_ns: int, message: Any) -> None:
        """Decode a parsed message; `flush` gives its rows."""
        self.local_ns, self.unfounded = local_ns, False
        held = self._odd.mark()
        try:
            parts = self._importer.parts(message)
            if parts is None:
                self.report.note(f"{self._importer.kind(message)} message, not used")
            for part in parts or ():
                if part.symbol == self.source.symbol:
                    self._odd.add(part, local_ns, self.line)
                    if isinstance(part, Book):
                        self._heed(part)
        except MALFORMED as error:
            self._odd.back(held)
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            self.problem("bad-message", told)

    def _heed(self, book: Book) -> None:
        if book.snapshot or self._importer.mode == WHOLE:
            self.valid = True
        elif book.previous >= 0 and self._update >= 0 and book.previous != self._update:
            self.valid = False
        self._update = book.update
        self.unfounded |= not self.valid

    def interrupt(self) -> None:
        """Messages were lost, or may have been: the book is broken until the next snapshot."""
        self.valid = False

    def discard(self) -> None:
        """Forget what was gathered since the last flush."""
        self.valid = False
        self._odd = Odd(self._importer.places)

    def flush(self) -> NDArray[np.void]:
        """`RAW` rows gathered since the last flush, invalid ones reported and left out."""
        return self._importer.rows(*self._odd.take(), self.report)
