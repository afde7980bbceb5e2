"""How often Bybit lets itself be asked: all requests of an address, new orders of an account."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Final

from mmenv.exchange.books import Account
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import ApiError
from mmenv.times import MILLISECOND, SECOND

REQUESTS: Final = 600
REQUESTS_S: Final = 5
BAN_S: Final = 600
ORDERS: Final = 10
"""New orders in a second."""


class BybitLimits:
    """Counts in windows that slide; who asks too often is banned, and every account for itself."""

    def __init__(self, present: Present) -> None:
        self._present = present
        self._asked: deque[int] = deque()
        self._ordered: dict[str, deque[int]] = defaultdict(deque)
        self._banned_until_ns = 0

    def ban(self, until_ns: int) -> None:
        """Answer nothing until then."""
        self._banned_until_ns = max(self._banned_until_ns, until_ns)

    def charge(self, order: bool, account: Account | None) -> dict[str, str]:
        """Count a request; the headers of its answer. Raises `ApiError` if it is one too many."""
        now_ns = self._present.now_ns
        if _count(self._asked, now_ns, REQUESTS_S) > REQUESTS:
            self.ban(now_ns + BAN_S * SECOND)
        if now_ns < self._banned_until_ns:
            raise ApiError(10018, "Exceeded the IP Rate Limit.", 403)
        if not order or account is None:
            return {}
        used = _count(self._ordered[account.key], now_ns, 1)
        reset = (self._ordered[account.key][0] + SECOND) // MILLISECOND
        headers = {
            "X-Bapi-Limit": str(ORDERS),
            "X-Bapi-Limit-Status": str(max(ORDERS - used, 0)),
            "X-Bapi-Limit-Reset-Timestamp": str(reset),
        }
        if used > ORDERS:
            raise ApiError(10006, "Too many visits. Exceeded the API Rate Limit.", 200, headers)
        return headers


def _count(times: deque[int], now_ns: int, seconds: int) -> int:
    """How many there have been in so many seconds, this one included."""
    times.append(now_ns)
    while times[0] <= now_ns - seconds * SECOND:
        times.popleft()
    return len(times)
