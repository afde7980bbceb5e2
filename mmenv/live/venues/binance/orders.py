"""Orders at Binance through ccxt: requests by REST, news by the user stream, and the truth by asking again.

An order is only ever in doubt for a while. A request without an answer is followed up by its client id: the
venue knows the order, or it says that it does not and its clock has passed the request's `recvWindow`, after
which it would refuse it. Requests that may be repeated (cancels, queries) are; an order never is. What the
stream fails to say is found by comparing with the venue's books, every few seconds and after each
reconnection, and each trade is told once, by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Final

from mmenv.live.market_feed import Instrument
from mmenv.live.orders import (
    LOST,
    AnyEvent,
    CancelReject,
    Fill,
    Funding,
    Holdings,
    OpenOrder,
    Order,
    OrderClient,
    Rate,
    Silence,
    Stream,
    Terms,
    Trouble,
    Unknown,
    VenueError,
)
from mmenv.live.tasks import Tasks
from mmenv.live.venues.binance.client import RETRY_S, BinanceClient
from mmenv.live.venues.binance.requests import PAGE, RECV_WINDOW_MS, REQUEST_ERRORS, Requests, trouble_of
from mmenv.live.venues.binance.tracker import TrackedOrder, Tracker
from mmenv.live.venues.binance.user_stream import KEEP_ALIVE_S, UserStream
from mmenv.times import MILLISECOND, SECOND

GRACE_S: Final = 0.5
"""Time for the stream to say what an answer has already said in sum."""
FUNDING_S: Final = 3_600.0
"""Funding is asked for at least this often."""
SETTLED_S: Final = 2.0
"""The venue's books of a payment are right after so long."""
PRICE_S: Final = 60.0
"""The price of an asset in which fees are paid is asked for this often."""
UNSETTLED: Final = (Trouble.IN_DOUBT, Trouble.DUPLICATE)
"""Errors that do not say whether the order is at the venue, or that it already was."""


