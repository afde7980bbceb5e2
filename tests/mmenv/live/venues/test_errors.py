"""Each row of the errors of venues beside Binance, as the venue words them."""

from __future__ import annotations

import pytest

pytest.importorskip("ccxt")

from mmenv.live.orders import Trouble
from mmenv.live.venues.bybit.errors import TABLE as BYBIT
from mmenv.live.venues.hyperliquid.errors import TABLE as HYPERLIQUID
from mmenv.live.venues.okx.errors import TABLE as OKX
from mmenv.live.venues.refusal import Row, refusal

TABLES = {"bybit": BYBIT, "okx": OKX, "hyperliquid": HYPERLIQUID}
SAID: dict[str, list[tuple[int, str, str]]] = {
    "bybit": [
        (0, "EC_PostOnlyWillTakeLiquidity", "CROSSED"),
        (0, "EC_NoImmediateQtyToFill", "NOTHING_TO_TAKE"),
        (170218, "The LIMIT-MAKER order is rejected due to invalid price.", "CROSSED"),
        (0, "EC_InvalidSymbolStatus", "CLOSED"),
        (0, "EC_InvalidPriceScale", "BAD_ORDER"),
        (10001, "position idx not match position mode", "WRONG_MODE"),
        (10001, "params error: symbol invalid", "UNKNOWN_SYMBOL"),
        (170121, "Invalid symbol.", "UNKNOWN_SYMBOL"),
        (10016, "Service is under maintenance", "CLOSED"),
        (110066, "Trading is currently not allowed.", "CLOSED"),
        (110072, "OrderLinkedID is duplicate", "DUPLICATE"),
        (110007, "ab not enough for new order", "NO_FUNDS"),
        (170131, "Insufficient balance.", "NO_FUNDS"),
        (110017, "current position is zero, cannot fix reduce-only order qty", "NOTHING_TO_REDUCE"),
        (110001, "order not exists or too late to cancel", "UNKNOWN_ORDER"),
        (170213, "Order does not exist.", "UNKNOWN_ORDER"),
        (110094, "Order does not meet minimum order value 5USDT", "BAD_ORDER"),
        (170140, "Transaction amount lower than the minimum.", "BAD_ORDER"),
        (170193, "Buy order price cannot be higher than 100.", "BAD_ORDER"),
        (10001, "Qty invalid", "BAD_ORDER"),
        (10002, "invalid request, please check your server timestamp or recv_window param", "WRONG_TIME"),
        (10003, "API key is invalid.", "BAD_KEY"),
        (10005, "Permission denied, please check your API key permissions.", "NO_RIGHTS"),
        (10006, "Too many visits!", "TOO_MANY_ORDERS"),
        (10018, "Exceeded the IP Rate Limit.", "TOO_OFTEN"),
        (10429, "System level frequency protection.", "OVERLOADED"),
        (10016, "Server error.", "IN_DOUBT"),
    ],
    "okx": [
        (31, "", "CROSSED"),
        (51000, "Parameter posSide  error ", "WRONG_MODE"),
        (51000, "Parameter sz error", "BAD_ORDER"),
        (50001, "Service temporarily unavailable. Try again later", "CLOSED"),
        (51022, "Instrument ID suspended", "CLOSED"),
        (51016, "Duplicated client order ID", "DUPLICATE"),
        (51008, "Order failed. Insufficient USDT balance in account", "NO_FUNDS"),
        (51169, "Order failed because you don't have any positions in this direction", "NOTHING_TO_REDUCE"),
        (
            51400,
            "Cancellation failed as the order has been filled, canceled or does not exist.",
            "UNKNOWN_ORDER",
        ),
        (51006, "Order price is not within the price limit", "BAD_ORDER"),
        (51121, "Order quantity must be a multiple of the lot size.", "BAD_ORDER"),
        (51203, "Order amount exceeds the limit", "BAD_ORDER"),
        (51001, "Instrument ID doesn't exist.", "UNKNOWN_SYMBOL"),
        (50102, "Timestamp request expired", "WRONG_TIME"),
        (50101, "APIKey does not match current environment.", "BAD_KEY"),
        (60005, "Invalid apiKey", "BAD_KEY"),
        (50120, "This API key doesn't have permission to use this function", "NO_RIGHTS"),
        (51010, "You can't complete this request under your current account mode.", "WRONG_MODE"),
        (50011, "Too Many Requests", "TOO_OFTEN"),
        (50061, "Order rate limit reached", "TOO_MANY_ORDERS"),
        (50013, "Systems are busy. Please try again later.", "OVERLOADED"),
        (50004, "API endpoint request timeout.", "IN_DOUBT"),
    ],
    "hyperliquid": [
        (0, "Order could not immediately match against any resting orders. asset=0", "NOTHING_TO_TAKE"),
        (0, "iocCancelRejected", "NOTHING_TO_TAKE"),
        (0, "Post only order would have immediately matched, bbo was 3.9@3.91. asset=4", "CROSSED"),
        (0, "Reduce only order would increase position. asset=4", "NOTHING_TO_REDUCE"),
        (0, "Insufficient margin to place order. asset=4", "NO_FUNDS"),
        (0, "Insufficient spot balance asset=10001", "NO_FUNDS"),
        (0, "Price must be divisible by tick size. asset=4", "BAD_ORDER"),
        (0, "Order must have minimum value of $10. asset=4", "BAD_ORDER"),
        (0, "Order has invalid size.", "BAD_ORDER"),
        (0, "Order price cannot be more than 80% away from the reference price", "BAD_ORDER"),
        (0, "perpMaxPositionRejected", "BAD_ORDER"),
        (0, "Order was never placed, already canceled, or filled. asset=4", "UNKNOWN_ORDER"),
        (0, "Duplicate cloid", "DUPLICATE"),
        (0, "Action expiresAfter is in the past", "WRONG_TIME"),
        (0, "Trading is halted. asset=4", "CLOSED"),
        (0, "Too many cumulative requests sent (37986 > 10436)", "TOO_MANY_ORDERS"),
        (0, "Too many requests", "TOO_OFTEN"),
        (0, "User or API Wallet 0xb8a6f8b26223de27c31938d56e470a5b832703a5 does not exist.", "BAD_KEY"),
        (0, "Invalid asset", "UNKNOWN_SYMBOL"),
    ],
}


@pytest.mark.parametrize(
    ("venue", "code", "text", "name"), [(venue, *case) for venue, cases in SAID.items() for case in cases]
)
def test_an_error_is_understood(venue: str, code: int, text: str, name: str) -> None:
    assert refusal(TABLES[venue], code, text).trouble == Trouble[name]


@pytest.mark.parametrize("venue", TABLES)
def test_every_row_has_a_case(venue: str) -> None:
    """A row that no case above reaches is a row that nobody has looked at."""
    table = TABLES[venue]
    reached = {next(row for row in table if row.fits(code, text)) for code, text, _ in SAID[venue]}
    assert list(table) == [row for row in table if row in reached]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("status", "trouble"), [(403, "TOO_OFTEN"), (429, "TOO_OFTEN"), (502, "IN_DOUBT")])
def test_what_has_no_code_is_understood_by_its_status(
    table: tuple[Row, ...], status: int, trouble: str
) -> None:
    assert refusal(table, 0, "<html>nothing to read</html>", status).trouble == Trouble[trouble]
    assert refusal(table, -9999, "Something new.").trouble == Trouble.OTHER
