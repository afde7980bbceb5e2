"""Each row of Binance's errors, as the venue words them."""

from __future__ import annotations

import pytest

pytest.importorskip("ccxt")

from mmenv.live.orders import Trouble
from mmenv.live.venues.binance.errors import TABLE, trouble_of

SAID = [
    (
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected.",
        "CROSSED",
    ),
    (-2010, "Order would immediately match and take.", "CROSSED"),
    (0, "Order would immediately match and take.", "CROSSED"),
    (-2010, "Account has insufficient balance for requested action.", "NO_FUNDS"),
    (-2019, "Margin is insufficient.", "NO_FUNDS"),
    (-2010, "Duplicate order sent.", "DUPLICATE"),
    (-4116, "ClientOrderId is duplicated.", "DUPLICATE"),
    (-1013, "Market is closed.", "CLOSED"),
    (-2010, "Trading is disabled.", "CLOSED"),
    (-1000, "System maintenance.", "CLOSED"),
    (-4140, "Invalid symbol status for opening position.", "CLOSED"),
    (-4108, "Symbol is on delivering or delivered or settling or closed or pre-trading", "CLOSED"),
    (-2010, "This symbol is not permitted for this account.", "NO_RIGHTS"),
    (-1013, "Filter failure: NOTIONAL", "BAD_ORDER"),
    (-1111, "Precision is over the maximum defined for this asset.", "BAD_ORDER"),
    (-4003, "Quantity less than or equal to zero.", "BAD_ORDER"),
    (-4164, "Order's notional must be no smaller than 5 (unless you choose reduce only).", "BAD_ORDER"),
    (-1015, "Too many new orders; current limit is 100 orders per 10 SECOND.", "TOO_MANY_ORDERS"),
    (-1003, "Too many requests; current limit is 2400 requests per 1 MINUTE.", "TOO_OFTEN"),
    (-2022, "ReduceOnly Order is rejected.", "NOTHING_TO_REDUCE"),
    (-2011, "Unknown order sent.", "UNKNOWN_ORDER"),
    (-2013, "Order does not exist.", "UNKNOWN_ORDER"),
    (-1008, "Server is currently overloaded with other requests. Please try again later.", "OVERLOADED"),
    (-1007, "Timeout waiting for response from backend server. Send status unknown.", "IN_DOUBT"),
    (-1021, "Timestamp for this request is outside of the recvWindow.", "WRONG_TIME"),
    (-4061, "Order's position side does not match user's setting.", "WRONG_MODE"),
    (-1125, "This listenKey does not exist.", "LOST_STREAM"),
    (-2014, "API-key format invalid.", "BAD_KEY"),
    (-1022, "Signature for this request is not valid.", "BAD_KEY"),
    (-2015, "Invalid API-key, IP, or permissions for action.", "NO_RIGHTS"),
    (-1121, "Invalid symbol.", "UNKNOWN_SYMBOL"),
]


@pytest.mark.parametrize(("code", "text", "name"), SAID)
def test_an_error_is_understood(code: int, text: str, name: str) -> None:
    assert trouble_of(code, text) == Trouble[name]


def test_every_row_has_a_case() -> None:
    """A row that no case above reaches is a row that nobody has looked at."""

    def first(code: int, text: str) -> int:
        hits = [
            at for at, row in enumerate(TABLE)
            if (not row.codes or code in row.codes) and row.text.split("|")[0].lower() in text.lower()
        ]  # fmt: skip
        return hits[0] if hits else -1

    reached = {TABLE[first(code, text)].trouble for code, text, _ in SAID}
    assert {row.trouble for row in TABLE} == reached


@pytest.mark.parametrize(("status", "trouble"), [(403, "TOO_OFTEN"), (429, "TOO_OFTEN"), (502, "IN_DOUBT")])
def test_what_has_no_code_is_understood_by_its_status(status: int, trouble: str) -> None:
    assert trouble_of(0, "<html>nothing to read</html>", status) == Trouble[trouble]
    assert trouble_of(-9999, "Something new.") == Trouble.OTHER
