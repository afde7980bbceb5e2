"""What a live desk looks like in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mmenv.engine.state import ACTIVE, HALTED, STATES
from mmenv.live.desk import LiveDesk
from mmenv.live.session import Session
from mmenv.venue.paper import PaperVenue

LEVELS = 5
KEPT = 400
"""Profits that the line on the screen is made of, at most."""
BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = ("green", "yellow", "bold red")
TERMS = ("spread capture", "adverse selection", "carry", "fees", "funding")


class Screen:
    """All desks, the course of their profits since the screen began, and what happened last.

    Parameters
    ----------
    seconds
        How long the desks trade.
    clock
        Seconds that never run backwards.
    """

    def __init__(
        self,
        desks: Sequence[LiveDesk],
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desks, self._seconds, self._clock = desks, seconds, clock
        self._begun: dict[int, float] = {}
        self._profits: list[list[float]] = [[] for _ in desks]

    def draw(self) -> RenderableType:
        """The screen as it is now."""
        messages = sorted((text for desk in self._desks for text in desk.messages), reverse=True)[:10]
        return Group(
            Columns([self._panel(number, desk) for number, desk in enumerate(self._desks)]),
            Panel("\n".join(reversed(messages)) or "nothing yet", title="messages", title_align="left"),
        )

    def _panel(self, number: int, desk: LiveDesk) -> Panel:
        if desk.session is None:
            return panel(desk, [], "")
        passed = self._clock() - self._begun.setdefault(number, self._clock())
        profits = self._profits[number]
        profits.append(desk.session.wealth)
        if len(profits) > KEPT:
            del profits[1::2]  # every other one: the line keeps its beginning
        left = f"{duration(self._seconds - passed)} left" if math.isfinite(self._seconds) else "until Ctrl-C"
        return panel(desk, profits, f"{duration(passed)} so far, {left}")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(values: Sequence[float], width: int = 40) -> str:
    """A line of blocks from the lowest to the highest of `values`, the newest right."""
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    shown = np.asarray(values)[at]
    low, high = shown.min(), shown.max()
    heights = (shown - low) / (high - low) if high > low else np.zeros(len(shown))
    return "".join(BLOCKS[round(float(height) * (len(BLOCKS) - 1))] for height in heights)


def panel(desk: LiveDesk, profits: Sequence[float], running: str) -> Panel:
    """One desk; `profits` since the screen began, and how long it has been `running`."""
    title = f"{desk.plan.symbol} {desk.plan.venue} {desk.plan.mode}"
    session = desk.session
    if session is None:
        return Panel("connecting and measuring the market...", title=title, expand=False)
    state = Text(f"{STATES[session.state]}  {session.guard.reason()}", style=COLOURS[session.state])
    tables = Table.grid(padding=(0, 2))
    tables.add_row(book(session), figures(desk, session))
    currency = session.setup.currency
    course = Text(f"{min(profits):+,.4f} {line(profits)} {max(profits):+,.4f} {currency}") if profits else ""
    return Panel(Group(state, tables, course, running), title=title, expand=False)


def book(session: Session) -> Table:
    """Levels around the mid, ours marked with the lots ahead of them where that is known."""
    table = Table(box=None, pad_edge=False)
    for name in ("ours", "lots", "price"):
        table.add_column(name, justify="right")
    low = session.view.low_tick
    sizes, best = session.view.book.sizes, session.view.book.best
    ours = _ours(session)
    if not session.view.known:
        table.add_row("", "", "no book")
        return table
    for side, style in ((1, "red"), (0, "green")):
        away = 1 if side else -1
        start = int(best[side]) - low
        part = sizes[1, start:] if side else sizes[0, start::-1]
        found = np.flatnonzero(part)[:LEVELS]
        mine = [int(t) for t in ours if (t >= best[1] if side else t <= best[0])]
        shown = sorted({start + low + away * int(at) for at in found} | set(mine), reverse=True)
        for level in shown:
            size = int(sizes[side, level - low])
            table.add_row(ours.get(level, ""), f"{size:,}", price(session, level), style=style)
    return table


def price(session: Session, tick: float) -> str:
    """As the venue writes it; the mid may lie half a tick between."""
    size = Decimal(session.setup.tick_size).normalize()
    digits = max(-int(size.as_tuple().exponent), 0) + (tick % 1 != 0)
    return f"{tick * float(size):,.{digits}f}"


def _ours(session: Session) -> dict[int, str]:
    """Our orders by tick; where one leaves and another comes, both."""
    found: dict[int, str] = {}
    for side in range(2):
        for place, slot in enumerate(session.working.slots[side]):
            if slot["id"]:
                text = f"{slot['lots'] - slot['filled']}"
                if not slot["acknowledged"]:
                    text += " sent"
                elif isinstance(session.execution, PaperVenue):
                    index = side * session.working.slots.shape[1] + place
                    text += f" behind {session.execution.book.orders['ahead'][index]:,.0f}"
                if slot["cancelled"]:
                    text += " leaving"
                tick = int(slot["tick"])
                found[tick] = f"{found[tick]} + {text}" if tick in found else text
    return found


def figures(desk: LiveDesk, session: Session) -> Table:
    """Position, profit and its parts, latency."""
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    outcome = session.view.outcome
    limit = session.setup.config.risk.position_limit
    currency = session.setup.currency
    rows = {
        "mid": price(session, (outcome["best_bid_ticks"] + outcome["best_ask_ticks"]) / 2),
        "position": f"{session.working.position} of {limit} lots",
        "profit": f"{session.wealth:+,.4f} {currency}",
        **{
            name: f"{value:+,.4f} {currency}"
            for name, value in zip(TERMS, signed(session.episodes.terms), strict=True)
        },
        "fills": f"{session.fills}",
        "rows received": f"{desk.rows:,}",
        "": "median / 99% / worst",
        "tick to quote": " / ".join(f"{value * 1e3:.2f}" for value in quantiles(desk.latencies)) + " ms",
        "decision": " / ".join(f"{value * 1e6:.0f}" for value in quantiles(desk.work)) + " us",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def signed(terms: np.ndarray) -> list[float]:
    """Spread capture, adverse selection, carry, fees and funding as what they do to the profit."""
    return [*terms[:3].tolist(), -float(terms[3]), float(terms[4])]


def quantiles(seconds: Sequence[float]) -> tuple[float, ...]:
    """Median, 99% and largest."""
    if not seconds:
        return (0.0, 0.0, 0.0)
    return tuple(float(value) for value in np.quantile(np.array(seconds), (0.5, 0.99, 1.0)))


def summary(desk: LiveDesk) -> str:
    """One line at the end."""
    session = desk.session
    if session is None:
        return f"{desk.plan.symbol}: never began"
    _, p99, _ = quantiles(desk.latencies)
    state = STATES[session.state]
    why = "" if session.state == ACTIVE else f" ({session.guard.reason()})"
    word = "halted" if session.state == HALTED else state
    return (
        f"{desk.plan.symbol}: {session.decision['number'] + 1} decisions, {session.fills} fills, position "
        f"{session.working.position}, profit {session.wealth:+.4f} {session.setup.currency}, "
        f"tick to quote p99 {p99 * 1e3:.2f} ms, "
        f"{word}{why}; journal {desk.plan.journal}"
    )
