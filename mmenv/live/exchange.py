"""A local exchange that speaks Binance (spot and USD-M futures) and plays recorded tapes.

`Exchange` is the whole venue as one deterministic object: it is told the time, asked requests and given
messages, and puts what it sends into each session's outbox. `mmenv.live.server` puts it on loopback,
`mmenv.live.loopback` into the same process on a virtual clock.

    python -m mmenv.live.exchange --store STORE --symbol BTCUSDT

Market data is published as recorded; orders are matched in it with queue position, partial fills and fees
(`mmenv.live.playback`). Fees are paid in the quote asset, as by an account that does not pay in what it
buys. Accounts are in one-way position mode, cross margin.

Protocol: https://developers.binance.com/docs/binance-spot-api-docs and
https://developers.binance.com/docs/derivatives/usds-margined-futures
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import itertools
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import numpy as np
import orjson
import tyro

from mmenv.data.capture import BUY, DEPTH, SELL, TRADE, decimal_text, decimal_units
from mmenv.data.tape import Tape, tapes
from mmenv.live.faults import Faults, RequestFate
from mmenv.live.playback import Execution, Message, Playback

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
SPOT: Final = "binance-spot"
USDM: Final = "binance-usdm"
LEVERAGE: Final = 20
EIGHT: Final = Decimal("0.00000001")
ZERO: Final = Decimal(0)
QUOTES: Final = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "USD")
CLIENT_ID: Final = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")
DEPTH_SPEED_MS: Final = {SPOT: 1000, USDM: 250}
"""Of a depth stream that names none."""
OPEN: Final = ("NEW", "PARTIALLY_FILLED")


class ApiError(Exception):
    """An error answer in Binance's form."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code, self.text, self.status = code, text, status

    def body(self) -> dict[str, Any]:
        """The answer."""
        return {"code": self.code, "msg": self.text}


@dataclass(frozen=True)
class Answer:
    """To a request: status and JSON."""

    status: int
    body: bytes


@dataclass(eq=False)
class Session:
    """One websocket connection. `outbox` holds text to send now, and None once the connection is cut."""

    venue: str
    combined: bool = False
    account: Account | None = None
    api: bool = False
    streams: set[str] = field(default_factory=set)
    outbox: deque[str | None] = field(default_factory=deque)
    closed: bool = False
    free_ns: int = 0
    """Nothing sent later may arrive before this."""


class Listing:
    """A symbol on offer: its playback, the grid of its prices and sizes, and its public streams.

    Args:
        tapes: one symbol's, of consecutive days.
        queue_model: see `mmenv.venue.matcher`.
        repeat: begin anew at the end of the tape.
    """

    def __init__(
        self, tapes: Sequence[Tape], *, queue_model: str = "risk-adverse", repeat: bool = False
    ) -> None:
        info = tapes[0].info
        if info.venue not in (SPOT, USDM):
            raise ValueError(f"{tapes[0].path} is of {info.venue}; the exchange speaks {SPOT} and {USDM}")
        self.venue, self.symbol = info.venue, info.symbol
        self.playback = Playback(tapes, queue_model, repeat)
        quote = next((found for found in QUOTES if info.symbol.endswith(found)), "")
        self.base, self.quote = info.symbol.removesuffix(quote), quote
        self.tick, self.lot = Decimal(info.tick_size), Decimal(info.lot_size)
        self.maker = Decimal(str(info.maker_fee_bp)) / 10_000
        self.taker = Decimal(str(info.taker_fee_bp)) / 10_000
        tick, lot = (
            decimal_units("tick size", info.tick_size),
            decimal_units("lot size", info.lot_size),
        )
        self.price_text = lru_cache(1 << 16)(lambda ticks: decimal_text(ticks * tick) or "0")
        self.size_text = lru_cache(1 << 16)(lambda lots: decimal_text(lots * lot) or "0")
        self.waiting: dict[int, _Diff] = {}
        """The next diff depth message of each speed in milliseconds."""
        self.aggregate: list[Any] | None = None
        self.aggregate_id = 0
        self.ticker: dict[str, Any] | None = None
        self.last_tick = 0


@dataclass
class _Diff:
    """A diff depth message in the making."""

    first: int
    previous: int
    last: int
    exch_ns: int
    levels: dict[tuple[int, int], int]


@dataclass(eq=False)
class ExchangeOrder:
    """An order in the exchange's books. `filled` in lots, `paid` = sum of ticks x lots."""

    id: int
    client_id: str
    account: Account
    listing: Listing
    side: int
    tick: int
    lots: int
    kind: str
    force: str
    reduce_only: bool
    created_ns: int
    updated_ns: int
    filled: int = 0
    paid: int = 0
    status: str = "NEW"
    slot: int | None = None

    @property
    def left(self) -> int:
        """Lots not filled."""
        return self.lots - self.filled


@dataclass(frozen=True, slots=True)
class ExchangeTrade:
    """One fill in the exchange's books."""

    id: int
    order: ExchangeOrder
    tick: int
    lots: int
    fee: Decimal
    realised: Decimal
    maker: bool
    time_ns: int


@dataclass(eq=False)
class Position:
    """Lots held, and what they cost (signed notional)."""

    lots: int = 0
    cost: Decimal = ZERO


@dataclass(eq=False)
class Account:
    """One customer's books, exact.

    balances: free and locked amounts by asset of the spot account; `wallet` of the futures account.
    """

    key: str
    secret: str = field(repr=False)
    balances: dict[str, Decimal] = field(default_factory=dict)
    wallet: Decimal = Decimal(1_000_000)
    positions: dict[str, Position] = field(default_factory=dict)
    orders: dict[int, ExchangeOrder] = field(default_factory=dict)
    trades: list[ExchangeTrade] = field(default_factory=list)
    listen_key: str = ""
    cancel_at_ns: dict[str, int] = field(default_factory=dict)

    def open(self, listing: Listing | None = None, venue: str | None = None) -> list[ExchangeOrder]:
        """Open orders, oldest first."""
        return [
            order
            for order in self.orders.values()
            if order.status in OPEN
            and listing in (None, order.listing)
            and venue in (None, order.listing.venue)
        ]

    def locked(self, asset: str) -> Decimal:
        """Of a spot balance, what open orders may use."""
        total = ZERO
        for order in self.open(venue=SPOT):
            listing = order.listing
            if order.side == BUY and asset == listing.quote:
                total += order.left * order.tick * listing.tick * listing.lot
            elif order.side == SELL and asset == listing.base:
                total += order.left * listing.lot
        return total

    def position(self, listing: Listing) -> Position:
        """Futures position of a symbol."""
        return self.positions.setdefault(listing.symbol, Position())


