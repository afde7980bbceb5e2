"""What all pictures of the tear sheet share: colours, layout, the time axis and thinned lines.

A picture is a plotly figure in plain JSON types, {"data": traces, "layout": layout}; the page adds plotly.js.
"narrow" holds what of the layout, and of each trace, is otherwise where the picture is narrow.
Long series are thinned to their lowest and highest points, so that what is drawn is a value that was there.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from mmenv.backtest.result import Result, Run, Samples

Figure = dict[str, Any]

POLICIES = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#db2777", "#65a30d")
"""Colours of the policies, in their order."""
BOUGHT, SOLD = "#16a34a", "#dc2626"
INK, MUTED, GRID = "#0f172a", "#64748b", "#e8ecf1"
DIVERGING = [[0.0, "#b91c1c"], [0.5, "#f8fafc"], [1.0, "#15803d"]]

POINTS = 2_000
"""Points that a line is thinned to, about."""


def layout(height: int = 360, **more: Any) -> dict[str, Any]:
    """Lay out a picture: what all of them share, with `more` over it."""
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "zerolinecolor": "#cbd5e1",
        "linecolor": "#cbd5e1",
        "automargin": True,
    }
    # Ticks nobody sees keep the labels of two axes that meet apart.
    axis |= {"ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)"}
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 34, "b": 44},
        "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#cbd5e1", "activecolor": MUTED},
        "legend": {
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 11},
            "traceorder": "normal",
        },
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
    for name, value in more.items():
        base[name] = (
            {**(axis if "axis" in name else base.get(name, {})), **value}
            if isinstance(value, dict)
            else value
        )
    return base


def thin(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Choose indices: the first, the last, and the lowest and highest of each of points / 2 pieces."""
    if len(values) <= points:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), points // 2 + 1).astype(int)
    kept = [0, len(values) - 1]
    for a, b in itertools.pairwise(edges):
        kept += [a + int(np.argmin(values[a:b])), a + int(np.argmax(values[a:b]))]
    return np.unique(kept)


def rounded(values: Any) -> list[float | None]:
    """Write values as JSON numbers of 12 significant digits, None for what is not finite."""
    return [None if not math.isfinite(v) else float(f"{v:.12g}") for v in np.asarray(values, float).tolist()]


def line(name: str, x: Any, y: Any, **style: Any) -> dict[str, Any]:
    """Draw a line through the points."""
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": rounded(y), "line": style}


class Times:
    """The time axis: dates on tapes; hours, or minutes of a short one, since the start in simulations."""

    def __init__(self, result: Result) -> None:
        self.recorded = result.recorded
        self.unit_ns, name = (60e9, "minutes") if result.first.seconds < 7200 else (3.6e12, "hours")
        self.axis = {"title": {"text": "UTC" if self.recorded else name}}

    def __call__(self, times_ns: Any) -> list[Any]:
        times = np.asarray(times_ns, np.int64)
        if self.recorded:
            return [str(t) for t in times.astype("datetime64[ns]").astype("datetime64[ms]")]
        return (times / self.unit_ns).tolist()


def colour(result: Result, run: Run) -> str:
    """Colour of a policy."""
    return POLICIES[list(result.runs).index(run.name) % len(POLICIES)]


def fine(run: Run) -> Samples:
    """Sum over all symbols at the resolution of the equity table."""
    return run.samples(max(run.units[0]["step_seconds"], 1.0))
