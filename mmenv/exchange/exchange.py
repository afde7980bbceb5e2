"""A local exchange that speaks Binance (spot, USD-M) and Bybit (perpetuals), and plays recorded tapes.

`Exchange` is the whole venue as one deterministic object: it is told the time, its `gateway` is asked
requests and given messages, and it puts what it sends into each connection's outbox. `mmenv.exchange.server`
puts it on loopback, `mmenv.exchange.loopback` into the same process on a virtual clock.

    python -m mmenv.exchange.serve --store STORE --symbol BTCUSDT

Market data is published as recorded; orders are matched in it with queue position, partial fills and fees
(`mmenv.exchange.playback`). Fees are paid in the quote asset, as by an account that does not pay in what it
buys. Accounts are in one-way position mode, cross margin.

Its parts, from the ground up: records (`books`), the ways of each market (`spot`, `usdm`, and `views` for the
JSON they share), websockets and what is told over them (`connections`, `streams`), orders
(`matching`), requests (`endpoints`), and the doors (`gateway`); `bybit` has its own of each but matching.

Protocol: https://developers.binance.com/docs/binance-spot-api-docs and
https://developers.binance.com/docs/derivatives/usds-margined-futures
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from mmenv.checks import require
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.bybit.door import PATH, BybitDoor
from mmenv.exchange.bybit.endpoints import BybitEndpoints
from mmenv.exchange.bybit.streams import BybitStreams
from mmenv.exchange.connections import Connections
from mmenv.exchange.endpoints import Endpoints
from mmenv.exchange.faults import Faults
from mmenv.exchange.gateway import Gateway
from mmenv.exchange.matching import Matching
from mmenv.exchange.playback import Execution
from mmenv.exchange.present import Present
from mmenv.exchange.spot import SpotEndpoints
from mmenv.exchange.streams import MarketStreams, UserStreams
from mmenv.exchange.usdm import UsdmEndpoints
from mmenv.times import SECOND

MARKETS: Final[dict[str, type[Endpoints]]] = {
    kind.dialect.venue: kind for kind in (SpotEndpoints, UsdmEndpoints)
}
"""What it speaks of Binance's protocol, by venue."""
BYBIT: Final = BybitEndpoints.dialect.venue
VENUES: Final = (*MARKETS, BYBIT)
"""All that it speaks."""


