"""The rules that only a live desk has: when it may quote, when it may only reduce, when it must stop.

Each rule is a pure function of what is known at a decision, and says which state it asks for and why. The
state is the strictest that any rule asks for.

| rule | REDUCING | HALTED | back to ACTIVE |
|---|---|---|---|
| daily-loss | `reducing_at` of `daily_loss` since midnight UTC | `daily_loss` | from HALTED: operator |
| drawdown | `reducing_at` of `drawdown` below the day's peak | `drawdown` | from HALTED: operator |
| position | | beyond `position_limit` | operator |
| order-rate | 80% of `max_orders` in `order_window_s` | the next decision could pass it | by itself |
| stale-data | | nothing received for `stale_ms` | by itself |
| silent-stream | | one stream silent for `stream_patience` times its longest gap, or behind | by itself |
| book | | gap, disconnection, no bid or no ask | by itself |
| crossed | | `max_crossed` orders in a row would have traded at once: the book is stale | once it is new |
| silence | | the venue wants no orders for a while | by itself |
| instrument | | the symbol is not traded now, or its tick, lot or limits change | by itself |
| order-stream | | the venue's reports on our orders are interrupted | by itself |
| unsettled | an order or cancel of unknown fate | for longer than `unsettled_ms` | by itself |
| clock-skew | | fastest message of a decision off by `clock_skew_ms` | by itself |
| late | | decision made `late_ms` after its time | by itself |
| far-quote | | a quote `far_quote_bp` from the last trade | operator |
| rejects | | `max_rejects` in `reject_window_s` | operator |
| unknown-order | | the venue reports an order, fill or position that is not ours | operator |
| policy | | the policy raised, or the desk did | operator |
| loss-limit | | the kernel's own limit (`mmenv.step.risk`) | operator |
| operator | `reduce` | `halt` | operator |
| stop | | the desk was told to end | its next start |

"By itself" means once no rule has asked for it for `calm_s`, and so it is where nothing else is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from mmenv.checks import require_number
from mmenv.engine.state import ACTIVE, HALTED, REDUCING
from mmenv.live.snapshot import Kept, give_back, keep
from mmenv.times import DAY, MILLISECOND, SECOND

LEAST_ORDERS: Final = 3
"""The least `max_orders`: two quotes and a market order; of an action with more see `make_setup`."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Limits of a live desk. Money is in the currency of profits, position in lots."""

    daily_loss: float
    drawdown: float
    position_limit: int
    reducing_at: float = 0.8
    max_orders: int = 250
    order_window_s: float = 10.0
    stale_ms: float = 2_000.0
    clock_skew_ms: float = 1_000.0
    late_ms: float = 1_000.0
    unsettled_ms: float = 5_000.0
    far_quote_bp: float = 200.0
    max_rejects: int = 5
    reject_window_s: float = 10.0
    calm_s: float = 1.0
    stream_patience: float = 3.0
    """0: streams are not told apart."""
    max_crossed: int = 20
    """0: any number."""
    closed_s: float = 5.0
    """No order is sent for so long after the venue has said that it is closed; 0: that is one more reject."""

    def __post_init__(self) -> None:
        for name in ("daily_loss", "drawdown", "clock_skew_ms", "late_ms", "stale_ms", "unsettled_ms"):
            require_number(self, name, 1e-9, 1e15)
        require_number(self, "position_limit", 1, 1_000_000_000, integer=True)
        require_number(self, "reducing_at", 0.0, 1.0)
        require_number(self, "max_orders", LEAST_ORDERS, 1_000_000, integer=True)
        for name in ("order_window_s", "reject_window_s"):
            require_number(self, name, 1e-3, 86_400.0)
        require_number(self, "far_quote_bp", 1e-3, 1e6)
        require_number(self, "max_rejects", 1, 1_000_000, integer=True)
        require_number(self, "calm_s", 0.0, 3_600.0)
        require_number(self, "stream_patience", 0.0, 1e6)
        require_number(self, "max_crossed", 0, 1_000_000, integer=True)
        require_number(self, "closed_s", 0.0, 86_400.0)


@dataclass(slots=True, kw_only=True)
class Facts:
    """What is known at a decision."""

    time_ns: int
    late_ns: int = 0
    """Time since it was due."""
    wealth: float = 0.0
    """Profit since the session began, currency of profits."""
    position: int = 0
    silent_ns: int = 0
    """Since anything was received."""
    book: str = ""
    """What is wrong with the book; empty if nothing is."""
    streams: str = ""
    """Which stream of the feed is silent among live ones."""
    crossed: int = 0
    """Orders in a row that the venue refused for they would have traded at once."""
    silence: str = ""
    """Why the venue wants no orders now."""
    unlisted: str = ""
    """Why the symbol cannot be quoted now."""
    stream: str = ""
    """What is wrong with the venue's reports on our orders."""
    skew_ns: int | None = None
    """Receipt minus exchange time of the fastest message since the last decision; None if there was none."""
    unsettled_ns: int = 0
    """Age of the oldest request of unknown fate, 0 if there is none."""


