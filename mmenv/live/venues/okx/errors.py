"""OKX's errors by code and by text: what each means to a desk.

https://www.okx.com/docs-v5/en/#error-code; 31 is not one, but the source of a cancel in the order channel.
"""

from __future__ import annotations

from typing import Final

from mmenv.live.orders import Trouble
from mmenv.live.venues.refusal import Row

POST_ONLY: Final = 31
"""Source of a cancel: a post-only order would have traded at once."""

TABLE: Final = (
    Row(Trouble.CROSSED, (POST_ONLY,)),
    # One code of many meanings, which only the text tells apart.
    Row(Trouble.WRONG_MODE, (51000,), "posSide|tdMode"),
    Row(Trouble.BAD_ORDER, (51000,), "sz|px|clOrdId"),
    Row(Trouble.CLOSED, (50001, 50005, 51021, 51022, 51027, 51028, 51029, 51030, 51404, 54000)),
    Row(Trouble.DUPLICATE, (51011, 51016)),
    Row(Trouble.NO_FUNDS, (51008, 51119, 51127, 51131)),
    Row(Trouble.NOTHING_TO_REDUCE, (51023, 51112, 51169, 51205)),
    Row(Trouble.UNKNOWN_ORDER, (51400, 51401, 51402, 51410, 51503, 51603)),
    Row(Trouble.BAD_ORDER, (51004, 51005, 51006, 51007, 51020, 51025, 51031)),
    Row(Trouble.BAD_ORDER, (51100, 51101, 51102, 51103, 51105, 51116, 51118, 51120, 51121, 51122)),
    Row(Trouble.BAD_ORDER, (51135, 51136, 51137, 51138, 51174, 51202, 51203, 51204)),
    Row(Trouble.UNKNOWN_SYMBOL, (51001, 51015)),
    # The latter: what we said is too late for the order came after that.
    Row(Trouble.WRONG_TIME, (50102, 50112, 60004, 60006, 51149)),
    Row(Trouble.BAD_KEY, (50101, 50103, 50104, 50105, 50106, 50111, 50113, 50119)),
    Row(Trouble.BAD_KEY, (60005, 60007, 60009, 60024, 60032)),
    Row(Trouble.NO_RIGHTS, (50007, 50009, 50012, 50027, 50030, 50100, 50110, 50114, 50120, 51009, 51155)),
    Row(Trouble.WRONG_MODE, (51010,)),
    Row(Trouble.TOO_OFTEN, (50011,)),
    Row(Trouble.TOO_MANY_ORDERS, (50061,)),
    Row(Trouble.OVERLOADED, (50013,)),
    Row(Trouble.IN_DOUBT, (50004, 50026)),
)
"""From the top, the first row that fits."""
