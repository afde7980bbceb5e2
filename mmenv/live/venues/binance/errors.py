"""Binance's errors by code and by text: what each means to a desk.

https://developers.binance.com/docs/binance-spot-api-docs/errors and
https://developers.binance.com/docs/derivatives/usds-margined-futures/error-code
"""

from __future__ import annotations

from typing import Final

from mmenv.live.orders import Trouble
from mmenv.live.venues.refusal import Row

TABLE: Final = (
    # One code of many meanings, which only the text tells apart.
    Row(Trouble.CROSSED, text="would immediately match"),
    Row(Trouble.CROSSED, (-5022,)),
    Row(Trouble.DUPLICATE, text="duplicate order sent"),
    Row(Trouble.DUPLICATE, (-4116,)),
    Row(Trouble.CLOSED, text="market is closed"),
    Row(Trouble.CLOSED, text="trading is disabled"),
    Row(Trouble.CLOSED, text="system maintenance"),
    Row(Trouble.CLOSED, text="symbol is not (?:in )?trading|invalid symbol status"),
    Row(Trouble.CLOSED, (-4108, -4140, -4141, -1016)),
    Row(Trouble.NO_RIGHTS, text="not whitelisted|not permitted|not have permission"),
    Row(Trouble.NO_FUNDS, (-2010,), "insufficient balance"),
    Row(Trouble.NO_FUNDS, (-2018, -2019, -2027, -2028, -4050, -4051)),
    Row(Trouble.BAD_ORDER, (-2010, -1013), "filter failure|max_num|exceed"),
    Row(Trouble.BAD_ORDER, (-1013, -1106, -1111, -2010, -2021, -2025)),
    Row(Trouble.BAD_ORDER, (-4001, -4002, -4003, -4004, -4005, -4013, -4014, -4015, -4016)),
    Row(Trouble.BAD_ORDER, (-4023, -4024, -4029, -4030, -4131, -4164, -4183, -4184)),
    Row(Trouble.TOO_MANY_ORDERS, (-1015,)),
    Row(Trouble.TOO_OFTEN, (-1003, -1034)),
    Row(Trouble.NOTHING_TO_REDUCE, (-2022, -4118)),
    Row(Trouble.UNKNOWN_ORDER, (-2011, -2013)),
    Row(Trouble.OVERLOADED, (-1008,)),
    Row(Trouble.IN_DOUBT, (-1000, -1001, -1006, -1007)),
    Row(Trouble.WRONG_TIME, (-1021, -5028)),
    Row(Trouble.WRONG_MODE, (-4061, -4062, -4068)),
    Row(Trouble.LOST_STREAM, (-1125,)),
    Row(Trouble.BAD_KEY, (-1022, -2008, -2014)),
    Row(Trouble.NO_RIGHTS, (-1002, -2015, -2017, -4400)),
    Row(Trouble.UNKNOWN_SYMBOL, (-1121, -4144)),
)
"""From the top, the first row that fits."""