class BinanceOrders(OrderClient):
    """Orders of one symbol, by a client with credentials that no other symbol shares.

    All is compared every `reconcile_s`, and the key of a user stream kept alive every `keep_alive_s`.
    """

    def __init__(
        self,
        client: BinanceClient,
        instrument: Instrument,
        *,
        reconcile_s: float = 5.0,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.client, self.instrument = client, instrument
        self._reconcile_s = reconcile_s
        self._requests = Requests(client, instrument)
        self._tracker = Tracker(self._requests, self._complete_later, self._worth)
        self._stream = UserStream(client, self._tracker, self._reconcile, keep_alive_s)
        self._tasks = Tasks(self._failed)
        self._priced_ns: dict[str, int] = {}

    async def open(self) -> None:
        """Connect and start the user stream; returns once it runs and the books have been compared.

        Raises `VenueError` if the venue refuses us; while it cannot be reached, waits.
        """
        self.client.throttle.listeners.append(self._silenced)
        self._tasks.start(self._stream.keep())
        self._tasks.start(self._keep_reconciling())
        await self._stream.opened.wait()
        if self._stream.refused:
            await self.close()
            raise VenueError(self._stream.refused)
        await self._requests.check_account()
        if self.client.market.futures:
            self._tasks.start(self._keep_funding())

    def adopt(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._requests.adopt(instrument)

    async def close(self) -> None:
        with suppress(ValueError):
            self.client.throttle.listeners.remove(self._silenced)
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
        except REQUEST_ERRORS as error:
            trouble = trouble_of(error)
            if trouble in UNSETTLED:
                self._doubt(order.client_id, error)
            else:
                self._tracker.reject(order.client_id, getattr(error, "code", LOST), str(error), trouble)
        else:
            tracked.sent_ms = 0
            self._tracker.hear_view(view)
            self._stream.owes(tracked)

    async def cancel(self, client_id: str) -> None:
        """See `OrderClient.cancel`; repeated until the order is gone."""
        tell, tracked = self._tracker.tell, self._tracker.working.get(client_id)
        if tracked is not None:
            tracked.cancelling = True
        try:
            view = await self._requests.signed("order", "delete", {"origClientOrderId": client_id})
        except REQUEST_ERRORS as error:
            if trouble_of(error) != Trouble.IN_DOUBT:
                tell(CancelReject, client_id, code=getattr(error, "code", LOST), reason=str(error))
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
            except REQUEST_ERRORS as error:
                if trouble_of(error) == Trouble.UNKNOWN_ORDER:
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

    async def newest_trade(self) -> int:
        if self._tracker.first_trade is None:
            newest = await self._requests.trades({"limit": 1})
            self._tracker.first_trade = int(newest[-1]["id"]) if newest else 0
        return self._tracker.first_trade

    async def fills(self, after_trade_id: int, ours: Collection[str]) -> list[Fill]:
        found: list[Fill] = []
        names = self._tracker.names
        asked: set[str] = set()
        while True:
            views = await self._requests.trades({"fromId": after_trade_id + 1, "limit": PAGE})
            if {int(view["orderId"]) for view in views} - names.keys():
                # One request for each of ours that is not known by the venue's number: never one for each
                # order of others, of which there may be any number, and which the venue may have forgotten.
                for client_id in sorted(set(ours) - asked - set(names.values())):
                    asked.add(client_id)
                    await self._learn_number(client_id)
            found += [self._requests.fill(view, names.get(int(view["orderId"]), "")) for view in views]
            if len(views) < PAGE:
                return found
            after_trade_id = found[-1].trade_id

    async def _learn_number(self, client_id: str) -> None:
        order = await self._requests.order({"origClientOrderId": client_id})
        if order is not None:
            self._tracker.name(int(order["orderId"]), client_id)

    async def terms(self) -> Terms | None:
        return await self._requests.terms()

    async def funding(self, after_ns: int) -> list[Funding]:
        if not self.client.market.futures:
            return []
        return await self._requests.funding(after_ns // MILLISECOND)

    async def _keep_funding(self) -> None:
        """Tell each payment of funding, asked for when one was due or the stream says that there was."""
        told_ms = int(self.client.nonce())
        paid = self._stream.paid
        while True:
            wait = FUNDING_S
            with suppress(VenueError):
                left = (await self._requests.next_funding_ms() - self.client.nonce()) / 1e3
                wait = min(left + SETTLED_S, FUNDING_S) if left > 0 else FUNDING_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await paid.wait()
                    await asyncio.sleep(SETTLED_S)
            paid.clear()
            with suppress(VenueError):
                for payment in await self._requests.funding(told_ms):
                    self._tracker.told(payment)
                    told_ms = max(told_ms, payment.exch_ns // MILLISECOND)

    def _worth(self, asset: str) -> None:
        """Find out what an asset is worth in which a fee was paid, now and then."""
        if asset and asset not in (self.instrument.base, self.instrument.quote):
            now_ns = self.client.clock()
            if now_ns >= self._priced_ns.get(asset, 0):
                self._priced_ns[asset] = now_ns + round(PRICE_S * SECOND)
                self._tasks.start(self._price(asset))

    async def _price(self, asset: str) -> None:
        while True:
            with suppress(VenueError):
                self._tracker.tell(Rate, asset=asset, price=await self._requests.price_of(asset))
                return
            await asyncio.sleep(SETTLED_S)

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
                with suppress(*REQUEST_ERRORS):
                    if await self._settled(tracked):
                        return
                await asyncio.sleep(next(pauses, RETRY_S[-1]))
        finally:
            tracked.settling = False

    async def _settled(self, tracked: TrackedOrder) -> bool:
        tracker, order = self._tracker, {"origClientOrderId": tracked.client_id}
        try:
            tracker.hear_view(await self._requests.signed("order", "get", dict(order)))
        except REQUEST_ERRORS as error:
            if trouble_of(error) != Trouble.UNKNOWN_ORDER:
                raise
            if not tracked.sent_ms:
                # It was there once; the venue forgets orders that never traded.
                tracker.hear_end(tracked, "CANCELED", tracked.told, 0)
                return True
            if await self._requests.venue_ms() <= tracked.sent_ms + RECV_WINDOW_MS:
                return False
            # Too old to be accepted; but it may have arrived since we asked.
            with suppress(*REQUEST_ERRORS):
                tracker.hear_view(await self._requests.signed("order", "get", dict(order)))
                return False
            tracker.reject(tracked.client_id, LOST, "the order never reached the venue", Trouble.LOST)
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
        tracker.last_trade = max(tracker.last_trade, await self.newest_trade())
        for fill in await self.fills(tracker.last_trade, tracker.working.keys()):
            tracker.hear_fill(fill)
        standing = {order.client_id for order in await self.open_orders()}
        for name in standing - tracker.working.keys() - tracker.done.keys():
            if (order := await self._requests.order({"origClientOrderId": name})) is not None:
                tracker.hear_view(order)
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

    def _silenced(self, until_ns: int, reason: str) -> None:
        self._tracker.tell(Silence, until_ns=until_ns, reason=reason)

    def _failed(self, error: Exception) -> None:
        """Nobody waits for what raised; whoever trades must not go on as if all were well."""
        self._tracker.tell(Stream, ok=False, reason=f"internal error: {error!r}")
