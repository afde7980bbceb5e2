"""Hyperliquid's errors, which are texts alone: what each means to a desk.

https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/error-responses; words without blanks are
states in which the order stream tells that an order was refused.
"""

from __future__ import annotations

from typing import Final

from mmenv.live.orders import Trouble
from mmenv.live.venues.refusal import Row

TABLE: Final = (
    Row(Trouble.CROSSED, text="post only order would have immediately matched|badAloPxRejected"),
    Row(Trouble.NOTHING_TO_TAKE, text="could not immediately match|iocCancelRejected"),
    Row(Trouble.NOTHING_TO_REDUCE, text="reduce only order would increase position|reduceOnlyRejected"),
    Row(Trouble.NO_FUNDS, text="insufficient margin|perpMarginRejected"),
    Row(Trouble.NO_FUNDS, text="insufficient spot balance|insufficientSpotBalanceRejected"),
    Row(Trouble.BAD_ORDER, text="divisible by tick size|tickRejected"),
    Row(Trouble.BAD_ORDER, text="minimum value of|minTradeNtlRejected"),
    Row(
        Trouble.BAD_ORDER,
        text="invalid size|zero size|invalid price|away from the reference price|oracleRejected",
    ),
    Row(Trouble.BAD_ORDER, text="maximum position|perpMaxPositionRejected|open interest"),
    Row(Trouble.UNKNOWN_ORDER, text="never placed, already canceled, or filled|unknownOid"),
    Row(Trouble.DUPLICATE, text="duplicate (?:cloid|nonce)|cloid .*already"),
    Row(Trouble.WRONG_TIME, text="expires?After|nonce too|invalid nonce"),
    Row(Trouble.CLOSED, text="trading is halted|asset .*(?:delisted|halted)|post-only period|upgrad"),
    Row(Trouble.TOO_MANY_ORDERS, text="too many cumulative requests"),
    Row(Trouble.TOO_OFTEN, text="rate limit|too many requests"),
    Row(Trouble.BAD_KEY, text="user or api wallet .* does not exist|must deposit before|extra agent"),
    Row(Trouble.UNKNOWN_SYMBOL, text="unknown coin|invalid asset|failed to deserialize"),
)
"""From the top, the first row that fits."""
