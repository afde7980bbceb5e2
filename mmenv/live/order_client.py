"""Orders at Binance through ccxt: requests by REST, news by the user stream, and the truth by asking again.

An order is only ever in doubt for a while. A request without an answer is followed up by its client id: the
venue knows the order, or it says that it does not and its clock has passed the request's `recvWindow`, after
which it would refuse it. Requests that may be repeated (cancels, queries) are; an order never is. What the
stream fails to say is found by comparing with the venue's books, every few seconds and after each
reconnection, and each trade is told once, by its id.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson

from mmenv.data.capture import BUY, SELL
from mmenv.live.feed import RETRY_S
from mmenv.live.orders import (
    LOST,
    Account,
    Ack,
    AnyEvent,
    Cancel,
    CancelReject,
    Fill,
    OpenOrder,
    Order,
    Reject,
    Stream,
    Unknown,
    VenueError,
)
from mmenv.live.venue import BaseError, ExchangeError, Instrument, NetworkError, VenueClient

MILLISECOND: Final = 1_000_000
RECV_WINDOW_MS: Final = 2_000
DONE_KEPT: Final = 100_000
"""Trades and finished orders remembered, to know their late echoes."""
GRACE_S: Final = 0.5
"""Time for the stream to say what an answer has already said in sum."""
KEEP_ALIVE_S: Final = 1_200.0
IN_DOUBT: Final = (-1000, -1001, -1006, -1007, -4116)
"""Codes that do not say whether the order is at the venue; the last one, that it already was."""
WRONG_TIME: Final = -1021
UNKNOWN_ORDER: Final = (-2011, -2013)
TERMINAL: Final = ("FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED")
_CODE = re.compile(r'"code":\s*(-?\d+)')


@dataclass(slots=True)
class _Working:
    """An order that may be at the venue: `told` lots of its fills, and its end once known."""

    lots: int
    sent_ms: int = 0
    """Of a request that may still arrive, by the venue's clock."""
    order_id: int = 0
    acknowledged: bool = False
    told: int = 0
    cancelling: bool = False
    end: tuple[str, int, int] | None = None
    """Final status, lots filled in all, exchange time."""
    settling: bool = False
    completing: bool = False


