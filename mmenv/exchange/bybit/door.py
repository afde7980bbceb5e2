"""Bybit's door: which connection or request is meant, and whether it may."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from mmenv.exchange.books import Account, Listing
from mmenv.exchange.bybit.endpoints import BybitEndpoints
from mmenv.exchange.bybit.streams import BybitStreams
from mmenv.exchange.connections import Connection, Connections
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import Answer, ApiError

PATH: Final = "v5"
"""First part of the path of all that is meant for it."""
MISFITS: Final = {-1013: (110003, "Order price exceeds the allowable range.")}
"""Errors of the matching, which words them as Binance does."""


class BybitDoor:
    """Takes connections and requests in."""

    def __init__(
        self,
        market: BybitEndpoints,
        accounts: Mapping[str, Account],
        connections: Connections,
        present: Present,
        streams: Mapping[Listing, BybitStreams],
    ) -> None:
        self.market = market
        self._accounts, self._connections, self._present = accounts, connections, present
        self._streams = streams

    def connect(self, path: str) -> Connection:
        """Open a websocket, "private" or of a category. Raises `ApiError`."""
        if not path.strip("/").endswith(("public/linear", "private")):
            raise ApiError(10404, f"no such path: {path}", 404)
        return Connection(self.market.dialect.venue)

    def receive(self, connection: Connection, message: Any) -> None:
        """Take a message of a websocket from its client."""
        op, given = message.get("op"), message.get("args", [])
        answer: dict[str, Any] = {"success": True, "ret_msg": "", "op": op, "conn_id": "local"}
        if op == "ping":
            answer |= {"ret_msg": "pong", "op": "pong"}
        elif op == "auth":
            owner = self._owner(*given)
            connection.account = owner
            if owner is None:
                answer |= {"success": False, "ret_msg": "Params Error: API key or signature is invalid."}
        elif op == "subscribe" and connection.account is None:
            connection.streams |= {str(topic) for topic in given}
        elif op != "subscribe":
            answer |= {"success": False, "ret_msg": "error:invalid op"}
        channel = "market" if connection.streams else "user"
        self._connections.send(connection, channel, orjson.dumps(answer).decode())
        for topic in given if op == "subscribe" else ():
            for streams in self._streams.values():
                streams.greet(connection, str(topic))

    def _owner(self, key: str, expires: Any, signature: str) -> Account | None:
        account = self._accounts.get(key)
        if account is None or int(expires) < self._present.clock_ms:
            return None
        return account if hmac.compare_digest(_sign(account, f"GET/realtime{expires}"), signature) else None

    def request(
        self,
        method: str,
        path: str,
        query: str,
        body: str,
        headers: Mapping[str, str],
        reject: bool,
        closed: bool,
    ) -> Answer:
        """Carry out a REST request at the present, unless it is to `reject`, or `closed` for maintenance."""
        given = {name.lower(): value for name, value in headers.items()}
        told: dict[str, str] = {}
        status, code, text, result = 200, 0, "OK", {}
        try:
            if closed:
                raise ApiError(10016, "Service is under maintenance.", 200)
            if reject:
                raise ApiError(10429, "System level frequency protection.", 200)
            name = path.strip("/").removeprefix(f"{PATH}/")
            account = self._accounts.get(given.get("x-bapi-api-key", ""))
            told |= self.market.limits.charge(name == "order/create", account)
            params = dict(parse_qsl(query, keep_blank_values=True))
            params |= {key: str(value) for key, value in (orjson.loads(body) if body else {}).items()}
            result = self._route(method, name, query, body, params, given)
        except ApiError as error:
            code, text = MISFITS.get(error.code, (error.code, error.text))
            # The matching words errors with a status of Binance's.
            status = error.status if code == 10018 else 200
            told |= error.headers
        found = {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}}
        return Answer(status, orjson.dumps(found | {"time": self._present.clock_ms}), told)

    def _route(
        self, method: str, name: str, query: str, body: str, params: dict[str, str],
        headers: Mapping[str, str],
    ) -> Any:  # fmt: skip
        if method == "GET" and name in self.market.public:
            return self.market.public[name](params)
        private = self.market.signed.get((method, name))
        if private is None:
            raise ApiError(10017, "Route not found.", 200)
        account = self._accounts.get(headers.get("x-bapi-api-key", ""))
        if account is None:
            raise ApiError(10003, "API key is invalid.", 200)
        stamp, window = headers.get("x-bapi-timestamp", "0"), headers.get("x-bapi-recv-window", "5000")
        signed = f"{stamp}{account.key}{window}{body if method == 'POST' else query}"
        if not hmac.compare_digest(_sign(account, signed), headers.get("x-bapi-sign", "")):
            raise ApiError(10004, "error sign!", 200)
        now = self._present.clock_ms
        if not now - int(window) <= int(stamp) < now + 1000:
            raise ApiError(10002, "invalid request, please check your server timestamp.", 200)
        return private(account, params)


def _sign(account: Account, text: str) -> str:
    return hmac.new(account.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
