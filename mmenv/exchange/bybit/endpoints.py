"""The requests of Bybit's USDT perpetuals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from mmenv.data.rows import BUY, SELL
from mmenv.exchange.books import Account, ExchangeOrder, Json, Listing
from mmenv.exchange.bybit.dialect import CROSSED, Linear, order_id
from mmenv.exchange.bybit.limits import BybitLimits
from mmenv.exchange.matching import Matching
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import ApiError, Params, whole_steps
from mmenv.exchange.views import text
from mmenv.times import MILLISECOND

FORCES = {"PostOnly": "GTX", "GTC": "GTC", "IOC": "IOC", "FOK": "FOK"}
DEFAULT_LIMIT = 20
UNKNOWN = ApiError(110001, "order not exists or too late to cancel", 200)


class BybitEndpoints:
    """The requests of one market, by the end of their path; the dialect is without state."""

    dialect: ClassVar[Linear] = Linear()

    def __init__(self, listings: Mapping[str, Listing], matching: Matching, present: Present) -> None:
        self.listings, self.matching, self.present = listings, matching, present
        self.limits = BybitLimits(present)
        self.public: dict[str, Callable[[Params], Any]] = {
            "market/time": lambda params: {"timeNano": str(present.clock_ms * MILLISECOND)},
            "market/instruments-info": self._instruments,
            "market/tickers": self._tickers,
        }
        self.signed: dict[tuple[str, str], Callable[[Account, Params], Any]] = {
            ("POST", "order/create"): self._create,
            ("POST", "order/cancel"): self._cancel,
            ("POST", "order/cancel-all"): self._cancel_all,
            ("GET", "order/realtime"): self._orders,
            ("GET", "order/history"): lambda account, params: self._orders(account, {**params, "all": "1"}),
            ("GET", "execution/list"): self._executions,
            ("GET", "account/transaction-log"): self._transactions,
            ("GET", "account/wallet-balance"): self._wallet,
            ("GET", "account/fee-rate"): self._fee_rate,
            ("GET", "position/list"): self._positions,
            ("GET", "user/query-api"): lambda account, params: {
                "readOnly": 0, "permissions": {"ContractTrade": ["Order", "Position"]},
            },
        }  # fmt: skip

    def listing(self, params: Params) -> Listing:
        """The symbol that a request names. Raises `ApiError` if there is none."""
        listing = self.listings.get(params.get("symbol", ""))
        if listing is None or params.get("category") != "linear":
            raise ApiError(10001, "params error: symbol invalid", 200)
        return listing

    # Public requests

    def _instruments(self, params: Params) -> Any:
        listing = self.listings.get(params.get("symbol", ""))
        found = [self.dialect.instrument(listing)] if listing is not None else []
        return {"category": "linear", "list": found, "nextPageCursor": ""}

    def _tickers(self, params: Params) -> Any:
        symbol = params.get("symbol", "")
        coin = next((coin for coin in self.present.prices if symbol.startswith(coin)), None)
        if coin is not None:
            return {"list": [{"symbol": symbol, "lastPrice": str(self.present.prices[coin])}]}
        listing = self.listing(params)
        told = {"symbol": symbol, "lastPrice": listing.price_text(listing.last_tick)}
        return {"list": [told | {"nextFundingTime": str(listing.funding_ns // MILLISECOND)}]}

    # Orders

    def _create(self, account: Account, params: Params) -> Any:
        order = self._read(account, self.listing(params), params)
        try:
            self.matching.place(order)
        except ApiError as error:
            if error.text != CROSSED:
                raise
            self.matching.refuse(order)
        return {"orderId": order_id(order), "orderLinkId": order.client_id}

    def _read(self, account: Account, listing: Listing, params: Params) -> ExchangeOrder:
        side = {"Buy": BUY, "Sell": SELL}.get(params.get("side", ""))
        kind, force = params.get("orderType", "").upper(), FORCES.get(params.get("timeInForce", "GTC"))
        if side is None or kind not in ("LIMIT", "MARKET") or force is None:
            raise ApiError(10001, "Request parameter error.", 200)
        if listing.status != "TRADING":
            raise ApiError(*self.dialect.closed, 200)
        grid_tick, grid_lot = listing.grid
        try:
            lots = int(whole_steps(params, "qty", grid_lot, "LOT_SIZE") * grid_lot / listing.lot)
            tick = 0
            if kind != "MARKET":
                tick = int(whole_steps(params, "price", grid_tick, "PRICE_FILTER") * grid_tick / listing.tick)
        except ApiError:
            raise ApiError(10001, "Qty or price invalid", 200) from None
        name = params.get("orderLinkId", "")
        if name and any(order.client_id == name for order in account.orders.values()):
            raise ApiError(*self.dialect.duplicate, 200)
        reduces = str(params.get("reduceOnly", "")).lower() == "true"
        if listing.value(lots * (tick or listing.last_tick)) < listing.min_notional and not reduces:
            code, words = self.dialect.too_small
            raise ApiError(code, words.format(listing.min_notional), 200)
        if account.hedged:
            raise ApiError(10001, "position idx not match position mode", 200)
        if reduces:
            lots = min(lots, self.matching.reducible(account, listing, side))
            if lots <= 0:
                raise ApiError(110017, "current position is zero, cannot fix reduce-only order qty", 200)
        now = self.present.now_ns
        return ExchangeOrder(0, name, account, listing, side, tick, lots, kind, force, reduces, now, now)

    def _cancel(self, account: Account, params: Params) -> Any:
        order = next((order for order in self._named(account, params) if order.open), None)
        if order is None:
            raise UNKNOWN
        self.matching.end(order, "CANCELED")
        return {"orderId": order_id(order), "orderLinkId": order.client_id}

    def _cancel_all(self, account: Account, params: Params) -> Any:
        orders = account.open(self.listing(params))
        for order in orders:
            self.matching.end(order, "CANCELED")
        named = [{"orderId": order_id(order), "orderLinkId": order.client_id} for order in orders]
        return {"list": named, "success": "1"}

    def _named(self, account: Account, params: Params) -> list[ExchangeOrder]:
        """Orders of the symbol, of the name that is given if one is, newest first."""
        listing, name = self.listing(params), params.get("orderLinkId")
        orders = (order for order in reversed(account.orders.values()) if order.listing is listing)
        return [order for order in orders if name in (None, order.client_id)]

    def _orders(self, account: Account, params: Params) -> Any:
        closed = params.get("all") or params.get("openOnly") == "1"
        found = (order for order in self._named(account, params) if order.open or closed)
        return self._page((self.dialect.order(order) for order in found), params)

    # The account

    def _executions(self, account: Account, params: Params) -> Any:
        listing, name = self.listing(params), params.get("orderLinkId")
        found = (
            self.dialect.trade(trade)
            for trade in reversed(account.trades)
            if trade.order.listing is listing
            and name in (None, trade.order.client_id)
            and self._within(trade.time_ns, params)
        )
        return self._page(found, params)

    def _transactions(self, account: Account, params: Params) -> Any:
        found = (
            self.dialect.settlement(income)
            for income in reversed(account.income)
            if income.listing.venue == self.dialect.venue and self._within(income.time_ns, params)
        )
        return self._page(found, params)

    def _within(self, time_ns: int, params: Params) -> bool:
        stamp = time_ns // MILLISECOND
        return int(params.get("startTime", 0)) <= stamp <= int(params.get("endTime", stamp))

    def _page(self, found: Iterable[Json], params: Params) -> Any:
        entries, first = list(found), int(params.get("cursor") or 0)
        last = first + int(params.get("limit", DEFAULT_LIMIT))
        return {"list": entries[first:last], "nextPageCursor": str(last) if last < len(entries) else ""}

    def _wallet(self, account: Account, params: Params) -> Any:
        coins = {listing.quote: account.wallet for listing in self.listings.values()} | account.coins
        views = [{"coin": coin, "walletBalance": text(amount)} for coin, amount in coins.items()]
        return {"list": [{"accountType": "UNIFIED", "coin": views}]}

    def _fee_rate(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        rates = {"makerFeeRate": text(listing.maker), "takerFeeRate": text(listing.taker)}
        return {"list": [{"symbol": listing.symbol, **rates}]}

    def _positions(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        lots = account.position(listing).lots
        held = {"symbol": listing.symbol, "size": text(abs(lots) * listing.lot)}
        held["side"] = "Buy" if lots > 0 else "Sell" if lots else ""
        return {"list": [held | {"positionIdx": idx} for idx in ((1, 2) if account.hedged else (0,))]}