class Exchange:
    """See the module. Times are the wall clock's, in nanoseconds since 1970; they must not run backwards.

    Parameters
    ----------
    listings
        The symbols, each venue's once.
    start_ns
        When every tape begins.
    speed
        Tape time that passes in a unit of wall time; messages are stamped with the wall clock.
    accounts
        Customers.
    faults
        What goes wrong.

    Raises
    ------
    ConfigError
        A tape is of a venue that the exchange does not speak, a symbol is listed twice, or `speed` is not
        positive.
    """

    def __init__(
        self,
        listings: Sequence[Listing],
        *,
        start_ns: int,
        speed: float = 1.0,
        accounts: Sequence[Account] = (),
        faults: Faults | None = None,
    ) -> None:
        require(speed > 0, "Exchange", "speed", speed, "positive")
        for listing in listings:
            spoken = listing.venue in VENUES
            require(spoken, "Listing", "venue", listing.venue, f"one of {', '.join(VENUES)}")
            market = BybitEndpoints if listing.venue == BYBIT else MARKETS[listing.venue]
            listing.dialect = market.dialect
        self.listings = {(found.venue, found.symbol): found for found in listings}
        names = [f"{listing.venue} {listing.symbol}" for listing in listings]
        once = len(self.listings) == len(listings)
        require(once, "Exchange", "listings", names, "each symbol once: give all its days to one Listing")
        self.accounts = {account.key: account for account in accounts}
        self.present = Present(start_ns, speed, faults or Faults())
        self.connections = Connections(self.present)
        self._matching = Matching(UserStreams(self.connections, self.present), self.present)
        shared = self.connections, self.present
        bybit = {found: BybitStreams(found, *shared) for found in listings if found.venue == BYBIT}
        self._streams = {found: bybit.get(found) or MarketStreams(found, *shared) for found in listings}
        markets = {venue: MARKETS[venue](*self._market(venue)) for venue in MARKETS}
        self.gateway = Gateway(markets, self.accounts, *shared)
        endpoints = BybitEndpoints(*self._market(BYBIT))
        self.gateway.doors[PATH] = BybitDoor(endpoints, self.accounts, *shared, bybit)
        self._plan_cuts()

    def _market(self, venue: str) -> tuple[dict[str, Listing], Matching, Present]:
        """What the endpoints of a market are made of."""
        listings = {symbol: found for (at, symbol), found in self.listings.items() if at == venue}
        return listings, self._matching, self.present

    def _plan_cuts(self) -> None:
        """When connections are to be cut, from now on."""
        starts = (self.present.start_ns + at_ns for at_ns in self.present.faults.boundaries())
        self._cuts = deque(sorted(at_ns for at_ns in starts if at_ns >= self.present.now_ns))

    # Time

    def misbehave(self, faults: Faults) -> None:
        """From now on, do so by this schedule, whose times count from the exchange's start."""
        self.present.faults = faults
        self._plan_cuts()

    def ban(self, venue: str, seconds: float) -> None:
        """Answer no request of a market for so long."""
        market = self.gateway.doors[PATH].market if venue == BYBIT else self.gateway.markets[venue]
        market.limits.ban(self.present.now_ns + round(seconds * SECOND))

    def lose_user_streams(self) -> None:
        """Forget all keys of user streams: the connections stay open, and say nothing more."""
        for account in self.accounts.values():
            account.listen_key = ""
        for connection in self.connections.open:
            connection.account = None

    def fund(self, listing: Listing, rate: Decimal, every_s: float) -> None:
        """Let long positions pay this part of their notional, so often from now on."""
        listing.funding_rate, listing.funding_every_ns = rate, round(every_s * SECOND)
        listing.funding_ns = self.present.now_ns + listing.funding_every_ns

    def relist(self, listing: Listing, tick: Decimal, lot: Decimal) -> None:
        """Take orders on another grid from now on, a multiple of that of the books; what is open is
        cancelled."""
        self._cancel_open(listing)
        listing.grid = tick, lot

    def suspend(self, listing: Listing, status: str) -> None:
        """Trade the symbol no more for this reason, and cancel what is open; "TRADING" trades it again."""
        if status != "TRADING":
            self._cancel_open(listing)
        listing.status = status

    def maintain(self, venue: str, seconds: float) -> None:
        """Close a market for so long: connections are cut, none is accepted, each request is refused."""
        self.gateway.maintained_until_ns[venue] = self.present.now_ns + round(seconds * SECOND)
        self.connections.cut(venue)

    def close_out(self, account: Account, listing: Listing, lots: int, name: str) -> None:
        """Take lots off a position, as the venue does that liquidates or deleverages."""
        self._matching.close_out(account, listing, lots, name)

    def _cancel_open(self, listing: Listing) -> None:
        for account in self.accounts.values():
            for order in account.open(listing):
                self._matching.end(order, "CANCELED")

    def trade_long_ago(self, account: Account, listing: Listing, count: int, at_ns: int) -> None:
        """Give an account trades from before, of orders that it may ask for no more."""
        self._matching.trade_long_ago(account, listing, count, at_ns)

    def advance(self, now_ns: int) -> None:
        """Play everything due up to `now_ns`."""
        present = self.present
        while (due := self.next_ns()) is not None and due <= now_ns:
            present.now_ns = max(present.now_ns, due)
            self._step()
        present.now_ns = max(present.now_ns, now_ns)

    def next_ns(self) -> int | None:
        """When something is due next; None if never."""
        return min((at_ns for at_ns in self._due() if at_ns is not None), default=None)

    def _due(self) -> Iterator[int | None]:
        for listing, streams in self._streams.items():
            yield self.present.next_ns(listing.playback)
            yield streams.next_ns
            yield listing.funding_ns or None
        for account in self.accounts.values():
            yield from account.cancel_at_ns.values()
        yield self.connections.next_ns
        yield self._cuts[0] if self._cuts else None

    def _step(self) -> None:
        """All that is due now."""
        if self._cuts and self._cuts[0] <= self.present.now_ns:
            self._cuts.popleft()
            self.connections.cut()
        for listing, streams in self._streams.items():
            self._play(listing, streams)
            streams.send_due()
            if 0 < listing.funding_ns <= self.present.now_ns:
                listing.funding_ns += listing.funding_every_ns
                for account in self.accounts.values():
                    self._matching.pay_funding(account, listing)
        for account in self.accounts.values():
            self._matching.cancel_due(account)
        self.connections.deliver()

    def _play(self, listing: Listing, streams: MarketStreams | BybitStreams) -> None:
        due = self.present.next_ns(listing.playback)
        if due is None or due > self.present.now_ns:
            return
        for event in listing.playback.play(listing.playback.next_ns or 0):
            if isinstance(event, Execution):
                self._matching.execute(listing, event)
            else:
                streams.publish(event)