class VenueOrders:
    """`mmenv.live.orders.OrderClient` of one symbol at Binance spot or USD-M.

    Args:
        client: with credentials.
        instrument: from `VenueClient.instrument` or `Feed.open`.
        answer_s: a request unanswered for so long is of unknown fate.
        reconcile_s: time between two comparisons with the venue's books.
    """

    def __init__(
        self,
        client: VenueClient,
        instrument: Instrument,
        *,
        answer_s: float = 2.0,
        reconcile_s: float = 5.0,
    ) -> None:
        self.client, self.instrument = client, instrument
        self._answer_s, self._reconcile_s = answer_s, reconcile_s
        self._linear = instrument.venue == "binance-usdm"
        self._tick, self._lot = Decimal(instrument.tick_size), Decimal(instrument.lot_size)
        self._working: dict[str, _Working] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        self._trades: OrderedDict[int, None] = OrderedDict()
        self._names: OrderedDict[int, str] = OrderedDict()
        # What traded before we came is for `fills` to say.
        self._first_trade: int | None = None
        self._last_trade = 0
        self._events: asyncio.Queue[AnyEvent | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()
        self._broken = asyncio.Event()
        self._why = self._refused = ""
        self._soon = asyncio.Event()

    # The session

    async def open(self) -> None:
        """Connect and start the user stream; returns once it runs and the books have been compared.

        Raises `VenueError` if the venue refuses us; while it cannot be reached, waits.
        """
        self._spawn(self._keep_stream())
        self._spawn(self._keep_reconciling())
        await self._opened.wait()
        if self._refused:
            await self.close()
            raise VenueError(self._refused)

    async def close(self) -> None:
        """Stop; orders stay as they are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._events.put_nowait(None)

    async def events(self) -> AsyncIterator[AnyEvent]:
        """Events as they come, until `close`. For one consumer."""
        while (event := await self._events.get()) is not None:
            yield event

    # Orders

    async def submit(self, order: Order) -> None:
        """Send; returns when the venue has answered or the answer is overdue."""
        working = self._working[order.client_id] = _Working(order.lots)
        params: dict[str, Any] = {
            "side": "BUY" if order.side == BUY else "SELL",
            "type": "MARKET" if order.kind == "market" else "LIMIT",
            "quantity": f"{order.lots * self._lot:f}",
            "newClientOrderId": order.client_id,
            "newOrderRespType": "RESULT",
        }
        if order.kind == "limit":
            params["price"] = f"{order.tick * self._tick:f}"
            if order.post_only and not self._linear:
                params["type"] = "LIMIT_MAKER"
            else:
                params["timeInForce"] = "GTX" if order.post_only else "GTC"
        if order.reduce_only and self._linear:
            params["reduceOnly"] = "true"
        try:
            view = await self._signed("order", "post", params, working=working)
        except BaseError as error:
            code = _code(error)
            if isinstance(error, NetworkError) or code in IN_DOUBT or "Duplicate order" in str(error):
                self._doubt(order.client_id, error)
            else:
                self._reject(order.client_id, code, str(error))
        else:
            working.sent_ms = 0
            self._hear_view(view)

    async def cancel(self, client_id: str) -> None:
        """Cancel; returns when the venue has answered or the answer is overdue. Repeated until it is gone."""
        working = self._working.get(client_id)
        if working is not None:
            working.cancelling = True
        try:
            view = await self._signed("order", "delete", {"origClientOrderId": client_id})
        except BaseError as error:
            if not isinstance(error, NetworkError):
                self._tell(CancelReject, client_id, 0, code=_code(error), reason=str(error))
                if client_id in self._working:
                    self._settle_later(client_id)
            elif working is not None:
                self._doubt(client_id, error)
            else:
                self._tell(Unknown, client_id, 0, reason=str(error))
        else:
            self._hear_view(view)

    async def cancel_all(self) -> None:
        """Cancel every order of the symbol, ours or not."""
        for working in self._working.values():
            working.cancelling = True
        name = "allOpenOrders" if self._linear else "openOrders"
        for pause in (*RETRY_S, None):
            try:
                await self._signed(name, "delete", {})
            except BaseError as error:
                if _code(error) in UNKNOWN_ORDER:
                    break
                if pause is None:
                    raise VenueError(f"orders may be open: cancelling all failed ({error})") from None
                await asyncio.sleep(pause)
            else:
                break
        for client_id in list(self._working):
            self._settle_later(client_id)

    async def cancel_after(self, seconds: float) -> bool:
        """Ask the venue to cancel all unless asked again within `seconds` (0: never mind).

        Returns whether the venue has such a thing: USD-M has. Raises `VenueError`.
        """
        if not self._linear:
            return False
        await self._asked("countdownCancelAll", "post", {"countdownTime": round(seconds * 1000)})
        return True

    # The venue's books

    async def open_orders(self) -> list[OpenOrder]:
        """Every open order of the symbol. Raises `VenueError`."""
        found = await self._asked("openOrders", "get", {})
        return [
            OpenOrder(
                client_id=view["clientOrderId"],
                order_id=int(view["orderId"]),
                side=BUY if view["side"] == "BUY" else SELL,
                tick=self._ticks(view["price"]),
                lots=self._lots(view["origQty"]),
                filled_lots=self._lots(view["executedQty"]),
                reduce_only=bool(view.get("reduceOnly")),
            )
            for view in found
        ]

    async def account(self) -> Account:
        """Position and balances; on spot the position is the base asset held. Raises `VenueError`."""
        if self._linear:
            balances = await self._asked("balance", "get", {}, "V3", symbol=False)
            positions = await self._asked("positionRisk", "get", {}, "V3")
            size = sum((Decimal(found["positionAmt"]) for found in positions), Decimal(0))
            held = {found["asset"]: found.get("balance") or found["walletBalance"] for found in balances}
            return Account(position_lots=int(size / self._lot), balances=held)
        found = await self._asked("account", "get", {}, symbol=False)
        totals = {
            entry["asset"]: Decimal(entry["free"]) + Decimal(entry["locked"]) for entry in found["balances"]
        }
        base = totals.get(self.instrument.base, Decimal(0))
        return Account(
            position_lots=int(base / self._lot),
            balances={asset: f"{total:f}" for asset, total in totals.items()},
        )

    async def fills(self, after_trade_id: int) -> list[Fill]:
        """Our fills with a larger trade id, oldest first; for a restart. Raises `VenueError`."""
        found: list[Fill] = []
        while True:
            views = await self._trade_views({"fromId": after_trade_id + 1, "limit": 500})
            for order_id in {int(view["orderId"]) for view in views} - self._names.keys():
                order = await self._asked("order", "get", {"orderId": order_id})
                _remember(self._names, order_id, order["clientOrderId"])
            found += [self._fill(view, self._names[int(view["orderId"])]) for view in views]
            if len(views) < 500:
                return found
            after_trade_id = found[-1].trade_id

    # Requests

    async def _signed(
        self,
        path: str,
        method: str,
        params: dict[str, Any],
        version: str = "",
        symbol: bool = True,
        working: _Working | None = None,
    ) -> Any:
        """One signed request. Raises ccxt's errors, `NetworkError` if the answer is overdue."""
        if symbol:
            params = {"symbol": self.instrument.symbol, **params}
        params["recvWindow"] = RECV_WINDOW_MS
        api = f"fapiPrivate{version}" if self._linear else "private"
        for again in (True, False):
            if working is not None:
                working.sent_ms = self.client.nonce()
            try:
                async with asyncio.timeout(self._answer_s):
                    return await self.client.request(path, [api], method.upper(), dict(params))
            except TimeoutError:
                raise NetworkError(f"no answer within {self._answer_s:g} s") from None
            except BaseError as error:
                if not again or _code(error) != WRONG_TIME:
                    raise
            # Refused for its time, so never carried out: our clocks differ.
            await self._venue_ms()

    async def _venue_ms(self) -> int:
        """The venue's clock, and ours set by it. Raises ccxt's errors."""
        try:
            async with asyncio.timeout(self._answer_s):
                await self.client.load_time_difference()
        except TimeoutError:
            raise NetworkError(f"no answer within {self._answer_s:g} s") from None
        return int(self.client.nonce())

    async def _asked(
        self, path: str, method: str, params: dict[str, Any], version: str = "", symbol: bool = True
    ) -> Any:
        """A request that may be repeated, until answered. Raises `VenueError`."""
        for pause in (*RETRY_S, None):
            try:
                return await self._signed(path, method, dict(params), version, symbol)
            except BaseError as error:
                if pause is None or not isinstance(error, NetworkError):
                    raise VenueError(f"{method} {path}: {error}") from error
                await asyncio.sleep(pause)

    async def _trade_views(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._asked("userTrades" if self._linear else "myTrades", "get", params)

    # What is heard

    def _received(self, text: str | bytes) -> None:
        """A message of the user stream. Half a message says nothing; the next comparison does."""
        try:
            message = orjson.loads(text)
            message = message.get("event", message)
            kind = message.get("e")
            if "error" in message:
                self._why = str(message["error"])
                self._broken.set()
            elif kind == "ORDER_TRADE_UPDATE":
                self._hear_report(message["o"])
            elif kind == "executionReport":
                self._hear_report(message)
            elif kind in ("listenKeyExpired", "eventStreamTerminated"):
                self._why = str(kind)
                self._broken.set()
        except (ValueError, KeyError, TypeError, AttributeError):
            self._soon.set()

    def _hear_report(self, report: dict[str, Any]) -> None:
        if report["s"] != self.instrument.symbol:
            return
        what, exch_ns = report["x"], int(report["T"]) * MILLISECOND
        # A cancel has a client id of its own; the order's is then C.
        client_id = report.get("C") or report["c"] if what == "CANCELED" else report["c"]
        if what == "REJECTED":
            self._reject(client_id, LOST, str(report.get("r", "")))
            return
        working = self._at_venue(client_id, int(report["i"]), self._lots(report["q"]), exch_ns)
        if what == "TRADE":
            view = {
                "id": report["t"], "orderId": report["i"], "price": report["L"], "qty": report["l"],
                "commission": report.get("n") or "0", "commissionAsset": report.get("N") or "",
                "time": report["T"], "maker": report["m"], "side": report["S"],
            }  # fmt: skip
            self._tell_fill(self._fill(view, client_id))
        if working is not None and report["X"] in TERMINAL:
            self._ends(client_id, working, report["X"], self._lots(report["z"]), exch_ns)

    def _hear_view(self, view: dict[str, Any]) -> None:
        """An order as a request's answer shows it."""
        client_id = view["clientOrderId"]
        if "origClientOrderId" in view:
            client_id = view["origClientOrderId"]
        exch_ns = int(view.get("updateTime") or view.get("transactTime") or 0) * MILLISECOND
        working = self._at_venue(client_id, int(view["orderId"]), self._lots(view["origQty"]), exch_ns)
        if working is None:
            return
        filled = self._lots(view["executedQty"])
        if view["status"] in TERMINAL:
            self._ends(client_id, working, view["status"], filled, exch_ns)
        elif filled > working.told:
            self._complete_later(working)

    def _at_venue(self, client_id: str, order_id: int, lots: int, exch_ns: int) -> _Working | None:
        """The order, acknowledged; None if it is long done."""
        if client_id in self._done:
            return None
        working = self._working.get(client_id)
        if working is None:
            working = self._working[client_id] = _Working(lots)
        working.order_id, working.sent_ms = order_id, 0
        _remember(self._names, order_id, client_id)
        if not working.acknowledged:
            working.acknowledged = True
            self._tell(Ack, client_id, exch_ns, order_id=order_id)
        return working

    def _tell_fill(self, fill: Fill) -> None:
        if fill.trade_id in self._trades:
            return
        _remember(self._trades, fill.trade_id, None)
        self._last_trade = max(self._last_trade, fill.trade_id)
        working = self._working.get(fill.client_id)
        if working is not None:
            self._at_venue(fill.client_id, fill.order_id, working.lots, fill.exch_ns)
        if fill.trade_id > (self._first_trade or 0):
            self._events.put_nowait(fill)
        if working is not None:
            working.told += fill.lots
            self._progress(fill.client_id, working)

    def _ends(self, client_id: str, working: _Working, status: str, filled: int, exch_ns: int) -> None:
        if working.end is None:
            working.end = status, filled, exch_ns
        if working.told < filled:
            self._complete_later(working)
        self._progress(client_id, working)

    def _progress(self, client_id: str, working: _Working) -> None:
        """Tell of the order's end once all its fills have been told."""
        if client_id not in self._working:
            return
        if working.told < working.lots:
            if working.end is None or working.told < working.end[1]:
                return
            status, filled, exch_ns = working.end
            expired = not (status == "CANCELED" and working.cancelling)
            self._tell(
                Cancel, client_id, exch_ns, order_id=working.order_id, filled_lots=filled, expired=expired
            )
        self._forget(client_id)

    def _reject(self, client_id: str, code: int, reason: str) -> None:
        if self._working.get(client_id) is not None:
            self._forget(client_id)
            self._tell(Reject, client_id, 0, code=code, reason=reason)

    def _forget(self, client_id: str) -> None:
        del self._working[client_id]
        _remember(self._done, client_id, None)

    def _tell(self, kind: Callable[..., AnyEvent], client_id: str, exch_ns: int, **more: Any) -> None:
        self._events.put_nowait(
            kind(client_id=client_id, exch_ns=exch_ns, local_ns=self.client.clock(), **more)
        )

    # Finding out

    def _doubt(self, client_id: str, error: Exception) -> None:
        if client_id in self._working:
            self._tell(Unknown, client_id, 0, reason=str(error))
            self._settle_later(client_id)

    def _settle_later(self, client_id: str) -> None:
        working = self._working[client_id]
        if not working.settling:
            working.settling = True
            self._spawn(self._settle(client_id, working))

    async def _settle(self, client_id: str, working: _Working) -> None:
        """Ask until it is known whether the order is at the venue, and gone if it is to be cancelled."""
        try:
            pauses = iter(RETRY_S[1:])
            while client_id in self._working:
                with suppress(BaseError):
                    if await self._settled(client_id, working):
                        return
                await asyncio.sleep(next(pauses, RETRY_S[-1]))
        finally:
            working.settling = False

    async def _settled(self, client_id: str, working: _Working) -> bool:
        order = {"origClientOrderId": client_id}
        try:
            self._hear_view(await self._signed("order", "get", dict(order)))
        except BaseError as error:
            if _code(error) not in UNKNOWN_ORDER:
                raise
            if not working.sent_ms:
                # It was there once; the venue forgets orders that never traded.
                self._ends(client_id, working, "CANCELED", working.told, 0)
                return True
            if await self._venue_ms() <= working.sent_ms + RECV_WINDOW_MS:
                return False
            # Too old to be accepted; but it may have arrived since we asked.
            with suppress(BaseError):
                self._hear_view(await self._signed("order", "get", dict(order)))
                return False
            self._reject(client_id, LOST, "the order never reached the venue")
            return True
        if working.end is None and working.cancelling:
            self._hear_view(await self._signed("order", "delete", dict(order)))
        return working.end is not None or not working.cancelling

    def _complete_later(self, working: _Working) -> None:
        if not working.completing:
            working.completing = True
            self._spawn(self._complete(working))

    async def _complete(self, working: _Working) -> None:
        """Tell the fills that the stream has not, however often the venue must be asked: newer ones may have
        been told since, and the next comparison only asks for what is newer still."""
        await asyncio.sleep(GRACE_S)
        try:
            while True:
                with suppress(VenueError):
                    views = await self._trade_views({"orderId": working.order_id})
                    break
                await asyncio.sleep(RETRY_S[-1])
            for view in views:
                self._tell_fill(self._fill(view, self._names[working.order_id]))
        finally:
            working.completing = False

    async def _reconcile(self) -> None:
        """Compare with the venue's books and tell what was missed. Raises `VenueError`."""
        before = {name: work for name, work in self._working.items() if work.acknowledged}
        if self._first_trade is None:
            newest = await self._trade_views({"limit": 1})
            self._first_trade = int(newest[-1]["id"]) if newest else 0
            self._last_trade = max(self._last_trade, self._first_trade)
        for fill in await self.fills(self._last_trade):
            self._tell_fill(fill)
        standing = {order.client_id for order in await self.open_orders()}
        for name in standing - self._working.keys() - self._done.keys():
            self._hear_view(await self._asked("order", "get", {"origClientOrderId": name}))
        for name, working in before.items():
            if name in self._working and (name not in standing or working.cancelling):
                self._settle_later(name)

    async def _keep_reconciling(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._reconcile_s):
                    await self._soon.wait()
            self._soon.clear()
            if self._opened.is_set():
                with suppress(VenueError):
                    await self._reconcile()

    # The user stream

    async def _keep_stream(self) -> None:
        """Connect, and connect again, until closed."""
        tries = 0
        while True:
            url, reason = "", ""
            try:
                url, message = await self._stream_address()
                self.client.takers[url] = self._received
                self.client.ws_dial_backoff = {}
                self._broken.clear()
                await self._listen(url, message)
                reason, tries = self._why, 0
            except (BaseError, VenueError, TimeoutError) as error:
                reason, tries = str(error), tries + 1
                refused = isinstance(error, ExchangeError) or isinstance(error.__cause__, ExchangeError)
                if refused and not self._opened.is_set():
                    self._refused = reason
                    self._opened.set()
                    return
            finally:
                await self.client.hang_up(url)
                self.client.takers.pop(url, None)
            self._tell(Stream, "", 0, ok=False, reason=reason)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

    async def _listen(self, url: str, message: dict[str, Any] | None) -> None:
        """Run the stream at `url` until it breaks. Raises ccxt's errors."""
        watch = asyncio.ensure_future(self.client.watch(url, "user", message, "user"))
        broken = asyncio.create_task(self._broken.wait())
        alive = asyncio.create_task(self._keep_alive())
        try:
            async with asyncio.timeout(self._answer_s):
                await asyncio.wait((watch, self.client.clients[url].connected), return_when="FIRST_COMPLETED")
            # What happened while there was no stream.
            await self._reconcile()
            self._tell(Stream, "", 0, ok=True, reason="")
            self._opened.set()
            await asyncio.wait((watch, broken), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
        finally:
            for task in (watch, broken, alive):
                task.cancel()
            await asyncio.gather(watch, broken, alive, return_exceptions=True)

    async def _stream_address(self) -> tuple[str, dict[str, Any] | None]:
        if self._linear:
            async with asyncio.timeout(self._answer_s):
                answer = await self.client.fapiPrivatePostListenKey()
            return self.client.get_private_ws_url("linear", answer["listenKey"]), None
        url = self.client.urls["api"]["ws"]["ws-api"]["spot"]
        method = "userDataStream.subscribe.signature"
        return url, {"id": "user", "method": method, "params": self.client.sign_params({})}

    async def _keep_alive(self) -> None:
        while self._linear:
            await asyncio.sleep(KEEP_ALIVE_S)
            with suppress(BaseError):
                await self.client.fapiPrivatePutListenKey()

    # Small things

    def _fill(self, view: dict[str, Any], client_id: str) -> Fill:
        side = view.get("side") or ("BUY" if view["isBuyer"] else "SELL")
        return Fill(
            client_id=client_id,
            exch_ns=int(view["time"]) * MILLISECOND,
            local_ns=self.client.clock(),
            order_id=int(view["orderId"]),
            trade_id=int(view["id"]),
            side=BUY if side == "BUY" else SELL,
            tick=self._ticks(view["price"]),
            lots=self._lots(view["qty"]),
            fee=str(view["commission"]),
            fee_asset=str(view["commissionAsset"]),
            maker=bool(view.get("maker", view.get("isMaker"))),
        )

    def _ticks(self, price: str) -> int:
        return round(Decimal(price) / self._tick)

    def _lots(self, size: str) -> int:
        return round(Decimal(size) / self._lot)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody waits for it; whoever trades must not go on as if all were well.
            self._tell(Stream, "", 0, ok=False, reason=f"internal error: {error!r}")


def _code(error: BaseException) -> int:
    """The venue's code in an error of ccxt's."""
    found = _CODE.search(str(error))
    return int(found[1]) if found else LOST


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > DONE_KEPT:
        kept.popitem(last=False)
