"""What is known of our orders at a venue, and telling it: each piece of news once, in order.

The same news comes by the user stream, in the answers to requests, and by asking again; late and double.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from mmenv.live.orders import Ack, AnyEvent, Cancel, Fill, Reject
from mmenv.live.redact import redact
from mmenv.live.venues.base import Clock
from mmenv.live.venues.news import End, NotTaken, OrderView, Report

DONE_KEPT: Final = 100_000
"""Trades and finished orders remembered, to know their late echoes."""


@dataclass(slots=True)
class TrackedOrder:
    """An order that may be at the venue: `told` lots of its fills, and its end once known."""

    client_id: str
    lots: int
    sent_ms: int = 0
    """Time of a request that may still arrive, by the venue's clock; 0 if there is none."""
    order_id: int = 0
    heard: bool = False
    """Whether the venue has said that it heard of it, and no more: what became of it comes by the stream."""
    acknowledged: bool = False
    reported: bool = False
    """Whether the user stream has said anything of it."""
    told: int = 0
    cancelling: bool = False
    end: OrderView | None = None
    """How it ended."""
    settling: bool = False
    completing: bool = False


class Tracker:
    """The orders of one symbol. `incomplete` is told of one of which the venue has fills that we have
    not, `worth` of the asset of each fee."""

    def __init__(
        self,
        clock: Clock,
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
        self._clock, self._incomplete, self._worth = clock, incomplete, worth
        self._trades: OrderedDict[int, None] = OrderedDict()
        self._unnamed: deque[Fill] = deque(maxlen=DONE_KEPT)
        self._events: asyncio.Queue[AnyEvent | None] = asyncio.Queue()

    # What is told

    def tell(self, kind: Callable[..., AnyEvent], client_id: str = "", exch_ns: int = 0, **more: Any) -> None:
        """Tell an event of this kind."""
        local_ns = self._clock()
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
        for fill in [fill for fill in self._unnamed if fill.order_id == order_id]:
            self._unnamed.remove(fill)
            self.hear_fill(fill)

    def hear_report(self, report: Report) -> None:
        """Take in an order's report of the user stream."""
        order = self._at_venue(report.view)
        if order is not None:
            order.reported = True
        if report.fill is not None:
            self.hear_fill(report.fill)
        if order is not None and report.view.end is not None:
            self.hear_end(order, report.view)

    def hear_view(self, view: OrderView) -> None:
        """Take in an order as a request's answer shows it."""
        order = self._at_venue(view)
        if order is None:
            return
        if view.end is not None:
            self.hear_end(order, view)
        elif view.filled > order.told:
            self._incomplete(order)

    def hear_not_taken(self, news: NotTaken) -> None:
        """Take in that an order is not at the venue and never will be."""
        if (order := self.working.get(news.client_id)) is not None:
            self._forget(order)
            self.tell(Reject, news.client_id, code=news.code, reason=news.reason, trouble=str(news.trouble))

    def hear_fill(self, fill: Fill) -> None:
        """Take in a fill, and tell it unless it was told before."""
        if fill.key in self._trades:
            return
        if not fill.client_id:
            fill = replace(fill, client_id=self.names.get(fill.order_id, ""))
        if not fill.client_id and not all(order.acknowledged for order in self.working.values()):
            # Perhaps of one whose number we have yet to learn.
            self._unnamed.append(fill)
            return
        _remember(self._trades, fill.key, None)
        self.last_trade = max(self.last_trade, fill.trade_id)
        order = self.working.get(fill.client_id)
        if order is not None:
            at = OrderView(
                client_id=fill.client_id, order_id=fill.order_id, lots=order.lots, filled=fill.lots,
                exch_ns=fill.exch_ns,
            )  # fmt: skip
            self._at_venue(at)
        self._worth(fill.fee_asset)
        if fill.trade_id > (self.first_trade or 0):
            self._events.put_nowait(fill)
        if order is not None:
            order.told += fill.lots
            self._progress(order)

    def hear_end(self, order: TrackedOrder, end: OrderView) -> None:
        """Take in that an order is no more."""
        order.end = order.end or end
        if order.told < end.filled:
            self._incomplete(order)
        self._progress(order)

    def _at_venue(self, view: OrderView) -> TrackedOrder | None:
        """The order, acknowledged; None if it is long done."""
        if view.client_id in self.done:
            return None
        order = self.working.get(view.client_id) or self.add(view.client_id, view.lots)
        order.order_id, order.sent_ms = view.order_id, 0
        if not order.acknowledged:
            order.acknowledged = True
            self.tell(Ack, view.client_id, view.exch_ns, order_id=view.order_id)
        if view.order_id not in self.names:
            self.name(view.order_id, view.client_id)
        return order

    def _progress(self, order: TrackedOrder) -> None:
        """Tell of the order's end once all its fills have been told."""
        if order.client_id not in self.working:
            return
        if order.told < order.lots:
            if order.end is None or order.told < order.end.filled:
                return
            expired = not (order.end.end == End.CANCELLED and order.cancelling)
            told = {"order_id": order.order_id, "filled_lots": order.end.filled, "expired": expired}
            self.tell(Cancel, order.client_id, order.end.exch_ns, **told)
        self._forget(order)

    def _forget(self, order: TrackedOrder) -> None:
        del self.working[order.client_id]
        _remember(self.done, order.client_id, None)


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > DONE_KEPT:
        kept.popitem(last=False)
