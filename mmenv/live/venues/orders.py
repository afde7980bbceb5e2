"""Orders at a venue: requests, news by the user stream, and the truth by asking again; the same at each.

An order is only ever in doubt for a while. A request without an answer is followed up by its client id: the
venue knows the order, or it says that it does not and its clock has passed the time after which it would
refuse the request. Requests that may be repeated (cancels, queries) are; an order never is. What the
stream fails to say is found by comparing with the venue's books, every few seconds and after each
reconnection, and each trade is told once, by its id.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Final

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
from mmenv.live.venues.client import RETRY_S, VenueClient
from mmenv.live.venues.news import End, NotTaken, OrderView
from mmenv.live.venues.requests import RECV_WINDOW_MS, REQUEST_ERRORS, Requests, trouble_of
from mmenv.live.venues.tracker import TrackedOrder, Tracker
from mmenv.live.venues.user_stream import KEEP_ALIVE_S, UserStream
from mmenv.times import MILLISECOND, SECOND

GRACE_S: Final = 0.5
"""Time for the stream to say what an answer has already said in sum."""
OVERLAP_MS: Final = 86_400_000
"""Payments are asked for again from so long before the newest."""
FUNDING_S: Final = 3_600.0
"""Funding is asked for at least this often."""
SETTLED_S: Final = 2.0
"""The venue's books of a payment are right after so long."""
PRICE_S: Final = 60.0
"""The price of an asset in which fees are paid is asked for this often, and when funding is due if it is not
known."""
UNSETTLED: Final = (Trouble.IN_DOUBT, Trouble.DUPLICATE)
"""Errors that do not say whether the order is at the venue, or that it already was."""


