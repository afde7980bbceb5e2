"""What the requests of Binance's markets have in common: errors, answers, how parameters are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

CLIENT_ID: Final = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")

Params = Mapping[str, str]
"""The parameters of a request, as text."""


class ApiError(Exception):
    """An error answer in Binance's form; `headers` go with it."""

    def __init__(
        self, code: int, text: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.code, self.text, self.status, self.headers = code, text, status, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"code": self.code, "msg": self.text}


@dataclass(frozen=True)
class Answer:
    """Status and JSON that answer a request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def whole_steps(params: Params, name: str, step: Decimal, rule: str) -> int:
    """A price or quantity in whole steps. Raises `ApiError`, which names the `rule`, where it is in none."""
    try:
        value = Decimal(params[name])
    except (KeyError, ArithmeticError):
        raise missing(name) from None
    if not value.is_finite() or value <= 0 or value % step:
        raise ApiError(-1013, f"Filter failure: {rule}")
    return int(value / step)


def most(params: Params) -> int:
    """How many entries are asked for at most. Raises `ApiError` where that is no number."""
    try:
        return int(params.get("limit", "500"))
    except ValueError:
        raise ApiError(-1100, "Illegal characters found in parameter 'limit'.") from None


def missing(name: str) -> ApiError:
    """A parameter that a request needs is not there, or cannot be read."""
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, empty or malformed.")
