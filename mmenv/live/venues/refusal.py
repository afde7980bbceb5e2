"""A venue's error answer, as every venue's client raises it, and how a table says what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

try:
    from ccxt.base.errors import ExchangeError
except ImportError as error:
    raise ImportError(
        "live markets need ccxt, which is not installed; install the extra `live`: "
        "pip install 'neuralmm[live]'"
    ) from error

from mmenv.live.orders import Trouble


class Refusal(ExchangeError):  # type: ignore[misc]
    """An error answer of a venue: what it means, the venue's code (0 if none) and text, HTTP's status."""

    def __init__(self, trouble: Trouble, code: int, text: str, status: int) -> None:
        super().__init__(f"{code} {text}" if code else text)
        self.trouble, self.code, self.text, self.status = trouble, code, text, status


@dataclass(frozen=True)
class Row:
    """Errors of these codes (any, if none is given) whose text has this in it, in whatever case."""

    trouble: Trouble
    codes: tuple[int, ...] = ()
    text: str = ""

    def fits(self, code: int, text: str) -> bool:
        """Whether an error is one of these."""
        return (not self.codes or code in self.codes) and bool(re.search(self.text, text, re.IGNORECASE))


def refusal(table: Sequence[Row], code: int, text: str, status: int = 400) -> Refusal:
    """The error of an answer: the venue's `code` (0 if it gives none), its text, and HTTP's status.

    The first row of the `table` that fits says what it means; then the status does.
    """
    trouble = next((row.trouble for row in table if row.fits(code, text)), None)
    if trouble is None and status in (403, 418, 429):
        trouble = Trouble.TOO_OFTEN
    # What a server says about itself says nothing of the request.
    return Refusal(trouble or (Trouble.IN_DOUBT if status >= 500 else Trouble.OTHER), code, text, status)
