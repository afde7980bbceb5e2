"""What is known of our orders at Binance, and telling it: each piece of news once, in order.

The same news comes by the user stream, in the answers to requests, and by asking again; late and double.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from mmenv.live.orders import LOST, Ack, AnyEvent, Cancel, Fill, Reject, Trouble
from mmenv.live.redact import redact
from mmenv.live.venues.binance.errors import trouble_of
from mmenv.live.venues.binance.requests import Requests
from mmenv.times import MILLISECOND

DONE_KEPT: Final = 100_000
"""Trades and finished orders remembered, to know their late echoes."""
TERMINAL: Final = ("FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED")


@dataclass(slots=True)
class TrackedOrder:
    """An order that may be at the venue: `told` lots of its fills, and its end once known."""

    client_id: str
    lots: int
    sent_ms: int = 0
    """Time of a request that may still arrive, by the venue's clock; 0 if there is none."""
    order_id: int = 0
    acknowledged: bool = False
    reported: bool = False
    """Whether the user stream has said anything of it."""
    told: int = 0
    cancelling: bool = False
    end: tuple[str, int, int] | None = None
    """Final status, lots filled in all, exchange time."""
    settling: bool = False
    completing: bool = False


class Tracker:
    """The orders of one symbol. `incomplete` is told of one of which the venue has fills that we have
    not, `worth` of the asset of each fee."""

    def __init__(
        self,
        requests: Requests,
        incomplete: Callable[[TrackedOrder], None],
        worth: Callable[[str], None],
    ) -> None:
        self.working: dict[str, TrackedOrder] = {}
        """What may be at the venue, by client id."""
        self.done: OrderedDict[str, None] = OrderedDict()
        self.names: OrderedDict[int, str] = OrderedDict()
        """Client ids by the venue's."""
        self.first_trade: int | None = None
        """Newest trade before we came: what traded until then is for `fills` to say."""
        self.last_trade = 0
        self._requests, self._incomplete, self._worth = requests, incomplete, worth
        self._trades: OrderedDict[int, None] = OrderedDict()
        self._events: asyncio.Queue[AnyEvent | None] = asyncio.Queue()

    # What is told

    def tell(self, kind: Callable[..., AnyEvent], client_id: str = "", exch_ns: int = 0, **more: Any) -> None:
        """Tell an event of this kind."""
        local_ns = self._requests.client.clock()
        if "reason" in more:
            more["reason"] = redact(more["reason"])
        self._events.put_nowait(kind(client_id=client_id, exch_ns=exch_ns, local_ns=local_ns, **more))

    def told(self, event: AnyEvent) -> None:
        """Tell this one."""
        self._events.put_nowait(event)

    def end(self) -> None:
        """Tell nothing after what has been told."""
        self._events.put_nowait(None)

    async def events(self) -> AsyncIterator[AnyEvent]:
        """Events as they come, until `end`. For one consumer."""
        while (event := await self._events.get()) is not None:
            yield event

    # What is heard

    def add(self, client_id: str, lots: int) -> TrackedOrder:
        """Track an order that is about to be sent."""
        order = self.working[client_id] = TrackedOrder(client_id, lots)
        return order

    def name(self, order_id: int, client_id: str) -> None:
        """Learn which of our ids is which of the venue's."""
        _remember(self.names, order_id, client_id)

    def hear_report(self, report: dict[str, Any]) -> None:
        """Take in an order's report of the user stream."""
        requests = self._requests
        if report["s"] != requests.instrument.symbol:
            return
        what, exch_ns = report["x"], int(report["T"]) * MILLISECOND
        # A cancel has a client id of its own; the order's is then C.
        client_id = report.get("C") or report["c"] if what == "CANCELED" else report["c"]
        if what == "REJECTED":
            reason = str(report.get("r", ""))
            self.reject(client_id, LOST, reason, trouble_of(LOST, reason))
            return
        order = self._at_venue(client_id, int(report["i"]), requests.lots(report["q"]), exch_ns)
        if order is not None:
            order.reported = True
        if what == "TRADE":
            view = {
                "id": report["t"], "orderId": report["i"], "price": report["L"], "qty": report["l"],
                "commission": report.get("n") or "0", "commissionAsset": report.get("N") or "",
                "time": report["T"], "maker": report["m"], "side": report["S"],
            }  # fmt: skip
            self.hear_fill(requests.fill(view, client_id))
        if order is not None and report["X"] in TERMINAL:
            self.hear_end(order, report["X"], requests.lots(report["z"]), exch_ns)

    def hear_view(self, view: dict[str, Any]) -> None:
        """Take in an order as a request's answer shows it."""
        lots = self._requests.lots
        client_id = view.get("origClientOrderId", view["clientOrderId"])
        exch_ns = int(view.get("updateTime") or view.get("transactTime") or 0) * MILLISECOND
        order = self._at_venue(client_id, int(view["orderId"]), lots(view["origQty"]), exch_ns)
        if order is None:
            return
        filled = lots(view["executedQty"])
        if view["status"] in TERMINAL:
            self.hear_end(order, view["status"], filled, exch_ns)
        elif filled > order.told:
            self._incomplete(order)

    def hear_fill(self, fill: Fill) -> None:
        """Take in a fill, and tell it unless it was told before."""
        if fill.trade_id in self._trades:
            return
        _remember(self._trades, fill.trade_id, None)
        self.last_trade = max(self.last_trade, fill.trade_id)
        order = self.working.get(fill.client_id)
        if order is not None:
            self._at_venue(fill.client_id, fill.order_id, order.lots, fill.exch_ns)
        self._worth(fill.fee_asset)
        if fill.trade_id > (self.first_trade or 0):
            self._events.put_nowait(fill)
        if order is not None:
            order.told += fill.lots
            self._progress(order)

    def hear_end(self, order: TrackedOrder, status: str, filled: int, exch_ns: int) -> None:
        """Take in that an order is no more, with `filled` lots filled in all."""
        if order.end is None:
            order.end = status, filled, exch_ns
        if order.told < filled:
            self._incomplete(order)
        self._progress(order)

    def reject(self, client_id: str, code: int, reason: str, trouble: Trouble) -> None:
        """Take in that an order is not at the venue and never will be."""
        if (order := self.working.get(client_id)) is not None:
            self._forget(order)
            self.tell(Reject, client_id, code=code, reason=reason, trouble=str(trouble))

    def _at_venue(self, client_id: str, order_id: int, lots: int, exch_ns: int) -> TrackedOrder | None:
        """The order, acknowledged; None if it is long done."""
        if client_id in self.done:
            return None
        order = self.working.get(client_id) or self.add(client_id, lots)
        order.order_id, order.sent_ms = order_id, 0
        self.name(order_id, client_id)
        if not order.acknowledged:
            order.acknowledged = True
            self.tell(Ack, client_id, exch_ns, order_id=order_id)
        return order

    def _progress(self, order: TrackedOrder) -> None:
        """Tell of the order's end once all its fills have been told."""
        if order.client_id not in self.working:
            return
        if order.told < order.lots:
            if order.end is None or order.told < order.end[1]:
                return
            status, filled, exch_ns = order.end
            expired = not (status == "CANCELED" and order.cancelling)
            told = {"order_id": order.order_id, "filled_lots": filled, "expired": expired}
            self.tell(Cancel, order.client_id, exch_ns, **told)
        self._forget(order)

    def _forget(self, order: TrackedOrder) -> None:
        del self.working[order.client_id]
        _remember(self.done, order.client_id, None)


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > DONE_KEPT:
        kept.popitem(last=False)