class Exchange:
    """See the module. Times are the wall clock's, in nanoseconds since 1970; they must not run backwards.

    Args:
        listings: the symbols, each venue's once.
        start_ns: when every tape begins.
        speed: tape time that passes in a unit of wall time; messages are stamped with the wall clock.
        accounts: customers.
        faults: what goes wrong.
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
        if not speed > 0:
            raise ValueError(f"speed is {speed}; it must be positive")
        self.listings = {(found.venue, found.symbol): found for found in listings}
        if len(self.listings) < len(listings):
            raise ValueError("a symbol is listed twice at one venue; give all its days to one Listing")
        self.start_ns = self.now_ns = start_ns
        self.speed = speed
        self.accounts = {account.key: account for account in accounts}
        self.faults = faults or Faults()
        self.sessions: list[Session] = []
        self.messages_sent = 0
        self._ids = itertools.count(1_000_001)
        self._trade_ids = itertools.count(1)
        self._by_slot: dict[tuple[Listing, int], ExchangeOrder] = {}
        self._later: list[tuple[int, int, Session, str]] = []
        self._sequence = itertools.count()
        self._cuts = deque(sorted(start_ns + at for at in self.faults.boundaries()))

    # Time

    def advance(self, now_ns: int) -> None:
        """Play everything due up to `now_ns`."""
        while (due := self.next_ns()) is not None and due <= now_ns:
            self.now_ns = max(self.now_ns, due)
            self._step()
        self.now_ns = max(self.now_ns, now_ns)

    def next_ns(self) -> int | None:
        """When something is due next; None if never."""
        due = [self._wall_ns(found, found.playback.next_ns) for found in self.listings.values()]
        due += [
            diff.exch_ns + speed * MILLISECOND
            for listing in self.listings.values()
            for speed, diff in listing.waiting.items()
        ]
        due += [at for account in self.accounts.values() for at in account.cancel_at_ns.values()]
        due += [self._later[0][0]] if self._later else []
        due += [self._cuts[0]] if self._cuts else []
        return min((at for at in due if at is not None), default=None)

    def misbehave(self, faults: Faults) -> None:
        """From now on by this schedule, whose times count from the exchange's start."""
        self.faults = faults
        self._cuts = deque(
            sorted(at for start in faults.boundaries() if (at := self.start_ns + start) >= self.now_ns)
        )

    @property
    def clock_ms(self) -> int:
        """What the exchange's own clock shows."""
        return (self.now_ns + self.faults.clock_ns(self._since_start())) // MILLISECOND

    def _since_start(self) -> int:
        return self.now_ns - self.start_ns

    def _wall_ns(self, listing: Listing, tape_ns: int | None) -> int | None:
        if tape_ns is None:
            return None
        return self.start_ns + int((tape_ns - listing.playback.first_ns) / self.speed)

    def _tape_ns(self, listing: Listing) -> int:
        return listing.playback.first_ns + int(self._since_start() * self.speed)

    def _step(self) -> None:
        """All that is due at `now_ns`."""
        if self._cuts and self._cuts[0] <= self.now_ns:
            self._cuts.popleft()
            for session in list(self.sessions):
                self._cut(session)
        for listing in self.listings.values():
            due = self._wall_ns(listing, listing.playback.next_ns)
            if due is not None and due <= self.now_ns:
                for event in listing.playback.play(listing.playback.next_ns or 0):
                    if isinstance(event, Execution):
                        self._executed(listing, event)
                    else:
                        self._publish(listing, event)
            for speed in [
                speed
                for speed, diff in listing.waiting.items()
                if diff.exch_ns + speed * MILLISECOND <= self.now_ns
            ]:
                self._send_diff(listing, speed, listing.waiting.pop(speed))
        for account in self.accounts.values():
            for symbol, at in list(account.cancel_at_ns.items()):
                if at <= self.now_ns:
                    del account.cancel_at_ns[symbol]
                    for order in account.open(self.listings[USDM, symbol]):
                        self._end(order, "CANCELED")
        while self._later and self._later[0][0] <= self.now_ns:
            _, _, session, text = heapq.heappop(self._later)
            if not session.closed:
                session.outbox.append(text)

    # Public streams

    def _publish(self, listing: Listing, message: Message) -> None:
        symbol = listing.symbol
        stamp = self.clock_ms
        if message.kind == DEPTH:
            for speed in self._depth_speeds(listing):
                self._collect_diff(listing, speed, message)
        elif message.kind == TRADE:
            row = message.rows[0]
            tick, lots, buy = int(row["price"]), int(row["size"]), int(row["side"]) == BUY
            listing.last_tick = tick
            trade = {"e": "trade", "E": stamp, "T": stamp, "s": symbol, "t": message.id}
            trade |= {"p": listing.price_text(tick), "q": listing.size_text(lots)}
            trade |= {"X": "MARKET", "m": not buy} if listing.venue == USDM else {"m": not buy, "M": True}
            self._broadcast(listing, "trade", trade)
            self._aggregate(listing, message, stamp, tick, lots, buy)
        else:
            bid, ask = message.rows[0], message.rows[-1]
            ticker: dict[str, Any] = {"u": message.id, "s": symbol}
            ticker |= {
                "b": listing.price_text(int(bid["price"])),
                "B": listing.size_text(int(bid["size"])),
                "a": listing.price_text(int(ask["price"])),
                "A": listing.size_text(int(ask["size"])),
            }
            listing.ticker = ticker
            if listing.venue == USDM:
                ticker = {"e": "bookTicker", **ticker, "T": stamp, "E": stamp}
            self._broadcast(listing, "bookTicker", ticker)

    def _depth_speeds(self, listing: Listing) -> set[int]:
        start = f"{listing.symbol.lower()}@depth"
        speeds = set()
        for session in self.sessions:
            if session.venue == listing.venue:
                speeds |= {
                    _depth_speed(stream, listing.venue)
                    for stream in session.streams
                    if stream.startswith(start)
                }
        return speeds

    def _collect_diff(self, listing: Listing, speed: int, message: Message) -> None:
        diff = listing.waiting.get(speed)
        if diff is None:
            diff = _Diff(message.previous + 1, message.previous, message.id, self.now_ns, {})
        diff.last = message.id
        rows = message.rows
        sides, prices, sizes = rows["side"].tolist(), rows["price"].tolist(), rows["size"].tolist()
        diff.levels.update(zip(zip(sides, prices, strict=True), sizes, strict=True))
        if speed:
            listing.waiting[speed] = diff
        else:
            self._send_diff(listing, speed, diff)

    def _send_diff(self, listing: Listing, speed: int, diff: _Diff) -> None:
        stamp = self.clock_ms
        data: dict[str, Any] = {"e": "depthUpdate", "E": stamp}
        if listing.venue == USDM:
            data["T"] = stamp
        data |= {"s": listing.symbol, "U": diff.first, "u": diff.last}
        if listing.venue == USDM:
            data["pu"] = diff.previous
        for name, side in (("b", BUY), ("a", SELL)):
            data[name] = [
                [listing.price_text(tick), listing.size_text(lots)]
                for (own, tick), lots in diff.levels.items()
                if own == side
            ]
        names = [f"depth@{speed}ms"]
        if speed == DEPTH_SPEED_MS[listing.venue]:
            names.append("depth")
        for name in names:
            self._broadcast(listing, name, data)

    def _aggregate(
        self, listing: Listing, message: Message, stamp: int, tick: int, lots: int, buy: bool
    ) -> None:
        """Trades of one price, side and millisecond are one aggTrade, sent with the first that is another."""
        held = listing.aggregate
        if held is not None and held[:3] == [stamp, tick, buy]:
            held[3] += lots
            held[5] = message.id
            return
        listing.aggregate = [stamp, tick, buy, lots, message.id, message.id]
        if held is None:
            return
        listing.aggregate_id += 1
        stamp, tick, buy, lots, first, last = held
        data = {"e": "aggTrade", "E": self.clock_ms, "s": listing.symbol, "a": listing.aggregate_id}
        data |= {"p": listing.price_text(tick), "q": listing.size_text(lots), "f": first, "l": last}
        self._broadcast(listing, "aggTrade", data | {"T": stamp, "m": not buy})

    def _broadcast(self, listing: Listing, name: str, data: dict[str, Any]) -> None:
        stream = f"{listing.symbol.lower()}@{name}"
        text = wrapped = ""
        for session in self.sessions:
            if session.venue != listing.venue or stream not in session.streams:
                continue
            if not text:
                text = orjson.dumps(data).decode()
            if session.combined and not wrapped:
                wrapped = f'{{"stream":"{stream}","data":{text}}}'
            self._send(session, "market", wrapped if session.combined else text)

    def _send(self, session: Session, channel: str, text: str) -> None:
        self.messages_sent += 1
        if not self.faults.faults:
            session.outbox.append(text)
            return
        for delay, waits, part in self.faults.message(self._since_start(), channel, text):
            due = max(self.now_ns + delay, session.free_ns)
            if waits:
                session.free_ns = due
            if due <= self.now_ns:
                session.outbox.append(part)
            else:
                heapq.heappush(self._later, (due, next(self._sequence), session, part))

    # Connections

    def connect(self, path: str, query: str = "") -> Session:
        """A websocket is opened. Raises `ApiError` if not accepted."""
        if self.faults.broken(self._since_start()):
            raise ApiError(-1001, "Disconnected.", 503)
        parts = [part for part in unquote(path).split("/") if part]
        if parts and parts[0] in ("ws-api", "ws-fapi"):
            session = Session(SPOT if parts[0] == "ws-api" else USDM, api=True)
        elif parts and parts[0] in ("stream.spot", "fstream"):
            session = Session(SPOT if parts[0] == "stream.spot" else USDM)
            parts = [part for part in parts[1:] if part not in ("public", "market", "private")]
            given = dict(parse_qsl(query))
            if parts[:1] == ["stream"]:
                session.combined = True
                names = given.get("streams", "").split("/")
            elif parts[:1] == ["ws"]:
                names = [*parts[1:], given.get("listenKey", "")]
            else:
                raise ApiError(-1, f"no such path: {path}", 404)
            # ccxt numbers its connections: such a name is a stream that does not exist, as on the real one.
            self._subscribe(session, [name for name in names if name])
        else:
            raise ApiError(-1, f"no such path: {path}", 404)
        self.sessions.append(session)
        return session

    def disconnect(self, session: Session) -> None:
        """The other side has gone."""
        session.closed = True
        if session in self.sessions:
            self.sessions.remove(session)

    def receive(self, session: Session, text: str) -> None:
        """A websocket message from the client."""
        try:
            message = orjson.loads(text)
            method, params = message["method"], message.get("params", [])
        except (ValueError, KeyError, TypeError, AttributeError):
            error = {"error": {"code": 3, "msg": "Invalid JSON"}}
            session.outbox.append(orjson.dumps(error).decode())
            return
        if session.api:
            answer = self._api_call(session, message, method, params or {})
        elif method == "SUBSCRIBE":
            self._subscribe(session, params)
            answer = {"result": None}
        elif method == "UNSUBSCRIBE":
            session.streams -= {str(name) for name in params}
            answer = {"result": None}
        elif method == "LIST_SUBSCRIPTIONS":
            answer = {"result": sorted(session.streams)}
        else:
            answer = {"error": {"code": 2, "msg": f"Invalid request: unknown method {method}"}}
        if answer is not None:
            channel = "user" if session.api else "market"
            self._send(session, channel, orjson.dumps(answer | {"id": message.get("id")}).decode())

    def _subscribe(self, session: Session, names: Sequence[str]) -> None:
        for name in names:
            keys = (account for account in self.accounts.values() if account.listen_key == name)
            if (account := next(keys, None)) is not None:
                session.account = account
            else:
                session.streams.add(str(name))

    def _cut(self, session: Session) -> None:
        session.outbox.append(None)
        self.disconnect(session)

    # Requests

    def fate(self) -> RequestFate:
        """What becomes of a request that is made now; the carrier of requests waits or loses it so."""
        if self.faults.broken(self._since_start()):
            return RequestFate(arrives=False, answered=False)
        return self.faults.request(self._since_start())

    def request(
        self,
        method: str,
        path: str,
        query: str = "",
        body: str = "",
        key: str | None = None,
        reject: bool = False,
    ) -> Answer:
        """A REST request, carried out at `now_ns`: call `advance` first.

        Args:
            method: "GET", "POST", "PUT" or "DELETE".
            path: such as "/fapi/v1/order".
            query, body: as sent, undecoded.
            key: the header X-MBX-APIKEY.
            reject: answer that the exchange is overloaded, and do nothing.
        """
        try:
            if reject:
                raise ApiError(-1008, "Server is currently overloaded with other requests.", 503)
            status, found = 200, self._route(method, path, query, body, key)
        except ApiError as error:
            status, found = error.status, error.body()
        return Answer(status, orjson.dumps(found))

    def _route(self, method: str, path: str, query: str, body: str, key: str | None) -> Any:
        parts = [part for part in path.split("/") if part]
        params = dict(parse_qsl(query, keep_blank_values=True)) | dict(
            parse_qsl(body, keep_blank_values=True)
        )
        if parts[:1] == ["sapi"]:
            return []
        if parts[:1] == ["dapi"]:
            return {"symbols": []}
        if parts[:1] not in (["api"], ["fapi"]) or len(parts) < 3:
            raise ApiError(-1, f"no such path: {path}", 404)
        venue = SPOT if parts[0] == "api" else USDM
        name = "/".join(parts[2:])
        if method == "GET" and name in _PUBLIC:
            return _PUBLIC[name](self, venue, params)
        private = _SIGNED[venue].get((method, name))
        if private is None:
            raise ApiError(-1, f"no such endpoint: {method} {path}", 404)
        account = self.accounts.get(key or "")
        if account is None:
            raise ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        if name not in ("listenKey", "userDataStream"):
            signed = "".join(text.rpartition("&signature=")[0] or _unsigned(text) for text in (query, body))
            self._check_signature(account, signed, params)
        return private(self, venue, account, params)

    def _check_signature(self, account: Account, signed: str, params: dict[str, str]) -> None:
        expected = hmac.new(account.secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, params.get("signature", "")):
            raise ApiError(-1022, "Signature for this request is not valid.")
        try:
            stamp, window = int(params["timestamp"]), int(params.get("recvWindow", "5000"))
        except (KeyError, ValueError):
            raise ApiError(-1102, "Mandatory parameter 'timestamp' was not sent or is malformed.") from None
        now = self.clock_ms
        if stamp > now + 1000 or now - stamp > window:
            raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")

    def _api_call(
        self, session: Session, message: dict[str, Any], method: str, params: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The websocket API: the same requests over a connection."""
        fate = self.fate()
        if not fate.arrives:
            return None
        try:
            if fate.reject:
                raise ApiError(-1008, "Server is currently overloaded with other requests.", 503)
            account = self.accounts.get(str(params.get("apiKey", "")))
            if account is None:
                raise ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
            given = {name: _plain(value) for name, value in params.items()}
            signed = "&".join(f"{name}={given[name]}" for name in sorted(given) if name != "signature")
            self._check_signature(account, signed, given)
            if method == "userDataStream.subscribe.signature":
                session.account = account
                result: Any = {"subscriptionId": 0}
            else:
                route = _BY_WEBSOCKET.get(method)
                if route is None:
                    raise ApiError(-1, f"unknown method {method}")
                result = _SIGNED[session.venue][route](self, session.venue, account, given)
        except ApiError as error:
            return {"status": error.status, "error": error.body()}
        return {"status": 200, "result": result} if fate.answered else None

    # Public requests

    def _time(self, venue: str, params: dict[str, str]) -> Any:
        return {"serverTime": self.clock_ms}

    def _ping(self, venue: str, params: dict[str, str]) -> Any:
        return {}

    def _exchange_info(self, venue: str, params: dict[str, str]) -> Any:
        symbols = [_described(found) for found in self.listings.values() if found.venue == venue]
        return {"timezone": "UTC", "serverTime": self.clock_ms, "rateLimits": [], "symbols": symbols}

    def _depth(self, venue: str, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        try:
            limit = int(params.get("limit", "500"))
        except ValueError:
            raise ApiError(-1100, "Illegal characters found in parameter 'limit'.") from None
        book = listing.playback.book
        answer: dict[str, Any] = {"lastUpdateId": listing.playback.update_id}
        if venue == USDM:
            answer |= {"E": self.clock_ms, "T": self.clock_ms}
        for name, sizes, step in (("bids", book.sizes[0], -1), ("asks", book.sizes[1], 1)):
            found = np.flatnonzero(sizes)[::step][:limit]
            answer[name] = [
                [listing.price_text(int(at) + book.low_tick), listing.size_text(int(sizes[at]))]
                for at in found
            ]
        return answer

    def _book_ticker(self, venue: str, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        ticker = listing.ticker or {}
        return {
            "symbol": listing.symbol,
            "bidPrice": ticker.get("b", "0"),
            "bidQty": ticker.get("B", "0"),
            "askPrice": ticker.get("a", "0"),
            "askQty": ticker.get("A", "0"),
        }

    # Orders

    def _new_order(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        order = self._read_order(account, listing, params)
        taken = order.kind == "MARKET" or order.force != "GTX"
        found = listing.playback.take(order.side, order.tick or None, order.lots) if taken else []
        self._check_funds(order, found)
        if order.force == "FOK" and sum(lots for _, lots in found) < order.lots:
            found = []
        if not found and order.kind != "MARKET" and order.force in ("GTC", "GTX"):
            try:
                order.slot = listing.playback.submit(
                    order.side, order.tick, order.lots, self._tape_ns(listing)
                )
            except ValueError as error:
                raise ApiError(-1013, f"Filter failure: PERCENT_PRICE ({error})") from None
            if order.slot is None:
                if venue == SPOT:
                    raise ApiError(-2010, "Order would immediately match and take.")
                text = "Due to the order could not be executed as maker"
                raise ApiError(-5022, f"{text}, the Post Only order will be rejected.")
            self._by_slot[listing, order.slot] = order
        order.id = next(self._ids)
        account.orders[order.id] = order
        self._tell(order, "NEW")
        for tick, lots in found:
            self._fill(order, tick, lots, maker=False)
        # What is left of an order that took liquidity would rest inside a book that it cannot change.
        if order.slot is None and order.status in OPEN:
            self._end(order, "EXPIRED")
        return self._order_view(order)

    def _read_order(self, account: Account, listing: Listing, params: dict[str, str]) -> ExchangeOrder:
        side = {"BUY": BUY, "SELL": SELL}.get(params.get("side", ""))
        kind = params.get("type", "")
        force = "GTX" if kind == "LIMIT_MAKER" else params.get("timeInForce", "GTC")
        if side is None or kind not in ("LIMIT", "MARKET", "LIMIT_MAKER"):
            raise ApiError(-1102, "Mandatory parameter 'side' or 'type' was not sent, empty or malformed.")
        if force not in ("GTC", "GTX", "IOC", "FOK"):
            raise ApiError(-1115, "Invalid timeInForce.")
        lots = _units(params, "quantity", listing.lot, "LOT_SIZE")
        tick = 0 if kind == "MARKET" else _units(params, "price", listing.tick, "PRICE_FILTER")
        client_id = params.get("newClientOrderId") or f"x-{next(self._sequence)}"
        if CLIENT_ID.fullmatch(client_id) is None:
            raise ApiError(-1100, "Illegal characters found in parameter 'newClientOrderId'.")
        if any(order.client_id == client_id for order in account.open(listing)):
            if listing.venue == SPOT:
                raise ApiError(-2010, "Duplicate order sent.")
            raise ApiError(-4116, "ClientOrderId is duplicated.")
        reduce_only = params.get("reduceOnly", "false").lower() == "true"
        if reduce_only:
            lots = min(lots, self._reducible(account, listing, side))
            if listing.venue == SPOT or lots <= 0:
                raise ApiError(-2022, "ReduceOnly Order is rejected.")
        now = self.now_ns
        return ExchangeOrder(
            0, client_id, account, listing, side, tick, lots, kind, force, reduce_only, now, now
        )

    def _reducible(self, account: Account, listing: Listing, side: int) -> int:
        """Lots that a new reduce-only order of this side could still take off the position."""
        others = sum(
            order.left for order in account.open(listing) if order.reduce_only and order.side == side
        )
        return -account.position(listing).lots * side - others

    def _check_funds(self, order: ExchangeOrder, found: list[tuple[int, int]]) -> None:
        account, listing = order.account, order.listing
        units = sum(tick * lots for tick, lots in found)
        units += (order.lots - sum(lots for _, lots in found)) * order.tick
        notional = units * listing.tick * listing.lot
        if listing.venue == SPOT:
            asset, need = (
                (listing.quote, notional) if order.side == BUY else (listing.base, order.lots * listing.lot)
            )
            if need > account.balances.get(asset, ZERO) - account.locked(asset):
                raise ApiError(-2010, "Account has insufficient balance for requested action.")
        elif not order.reduce_only:
            held = sum(abs(position.cost) for position in account.positions.values())
            waiting = sum(
                other.left * other.tick * other.listing.tick * other.listing.lot
                for other in account.open(venue=USDM)
            )
            if notional + held + waiting > account.wallet * LEVERAGE:
                raise ApiError(-2019, "Margin is insufficient.")

    def _executed(self, listing: Listing, execution: Execution) -> None:
        order = self._by_slot[listing, execution.slot]
        lots = execution.lots
        if order.filled + lots == order.lots:
            del self._by_slot[listing, execution.slot]
            order.slot = None
        self._fill(order, order.tick, lots, maker=True)

    def _fill(self, order: ExchangeOrder, tick: int, lots: int, maker: bool) -> None:
        account, listing = order.account, order.listing
        value = tick * lots * listing.tick * listing.lot
        fee = (value * (listing.maker if maker else listing.taker)).quantize(EIGHT, ROUND_HALF_EVEN)
        order.filled += lots
        order.paid += tick * lots
        order.status = "FILLED" if order.filled == order.lots else "PARTIALLY_FILLED"
        order.updated_ns = self.now_ns
        realised = ZERO
        if listing.venue == SPOT:
            amount = lots * listing.lot
            balances = account.balances
            balances[listing.base] = balances.get(listing.base, ZERO) + order.side * amount
            balances[listing.quote] = balances.get(listing.quote, ZERO) - order.side * value - fee
        else:
            realised = _settle(account.position(listing), order.side, lots, value)
            account.wallet += realised - fee
        trade = ExchangeTrade(next(self._trade_ids), order, tick, lots, fee, realised, maker, self.now_ns)
        account.trades.append(trade)
        self._tell(order, "TRADE", trade)
        self._tell_account(account, listing)
        self._expire_reducing(account, listing)

    def _expire_reducing(self, account: Account, listing: Listing) -> None:
        """A reduce-only order never opens a position: what exceeds it goes, the newest first."""
        for order in reversed(account.open(listing)):
            if order.reduce_only and self._reducible(account, listing, order.side) < 0:
                self._end(order, "EXPIRED")

    def _end(self, order: ExchangeOrder, status: str) -> None:
        """Cancel or expire an open order."""
        if order.slot is not None:
            order.listing.playback.cancel(order.slot, self._tape_ns(order.listing))
            del self._by_slot[order.listing, order.slot]
            order.slot = None
        order.status, order.updated_ns = status, self.now_ns
        self._tell(order, status)

    def _cancel_order(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        order = self._find(venue, account, params)
        if order is None or order.status not in OPEN:
            raise ApiError(-2011, "Unknown order sent.")
        self._end(order, "CANCELED")
        return self._order_view(order)

    def _cancel_all(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        orders = account.open(self._listing(venue, params))
        if venue == SPOT and not orders:
            raise ApiError(-2011, "Unknown order sent.")
        for order in orders:
            self._end(order, "CANCELED")
        if venue == USDM:
            return {"code": 200, "msg": "The operation of cancel all open order is done."}
        return [self._order_view(order) for order in orders]

    def _countdown(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        try:
            wait_ms = int(params["countdownTime"])
        except (KeyError, ValueError):
            raise ApiError(-1102, "Mandatory parameter 'countdownTime' was not sent or malformed.") from None
        if wait_ms:
            account.cancel_at_ns[listing.symbol] = self.now_ns + wait_ms * MILLISECOND
        else:
            account.cancel_at_ns.pop(listing.symbol, None)
        return {"symbol": listing.symbol, "countdownTime": str(wait_ms)}

    def _query_order(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        order = self._find(venue, account, params)
        if order is None:
            raise ApiError(-2013, "Order does not exist.")
        return self._order_view(order)

    def _open_orders(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params) if "symbol" in params else None
        return [self._order_view(order) for order in account.open(listing, venue)]

    def _all_orders(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        orders = [order for order in account.orders.values() if order.listing is listing]
        return [self._order_view(order) for order in orders[-_limit(params) :]]

    def _trades(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        listing = self._listing(venue, params)
        found = [trade for trade in account.trades if trade.order.listing is listing]
        if "orderId" in params:
            found = [trade for trade in found if str(trade.order.id) == params["orderId"]]
        if "fromId" in params:
            found = [trade for trade in found if trade.id >= int(params["fromId"])]
            return [_trade_view(trade) for trade in found[: _limit(params)]]
        return [_trade_view(trade) for trade in found[-_limit(params) :]]

    def _find(self, venue: str, account: Account, params: dict[str, str]) -> ExchangeOrder | None:
        listing = self._listing(venue, params)
        for order in reversed(account.orders.values()):
            if order.listing is listing and (
                str(order.id) == params.get("orderId") or order.client_id == params.get("origClientOrderId")
            ):
                return order
        return None

    # Account

    def _spot_account(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        return {
            "accountType": "SPOT",
            "canTrade": True,
            "updateTime": self.clock_ms,
            "balances": self._spot_balances(account, "asset", "free", "locked"),
        }

    def _spot_balances(self, account: Account, asset: str, free: str, locked: str) -> list[dict[str, str]]:
        found = []
        for name, total in account.balances.items():
            used = account.locked(name)
            found.append({asset: name, free: _text(total - used), locked: _text(used)})
        return found

    def _futures_account(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        unrealised = sum((self._unrealised(account, symbol) for symbol in account.positions), ZERO)
        total = _text(account.wallet)
        margin = _text(account.wallet + unrealised)
        assets = {
            "asset": "USDT",
            "walletBalance": total,
            "unrealizedProfit": _text(unrealised),
            "marginBalance": margin,
            "availableBalance": margin,
            "crossWalletBalance": total,
            "crossUnPnl": _text(unrealised),
            "initialMargin": "0",
            "maintMargin": "0",
            "positionInitialMargin": "0",
            "openOrderInitialMargin": "0",
            "maxWithdrawAmount": margin,
            "updateTime": self.clock_ms,
        }
        return {
            "canTrade": True,
            "totalWalletBalance": total,
            "totalUnrealizedProfit": _text(unrealised),
            "totalMarginBalance": margin,
            "availableBalance": margin,
            "assets": [assets],
            "positions": self._position_risk(venue, account, {}),
        }

    def _futures_balance(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        return self._futures_account(venue, account, params)["assets"]

    def _position_risk(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        found = []
        for (at, symbol), listing in self.listings.items():
            if at != USDM or params.get("symbol") not in (None, symbol):
                continue
            position = account.position(listing)
            mark = listing.last_tick * listing.tick
            size = position.lots * listing.lot
            entry = abs(position.cost / size) if size else ZERO
            found.append(
                {
                    "symbol": symbol,
                    "positionSide": "BOTH",
                    "positionAmt": _text(size),
                    "entryPrice": _text(entry.quantize(EIGHT)),
                    "breakEvenPrice": _text(entry.quantize(EIGHT)),
                    "markPrice": _text(mark),
                    "unRealizedProfit": _text(self._unrealised(account, symbol)),
                    "unrealizedProfit": _text(self._unrealised(account, symbol)),
                    "liquidationPrice": "0",
                    "leverage": str(LEVERAGE),
                    "marginType": "cross",
                    "marginAsset": listing.quote,
                    "isolatedMargin": "0",
                    "isolatedWallet": "0",
                    "notional": _text(size * mark),
                    "initialMargin": _text(abs(size * mark) / LEVERAGE),
                    "maintMargin": "0",
                    "updateTime": self.clock_ms,
                }
            )
        return found

    def _unrealised(self, account: Account, symbol: str) -> Decimal:
        listing = self.listings[USDM, symbol]
        position = account.positions[symbol]
        return position.lots * listing.lot * listing.last_tick * listing.tick - position.cost

    def _leverage_bracket(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        bracket = {
            "bracket": 1,
            "initialLeverage": LEVERAGE,
            "notionalCap": 10**12,
            "notionalFloor": 0,
            "maintMarginRatio": 0.004,
            "cum": 0.0,
        }
        return [{"symbol": symbol, "brackets": [bracket]} for venue, symbol in self.listings if venue == USDM]

    def _leverage(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        return {"symbol": params.get("symbol"), "leverage": LEVERAGE, "maxNotionalValue": "1000000000"}

    def _new_listen_key(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        seed = f"{account.key} {next(self._sequence)}".encode()
        account.listen_key = account.listen_key or hashlib.sha256(seed).hexdigest()
        return {"listenKey": account.listen_key}

    def _keep_listen_key(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        if not account.listen_key:
            raise ApiError(-1125, "This listenKey does not exist.")
        return {"listenKey": account.listen_key} if venue == USDM else {}

    def _end_listen_key(self, venue: str, account: Account, params: dict[str, str]) -> Any:
        account.listen_key = ""
        return {}

    # User streams

    def _tell(self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None = None) -> None:
        stamp, listing = self.clock_ms, order.listing
        view: dict[str, Any] = {
            "s": listing.symbol,
            "c": order.client_id,
            "S": "BUY" if order.side == BUY else "SELL",
            "o": order.kind,
            "f": order.force,
            "q": listing.size_text(order.lots),
            "p": listing.price_text(order.tick),
            "x": what,
            "X": order.status,
            "i": order.id,
            "l": listing.size_text(trade.lots if trade else 0),
            "z": listing.size_text(order.filled),
            "L": listing.price_text(trade.tick if trade else 0),
            "n": _text(trade.fee) if trade else "0",
            "N": listing.quote if trade else None,
            "T": stamp,
            "t": trade.id if trade else -1 if listing.venue == SPOT else 0,
            "m": trade.maker if trade else False,
        }
        if listing.venue == SPOT:
            last = trade.tick * trade.lots * listing.tick * listing.lot if trade else ZERO
            view |= {
                "e": "executionReport", "E": stamp, "P": "0", "F": "0", "g": -1, "C": "", "r": "NONE",
                "w": order.status in OPEN, "M": False, "O": order.created_ns // MILLISECOND, "I": 0,
                "Z": _text(order.paid * listing.tick * listing.lot), "Y": _text(last), "Q": "0",
            }  # fmt: skip
            if what == "CANCELED":
                view |= {"C": order.client_id}
            message = view
        else:
            view |= {
                "ap": _average(order), "sp": "0", "b": "0", "a": "0", "R": order.reduce_only, "ps": "BOTH",
                "wt": "CONTRACT_PRICE", "ot": order.kind, "cp": False,
                "rp": _text(trade.realised) if trade else "0",
            }  # fmt: skip
            message = {"e": "ORDER_TRADE_UPDATE", "E": stamp, "T": stamp, "o": view}
        self._to_user(order.account, listing.venue, message)

    def _tell_account(self, account: Account, listing: Listing) -> None:
        stamp = self.clock_ms
        if listing.venue == SPOT:
            balances = self._spot_balances(account, "a", "f", "l")
            message: dict[str, Any] = {"e": "outboundAccountPosition", "E": stamp, "u": stamp, "B": balances}
        else:
            position = account.position(listing)
            size = position.lots * listing.lot
            wallet = _text(account.wallet)
            entry = abs(position.cost / size).quantize(EIGHT) if size else ZERO
            held = {
                "s": listing.symbol, "pa": _text(size), "ep": _text(entry), "cr": "0",
                "up": _text(self._unrealised(account, listing.symbol)), "mt": "cross", "iw": "0",
                "ps": "BOTH",
            }  # fmt: skip
            update = {"m": "ORDER", "B": [{"a": listing.quote, "wb": wallet, "cw": wallet, "bc": "0"}]}
            message = {"e": "ACCOUNT_UPDATE", "E": stamp, "T": stamp, "a": update | {"P": [held]}}
        self._to_user(account, listing.venue, message)

    def _to_user(self, account: Account, venue: str, message: dict[str, Any]) -> None:
        for session in self.sessions:
            if session.account is account and session.venue == venue:
                wrapped = {"subscriptionId": 0, "event": message} if session.api else message
                self._send(session, "user", orjson.dumps(wrapped).decode())

    # Views

    def _order_view(self, order: ExchangeOrder) -> dict[str, Any]:
        listing = order.listing
        made = _text(order.paid * listing.tick * listing.lot)
        view = {
            "symbol": listing.symbol,
            "orderId": order.id,
            "clientOrderId": order.client_id,
            "price": listing.price_text(order.tick),
            "origQty": listing.size_text(order.lots),
            "executedQty": listing.size_text(order.filled),
            "status": order.status,
            "timeInForce": order.force,
            "type": order.kind,
            "side": "BUY" if order.side == BUY else "SELL",
            "time": order.created_ns // MILLISECOND,
            "updateTime": order.updated_ns // MILLISECOND,
        }
        if listing.venue == SPOT:
            return view | {
                "orderListId": -1, "cummulativeQuoteQty": made, "stopPrice": "0", "isWorking": True,
                "transactTime": order.updated_ns // MILLISECOND, "origQuoteOrderQty": "0",
            }  # fmt: skip
        return view | {
            "avgPrice": _average(order), "cumQuote": made, "reduceOnly": order.reduce_only,
            "closePosition": False, "positionSide": "BOTH", "stopPrice": "0", "origType": order.kind,
            "workingType": "CONTRACT_PRICE", "priceProtect": False,
        }  # fmt: skip

    def _listing(self, venue: str, params: dict[str, str]) -> Listing:
        listing = self.listings.get((venue, params.get("symbol", "")))
        if listing is None:
            raise ApiError(-1121, "Invalid symbol.")
        return listing


_EVERYWHERE: Final[dict[tuple[str, str], Any]] = {
    ("POST", "order"): Exchange._new_order,
    ("DELETE", "order"): Exchange._cancel_order,
    ("GET", "order"): Exchange._query_order,
    ("GET", "openOrders"): Exchange._open_orders,
    ("GET", "allOrders"): Exchange._all_orders,
}
_SIGNED: Final[dict[str, dict[tuple[str, str], Any]]] = {
    SPOT: _EVERYWHERE
    | {
        ("DELETE", "openOrders"): Exchange._cancel_all,
        ("GET", "account"): Exchange._spot_account,
        ("GET", "myTrades"): Exchange._trades,
        ("POST", "userDataStream"): Exchange._new_listen_key,
        ("PUT", "userDataStream"): Exchange._keep_listen_key,
        ("DELETE", "userDataStream"): Exchange._end_listen_key,
    },
    USDM: _EVERYWHERE
    | {
        ("DELETE", "allOpenOrders"): Exchange._cancel_all,
        ("GET", "account"): Exchange._futures_account,
        ("GET", "balance"): Exchange._futures_balance,
        ("GET", "positionRisk"): Exchange._position_risk,
        ("GET", "userTrades"): Exchange._trades,
        ("GET", "leverageBracket"): Exchange._leverage_bracket,
        ("POST", "leverage"): Exchange._leverage,
        ("POST", "countdownCancelAll"): Exchange._countdown,
        ("POST", "listenKey"): Exchange._new_listen_key,
        ("PUT", "listenKey"): Exchange._keep_listen_key,
        ("DELETE", "listenKey"): Exchange._end_listen_key,
    },
}
_PUBLIC: Final[dict[str, Any]] = {
    "ping": Exchange._ping,
    "time": Exchange._time,
    "exchangeInfo": Exchange._exchange_info,
    "depth": Exchange._depth,
    "ticker/bookTicker": Exchange._book_ticker,
}
_BY_WEBSOCKET: Final = {
    "order.place": ("POST", "order"),
    "order.cancel": ("DELETE", "order"),
    "order.status": ("GET", "order"),
    "openOrders.status": ("GET", "openOrders"),
    "account.status": ("GET", "account"),
}


def _settle(position: Position, side: int, lots: int, value: Decimal) -> Decimal:
    """Add a fill to a position; the profit it realises, rounded to eight places.

    What rounding leaves stays in the position's cost, so wallet less cost is exact.
    """
    realised = ZERO
    if position.lots * side < 0:
        closing = min(lots, abs(position.lots))
        returned = value * closing / lots
        part = (position.cost * closing / abs(position.lots)).quantize(EIGHT, ROUND_HALF_EVEN)
        if closing == abs(position.lots):
            part = position.cost
        realised = (-side * returned - part).quantize(EIGHT, ROUND_HALF_EVEN)
        position.cost += side * returned + realised
        position.lots += side * closing
        lots, value = lots - closing, value - returned
    position.lots += side * lots
    position.cost += side * value
    return realised


def _described(listing: Listing) -> dict[str, Any]:
    """A symbol of exchangeInfo."""
    tick, lot = str(listing.tick), str(listing.lot)
    view: dict[str, Any] = {
        "symbol": listing.symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "100000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "100000", "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": "100000", "stepSize": lot},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200, "maxNumOrders": 200},
        ],
    }
    if listing.venue == SPOT:
        return view | {
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "permissions": ["SPOT"],
        }
    return view | {
        "pair": listing.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "marginAsset": listing.quote,
        "pricePrecision": max(-int(listing.tick.as_tuple().exponent), 0),
        "quantityPrecision": max(-int(listing.lot.as_tuple().exponent), 0),
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _trade_view(trade: ExchangeTrade) -> dict[str, Any]:
    order, listing = trade.order, trade.order.listing
    value = _text(trade.tick * trade.lots * listing.tick * listing.lot)
    view = {
        "symbol": listing.symbol,
        "id": trade.id,
        "orderId": order.id,
        "price": listing.price_text(trade.tick),
        "qty": listing.size_text(trade.lots),
        "quoteQty": value,
        "commission": _text(trade.fee),
        "commissionAsset": listing.quote,
        "time": trade.time_ns // MILLISECOND,
    }
    if listing.venue == SPOT:
        return view | {"isBuyer": order.side == BUY, "isMaker": trade.maker, "isBestMatch": True}
    side = "BUY" if order.side == BUY else "SELL"
    return view | {
        "side": side, "positionSide": "BOTH", "buyer": order.side == BUY, "maker": trade.maker,
        "realizedPnl": _text(trade.realised),
    }  # fmt: skip


def _average(order: ExchangeOrder) -> str:
    if not order.filled:
        return "0"
    return _text((order.paid * order.listing.tick / order.filled).quantize(EIGHT))


def _units(params: dict[str, str], name: str, step: Decimal, rule: str) -> int:
    """A price or quantity in whole steps."""
    try:
        value = Decimal(params[name])
    except (KeyError, ArithmeticError):
        raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, empty or malformed.") from None
    if not value.is_finite() or value <= 0 or value % step:
        raise ApiError(-1013, f"Filter failure: {rule}")
    return int(value / step)


def _limit(params: dict[str, str]) -> int:
    return min(int(params.get("limit", "500")), 1000)


def _depth_speed(stream: str, venue: str) -> int:
    speed = stream.rpartition("@")[2]
    return int(speed[:-2]) if speed[:-2].isdigit() else DEPTH_SPEED_MS[venue]


def _unsigned(text: str) -> str:
    """Of a part whose only parameter is the signature, nothing was signed."""
    return "" if text.startswith("signature=") else text


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: Decimal) -> str:
    """Plain decimal text."""
    return f"{value.normalize():f}" if value else "0"


@dataclass(frozen=True)
class Serve:
    """Serve recorded tapes as Binance does, until interrupted."""

    store: Path
    """Store of tapes."""
    symbol: tuple[str, ...] = ()
    """Symbols; all of the store, if none is given."""
    venue: str = "*"
    """binance-usdm, binance-spot, or both."""
    host: str = "127.0.0.1"
    """Address to serve on."""
    port: int = 8080
    """Port to serve on; 0 takes a free one."""
    speed: float = 1.0
    """Tape time that passes in a unit of time."""
    repeat: bool = True
    """Begin anew at the end of the tape."""
    queue_model: str = "risk-adverse"
    """How our place in the queue moves; see mmenv.venue.matcher."""
    key: str = "demo"
    """API key of the one account; its secret is the same."""
    faults: int | None = None
    """Seed of a random schedule of faults over the first ten minutes; otherwise none."""

    def run(self) -> None:
        """Serve. Raises `TapeError` if there is no such tape."""
        import asyncio

        from mmenv.live.server import Server

        account = Account(self.key, self.key)
        found = [
            tape
            for symbol in self.symbol or ("*",)
            for tape in tapes(self.store, self.venue, symbol)
            if tape.info.venue in (SPOT, USDM)
        ]
        groups = itertools.groupby(found, key=lambda tape: (tape.info.venue, tape.info.symbol))
        listings = [
            Listing(list(days), queue_model=self.queue_model, repeat=self.repeat) for _, days in groups
        ]
        for listing in listings:
            account.balances |= {listing.base: Decimal(1000), listing.quote: Decimal(10_000_000)}
        faults = None if self.faults is None else Faults.random(self.faults, 600 * SECOND, count=30)

        async def serve() -> None:
            exchange = Exchange(
                listings, start_ns=time.time_ns(), speed=self.speed, accounts=[account], faults=faults
            )
            async with Server(exchange, self.host, self.port) as server:
                names = ", ".join(f"{listing.venue} {listing.symbol}" for listing in listings)
                print(f"{names} at {server.url}; API key and secret: {self.key}", flush=True)
                await asyncio.Event().wait()

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())


def main() -> None:
    """Command line of `python -m mmenv.live.exchange`."""
    try:
        tyro.cli(Serve, prog="python -m mmenv.live.exchange").run()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    # By its own name: the server's classes are those of the imported module, not of this script.
    from mmenv.live import exchange

    exchange.main()
