"""A venue's error answer, as every venue's client raises it."""

from __future__ import annotations

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