class VenueOrders(OrderClient, ABC):
    """Orders of one symbol, by a client with credentials that no other symbol shares.

    All is compared every `reconcile_s`, and the stream kept alive every `keep_alive_s`. Subclasses say by
    what requests, and what user stream.
    """

    reconcile_every_s: ClassVar[float] = 5.0
    """How often all is compared, unless something else is said."""

    def __init__(
        self,
        client: VenueClient,
        instrument: Instrument,
        *,
        reconcile_s: float | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.client, self.instrument = client, instrument
        self._reconcile_s = reconcile_s or self.reconcile_every_s
        self._requests = self.requests()
        self._tracker = Tracker(client.clock, self._complete_later, self._worth)
        self._stream = self.user_stream(self._requests)
        self._stream.keep_alive_s = keep_alive_s
        self._stream.attach(self._tracker, self._reconcile)
        self._tasks = Tasks(self._failed)
        self._priced_ns: dict[str, int] = {}

    @abstractmethod
    def requests(self) -> Requests:
        """What the venue is asked by."""

    @abstractmethod
    def user_stream(self, requests: Requests) -> UserStream:
        """What it tells by itself."""

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
        if self.instrument.reduces:
            self._tasks.start(self._keep_funding())

    async def close(self) -> None:
        with suppress(ValueError):
            self.client.throttle.listeners.remove(self._silenced)
        await self._tasks.cancel()
        self._tracker.end()

    def adopt(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._requests.adopt(instrument)

    def events(self) -> AsyncIterator[AnyEvent]:
        return self._tracker.events()

    # Orders

    async def submit(self, order: Order) -> None:
        tracked = self._tracker.add(order.client_id, order.lots)

        def sending(venue_ms: int) -> None:
            tracked.sent_ms = venue_ms

        try:
            view = await self._requests.place(order, sending)
        except REQUEST_ERRORS as error:
            trouble = trouble_of(error)
            if trouble in UNSETTLED:
                self._doubt(order.client_id, error)
            else:
                self._not_taken(order.client_id, getattr(error, "code", LOST), str(error), trouble)
        else:
            tracked.heard = True
            if view is not None:
                tracked.sent_ms = 0
                self._tracker.hear_view(view)
            self._stream.owes(tracked)

    async def cancel(self, client_id: str) -> None:
        """See `OrderClient.cancel`; repeated until the order is gone."""
        tell, tracked = self._tracker.tell, self._tracker.working.get(client_id)
        if tracked is not None:
            tracked.cancelling = True
        try:
            view = await self._requests.cancel(client_id)
        except REQUEST_ERRORS as error:
            if trouble_of(error) != Trouble.IN_DOUBT:
                tell(CancelReject, client_id, code=getattr(error, "code", LOST), reason=str(error))
                self._settle_later(client_id)
            elif tracked is not None:
                self._doubt(client_id, error)
            else:
                tell(Unknown, client_id, reason=str(error))
        else:
            self._hear(view)

    async def cancel_all(self) -> None:
        for tracked in self._tracker.working.values():
            tracked.cancelling = True
        for pause in (*RETRY_S, None):
            try:
                await self._requests.cancel_all()
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
        return await self._requests.cancel_after(seconds)

    # The venue's books

    async def open_orders(self) -> list[OpenOrder]:
        return await self._requests.open_orders()

    async def holdings(self) -> Holdings:
        return await self._requests.holdings()

    async def newest_trade(self) -> int:
        if self._tracker.first_trade is None:
            self._tracker.first_trade = await self._requests.newest_trade()
        return self._tracker.first_trade

    async def fills(self, after_trade_id: int, ours: Collection[str]) -> list[Fill]:
        found = await self._requests.fills(after_trade_id)
        names = self._tracker.names
        if {fill.order_id for fill in found if not fill.client_id} - names.keys():
            # One request for each of ours that is not known by the venue's number: never one for each order
            # of others, of which there may be any number, and which the venue may have forgotten.
            for client_id in sorted(set(ours) - set(names.values())):
                if (order := await self._known(client_id)) is not None:
                    self._tracker.name(order.order_id, client_id)
        # Known whole only now.
        known_ns = self.client.clock()
        return [
            fill
            if fill.client_id
            else replace(fill, client_id=names.get(fill.order_id, ""), local_ns=known_ns)
            for fill in found
        ]

    async def _known(self, client_id: str) -> OrderView | None:
        """An order as the venue shows it, None if it knows none. Raises `VenueError`."""
        try:
            return await self._requests.until_answered("get order", lambda: self._requests.order(client_id))
        except VenueError as error:
            if error.__cause__ is not None and trouble_of(error.__cause__) == Trouble.UNKNOWN_ORDER:
                return None
            raise

    async def terms(self) -> Terms | None:
        return await self._requests.terms()

    async def funding(self, after_ns: int) -> list[Funding]:
        return await self._requests.funding(after_ns // MILLISECOND)

    async def _keep_funding(self) -> None:
        """Tell each payment of funding, asked for when one was due or the stream says that there was.

        The venue's clock may jump: we begin by the earlier of the clocks, and payments are new by number.
        """
        since_ms = min(int(self.client.nonce()), self.client.clock() // MILLISECOND)
        known: set[int] = set()
        paid = self._stream.paid
        while True:
            wait = PRICE_S
            with suppress(VenueError):
                left = (await self._requests.next_funding_ms() - self.client.nonce()) / 1e3
                wait = min(left + SETTLED_S, FUNDING_S) if left > 0 else FUNDING_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await paid.wait()
                    await asyncio.sleep(SETTLED_S)
            paid.clear()
            try:
                for payment in await self._requests.funding(since_ms):
                    if payment.payment_id not in known:
                        known.add(payment.payment_id)
                        self._tracker.told(payment)
                    since_ms = max(since_ms, payment.exch_ns // MILLISECOND - OVERLAP_MS)
            except VenueError:
                # To be asked again: there may be no other sign of it.
                paid.set()

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
        tracker, requests = self._tracker, self._requests
        ask = lambda: requests.order(tracked.client_id)  # noqa: E731
        try:
            tracker.hear_view(await requests.in_time(ask))
        except REQUEST_ERRORS as error:
            if trouble_of(error) != Trouble.UNKNOWN_ORDER:
                raise
            if not tracked.sent_ms:
                # It was there once; the venue forgets orders that never traded.
                tracker.hear_end(tracked, self._gone(tracked))
                return True
            if await requests.venue_ms() <= tracked.sent_ms + RECV_WINDOW_MS:
                return False
            # Too old to be accepted; but it may have arrived since we asked.
            with suppress(*REQUEST_ERRORS):
                tracker.hear_view(await requests.in_time(ask))
                return False
            self._not_taken(tracked.client_id, LOST, "the order never reached the venue", Trouble.LOST)
            return True
        if tracked.end is None and tracked.cancelling:
            self._hear(await requests.cancel(tracked.client_id))
        return tracked.end is not None or not tracked.cancelling

    def _gone(self, tracked: TrackedOrder) -> OrderView:
        return OrderView(
            client_id=tracked.client_id, order_id=tracked.order_id, lots=tracked.lots, filled=tracked.told,
            end=End.CANCELLED,
        )  # fmt: skip

    def _hear(self, view: OrderView | None) -> None:
        if view is not None:
            self._tracker.hear_view(view)

    def _not_taken(self, client_id: str, code: int, reason: str, trouble: Trouble) -> None:
        self._tracker.hear_not_taken(NotTaken(client_id, code, reason, trouble))

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
                    fills = await self._requests.fills_of(tracked.client_id, tracked.order_id)
                    break
                await asyncio.sleep(RETRY_S[-1])
            for fill in fills:
                self._tracker.hear_fill(replace(fill, client_id=tracked.client_id))
        finally:
            tracked.completing = False

    async def _reconcile(self) -> None:
        """Compare with the venue's books and tell what was missed. Raises `VenueError`."""
        tracker = self._tracker
        known = list(tracker.working.values())
        before = [tracked for tracked in known if tracked.acknowledged]
        missing = [tracked for tracked in known if tracked.heard and not tracked.acknowledged]
        tracker.last_trade = max(tracker.last_trade, await self.newest_trade())
        for fill in await self.fills(tracker.last_trade, tracker.working.keys()):
            tracker.hear_fill(fill)
        standing = {order.client_id for order in await self.open_orders()}
        for name in standing - tracker.working.keys() - tracker.done.keys():
            if (order := await self._known(name)) is not None:
                tracker.hear_view(order)
        for tracked in before:
            if tracked.client_id not in standing or tracked.cancelling:
                self._settle_later(tracked.client_id)
        for tracked in missing:
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
