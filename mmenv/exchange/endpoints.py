"""What the requests of a market do; those that only one market has are in `spot` and `usdm`."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from mmenv.data.rows import BUY, SELL
from mmenv.exchange.books import Account, Dialect, ExchangeOrder, Json, Listing
from mmenv.exchange.limits import Limits
from mmenv.exchange.matching import Matching
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import CLIENT_ID, ApiError, Params, most, whole_steps
from mmenv.exchange.views import levels_view

Public = Callable[[Params], Any]
Signed = Callable[[Account, Params], Any]


class Endpoints(ABC):
    """The requests of one market, by their method and the last part of their path."""

    dialect: ClassVar[Dialect]
    listen_key: ClassVar[str]
    """Path of the requests for the key to a user stream; they alone need no signature."""

    def __init__(self, listings: Mapping[str, Listing], matching: Matching, present: Present) -> None:
        self.listings, self.matching, self.present = listings, matching, present
        self.limits = Limits(self.dialect.rates, self.dialect.weights, present)
        self.public: dict[str, Public] = {
            "ping": lambda params: {},
            "time": lambda params: {"serverTime": present.clock_ms},
            "exchangeInfo": self._exchange_info,
            "depth": self._depth,
            "ticker/bookTicker": self._book_ticker,
            "ticker/price": self._price,
        }
        self.signed: dict[tuple[str, str], Signed] = {
            ("POST", "order"): self._new_order,
            ("DELETE", "order"): self._cancel_order,
            ("GET", "order"): self._query_order,
            ("GET", "openOrders"): self._open_orders,
            ("GET", "allOrders"): self._all_orders,
            ("POST", self.listen_key): self._new_listen_key,
            ("PUT", self.listen_key): self._keep_listen_key,
            ("DELETE", self.listen_key): self._end_listen_key,
        }

    def listing(self, params: Params) -> Listing:
        """The symbol that a request names. Raises `ApiError` if there is none."""
        listing = self.listings.get(params.get("symbol", ""))
        if listing is None:
            raise ApiError(-1121, "Invalid symbol.")
        return listing

    # Public requests

    def _exchange_info(self, params: Params) -> Any:
        symbols = [self.dialect.symbol(found) for found in self.listings.values()]
        stamp = self.present.clock_ms
        return {"timezone": "UTC", "serverTime": stamp, "rateLimits": self.limits.view(), "symbols": symbols}

    def _depth(self, params: Params) -> Any:
        listing, limit = self.listing(params), most(params)
        book = listing.playback.book
        answer: Json = {"lastUpdateId": listing.playback.update_id}
        if self.dialect.stamped:
            answer["E"] = answer["T"] = self.present.clock_ms
        for name, sizes, step in (("bids", book.sizes[0], -1), ("asks", book.sizes[1], 1)):
            places = np.flatnonzero(sizes)[::step][:limit]
            answer[name] = levels_view(listing, ((int(at) + book.low_tick, int(sizes[at])) for at in places))
        return answer

    def _book_ticker(self, params: Params) -> Any:
        listing = self.listing(params)
        names = {"bidPrice": "b", "bidQty": "B", "askPrice": "a", "askQty": "A"}
        found = {name: listing.ticker.get(short, "0") for name, short in names.items()}
        return {"symbol": listing.symbol, **found}

    def _price(self, params: Params) -> Any:
        symbol = params.get("symbol", "")
        coin = next((coin for coin in self.present.prices if symbol.startswith(coin)), None)
        if coin is not None:
            return {"symbol": symbol, "price": str(self.present.prices[coin])}
        listing = self.listing(params)
        return {"symbol": symbol, "price": listing.price_text(listing.last_tick)}

    # Orders

    def _new_order(self, account: Account, params: Params) -> Any:
        order = self._read_order(account, self.listing(params), params)
        if account.hedged and self.dialect.reducing:
            raise ApiError(-4061, "Order's position side does not match user's setting.")
        self.matching.place(order)
        return self.dialect.order(order)

    def _read_order(self, account: Account, listing: Listing, params: Params) -> ExchangeOrder:
        side = {"BUY": BUY, "SELL": SELL}.get(params.get("side", ""))
        kind = params.get("type", "")
        force = "GTX" if kind == "LIMIT_MAKER" else params.get("timeInForce", "GTC")
        if side is None or kind not in ("LIMIT", "MARKET", "LIMIT_MAKER"):
            raise ApiError(-1102, "Mandatory parameter 'side' or 'type' was not sent, empty or malformed.")
        if force not in ("GTC", "GTX", "IOC", "FOK"):
            raise ApiError(-1115, "Invalid timeInForce.")
        if listing.status != "TRADING":
            raise ApiError(*self.dialect.closed)
        grid_tick, grid_lot = listing.grid
        lots = int(whole_steps(params, "quantity", grid_lot, "LOT_SIZE") * grid_lot / listing.lot)
        tick = 0
        if kind != "MARKET":
            tick = int(whole_steps(params, "price", grid_tick, "PRICE_FILTER") * grid_tick / listing.tick)
        client_id = params.get("newClientOrderId") or f"x-{next(self.present.numbers)}"
        if CLIENT_ID.fullmatch(client_id) is None:
            raise ApiError(-1100, "Illegal characters found in parameter 'newClientOrderId'.")
        if any(order.client_id == client_id for order in account.open(listing)):
            raise ApiError(*self.dialect.duplicate)
        worth = listing.value(lots * (tick or listing.last_tick))
        if worth < listing.min_notional and params.get("reduceOnly", "false").lower() != "true":
            code, words = self.dialect.too_small
            raise ApiError(code, words.format(listing.min_notional))
        reduce_only = params.get("reduceOnly", "false").lower() == "true"
        if reduce_only:
            reducible = self.matching.reducible(account, listing, side) if self.dialect.reducing else 0
            lots = min(lots, reducible)
            if lots <= 0:
                raise ApiError(-2022, "ReduceOnly Order is rejected.")
        now = self.present.now_ns
        return ExchangeOrder(
            0, client_id, account, listing, side, tick, lots, kind, force, reduce_only, now, now
        )

    def _cancel_order(self, account: Account, params: Params) -> Any:
        order = self._find(account, params)
        if order is None or not order.open:
            raise ApiError(-2011, "Unknown order sent.")
        self.matching.end(order, "CANCELED")
        return self.dialect.order(order)

    def cancel_all(self, account: Account, params: Params) -> Any:
        """Cancel all orders of a symbol."""
        orders = account.open(self.listing(params))
        for order in orders:
            self.matching.end(order, "CANCELED")
        return self.dialect.cancelled(orders)

    def _query_order(self, account: Account, params: Params) -> Any:
        order = self._find(account, params)
        if order is None:
            raise ApiError(-2013, "Order does not exist.")
        return self.dialect.order(order)

    def _open_orders(self, account: Account, params: Params) -> Any:
        listing = self.listing(params) if "symbol" in params else None
        return [self.dialect.order(order) for order in account.open(listing, self.dialect.venue)]

    def _all_orders(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        orders = [order for order in account.orders.values() if order.listing is listing]
        return [self.dialect.order(order) for order in orders[-min(most(params), 1000) :]]

    def trades(self, account: Account, params: Params) -> Any:
        """The account's trades in a symbol."""
        listing, limit = self.listing(params), min(most(params), 1000)
        found = [trade for trade in account.trades if trade.order.listing is listing]
        if "orderId" in params:
            found = [trade for trade in found if str(trade.order.id) == params["orderId"]]
        if "fromId" in params:
            found = [trade for trade in found if trade.id >= int(params["fromId"])][:limit]
        return [self.dialect.trade(trade) for trade in found[-limit:]]

    def _find(self, account: Account, params: Params) -> ExchangeOrder | None:
        """The newest order that has the id, ours or the client's, that a request names."""
        listing = self.listing(params)
        for order in reversed(account.orders.values()):
            if order.listing is listing and (
                str(order.id) == params.get("orderId") or order.client_id == params.get("origClientOrderId")
            ):
                return order
        return None

    # User streams

    def _new_listen_key(self, account: Account, params: Params) -> Any:
        seed = f"{account.key} {next(self.present.numbers)}".encode()
        account.listen_key = account.listen_key or hashlib.sha256(seed).hexdigest()
        return {"listenKey": account.listen_key}

    def _keep_listen_key(self, account: Account, params: Params) -> Any:
        if not account.listen_key:
            raise ApiError(-1125, "This listenKey does not exist.")
        return {}

    def _end_listen_key(self, account: Account, params: Params) -> Any:
        account.listen_key = ""
        return {}
