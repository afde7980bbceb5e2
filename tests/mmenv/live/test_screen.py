"""The screen of a live desk: the course of the profit, and how long is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmenv.live import screen
from tests.helpers.sessions import at_venue


def test_the_line_is_as_high_as_its_values() -> None:
    assert screen.line([0.0, 3.5, 7.0]) == "▁▅█"
    assert screen.line([2.0, 2.0]) == "▁▁"
    assert screen.line(range(1000)) == screen.line(range(40))
    assert len(screen.line(range(1000))) == 40


def test_the_course_keeps_its_beginning_and_the_time_runs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], str]] = []
    monkeypatch.setattr(
        screen, "panel", lambda desk, profits, running: drawn.append((list(profits), running))
    )
    desk: Any = SimpleNamespace(session=SimpleNamespace(wealth=0.0), messages=[])
    now = [0.0]
    found = screen.Screen([desk], seconds=3700.0, clock=lambda: now[0])
    for number in range(3 * screen.KEPT):
        now[0], desk.session.wealth = number / 4, float(number)
        found._panel(0, desk)
    profits, running = drawn[-1]
    assert drawn[0][1] == "0:00 so far, 1:01:40 left"
    assert running == "5:00 so far, 56:40 left"
    assert (profits[0], profits[-1]) == (0.0, 3.0 * screen.KEPT - 1)
    assert len(profits) <= screen.KEPT
    assert profits == sorted(profits)


def test_every_order_of_a_ladder_stands_at_its_price() -> None:
    """Two levels, of which one is filled in part and one leaves while another comes at its price."""
    pytest.importorskip("hftbacktest")
    quote = {"name": "ladder", "levels": 2, "max_step": 4.0}
    session = at_venue(3.0, 3.0, 1.0, 1.0, 1.2, 1.0, quote=quote, risk={"order_lots": 3})
    asks = session.working.slots[0]
    near, far = sorted(np.flatnonzero(asks["id"]), key=lambda place: asks["tick"][place])
    free = int(np.flatnonzero(asks["id"] == 0)[0])
    asks["acknowledged"][[near, far]] = 1
    asks["filled"][far] = 1
    asks["cancelled"][near] = asks["unwanted"][near] = 1
    asks[free] = asks[near]
    asks["id"][free], asks["lots"][free], asks["acknowledged"][free] = 99, 3, 0
    asks["cancelled"][free] = asks["unwanted"][free] = 0
    table = screen.book(session)
    shown = dict(zip(*([*table.columns[at].cells] for at in (2, 0)), strict=True))
    ticks = asks["tick"][near], asks["tick"][far]
    texts = [shown[screen.price(session, int(tick))] for tick in ticks]
    assert sorted(texts[0].split(" + ")) == ["1 leaving", "3 sent"]
    assert texts[1] == "1"
    assert sum(bool(text) for text in shown.values()) == 4  # and two bids
