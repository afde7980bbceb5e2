"""Websockets: who is connected, and what is on its way to whom."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from mmenv.exchange.books import Account
from mmenv.exchange.present import Present


@dataclass(eq=False)
class Connection:
    """One websocket. `outbox` holds text to send now, and None once the connection is cut."""

    venue: str
    api: bool = False
    """Whether requests come over it."""
    combined: bool = False
    """Whether each message says which stream it is of."""
    account: Account | None = None
    """Whose user stream it is, if it is one."""
    streams: set[str] = field(default_factory=set)
    outbox: deque[str | None] = field(default_factory=deque)
    closed: bool = False
    free_ns: int = 0
    """Nothing sent later may arrive before this."""


class Connections:
    """All websockets that are open, and the messages that faults delay."""

    def __init__(self, present: Present) -> None:
        self.open: list[Connection] = []
        self._present = present
        self._later: list[tuple[int, int, Connection, str]] = []

    @property
    def next_ns(self) -> int | None:
        """When a delayed message is due; None if there is none."""
        return self._later[0][0] if self._later else None

    def send(self, connection: Connection, channel: str, text: str) -> None:
        """Send a message, unless a fault of its channel ("market" or "user") does something else with it."""
        faults, present = self._present.faults, self._present
        if not faults.faults:
            connection.outbox.append(text)
            return
        for delay, waits, part in faults.message(present.since_start_ns, channel, text):
            due = max(present.now_ns + delay, connection.free_ns)
            if waits:
                connection.free_ns = due
            if due <= present.now_ns:
                connection.outbox.append(part)
            else:
                heapq.heappush(self._later, (due, next(present.numbers), connection, part))

    def deliver(self) -> None:
        """Send the delayed messages that are due."""
        while self._later and self._later[0][0] <= self._present.now_ns:
            _, _, connection, text = heapq.heappop(self._later)
            if not connection.closed:
                connection.outbox.append(text)

    def close(self, connection: Connection) -> None:
        """The other side has gone."""
        connection.closed = True
        if connection in self.open:
            self.open.remove(connection)

    def cut(self, venue: str = "") -> None:
        """Break all of them, or those of one venue."""
        for connection in [found for found in self.open if venue in ("", found.venue)]:
            connection.outbox.append(None)
            self.close(connection)
