"""Bybit's errors by code and by text: what each means to a desk.

https://bybit-exchange.github.io/docs/v5/error; texts that begin with EC_ are the reasons of the order stream
(https://bybit-exchange.github.io/docs/v5/enum#rejectreason). 17.... are those of spot.
"""

from __future__ import annotations

from typing import Final

from mmenv.live.orders import Trouble
from mmenv.live.venues.refusal import Row

TABLE: Final = (
    # Reasons of the stream, which have no code.
    Row(Trouble.CROSSED, (0, 170218), "PostOnlyWillTakeLiquidity|LIMIT-MAKER order is rejected"),
    Row(Trouble.NOTHING_TO_TAKE, (0,), "NoImmediateQtyToFill"),
    Row(Trouble.CLOSED, (0,), "InvalidSymbolStatus|InCallAuctionStatus|SecurityStatusFail"),
    Row(Trouble.BAD_ORDER, (0,), "EC_LimitOrderInvalidPrice|EC_InvalidPriceScale|Qty|EC_ReachRiskPriceLimit"),
    # One code of many meanings, which only the text tells apart.
    Row(Trouble.WRONG_MODE, (10001, 110005), "position idx not match position mode|position mode"),
    Row(
        Trouble.UNKNOWN_SYMBOL,
        (10001, 170121, 110023),
        "symbol (?:params|invalid)|invalid symbol|not supported sym",
    ),
    Row(Trouble.CLOSED, text="maintenance|upgrading|not (?:in )?trading"),
    Row(Trouble.CLOSED, (110063, 110066, 110074, 170151, 170157, 30228)),
    Row(Trouble.DUPLICATE, (110030, 110072, 170141)),
    Row(Trouble.NO_FUNDS, (110004, 110006, 110007, 110012, 110014, 110044, 110045)),
    Row(Trouble.NO_FUNDS, (110051, 110052, 110053, 170033, 170131)),
    Row(Trouble.NOTHING_TO_REDUCE, (110017, 110034)),
    Row(Trouble.UNKNOWN_ORDER, (110001, 110008, 110010, 110019)),
    Row(Trouble.UNKNOWN_ORDER, (170139, 170142, 170143, 170190, 170213)),
    Row(Trouble.BAD_ORDER, (110003, 110009, 110016, 110020, 110021, 110022, 110032, 110094)),
    Row(Trouble.BAD_ORDER, (170124, 170132, 170133, 170134, 170135, 170136, 170137, 170140, 170210)),
    Row(Trouble.BAD_ORDER, (170192, 170193, 170194, 170371, 170372)),
    Row(Trouble.BAD_ORDER, (10001,), "qty|price|tick|min"),
    Row(Trouble.WRONG_TIME, (10002, -1)),
    Row(Trouble.BAD_KEY, (10003, 10004, 10007, 33004, -2015)),
    Row(Trouble.NO_RIGHTS, (10005, 10008, 10010, 10024, 10027, 10028, 10029, 170201)),
    Row(Trouble.TOO_MANY_ORDERS, (10006, 170005, 170222)),
    Row(Trouble.TOO_OFTEN, (10009, 10018)),
    Row(Trouble.OVERLOADED, (429, 10429, 110079)),
    Row(Trouble.IN_DOUBT, (10000, 10016, 170001, 170007, 170032, 170146, 170147, 170234)),
)
"""From the top, the first row that fits."""
