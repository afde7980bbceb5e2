"""How often a market of the exchange lets itself be asked, and what it does to those who ask more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mmenv.exchange.books import Account, Json, RateRule
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import ApiError
from mmenv.times import MILLISECOND, SECOND

WEIGHT, ORDERS = "REQUEST_WEIGHT", "ORDERS"
WARNINGS: Final = 10
"""Requests that are answered 429 before the address is banned."""
FIRST_BAN_S: Final = 120


@dataclass
class _Count:
    began_ns: int = 0
    used: int = 0


class Limits:
    """Counts the requests of one market: their weight for all, new orders for each account.

    As at the real one, a window begins at whole multiples of its length. Who goes on asking when told that it
    is too often is banned, at first for FIRST_BAN_S, and for twice as long each time after.
    """

    def __init__(self, rules: tuple[RateRule, ...], weights: Mapping[tuple[str, str], int], present: Present):
        self._rules, self._weights, self._present = rules, weights, present
        self._counts: dict[tuple[RateRule, str], _Count] = {}
        self._warned = self._bans = 0
        self._banned_until_ns = 0

    def view(self) -> list[Json]:
        """As exchangeInfo has them."""
        return [
            {
                "rateLimitType": rule.kind,
                "interval": rule.unit,
                "intervalNum": rule.number,
                "limit": rule.limit,
            }
            for rule in self._rules
        ]

    def charge(self, method: str, name: str, account: Account | None) -> dict[str, str]:
        """Count a request; the headers of its answer. Raises `ApiError` if it is one too many."""
        now_ns = self._present.now_ns
        if now_ns < self._banned_until_ns:
            raise self._banned()
        headers = {}
        order = (method, name) == ("POST", "order")
        for rule in self._rules:
            cost = int(order) if rule.kind == ORDERS else self._weights.get((method, name), 1)
            count = self._count(rule, account.key if account is not None and rule.kind == ORDERS else "")
            if cost and count.used + cost > rule.limit:
                raise self._too_many(rule, count)
            count.used += cost
            short = f"{rule.number}{rule.unit[0].lower()}"
            if rule.kind == WEIGHT:
                headers[f"X-MBX-USED-WEIGHT-{short}"] = str(count.used)
            elif order:
                headers[f"X-MBX-ORDER-COUNT-{short}"] = str(count.used)
        return headers

    def ban(self, until_ns: int) -> None:
        """Answer nothing until then."""
        self._banned_until_ns = max(self._banned_until_ns, until_ns)

    def _count(self, rule: RateRule, whose: str) -> _Count:
        count = self._counts.setdefault((rule, whose), _Count())
        began = self._present.now_ns // rule.span_ns * rule.span_ns
        if began > count.began_ns:
            count.began_ns, count.used = began, 0
        return count

    def _too_many(self, rule: RateRule, count: _Count) -> ApiError:
        wait = -(-(count.began_ns + rule.span_ns - self._present.now_ns) // SECOND)
        headers = {"Retry-After": str(wait)}
        if rule.kind == ORDERS:
            text = f"Too many new orders; current limit is {rule.limit} orders per {rule.number} {rule.unit}."
            return ApiError(-1015, text, 429, headers)
        self._warned += 1
        if self._warned > WARNINGS:
            self.ban(self._present.now_ns + (FIRST_BAN_S << min(self._bans, 12)) * SECOND)
            self._warned, self._bans = 0, self._bans + 1
            return self._banned()
        text = (
            f"Too many requests; current limit is {rule.limit} request weight per {rule.number} {rule.unit}."
        )
        return ApiError(-1003, text, 429, headers)

    def _banned(self) -> ApiError:
        until_ns = self._banned_until_ns
        text = (
            f"Way too much request weight used; IP banned until {until_ns // MILLISECOND}. Please use the "
            "websocket for live updates to avoid bans."
        )
        return ApiError(
            -1003, text, 418, {"Retry-After": str(-(-(until_ns - self._present.now_ns) // SECOND))}
        )
