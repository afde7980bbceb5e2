"""The doors of the exchange: which connection or request is meant, and whether it may."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

from mmenv.exchange.books import Account
from mmenv.exchange.bybit.door import BybitDoor
from mmenv.exchange.connections import Connection, Connections
from mmenv.exchange.endpoints import Endpoints, Signed
from mmenv.exchange.faults import RequestFate
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import Answer, ApiError, Params, missing

BY_WEBSOCKET: Final = {
    "order.place": ("POST", "order"),
    "order.cancel": ("DELETE", "order"),
    "order.status": ("GET", "order"),
    "openOrders.status": ("GET", "openOrders"),
    "account.status": ("GET", "account"),
}
"""Requests that also come over a connection, by their name there."""


class Gateway:
    """Takes connections and requests in, for markets by their venue and from customers by their key."""

    def __init__(
        self,
        markets: Mapping[str, Endpoints],
        accounts: Mapping[str, Account],
        connections: Connections,
        present: Present,
    ) -> None:
        self.markets, self._accounts = markets, accounts
        self.doors: dict[str, BybitDoor] = {}
        """Of protocols that are not Binance's, by the first part of their paths."""
        self._connections, self._present = connections, present
        self.maintained_until_ns: dict[str, int] = {}
        """Until when a market is under maintenance, by venue."""

    # Connections

    def connect(self, path: str, query: str = "") -> Connection:
        """Open a websocket. Raises `ApiError` if it is not accepted."""
        if self._present.faults.broken(self._present.since_start_ns):
            raise ApiError(-1001, "Disconnected.", 503)
        first, *parts = [part for part in unquote(path).split("/") if part] or [""]
        if first in self.doors:
            connection = self.doors[first].connect(path)
            self._check_open(connection.venue)
            self._connections.open.append(connection)
            return connection
        for market in self.markets.values():
            dialect = market.dialect
            if first == dialect.websocket_api:
                connection = Connection(dialect.venue, api=True)
                break
            if first == dialect.stream:
                connection = self._stream(dialect.venue, path, parts, query)
                break
        else:
            raise ApiError(-1, f"no such path: {path}", 404)
        self._check_open(connection.venue)
        self._connections.open.append(connection)
        return connection

    def _check_open(self, venue: str) -> None:
        if self._present.now_ns < self.maintained_until_ns.get(venue, 0):
            raise ApiError(-1016, "This service is no longer available.", 503)

    def _stream(self, venue: str, path: str, parts: list[str], query: str) -> Connection:
        connection = Connection(venue)
        parts = [part for part in parts if part not in ("public", "market", "private")]
        given = dict(parse_qsl(query))
        if parts[:1] == ["stream"]:
            connection.combined = True
            names = given.get("streams", "").split("/")
        elif parts[:1] == ["ws"]:
            names = [*parts[1:], given.get("listenKey", "")]
        else:
            raise ApiError(-1, f"no such path: {path}", 404)
        # ccxt numbers its connections: such a name is a stream that does not exist, as on the real one.
        self._subscribe(connection, [name for name in names if name])
        return connection

    def receive(self, connection: Connection, text: str) -> None:
        """Take a message of a websocket from its client."""
        for door in self.doors.values():
            if connection.venue == door.market.dialect.venue:
                door.receive(connection, orjson.loads(text))
                return
        try:
            message = orjson.loads(text)
            method, params = message["method"], message.get("params", [])
        except (ValueError, KeyError, TypeError, AttributeError):
            error = {"error": {"code": 3, "msg": "Invalid JSON"}}
            connection.outbox.append(orjson.dumps(error).decode())
            return
        if connection.api:
            answer = self._api_call(connection, method, params or {})
        elif method == "SUBSCRIBE":
            self._subscribe(connection, params)
            answer = {"result": None}
        elif method == "UNSUBSCRIBE":
            connection.streams -= {str(name) for name in params}
            answer = {"result": None}
        elif method == "LIST_SUBSCRIPTIONS":
            answer = {"result": sorted(connection.streams)}
        else:
            answer = {"error": {"code": 2, "msg": f"Invalid request: unknown method {method}"}}
        if answer is not None:
            channel = "user" if connection.api else "market"
            told = orjson.dumps(answer | {"id": message.get("id")}).decode()
            self._connections.send(connection, channel, told)

    def _subscribe(self, connection: Connection, names: Sequence[str]) -> None:
        for name in names:
            owners = (account for account in self._accounts.values() if account.listen_key == name)
            if (owner := next(owners, None)) is not None:
                connection.account = owner
            else:
                connection.streams.add(str(name))

    # Requests

    def fate(self) -> RequestFate:
        """What becomes of a request that is made now; whoever carries it waits, or loses it, accordingly."""
        faults, at_ns = self._present.faults, self._present.since_start_ns
        if faults.broken(at_ns):
            return RequestFate(arrives=False, answered=False)
        return faults.request(at_ns)

    def request(
        self,
        method: str,
        path: str,
        query: str = "",
        body: str = "",
        key: str | None = None,
        reject: bool = False,
        sent: Mapping[str, str] | None = None,
    ) -> Answer:
        """Carry out a REST request at the present: call `Exchange.advance` first.

        `query` and `body` are as sent, undecoded; `key` is the header X-MBX-APIKEY, `sent` are all headers.
        To `reject` is to do nothing and answer that the exchange is overloaded.
        """
        if (door := self.doors.get(path.strip("/").partition("/")[0])) is not None:
            closed = self._present.now_ns < self.maintained_until_ns.get(door.market.dialect.venue, 0)
            return door.request(method, path, query, body, sent or {}, reject, closed)
        headers: dict[str, str] = {}
        try:
            if reject:
                raise _overloaded()
            status, found = 200, self._route(method, path, query, body, key, headers)
        except ApiError as error:
            status, found = error.status, error.body()
            headers |= error.headers
        return Answer(status, orjson.dumps(found), headers)

    def _route(
        self, method: str, path: str, query: str, body: str, key: str | None, headers: dict[str, str]
    ) -> Any:
        """What is answered; `headers` are added to."""
        first, *parts = [part for part in path.split("/") if part] or [""]
        # What ccxt asks besides: Binance's other services, of which there are none here.
        if first == "sapi":
            return []
        if first == "dapi":
            return {"symbols": []}
        market = next((found for found in self.markets.values() if found.dialect.rest == first), None)
        if market is None or len(parts) < 2:
            raise ApiError(-1, f"no such path: {path}", 404)
        self._check_open(market.dialect.venue)
        name = "/".join(parts[1:])
        headers |= market.limits.charge(method, name, self._accounts.get(key or ""))
        params = dict(parse_qsl(query, keep_blank_values=True) + parse_qsl(body, keep_blank_values=True))
        if method == "GET" and name in market.public:
            return market.public[name](params)
        private = market.signed.get((method, name))
        if private is None:
            raise ApiError(-1, f"no such endpoint: {method} {path}", 404)
        account = self._account(key or "")
        if name != market.listen_key:
            signed = "".join(text.rpartition("&signature=")[0] or _unsigned(text) for text in (query, body))
            self._check_signature(account, signed, params)
        return private(account, params)

    def _api_call(
        self, connection: Connection, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The websocket API: the same requests over a connection."""
        fate = self.fate()
        if not fate.arrives:
            return None
        try:
            if fate.reject:
                raise _overloaded()
            account = self._account(str(params.get("apiKey", "")))
            given = {name: _plain(value) for name, value in params.items()}
            signed = "&".join(f"{name}={given[name]}" for name in sorted(given) if name != "signature")
            self._check_signature(account, signed, given)
            if method == "userDataStream.subscribe.signature":
                connection.account = account
                result: Any = {"subscriptionId": 0}
            else:
                result = self._by_name(connection, method)(account, given)
        except ApiError as error:
            return {"status": error.status, "error": error.body()}
        return {"status": 200, "result": result} if fate.answered else None

    def _by_name(self, connection: Connection, method: str) -> Signed:
        route = BY_WEBSOCKET.get(method)
        if route is None:
            raise ApiError(-1, f"unknown method {method}")
        return self.markets[connection.venue].signed[route]

    def _account(self, key: str) -> Account:
        account = self._accounts.get(key)
        if account is None:
            raise ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        return account

    def _check_signature(self, account: Account, signed: str, params: Params) -> None:
        expected = hmac.new(account.secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, params.get("signature", "")):
            raise ApiError(-1022, "Signature for this request is not valid.")
        try:
            stamp, window = int(params["timestamp"]), int(params.get("recvWindow", "5000"))
        except (KeyError, ValueError):
            raise missing("timestamp") from None
        now = self._present.clock_ms
        if stamp > now + 1000 or now - stamp > window:
            raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")


def _overloaded() -> ApiError:
    return ApiError(-1008, "Server is currently overloaded with other requests.", 503)


def _unsigned(text: str) -> str:
    """What was signed of a part without another parameter: nothing, if the signature is all there is."""
    return "" if text.startswith("signature=") else text


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
