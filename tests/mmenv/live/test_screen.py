"""The screen of a live desk: the course of the profit, and how long is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmenv.live import screen


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
