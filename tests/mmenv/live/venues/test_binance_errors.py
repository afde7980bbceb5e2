"""Each row and code of Binance's errors, as the venue words them, and what is told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ccxt")

from mmenv.exchange.loopback import Loopback
from mmenv.exchange.protocol import ApiError
from mmenv.live.orders import Order, Trouble
from mmenv.live.venues.binance.errors import TABLE
from mmenv.live.venues.binance.orders import BinanceOrders
from mmenv.live.venues.refusal import Row, refusal
from tests.helpers.exchanges import KEY, exchange, on_virtual_time, tape

SAID = [
    (-1000, "An unknown error occurred while processing the request.", "IN_DOUBT"),
    (-1000, "System maintenance.", "CLOSED"),
    (-1001, "Internal error; unable to process your request. Please try again.", "IN_DOUBT"),
    (-1002, "You are not authorized to execute this request.", "NO_RIGHTS"),
    (-1003, "Too many requests; current limit is 2400 requests per 1 MINUTE.", "TOO_OFTEN"),
    (-1006, "An unexpected response was received from the message bus.", "IN_DOUBT"),
    (-1007, "Timeout waiting for response from backend server. Send status unknown.", "IN_DOUBT"),
    (-1008, "Server is currently overloaded with other requests. Please try again later.", "OVERLOADED"),
    (-1013, "Filter failure: NOTIONAL", "BAD_ORDER"),
    (-1013, "Invalid quantity.", "BAD_ORDER"),
    (-1013, "Market is closed.", "CLOSED"),
    (-1015, "Too many new orders; current limit is 100 orders per 10 SECOND.", "TOO_MANY_ORDERS"),
    (-1016, "This service is no longer available.", "CLOSED"),
    (-1021, "Timestamp for this request is outside of the recvWindow.", "WRONG_TIME"),
    (-1022, "Signature for this request is not valid.", "BAD_KEY"),
    (-1034, "Too many connection requests!", "TOO_OFTEN"),
    (-1106, "Parameter 'timeInForce' sent when not required.", "BAD_ORDER"),
    (-1111, "Precision is over the maximum defined for this asset.", "BAD_ORDER"),
    (-1121, "Invalid symbol.", "UNKNOWN_SYMBOL"),
    (-1125, "This listenKey does not exist.", "LOST_STREAM"),
    (-2008, "Invalid Api-Key ID.", "BAD_KEY"),
    (-2010, "Order would immediately match and take.", "CROSSED"),
    (0, "Order would immediately match and take.", "CROSSED"),
    (-2010, "Account has insufficient balance for requested action.", "NO_FUNDS"),
    (-2010, "Duplicate order sent.", "DUPLICATE"),
    (-2010, "Trading is disabled.", "CLOSED"),
    (-2010, "Symbol is not trading.", "CLOSED"),
    (-2010, "This symbol is not permitted for this account.", "NO_RIGHTS"),
    (-2010, "Filter failure: MAX_NUM_ORDERS", "BAD_ORDER"),
    (-2010, "Price * QTY is zero or less.", "BAD_ORDER"),
    (-2011, "Unknown order sent.", "UNKNOWN_ORDER"),
    (-2013, "Order does not exist.", "UNKNOWN_ORDER"),
    (-2014, "API-key format invalid.", "BAD_KEY"),
    (-2015, "Invalid API-key, IP, or permissions for action.", "NO_RIGHTS"),
    (-2017, "API Keys are locked on this account.", "NO_RIGHTS"),
    (-2018, "Balance is insufficient.", "NO_FUNDS"),
    (-2019, "Margin is insufficient.", "NO_FUNDS"),
    (-2021, "Order would immediately trigger.", "BAD_ORDER"),
    (-2022, "ReduceOnly Order is rejected.", "NOTHING_TO_REDUCE"),
    (-2025, "Reach max open order limit.", "BAD_ORDER"),
    (-2027, "Exceeded the maximum allowable position at current leverage.", "NO_FUNDS"),
    (-2028, "Leverage is smaller than permitted: insufficient margin balance.", "NO_FUNDS"),
    (-4001, "Price less than 0.", "BAD_ORDER"),
    (-4002, "Price greater than max price.", "BAD_ORDER"),
    (-4003, "Quantity less than or equal to zero.", "BAD_ORDER"),
    (-4004, "Quantity less than min quantity.", "BAD_ORDER"),
    (-4005, "Quantity greater than max quantity.", "BAD_ORDER"),
    (-4013, "Price less than min price.", "BAD_ORDER"),
    (-4014, "Price not increased by tick size.", "BAD_ORDER"),
    (-4015, "Client order id is not valid.", "BAD_ORDER"),
    (-4016, "Price is higher than mark price multiplier cap.", "BAD_ORDER"),
    (-4023, "Qty not increased by step size.", "BAD_ORDER"),
    (-4024, "Price is lower than mark price multiplier floor.", "BAD_ORDER"),
    (-4029, "Tick size precision is invalid.", "BAD_ORDER"),
    (-4030, "Step size precision is invalid.", "BAD_ORDER"),
    (-4050, "Cross balance insufficient.", "NO_FUNDS"),
    (-4051, "Isolated balance insufficient.", "NO_FUNDS"),
    (-4061, "Order's position side does not match user's setting.", "WRONG_MODE"),
    (-4062, "Invalid or improper reduceOnly value.", "WRONG_MODE"),
    (-4068, "Position side cannot be changed if there exists position.", "WRONG_MODE"),
    (-4108, "Symbol is on delivering or delivered or settling or closed or pre-trading", "CLOSED"),
    (-4116, "ClientOrderId is duplicated.", "DUPLICATE"),
    (
        -4118,
        "ReduceOnly Order Failed. Please check your existing position and open orders",
        "NOTHING_TO_REDUCE",
    ),
    (-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit.", "BAD_ORDER"),
    (-4140, "Invalid symbol status for opening position.", "CLOSED"),
    (-4140, "The symbol is not open to it.", "CLOSED"),
    (-4141, "Symbol is closed.", "CLOSED"),
    (-4144, "Invalid pair.", "UNKNOWN_SYMBOL"),
    (-4164, "Order's notional must be no smaller than 5 (unless you choose reduce only).", "BAD_ORDER"),
    (-4183, "Price is higher than stop price multiplier cap.", "BAD_ORDER"),
    (-4184, "Price is lower than stop price multiplier floor.", "BAD_ORDER"),
    (-4400, "Futures Trading Quantitative Rules violated, only reduceOnly order is allowed.", "NO_RIGHTS"),
    (-5022, "The Post Only order will be rejected: it could not be executed as maker.", "CROSSED"),
    (-5028, "Timestamp for this request is outside of the ME recvWindow.", "WRONG_TIME"),
]


@pytest.mark.parametrize(("code", "text", "name"), SAID)
def test_an_error_is_understood(code: int, text: str, name: str) -> None:
    assert refusal(TABLE, code, text).trouble == Trouble[name]


def test_every_row_and_every_code_of_it_has_a_case() -> None:
    """What no case above reaches is what nobody has looked at."""

    def first(code: int, text: str) -> Row:
        return next(row for row in TABLE if row.fits(code, text))

    reached = [(first(code, text), code) for code, text, _ in SAID]
    for row in TABLE:
        for wanted in row.codes or (None,):
            assert any(found is row and wanted in (None, code) for found, code in reached), (row, wanted)


OTHERWISE = dict.fromkeys(("IN_DOUBT", "DUPLICATE"), "Unknown")
"""What is told of an order first, where that is not a reject."""


def test_each_error_of_an_order_is_told_as_what_it_means(tmp_path: Path) -> None:
    """Through the client, one after another: a reject of the row's kind with the venue's own words; an order
    of which the fate is not known is asked for, and found not to be there."""
    venue = exchange(tape(tmp_path, "binance-usdm", seconds=5.0))
    place = venue._matching.place

    async def session(carrier: Loopback) -> None:
        client = carrier.client("binance-usdm", KEY)
        orders = BinanceOrders(client, await client.instrument("BTCUSDT"), reconcile_s=1e6)
        heard: list[Any] = []

        async def listen() -> None:
            async for event in orders.events():
                heard.append(event)

        await orders.open()
        listening = asyncio.create_task(listen())
        for number, (code, text, name) in enumerate(SAID):
            error = ApiError(code, text)

            def refuse(order: Any, error: ApiError = error) -> None:
                raise error

            venue._matching.place = refuse
            # What one of them has silenced must not keep the next from being sent.
            client.throttle._until_ns |= dict.fromkeys(client.throttle._until_ns, 0)
            await orders.submit(Order(client_id=f"o-{number}", side=1, tick=5_900, lots=1))
            venue._matching.place = place
            await asyncio.sleep(3.0 if name in OTHERWISE else 0.01)
            told = [event for event in heard if event.client_id == f"o-{number}"]
            kinds = [type(event).__name__ for event in told]
            assert kinds[0] == OTHERWISE.get(name, "Reject"), (code, text)
            assert text in told[0].reason
            assert kinds[-1] == "Reject"
            if len(told) == 1:
                assert (told[0].code, told[0].trouble) == (code, str(Trouble[name]))
            assert not orders._tracker.working
        listening.cancel()
        await orders.close()
        await client.close()

    on_virtual_time(venue, session)


@pytest.mark.parametrize(("status", "trouble"), [(403, "TOO_OFTEN"), (429, "TOO_OFTEN"), (502, "IN_DOUBT")])
def test_what_has_no_code_is_understood_by_its_status(status: int, trouble: str) -> None:
    assert refusal(TABLE, 0, "<html>nothing to read</html>", status).trouble == Trouble[trouble]
    assert refusal(TABLE, -9999, "Something new.").trouble == Trouble.OTHER
