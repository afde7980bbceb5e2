"""Orders at Binance through ccxt: requests by REST, news by the user stream, and the truth by asking again.

An order is only ever in doubt for a while. A request without an answer is followed up by its client id: the
venue knows the order, or it says that it does not and its clock has passed the request's `recvWindow`, after
which it would refuse it. Requests that may be repeated (cancels, queries) are; an order never is. What the
stream fails to say is found by comparing with the venue's books, every few seconds and after each
reconnection, and each trade is told once, by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from mmenv.live.market_feed import Instrument
from mmenv.live.orders import (
    LOST,
    AnyEvent,
    CancelReject,
    Fill,
    Holdings,
    OpenOrder,
    Order,
    OrderClient,
    Stream,
    Unknown,
    VenueError,
)
from mmenv.live.tasks import Tasks
from mmenv.live.venues.binance.client import RETRY_S, BaseError, BinanceClient, NetworkError
from mmenv.live.venues.binance.requests import PAGE, RECV_WINDOW_MS, UNKNOWN_ORDER, Requests, code_of
from mmenv.live.venues.binance.tracker import TrackedOrder, Tracker
from mmenv.live.venues.binance.user_stream import UserStream

GRACE_S: Final = 0.5
"""Time for the stream to say what an answer has already said in sum."""
IN_DOUBT: Final = (-1000, -1001, -1006, -1007, -4116)
"""Codes that do not say whether the order is at the venue; the last one, that it already was."""


class BinanceOrders(OrderClient):
    """Orders of one symbol, by a client with credentials that no other symbol shares.

    A request unanswered for `answer_s` is of unknown fate. All is compared every `reconcile_s`.
    """

    def __init__(
        self,
        client: BinanceClient,
        instrument: Instrument,
        *,
        answer_s: float = 2.0,
        reconcile_s: float = 5.0,
    ) -> None:
        self.client, self.instrument = client, instrument
        self._reconcile_s = reconcile_s
        self._requests = Requests(client, instrument, answer_s)
        self._tracker = Tracker(self._requests, self._complete_later)
        self._stream = UserStream(client, answer_s, self._tracker, self._reconcile)
        self._tasks = Tasks(self._failed)

    async def open(self) -> None:
        """Connect and start the user stream; returns once it runs and the books have been compared.

        Raises `VenueError` if the venue refuses us; while it cannot be reached, waits.
        """
        self._tasks.start(self._stream.keep())
        self._tasks.start(self._keep_reconciling())
        await self._stream.opened.wait()
        if self._stream.refused:
            await self.close()
            raise VenueError(self._stream.refused)

    async def close(self) -> None:
        await self._tasks.cancel()
        self._tracker.end()

    def events(self) -> AsyncIterator[AnyEvent]:
        return self._tracker.events()

    # Orders

    async def submit(self, order: Order) -> None:
        tracked = self._tracker.add(order.client_id, order.lots)

        def sending(venue_ms: int) -> None:
            tracked.sent_ms = venue_ms

        try:
            params = self._requests.order_params(order)
            view = await self._requests.signed("order", "post", params, sending=sending)
        except BaseError as error:
            code = code_of(error)
            if isinstance(error, NetworkError) or code in IN_DOUBT or "Duplicate order" in str(error):
                self._doubt(order.client_id, error)
            else:
                self._tracker.reject(order.client_id, code, str(error))
        else:
            tracked.sent_ms = 0
            self._tracker.hear_view(view)

    async def cancel(self, client_id: str) -> None:
        """See `OrderClient.cancel`; repeated until the order is gone."""
        tell, tracked = self._tracker.tell, self._tracker.working.get(client_id)
        if tracked is not None:
            tracked.cancelling = True
        try:
            view = await self._requests.signed("order", "delete", {"origClientOrderId": client_id})
        except BaseError as error:
            if not isinstance(error, NetworkError):
                tell(CancelReject, client_id, code=code_of(error), reason=str(error))
                self._settle_later(client_id)
            elif tracked is not None:
                self._doubt(client_id, error)
            else:
                tell(Unknown, client_id, reason=str(error))
        else:
            self._tracker.hear_view(view)

    async def cancel_all(self) -> None:
        for tracked in self._tracker.working.values():
            tracked.cancelling = True
        for pause in (*RETRY_S, None):
            try:
                await self._requests.signed(self.client.market.cancel_all, "delete", {})
                break
            except BaseError as error:
                if code_of(error) in UNKNOWN_ORDER:
                    break
                if pause is None:
                    raise VenueError(f"orders may be open: cancelling all failed ({error})") from None
                await asyncio.sleep(pause)
        for client_id in list(self._tracker.working):
            self._settle_later(client_id)

    async def cancel_after(self, seconds: float) -> bool:
        """See `OrderClient.cancel_after`; futures have such a thing."""
        if not self.client.market.futures:
            return False
        params = {"countdownTime": round(seconds * 1000)}
        await self._requests.asked("countdownCancelAll", "post", params)
        return True

    # The venue's books

    async def open_orders(self) -> list[OpenOrder]:
        return await self._requests.open_orders()

    async def holdings(self) -> Holdings:
        return await self._requests.holdings()

    async def fills(self, after_trade_id: int) -> list[Fill]:
        found: list[Fill] = []
        names = self._tracker.names
        while True:
            views = await self._requests.trades({"fromId": after_trade_id + 1, "limit": PAGE})
            for order_id in {int(view["orderId"]) for view in views} - names.keys():
                order = await self._requests.asked("order", "get", {"orderId": order_id})
                self._tracker.name(order_id, order["clientOrderId"])
            found += [self._requests.fill(view, names[int(view["orderId"])]) for view in views]
            if len(views) < PAGE:
                return found
            after_trade_id = found[-1].trade_id

    # Finding out

    def _doubt(self, client_id: str, error: Exception) -> None:
        if client_id in self._tracker.working:
            self._tracker.tell(Unknown, client_id, reason=str(error))
            self._settle_later(client_id)

    def _settle_later(self, client_id: str) -> None:
        tracked = self._tracker.working.get(client_id)
        if tracked is not None and not tracked.settling:
            tracked.settling = True
            self._tasks.start(self._settle(tracked))

    async def _settle(self, tracked: TrackedOrder) -> None:
        """Ask until it is known whether the order is at the venue, and gone if it is to be cancelled."""
        try:
            pauses = iter(RETRY_S[1:])
            while tracked.client_id in self._tracker.working:
                with suppress(BaseError):
                    if await self._settled(tracked):
                        return
                await asyncio.sleep(next(pauses, RETRY_S[-1]))
        finally:
            tracked.settling = False

    async def _settled(self, tracked: TrackedOrder) -> bool:
        tracker, order = self._tracker, {"origClientOrderId": tracked.client_id}
        try:
            tracker.hear_view(await self._requests.signed("order", "get", dict(order)))
        except BaseError as error:
            if code_of(error) not in UNKNOWN_ORDER:
                raise
            if not tracked.sent_ms:
                # It was there once; the venue forgets orders that never traded.
                tracker.hear_end(tracked, "CANCELED", tracked.told, 0)
                return True
            if await self._requests.venue_ms() <= tracked.sent_ms + RECV_WINDOW_MS:
                return False
            # Too old to be accepted; but it may have arrived since we asked.
            with suppress(BaseError):
                tracker.hear_view(await self._requests.signed("order", "get", dict(order)))
                return False
            tracker.reject(tracked.client_id, LOST, "the order never reached the venue")
            return True
        if tracked.end is None and tracked.cancelling:
            tracker.hear_view(await self._requests.signed("order", "delete", dict(order)))
        return tracked.end is not None or not tracked.cancelling

    def _complete_later(self, tracked: TrackedOrder) -> None:
        if not tracked.completing:
            tracked.completing = True
            self._tasks.start(self._complete(tracked))

    async def _complete(self, tracked: TrackedOrder) -> None:
        """Tell the fills that the stream has not, however often the venue must be asked: newer ones may have
        been told since, and the next comparison only asks for what is newer still."""
        await asyncio.sleep(GRACE_S)
        try:
            while True:
                with suppress(VenueError):
                    views = await self._requests.trades({"orderId": tracked.order_id})
                    break
                await asyncio.sleep(RETRY_S[-1])
            for view in views:
                self._tracker.hear_fill(self._requests.fill(view, self._tracker.names[tracked.order_id]))
        finally:
            tracked.completing = False

    async def _reconcile(self) -> None:
        """Compare with the venue's books and tell what was missed. Raises `VenueError`."""
        tracker = self._tracker
        before = [tracked for tracked in tracker.working.values() if tracked.acknowledged]
        if tracker.first_trade is None:
            newest = await self._requests.trades({"limit": 1})
            tracker.first_trade = int(newest[-1]["id"]) if newest else 0
            tracker.last_trade = max(tracker.last_trade, tracker.first_trade)
        for fill in await self.fills(tracker.last_trade):
            tracker.hear_fill(fill)
        standing = {order.client_id for order in await self.open_orders()}
        for name in standing - tracker.working.keys() - tracker.done.keys():
            tracker.hear_view(await self._requests.asked("order", "get", {"origClientOrderId": name}))
        for tracked in before:
            if tracked.client_id not in standing or tracked.cancelling:
                self._settle_later(tracked.client_id)

    async def _keep_reconciling(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._reconcile_s):
                    await self._stream.doubtful.wait()
            self._stream.doubtful.clear()
            if self._stream.opened.is_set():
                with suppress(VenueError):
                    await self._reconcile()

    def _failed(self, error: Exception) -> None:
        """Nobody waits for what raised; whoever trades must not go on as if all were well."""
        self._tracker.tell(Stream, ok=False, reason=f"internal error: {error!r}")
