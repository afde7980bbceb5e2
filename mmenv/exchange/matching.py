"""Orders meet the played book: the one place that changes orders, balances and positions."""

from __future__ import annotations

import itertools
from decimal import ROUND_HALF_EVEN, Decimal

from mmenv.data.rows import BUY, SELL
from mmenv.exchange.books import ZERO, Account, ExchangeOrder, ExchangeTrade, Income, Listing
from mmenv.exchange.playback import Execution
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import ApiError
from mmenv.exchange.streams import UserStreams
from mmenv.exchange.views import EIGHT


class Matching:
    """Takes orders in, fills and ends them, and tells their owners."""

    def __init__(self, users: UserStreams, present: Present) -> None:
        self._users, self._present = users, present
        self._ids = itertools.count(1_000_001)
        self._trade_ids = itertools.count(1)
        self._income_ids = itertools.count(1)
        self._by_slot: dict[tuple[Listing, int], ExchangeOrder] = {}

    def place(self, order: ExchangeOrder) -> None:
        """Carry out a new order. Raises `ApiError` where it is refused."""
        takes = order.kind == "MARKET" or order.force != "GTX"
        found = self._taken(order) if takes else []
        self._check_funds(order, found)
        if order.force == "FOK" and sum(lots for _, lots in found) < order.lots:
            found = []
        if not found and order.kind != "MARKET" and order.force in ("GTC", "GTX"):
            self._rest(order)
        order.id = next(self._ids)
        order.account.orders[order.id] = order
        self._users.tell(order, "NEW")
        for tick, lots in found:
            self._fill(order, tick, lots, maker=False)
        # What is left of an order that took liquidity would rest inside a book that it cannot change.
        if order.slot is None and order.open:
            self.end(order, "EXPIRED")

    def refuse(self, order: ExchangeOrder) -> None:
        """Tell that an order which was heard of is not taken."""
        order.id, order.status = next(self._ids), "REJECTED"
        order.account.orders[order.id] = order
        self._users.tell(order, "REJECTED")

    def trade_long_ago(self, account: Account, listing: Listing, count: int, at_ns: int) -> None:
        """Trades by turns of one lot, of orders that are not on record any more."""
        tick = listing.playback.book.low_tick + 1
        for number in range(count):
            side = BUY if number % 2 else SELL
            order = ExchangeOrder(
                next(self._ids), f"web_{number}", account, listing, side, tick, 1, "LIMIT", "GTC", False,
                at_ns, at_ns, filled=1, paid=tick, status="FILLED",
            )  # fmt: skip
            trade = ExchangeTrade(
                next(self._trade_ids), order, tick, 1, ZERO, listing.quote, ZERO, True, at_ns
            )
            account.trades.append(trade)

    def execute(self, listing: Listing, execution: Execution) -> None:
        """A resting order has traded in the playback."""
        order = self._by_slot[listing, execution.slot]
        lots = min(execution.lots * listing.finer, order.left)
        if lots == order.left:
            del self._by_slot[listing, execution.slot]
            order.slot = None
        self._fill(order, order.tick, lots, maker=True)

    def close_out(self, account: Account, listing: Listing, lots: int, name: str) -> None:
        """Take so many lots off a position at the last price, as the venue itself does by an order of its
        `name`: a liquidation, or deleveraging for somebody else's."""
        held, now_ns = account.position(listing).lots, self._present.now_ns
        lots, side = min(lots, abs(held)), SELL if held > 0 else BUY
        if not lots:
            return
        order = ExchangeOrder(
            next(self._ids), name, account, listing, side, listing.last_tick, lots, "MARKET", "IOC", False,
            now_ns, now_ns,
        )  # fmt: skip
        account.orders[order.id] = order
        self._users.tell(order, "NEW")
        self._fill(order, order.tick, lots, maker=False)

    def end(self, order: ExchangeOrder, status: str) -> None:
        """Cancel or expire an open order."""
        listing = order.listing
        if order.slot is not None:
            listing.playback.cancel(order.slot, self._present.tape_ns(listing.playback))
            del self._by_slot[listing, order.slot]
            order.slot = None
        order.status, order.updated_ns = status, self._present.now_ns
        self._users.tell(order, status)

    def cancel_due(self, account: Account) -> None:
        """Cancel the orders of an account from which nothing has been heard for as long as it said."""
        for listing, at_ns in list(account.cancel_at_ns.items()):
            if at_ns <= self._present.now_ns:
                del account.cancel_at_ns[listing]
                for order in account.open(listing):
                    self.end(order, "CANCELED")

    def reducible(self, account: Account, listing: Listing, side: int) -> int:
        """Lots that a new reduce-only order of this side could still take off the position."""
        others = sum(
            order.left for order in account.open(listing) if order.reduce_only and order.side == side
        )
        return -account.position(listing).lots * side - others

    def _check_funds(self, order: ExchangeOrder, found: list[tuple[int, int]]) -> None:
        units = sum(tick * lots for tick, lots in found)
        units += (order.lots - sum(lots for _, lots in found)) * order.tick
        if not order.listing.dialect.can_pay(order, order.listing.value(units)):
            raise ApiError(*order.listing.dialect.poor)

    def _taken(self, order: ExchangeOrder) -> list[tuple[int, int]]:
        """What an order would trade at once: (tick, lots)."""
        finer, side = order.listing.finer, order.side
        limit = side * (side * order.tick // finer) if order.tick else None
        found = order.listing.playback.take(side, limit, -(-order.lots // finer))
        left, taken = order.lots, []
        for tick, lots in found:
            taken.append((tick * finer, min(lots * finer, left)))
            left -= taken[-1][1]
        return taken

    def _rest(self, order: ExchangeOrder) -> None:
        """Put an order into the book. Raises `ApiError` if it would trade at once or lies too far away."""
        listing = order.listing
        tape_ns = self._present.tape_ns(listing.playback)
        # Between two of the tape's ticks it stands where it is no better than it is.
        tick = order.side * (order.side * order.tick // listing.finer)
        try:
            order.slot = listing.playback.submit(order.side, tick, -(-order.lots // listing.finer), tape_ns)
        except ValueError as error:
            raise ApiError(-1013, f"Filter failure: PERCENT_PRICE ({error})") from None
        if order.slot is None:
            raise ApiError(*listing.dialect.crossed)
        self._by_slot[listing, order.slot] = order

    def _fill(self, order: ExchangeOrder, tick: int, lots: int, maker: bool) -> None:
        account, listing, now_ns = order.account, order.listing, self._present.now_ns
        value = listing.value(tick * lots)
        fee, asset = self._fee(order, lots, value, listing.maker if maker else listing.taker)
        order.filled += lots
        order.paid += tick * lots
        order.status = "PARTIALLY_FILLED" if order.left else "FILLED"
        order.updated_ns = now_ns
        realised = listing.dialect.settle(order, lots, value, fee, asset)
        trade = ExchangeTrade(next(self._trade_ids), order, tick, lots, fee, asset, realised, maker, now_ns)
        account.trades.append(trade)
        self._users.tell(order, "TRADE", trade)
        self._users.tell_account(account, listing)
        self._expire_reducing(account, listing)

    def _fee(self, order: ExchangeOrder, lots: int, value: Decimal, rate: Decimal) -> tuple[Decimal, str]:
        """What is charged for a fill, and in which asset."""
        listing, asset = order.listing, order.account.fees_in
        if asset == "received":
            asset = listing.base if order.side == BUY else listing.quote
        amount = {listing.base: lots * listing.lot, listing.quote: value, "": value}.get(asset)
        if amount is None:
            amount = value / self._present.prices[asset]
        return (amount * rate).quantize(EIGHT, ROUND_HALF_EVEN), asset or listing.quote

    def pay_funding(self, account: Account, listing: Listing) -> None:
        """Pay or charge the position its part of the funding rate."""
        position = account.position(listing)
        if not position.lots:
            return
        worth = position.lots * listing.lot * listing.last_tick * listing.tick
        amount = (-worth * listing.funding_rate).quantize(EIGHT, ROUND_HALF_EVEN)
        account.wallet += amount
        account.income.append(Income(next(self._income_ids), listing, amount, self._present.now_ns))
        self._users.tell_funding(account, listing, amount)

    def _expire_reducing(self, account: Account, listing: Listing) -> None:
        """A reduce-only order never opens a position: what exceeds it goes, the newest first."""
        for order in reversed(account.open(listing)):
            if order.reduce_only and self.reducible(account, listing, order.side) < 0:
                self.end(order, "EXPIRED")
