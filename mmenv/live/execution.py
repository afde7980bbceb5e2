"""Orders at a real venue: what it told us about ours, and what to send next.

No input or output here: the events come in (`mmenv.live.orders`), commands go out, and the desk carries them.
The orders, the position and the cash are exact integers and decimals, so they can be compared with the
venue's own books to the last unit.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmenv.live.charges import Charges
from mmenv.live.orders import (
    HARMLESS,
    Ack,
    AnyEvent,
    Cancel,
    Fill,
    Funding,
    OpenOrder,
    Rate,
    Reject,
    Silence,
    Stream,
    Trouble,
    Unknown,
)
from mmenv.live.snapshot import Kept, give_back, keep
from mmenv.times import SECOND
from mmenv.venue.outcome import ASK, BID, TAKEN, book_fill, book_taken
from mmenv.venue.view import View
from mmenv.venue.working import FILL, Working

SETTLE_NS: Final = SECOND
"""A request without an answer for longer than this is of unknown fate."""

_STATE: Final = (
    "notional", "paid_before", "funded_ns", "last_trade", "stream", "crossed", "silent_until_ns", "silence",
    "_unknown", "_trade_before", "_known", "_payments", "_fills", "_taken",
)  # fmt: skip


class LiveExecution:
    """Orders of one symbol at a real venue, as a session knows them; fills are booked in the view's event.

    Client ids begin with `prefix`, which no other session of this account may use. `last_trade` is the newest
    trade id of the account before the session. A venue that says it is closed is left alone for `closed_s`.
    """

    def __init__(
        self,
        view: View,
        working: Working,
        prefix: str,
        last_trade: int = 0,
        charges: Charges | None = None,
        closed_s: float = 0.0,
    ) -> None:
        self._closed_ns = round(closed_s * SECOND)
        self.view, self.working, self.prefix = view, working, prefix
        self.notional = 0
        """Ticks x lots paid for the lots bought less those sold, since the instrument last changed."""
        self.paid_before = Decimal(0)
        """The same in the quote asset, from before; all of it for an inverse contract."""
        self.charges = charges or Charges("", "", Decimal(1), Decimal(1), 0.0)
        self.funded_ns = 0
        """When the newest funding was paid, by the venue's clock."""
        self.last_trade = last_trade
        """Newest trade id of ours."""
        self.stream = ""
        """What is wrong with the reports on our orders."""
        self.faults: list[tuple[str, str]] = []
        """(rule, reason) of what must not happen, for the guard to collect."""
        self.rejects: list[str] = []
        self.crossed = 0
        """Harmless rejects in a row, without an order that was taken: endless, they say that our book is not
        the venue's."""
        self.silent_until_ns, self.silence = 0, ""
        """Until when the venue wants no orders, and why."""
        self._unknown: dict[int, int] = {}
        self._trade_before: dict[int, int] = {}
        self._known: deque[int] = deque(maxlen=10_000)
        """`Fill.key` of what was filled."""
        self._payments: deque[int] = deque(maxlen=1_000)
        self._fills: list[tuple[int, int, int, int, int]] = []
        self._taken = np.zeros(1, TAKEN)
        self.taken = np.zeros(1, TAKEN)
        """TAKEN (1,): what our market orders filled of the fills that were collected last."""

    def quote(self, quotes: NDArray[np.int64], time_ns: int) -> NDArray[np.void]:
        """Send what makes the quotes stand (see `Working.requote`); the COMMAND [k] to send."""
        return self._sent(self.working.requote(quotes, time_ns), time_ns)

    def market_order(self, tick: int, lots: int, time_ns: int) -> NDArray[np.void]:
        """Send a market order of so many lots, above 0 to buy, that pays `tick` at worst, after the quotes of
        its decision; the COMMAND [k] to send."""
        return self._sent(self.working.take(tick, lots, time_ns), time_ns)

    def _sent(self, commands: NDArray[np.void], time_ns: int) -> NDArray[np.void]:
        for command in commands:
            slot = self.working.find(int(command["id"]))
            assert slot is not None
            slot["arrives_ns" if command["lots"] > 0 else "cancel_ns"] = time_ns
            self._trade_before.setdefault(int(command["id"]), self.last_trade)
        return commands

    def collect(self, time_ns: int) -> NDArray[np.void]:
        """FILL [k] heard of since the last decision; completes the view's outcome."""
        outcome = self.view.outcome
        outcome["ask_open_lots"], outcome["bid_open_lots"] = self.working.open_lots()
        outcome["position_lots"] = self.working.position
        fills = np.array([tuple(fill) for fill in self._fills], FILL)
        self._fills = []
        self.taken[0], self._taken[0] = self._taken[0], 0
        return fills

    @property
    def untold(self) -> bool:
        """Whether fills were heard of that are still to be collected."""
        return bool(self._fills)

    def take(self, plain: NDArray[np.void]) -> None:
        """Market rows; the exchange plays itself."""

    @property
    def told_until(self) -> int:
        """Trade id up to which no fill of ours can be missing.

        Reports come out of order, so the newest one will not do. But an order that we believe closed has
        had all its fills, and the fills of an open one came after what was known when it was sent.
        """
        return min(self._trade_before.values(), default=self.last_trade)

    def known_since(self, first: int) -> int:
        """Trade id after which every fill that was heard is remembered; `first` if all are."""
        return min(map(abs, self._known)) if len(self._known) == self._known.maxlen else first

    def silence_at(self, time_ns: int) -> str:
        """Why the venue wants no orders at this time; empty if it takes them."""
        if time_ns >= self.silent_until_ns:
            return ""
        return f"no orders for {(self.silent_until_ns - time_ns) / SECOND:.0f} s more: {self.silence}"

    @property
    def open_ids(self) -> list[str]:
        """Client ids of the orders that may be open."""
        return [self.client_id(int(number)) for number in self.working.slots["id"].reshape(-1) if number]

    def client_id(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def number(self, client_id: str) -> int:
        """Our number of a client id, 0 if it is not of this session."""
        prefix, _, number = client_id.rpartition("-")
        return int(number) if prefix == self.prefix and number.isdigit() else 0

    def unsettled_ns(self, time_ns: int) -> int:
        """Age of the oldest request of unknown fate, 0 if there is none."""
        slots = self.working.slots
        times = [int(t) for name in ("arrives_ns", "cancel_ns") for t in slots[name][slots["id"] > 0] if t]
        waiting = [time_ns - t - SETTLE_NS for t in times]
        return max([0, *waiting, *(time_ns - t for t in self._unknown.values())])

    def hear(self, event: AnyEvent) -> None:
        """Take in what the venue said."""
        if isinstance(event, Stream):
            self.stream = "" if event.ok else f"order stream: {event.reason}"
            return
        if isinstance(event, Silence):
            self.silent_until_ns, self.silence = event.until_ns, event.reason
            return
        if isinstance(event, Rate):
            self.charges.price(event)
            return
        if isinstance(event, Funding):
            self._fund(event)
            return
        if isinstance(event, Fill) and event.key in self._known:
            return
        number = self.number(event.client_id)
        slot = self.working.find(number)
        if slot is None:
            self._stray(event, number)
            return
        if isinstance(event, Unknown):
            self._unknown.setdefault(number, event.local_ns)
            return
        if isinstance(event, (Ack, Fill, Reject, Cancel)):
            self._unknown.pop(number, None)
        if isinstance(event, Ack):
            slot["acknowledged"], slot["arrives_ns"] = 1, 0
            self.crossed = 0
        elif isinstance(event, Fill):
            self._fill(slot, event)
        elif isinstance(event, Reject):
            self._rejected(slot, event)
        elif isinstance(event, Cancel):
            self._gone(slot, event)

    def reconcile(self, orders: list[OpenOrder], position: str, expected: str) -> None:
        """Compare with the venue's books at a restart, when all missed fills have been heard.

        `orders` were open before all was cancelled; `position` is held now that nothing is open, and as much
        as is `expected` should be.
        """
        for order in orders:
            # Not "open as far as we know": our own cancels may have been reported before the answer.
            if not 0 < self.number(order.client_id) < self.working.next_id:
                self.faults.append(
                    ("unknown-order", f"the venue had {order.client_id} open, {order.side * order.lots} lots "
                     f"at tick {order.tick}, which is not in the journal")
                )  # fmt: skip
        for slot in self.working.slots.reshape(-1):
            if slot["id"]:
                self._free(slot)
        if Decimal(position) != Decimal(expected):
            self.faults.append(
                ("unknown-order", f"position {position} at the venue, {expected} by the journal")
            )

    @property
    def paid(self) -> Decimal:
        """What was paid for the lots bought less those sold, in the quote asset."""
        return self.paid_before + self.charges.value(self.notional)

    def take_over(self, before: LiveExecution, owed: Decimal) -> None:
        """Go on from one whose instrument was another, `owed` being less than a lot of this one."""
        state = before.kept()
        charges = state.pop("charges") | {"owed": owed, "_owed_before": owed}
        self.charges.restore(charges)
        give_back(self, state | {"notional": 0, "paid_before": before.paid})

    def kept(self) -> Kept:
        """All that it knows beside the view and our orders; see `restore`."""
        return keep(self, *_STATE) | {"charges": self.charges.kept()}

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        self.charges.restore(state.pop("charges"))
        give_back(self, state)

    def _stray(self, event: AnyEvent, number: int) -> None:
        """A report on an order that is not open as far as we know."""
        if isinstance(event, (Ack, Fill)):
            what = "closed" if 0 < number < self.working.next_id else "unknown"
            if isinstance(event, Fill):
                # The position is the venue's to say.
                self._book(event)
                what += f" fill of {event.side * event.lots} lots at tick {event.tick},"
            self.faults.append(("unknown-order", f"{what} order {event.client_id or 'without our id'}"))

    def _fill(self, slot: np.void, event: Fill) -> None:
        slot["acknowledged"], slot["arrives_ns"] = 1, 0
        slot["filled"] += event.lots
        self._book(event, bool(slot["market"]))
        if slot["filled"] > slot["lots"]:
            self.faults.append(("unknown-order", f"{event.client_id} filled beyond its {slot['lots']} lots"))
        if slot["filled"] >= slot["lots"]:
            self._free(slot)

    def _book(self, event: Fill, market: bool = False) -> None:
        self._known.append(event.key)
        self.last_trade = max(self.last_trade, event.trade_id)
        self.working.position += event.side * event.lots - self.charges.fill(event)
        if self.charges.inverse:
            self.paid_before += self.charges.cost(event.side * event.lots, event.tick)
        else:
            self.notional += event.side * event.lots * event.tick
        number = self.number(event.client_id)
        self._fills.append((event.exch_ns, number, event.side, event.tick, event.lots))
        side = ASK if event.side < 0 else BID
        if market:
            book_taken(self._taken[0], side, event.tick, event.lots)
        else:
            book_fill(self.view.outcome, side, event.tick, event.lots)

    def _fund(self, event: Funding) -> None:
        if event.payment_id in self._payments:
            return
        self._payments.append(event.payment_id)
        self.funded_ns = max(self.funded_ns, event.exch_ns)
        self.charges.pay(event)

    def _rejected(self, slot: np.void, event: Reject) -> None:
        self._free(slot)
        if event.kind in HARMLESS:
            self.crossed += 1
        elif event.kind == Trouble.CLOSED and self._closed_ns:
            self.silent_until_ns, self.silence = event.local_ns + self._closed_ns, event.reason
        elif event.kind != Trouble.UNSENT:
            self.rejects.append(event.reason)

    def _gone(self, slot: np.void, event: Cancel) -> None:
        if event.filled_lots != slot["filled"]:
            self.faults.append(
                ("unknown-order", f"{event.client_id} ended with {event.filled_lots} lots filled, "
                 f"{slot['filled']} reported")
            )  # fmt: skip
        self._free(slot)

    def _free(self, slot: Any) -> None:
        self._unknown.pop(int(slot["id"]), None)
        self._trade_before.pop(int(slot["id"]), None)
        slot["id"] = 0