@dataclass(frozen=True)
class Finding:
    """A rule asks for a state."""

    rule: str
    state: int
    reason: str


CALM: Final = (ACTIVE, "")
"""What a rule says that has nothing to say. Reasons are only put in words when there is one."""

_STATE: Final = (
    "state", "latched_ns", "now_ns", "_day", "_opening", "_peak", "_orders", "_rejects", "_calm_ns",
)  # fmt: skip

Rule = Callable[["Guard", Facts], tuple[int, str]]


class Guard:
    """The state of one desk. `check` at every decision; the other methods as things happen."""

    def __init__(self, config: GuardConfig, orders: int = 2) -> None:
        self.config = config
        self._most = orders
        """A decision sends so many orders at most."""
        self.state = ACTIVE
        self.findings: tuple[Finding, ...] = ()
        """What the rules asked for at the last check, strictest first."""
        self.latched: dict[str, Finding] = {}
        """What only the operator takes back."""
        self.latched_ns: dict[str, int] = {}
        """Since when."""
        self.now_ns = 0
        """The newest time heard of."""
        self._day, self._opening, self._peak = -1, 0.0, 0.0
        self._orders: deque[int] = deque()
        self._rejects: deque[int] = deque()
        self._calm_ns = {REDUCING: 0, HALTED: 0}

    def check(self, facts: Facts) -> int:
        """The state for this decision."""
        self.now_ns = facts.time_ns
        self._new_day(facts)
        found = list(self.latched.values())
        for name, rule in RULES.items():
            state, reason = rule(self, facts)
            if state != ACTIVE:
                found.append(Finding(name, state, reason))
            if state == HALTED and name in LATCHING:
                self.latch(name, reason)
        # Not a set: its order would differ from process to process.
        self.findings = tuple(sorted(dict.fromkeys(found), key=lambda finding: -finding.state))
        asked = self.findings[0].state if found else ACTIVE
        for state in range(REDUCING, asked + 1):
            self._calm_ns[state] = facts.time_ns + round(self.config.calm_s * SECOND)
        held = (state for state, until in self._calm_ns.items() if facts.time_ns < until)
        self.state = max(asked, *held, ACTIVE)
        return self.state

    def latch(self, rule: str, reason: str, state: int = HALTED) -> None:
        """Ask for a state until the operator takes it back."""
        if rule not in self.latched or self.latched[rule].state < state:
            self.latched[rule] = Finding(rule, state, reason)
            self.latched_ns[rule] = self.now_ns
        self.state = max(self.state, state)

    def clear(self, said_ns: int | None = None, rules: Collection[str] | None = None) -> set[str]:
        """Take back what is latched, as the operator said at `said_ns` (None: now); the rules taken back.

        What was latched later he cannot have meant, so it stays. Only of `rules`, if they are given. Rules
        that still hold ask again; a loss is counted anew from here only if its own rule is taken back.
        """
        until = self.now_ns if said_ns is None else said_ns
        asked = self.latched if rules is None else self.latched.keys() & rules
        gone = {rule for rule in asked if self.latched_ns[rule] <= until}
        for rule in gone:
            del self.latched[rule], self.latched_ns[rule]
        if gone:
            self._calm_ns = {REDUCING: 0, HALTED: 0}
        if "rejects" in gone:
            self._rejects.clear()
        if gone & {"daily-loss", "drawdown"}:
            self._day = -1
        return gone

    def kept(self) -> Kept:
        """All that it knows; see `restore`."""
        latched = [[found.rule, found.state, found.reason] for found in self.latched.values()]
        findings = [[found.rule, found.state, found.reason] for found in self.findings]
        return keep(self, *_STATE) | {"latched": latched, "findings": findings}

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        latched = (Finding(*found) for found in state.pop("latched"))
        self.latched = {found.rule: found for found in latched}
        self.findings = tuple(Finding(*found) for found in state.pop("findings"))
        give_back(self, state)

    def sent(self, time_ns: int, orders: int) -> None:
        """Orders (not cancels) have been sent."""
        self._orders.extend([time_ns] * orders)

    def rejected(self, time_ns: int, reason: str) -> None:
        """The venue refused an order."""
        self.now_ns = max(self.now_ns, time_ns)
        self._rejects.append(time_ns)
        count = _within(self._rejects, time_ns, self.config.reject_window_s)
        if count >= self.config.max_rejects:
            self.latch("rejects", f"{count} rejects in {self.config.reject_window_s:g} s, the last: {reason}")

    def far_quote(self, ticks: list[int], last_tick: int) -> None:
        """Quotes that are about to be sent, beside the last trade."""
        for tick in ticks:
            distance = abs(tick - last_tick) * 1e4 / last_tick
            if distance > self.config.far_quote_bp:
                self.latch("far-quote", f"quote at tick {tick}, {distance:.0f} bp from the last trade")

    def reason(self) -> str:
        """Why the state is what it is."""
        if self.findings:
            return f"{self.findings[0].rule}: {self.findings[0].reason}"
        return "calm" if self.state == ACTIVE else f"not calm for {self.config.calm_s:g} s yet"

    def _new_day(self, facts: Facts) -> None:
        day = facts.time_ns // DAY
        if day != self._day:
            self._day, self._opening, self._peak = day, facts.wealth, facts.wealth
        self._peak = max(self._peak, facts.wealth)

    def _loss_rule(self, loss: float, limit: float, what: str) -> tuple[int, str]:
        if loss < self.config.reducing_at * limit:
            return CALM
        # Coin is counted in smaller parts than money.
        digits = 2 if limit >= 0.1 else 8
        return HALTED if loss >= limit else REDUCING, f"{what} {loss:.{digits}f} of {limit:g}"

    def daily_loss(self, facts: Facts) -> tuple[int, str]:
        return self._loss_rule(self._opening - facts.wealth, self.config.daily_loss, "lost since midnight")

    def drawdown(self, facts: Facts) -> tuple[int, str]:
        return self._loss_rule(self._peak - facts.wealth, self.config.drawdown, "below the day's peak by")

    def position(self, facts: Facts) -> tuple[int, str]:
        if abs(facts.position) <= self.config.position_limit:
            return CALM
        return HALTED, f"position {facts.position} beyond {self.config.position_limit} lots"

    def order_rate(self, facts: Facts) -> tuple[int, str]:
        count = _within(self._orders, facts.time_ns, self.config.order_window_s)
        state = HALTED if count + self._most > self.config.max_orders else REDUCING
        if state == REDUCING and count < 0.8 * self.config.max_orders:
            return CALM
        return state, f"{count} orders in {self.config.order_window_s:g} s of {self.config.max_orders}"

    def stale_data(self, facts: Facts) -> tuple[int, str]:
        silent = facts.silent_ns / MILLISECOND
        if silent <= self.config.stale_ms:
            return CALM
        return HALTED, f"nothing received for {silent:.0f} ms"

    def silent_stream(self, facts: Facts) -> tuple[int, str]:
        return (HALTED, facts.streams) if facts.streams else CALM

    def crossed(self, facts: Facts) -> tuple[int, str]:
        if not self.config.max_crossed or facts.crossed < self.config.max_crossed:
            return CALM
        return HALTED, f"{facts.crossed} orders in a row would have traded at once: the book is stale"

    def silence(self, facts: Facts) -> tuple[int, str]:
        return (HALTED, facts.silence) if facts.silence else CALM

    def instrument(self, facts: Facts) -> tuple[int, str]:
        return (HALTED, facts.unlisted) if facts.unlisted else CALM

    def book(self, facts: Facts) -> tuple[int, str]:
        return (HALTED, facts.book) if facts.book else CALM

    def order_stream(self, facts: Facts) -> tuple[int, str]:
        return (HALTED, facts.stream) if facts.stream else CALM

    def unsettled(self, facts: Facts) -> tuple[int, str]:
        age = facts.unsettled_ns / MILLISECOND
        if age <= 0:
            return CALM
        state = HALTED if age > self.config.unsettled_ms else REDUCING
        return state, f"an order's fate has been unknown for {age:.0f} ms"

    def clock_skew(self, facts: Facts) -> tuple[int, str]:
        skew = (facts.skew_ns or 0) / MILLISECOND
        if abs(skew) <= self.config.clock_skew_ms:
            return CALM
        return HALTED, f"clocks differ by {skew:.0f} ms"

    def late(self, facts: Facts) -> tuple[int, str]:
        late = facts.late_ns / MILLISECOND
        return (HALTED, f"decision {late:.0f} ms late") if late > self.config.late_ms else CALM


def _within(times: deque[int], now_ns: int, seconds: float) -> int:
    """How many of `times` are younger than `seconds`; forgets the others."""
    while times and times[0] <= now_ns - seconds * SECOND:
        times.popleft()
    return len(times)


RULES: Final[dict[str, Rule]] = {
    "daily-loss": Guard.daily_loss,
    "drawdown": Guard.drawdown,
    "position": Guard.position,
    "order-rate": Guard.order_rate,
    "stale-data": Guard.stale_data,
    "silent-stream": Guard.silent_stream,
    "book": Guard.book,
    "crossed": Guard.crossed,
    "silence": Guard.silence,
    "instrument": Guard.instrument,
    "order-stream": Guard.order_stream,
    "unsettled": Guard.unsettled,
    "clock-skew": Guard.clock_skew,
    "late": Guard.late,
}
BEFORE: Final = {"stream_patience": 0.0, "max_crossed": 0, "closed_s": 0.0}
"""Fields of a `GuardConfig` that old journals lack: there were no such rules then."""
DISTRUST: Final = frozenset({"silent-stream", "crossed"})
"""Rules by which the feed is not to be trusted: it must begin anew."""
LATCHING: Final = frozenset({"daily-loss", "drawdown", "position"})
