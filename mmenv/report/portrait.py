"""Pictures of one policy: what it earned and from what, its position, its fills and its quotes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from mmenv.backtest.result import REGIMES, Result, Run
from mmenv.backtest.tables import SIGNAL_EDGES, position_edges
from mmenv.measure.intervals import Estimate
from mmenv.report.plot import (
    BOUGHT,
    DIVERGING,
    INK,
    MUTED,
    POLICIES,
    SOLD,
    Figure,
    Times,
    colour,
    fine,
    layout,
    line,
    rounded,
    thin,
)
from mmenv.report.words import amount
from mmenv.times import SECOND

PARTS = {
    "spread_capture": ("Spread capture", "#16a34a"),
    "adverse_selection": ("Adverse selection", "#dc2626"),
    "carry": ("Carry", "#64748b"),
    "fees": ("Fees", "#d97706"),
    "funding": ("Funding", "#0891b2"),
}
"""Title and colour of each part of the profit; funding only where it is counted."""

WINDOW = 240
"""Decisions in the close-up of quotes and fills."""

LEFT = [[0.0, "#ffffff"], [1.0, "#c2410c"]]
"""Colours of how often a side is left."""

SAID = (0.1, 1.0, 10.0)
"""Times after a fill that are written at the axis, with the last one; the others are ticks."""

MOST_FILLS = 3_000
"""Fills drawn over the price of the whole run."""


def waterfall(result: Result, run: Run) -> Figure:
    """Draw the way from spread capture to profit."""
    figures = result.figures[run.name]
    signs = {"fees": -1}
    values = [signs.get(part, 1) * figures[part].value for part in run.parts] + [figures["profit"].value]
    return {
        "data": [
            {
                "type": "waterfall",
                "x": [PARTS[part][0].replace(" ", "<br>") for part in run.parts] + ["Profit"],
                "y": rounded(values),
                "measure": ["relative"] * len(run.parts) + ["total"],
                "text": [
                    amount(figures[part], v) for part, v in zip((*run.parts, "profit"), values, strict=True)
                ],
                "textposition": "outside",
                "cliponaxis": False,
                "increasing": {"marker": {"color": BOUGHT}},
                "decreasing": {"marker": {"color": SOLD}},
                "totals": {"marker": {"color": colour(result, run)}},
                "connector": {"line": {"color": "#cbd5e1"}},
            }
        ],
        "layout": layout(340, hovermode="closest", yaxis={"title": {"text": result.currency}}),
    }


def attribution(result: Result, run: Run) -> Figure:
    """Draw the parts of the profit over time."""
    times, samples = Times(result), fine(run)
    data = []
    lines = {
        **{part: (*PARTS[part], -1 if part == "fees" else 1) for part in run.parts},
        "profit": ("Profit", INK, 1),
    }
    for part, (title, tone, sign) in lines.items():
        values = sign * np.cumsum(samples.sums[part])
        kept = thin(values)
        label = title if part != "fees" else "Fees (as a loss)"
        width = 2 if part == "profit" else 1.4
        data.append(line(label, times(samples.times_ns[kept]), values[kept], color=tone, width=width))
    return {
        "data": data,
        "layout": layout(340, xaxis=times.axis, yaxis={"title": {"text": result.currency}}),
    }


def inventory(result: Result, run: Run) -> Figure:
    """Draw the position over time, and how often it was how large."""
    times, table = Times(result), run.equity
    data: list[dict[str, Any]] = []
    names = [unit["labels"]["symbol"] for unit in run.units]
    for k, symbol in enumerate(sorted(set(names))):
        mine = np.array([name == symbol for name in names])
        some = table[mine[table["unit"].to_numpy()]]
        held = some["position_lots"].to_numpy(float)
        kept = thin(held)
        tone = POLICIES[(list(result.runs).index(run.name) + k) % len(POLICIES)]
        when = times(some["time_ns"].to_numpy()[kept])
        drawn = line(symbol, when, held[kept], color=tone, width=1, shape="hv")
        data.append(drawn | {"showlegend": len(set(names)) > 1})
    counts = np.array(run.counts["positions"], float)
    limit = len(counts) // 2
    data.append(
        {
            "type": "bar",
            "orientation": "h",
            "name": "share of decisions",
            "y": list(range(-limit, limit + 1)),
            "x": rounded(counts / counts.sum()),
            "xaxis": "x2",
            "marker": {"color": colour(result, run)},
            "opacity": 0.7,
            "showlegend": False,
        }
    )
    return {
        "data": data,
        "layout": layout(
            320,
            hovermode="closest",
            bargap=0.1,
            xaxis={**times.axis, "domain": [0, 0.76]},
            xaxis2={"domain": [0.8, 1], "tickformat": ".0%", "nticks": 3, "title": {"text": "share"}},
            yaxis={"title": {"text": "position, lots"}},
        ),
        "narrow": {
            "layout": {
                "xaxis": {"nticks": 3, "tickangle": 0, "domain": [0, 0.7]},
                "xaxis2": {"nticks": 2, "domain": [0.84, 1]},
            }
        },
    }


def markouts(result: Result, run: Run) -> Figure:
    """Draw the mean mark-out after buys and sells, with 95% bands, and by volatility beside."""
    x = list(result.horizons)
    data = []
    for side, name, tone in ((None, "all", INK), (1, "after buying", BOUGHT), (-1, "after selling", SOLD)):
        data += band(name, x, result.markout_curve(run, side), tone, "x", "y", side is not None)
    for regime, tone in zip(REGIMES, ("#0ea5e9", "#6366f1", "#be123c"), strict=True):
        data += band(
            f"{regime} volatility", x, result.markout_curve(run, None, regime), tone, "x2", "y2", True
        )
    axis = {
        "type": "log",
        "title": {"text": "seconds after the fill"},
        "tickvals": x,
        "ticktext": [f"{h:g}" if h in SAID or h == x[-1] else "" for h in x],
        "tickangle": 0,
    }
    return {
        "data": data,
        "layout": layout(
            400,
            xaxis={**axis, "domain": [0, 0.47]},
            xaxis2={**axis, "domain": [0.53, 1], "anchor": "y2"},
            yaxis={"title": {"text": "mark-out, bp"}},
            yaxis2={"anchor": "x2", "matches": "y", "showticklabels": False},
        ),
        "narrow": {
            "layout": {
                "height": 620,
                "xaxis": {"domain": [0, 1], "title": {"text": ""}},
                "xaxis2": {"domain": [0, 1]},
                "yaxis": {"domain": [0.56, 1]},
                "yaxis2": {"domain": [0, 0.44], "showticklabels": True, "title": {"text": "mark-out, bp"}},
            }
        },
    }


def band(
    name: str, x: list[float], curve: list[Estimate], tone: str, xaxis: str, yaxis: str, shaded: bool
) -> list[dict[str, Any]]:
    """Draw a line with its interval."""
    own = {"xaxis": xaxis, "yaxis": yaxis, "legendgroup": name, "x": x}
    bounds = rounded([e.low for e in curve]), rounded([e.high for e in curve])
    hidden = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    clear = "rgba({},{},{},{})".format(
        *(int(tone[i : i + 2], 16) for i in (1, 3, 5)), 0.13 if shaded else 0.2
    )
    return [
        {**own, **hidden, "name": f"{name} low", "y": bounds[0]},
        {**own, **hidden, "name": f"{name} high", "y": bounds[1], "fill": "tonexty", "fillcolor": clear},
        {
            **own,
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "y": rounded([e.value for e in curve]),
            "line": {"color": tone, "width": 2},
            "marker": {"size": 5},
        },
    ]


def price(result: Result, run: Run) -> Figure:
    """Draw the mid of the whole run with fills, of the first symbol where there are several."""
    times, table, fills = Times(result), run.equity, run.fills
    units = first_symbol(run)
    table, fills = table[np.isin(table["unit"], units)], fills[np.isin(fills["unit"], units)]
    mid = table["mid"].to_numpy()
    kept = thin(mid)
    drawn = line("mid", times(table["time_ns"].to_numpy()[kept]), mid[kept], color=MUTED, width=1)
    some = fills.iloc[:: max(-(-len(fills) // MOST_FILLS), 1)]
    return {
        "data": [drawn, *fill_marks(some, times, 8)],
        "layout": layout(360, hovermode="closest", xaxis=times.axis, yaxis={"title": {"text": "price"}}),
    }


def first_symbol(run: Run) -> list[int]:
    """Find the numbers of the units of the first symbol."""
    symbol = run.units[0]["labels"]["symbol"]
    return [k for k, unit in enumerate(run.units) if unit["labels"]["symbol"] == symbol]


def fill_marks(fills: Any, times: Times, size: int) -> list[dict[str, Any]]:
    """Draw fills as triangles, up for those bought."""
    marks = []
    for side, name, tone, symbol in (
        (1, "bought", BOUGHT, "triangle-up"),
        (-1, "sold", SOLD, "triangle-down"),
    ):
        some = fills[fills["side"] == side]
        marks.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": times(some["time_ns"].to_numpy()),
                "y": rounded(some["price"]),
                "text": [f"{lots} lots" for lots in some["lots"]],
                "marker": {
                    "color": tone,
                    "symbol": symbol,
                    "size": size,
                    "line": {"width": 0.8, "color": "white"},
                },
            }
        )
    return marks


def close_up(result: Result, run: Run) -> Figure:
    """Draw the quotes at every decision of the stretch with the most fills, over the book."""
    times = Times(result)
    states, fills = busiest(run)
    x = times(states["time_ns"].to_numpy())
    data = []
    if states["best_ask"].notna().any():
        edge = {"width": 1, "color": "#94a3b8", "shape": "hv"}
        data = [
            line("best bid", x, states["best_bid"].to_numpy(), **edge),
            line("best ask", x, states["best_ask"].to_numpy(), **edge)
            | {"fill": "tonexty", "fillcolor": "rgba(148,163,184,0.22)"},
        ]
    data.append(line("mid", x, states["mid"].to_numpy(), color=INK, width=1, dash="dot", shape="hv"))
    for name, tone in (("ask", SOLD), ("bid", BOUGHT)):
        quote = states[name].to_numpy()
        if run.levels > 1:
            data += each_order(name, x, states, run.levels, tone)
        else:
            drawn = line(f"our {name}", x, quote, color=tone, width=2, shape="hv")
            data.append(drawn | {"connectgaps": False})
        if np.isnan(quote).any():
            data.append(withdrawn(name, x, states, tone))
    return {
        "data": data + fill_marks(fills, times, 10),
        "layout": layout(
            440,
            hovermode="closest",
            xaxis={**times.axis, "rangeslider": {"visible": True, "thickness": 0.08}},
            yaxis={"title": {"text": "price"}},
        ),
    }


def each_order(name: str, x: list[Any], states: Any, levels: int, tone: str) -> list[dict[str, Any]]:
    """Draw all orders of a side with their lots and what is ahead of them, those behind the nearest lighter:
    one entry of the legend shows or hides all."""
    lines = []
    for k in range(1, levels + 1):
        nearest = k == 1
        title, width = (f"our {name}", 2) if nearest else (f"our {name}, {k}", 1)
        drawn = line(title, x, states[f"{name}_{k}"].to_numpy(), color=tone, width=width, shape="hv")
        lines.append(
            drawn
            | {"connectgaps": False, "text": said_of_order(states, name, k), "legendgroup": f"our {name}"}
            | ({} if nearest else {"showlegend": False, "opacity": 0.6})
        )
    return lines


def said_of_order(states: Any, name: str, k: int) -> list[str]:
    """What is said of order k of a side at each decision: its lots, and the lots ahead where known."""
    lots, ahead = states[f"{name}_{k}_lots"].tolist(), states[f"{name}_{k}_ahead"].tolist()
    behind = ["" if np.isnan(place) else f", {place:.0f} ahead" for place in ahead]
    return [f"{count} lots{place}" if count else "" for count, place in zip(lots, behind, strict=True)]


def withdrawn(name: str, x: list[Any], states: Any, tone: str) -> dict[str, Any]:
    """Mark the decisions without a quote on one side, below the lowest bid or above the highest ask."""
    outer = [column for column in states if re.fullmatch(r"(bid|ask)_\d+", column)]
    prices = states[["mid", "bid", "ask", "best_bid", "best_ask", *outer]].to_numpy(float)
    low, high = float(np.nanmin(prices)), float(np.nanmax(prices))
    gap = 0.06 * ((high - low) or 1.0)
    height = high + gap if name == "ask" else low - gap
    where = np.where(states[name].isna().to_numpy(), height, np.nan)
    mark = line(f"no {name}", x, where, color=tone, width=6, shape="hv")
    return mark | {"connectgaps": False, "opacity": 0.4, "hoverinfo": "name"}


def busiest(run: Run) -> tuple[Any, Any]:
    """Find states and fills of the `WINDOW` decisions of one unit that hold the most fills."""
    columns = ["time_ns", "path", "mid", "best_bid", "best_ask", "bid", "ask"]
    orders = [f"{side}_{k + 1}" for side in ("bid", "ask") for k in range(run.levels)]
    if run.levels > 1:
        columns += [name for order in orders for name in (order, f"{order}_lots", f"{order}_ahead")]
    fills = run.fills
    unit = int(fills["unit"].mode().iloc[0]) if len(fills) else 0
    states = run.states(unit, columns)
    ours = fills[fills["unit"] == unit]
    step_ns = round(run.units[0]["step_seconds"] * SECOND)
    times = np.sort(ours["time_ns"].to_numpy())
    span = WINDOW * step_ns
    inside = np.searchsorted(times, times + span, side="left") - np.arange(len(times))
    begin = int(times[np.argmax(inside)]) - step_ns if len(times) else int(states["time_ns"].iloc[0])
    begin = max(min(begin, int(states["time_ns"].iloc[-1]) - span), int(states["time_ns"].iloc[0]))
    seen = states[(states["time_ns"] >= begin) & (states["time_ns"] <= begin + span)]
    filled = ours[(ours["time_ns"] >= begin) & (ours["time_ns"] <= begin + span)]
    return seen, filled


def picture(result: Result, run: Run) -> Figure:
    """Draw mean half-spread and skew by position and signal, price units, and how often a side is left."""
    counts = run.counts["picture"]
    unit = run.units[0]
    edges = position_edges(unit["position_limit"])
    shape = (len(edges) - 1, len(SIGNAL_EDGES) - 1)
    often, both = (np.array(counts[name]).reshape(shape) for name in ("count", "both"))
    y, x = (edges[:-1] + edges[1:]) / 2, (SIGNAL_EDGES[:-1] + SIGNAL_EDGES[1:]) / 2
    seen = np.flatnonzero(often.any(axis=1))
    rows = slice(seen[0], seen[-1] + 1) if len(seen) else slice(None)
    maps = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, title in (("half_spread", "half-spread, pu"), ("skew", "skew, pu")):
            mean = np.array(counts[name]).reshape(shape)[rows] / both[rows] / unit["price_scale"]
            centred = name == "skew"
            maps.append((title, mean, "Viridis" if not centred else DIVERGING, colour_range(mean, centred)))
        if any(sum(counts[name]) for name in ("no_ask", "no_bid")):
            for name in ("ask", "bid"):
                share = np.array(counts[f"no_{name}"]).reshape(shape)[rows] / often[rows]
                maps.append((f"share without {name}", share, LEFT, {"zmin": 0.0, "zmax": 1.0}))
    return heat_maps(maps, x, y[rows], unit["signal"].replace("_", " "))


def heat_maps(maps: list[Any], x: np.ndarray, y: np.ndarray, signal: str) -> Figure:
    """Draw maps of (title, values, colours, range), two in a row, each with a colour bar of its own."""
    lines = len(maps) // 2
    data: list[dict[str, Any]] = []
    wide: dict[str, Any] = {"annotations": []}
    narrow: dict[str, Any] = {"height": 320 * len(maps) + 20, "annotations": []}
    bars = []
    for k, (title, values, colours, bounds) in enumerate(maps):
        suffix = "" if k == 0 else str(k + 1)
        line, column = divmod(k, 2)
        beside = Frame.of(line, lines, 94 / (320 * lines), (0.0, 0.36) if column == 0 else (0.58, 0.94))
        below = Frame.of(k, len(maps), 94 / narrow["height"], (0.0, 0.8))
        bar = {"thickness": 10, "yanchor": "middle"}
        data.append(
            {
                "type": "heatmap",
                "name": title,
                "x": rounded(x),
                "y": rounded(y),
                "z": [rounded(row) for row in values],
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "colorscale": colours,
                **bounds,
                "colorbar": bar | beside.bar(),
                "hoverongaps": False,
            }
        )
        bars.append({"colorbar": below.bar()})
        held = "position before, lots"
        for place, into in ((beside, wide), (below, narrow)):
            into["annotations"].append(place.title(title))
            into[f"xaxis{suffix}"] = {"domain": [place.left, place.right]}
            into[f"yaxis{suffix}"] = {"domain": [place.bottom, place.top], "title": {"text": held}}
        wide[f"xaxis{suffix}"] |= {"anchor": f"y{suffix}", "title": {"text": signal}, "nticks": 5}
        wide[f"yaxis{suffix}"] |= {"anchor": f"x{suffix}", "title": {"text": "" if column else held}}
    room = {"margin": {"t": 56}}  # for the toolbar and the titles below it
    return {
        "data": data,
        "layout": layout(80 + 320 * lines, hovermode="closest", plot_bgcolor="#e2e8f0", **wide | room),
        "narrow": {"layout": narrow, "data": bars},
    }


class Frame(NamedTuple):
    """Where a map stands in its picture, shares of width and height."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def of(cls, line: int, lines: int, gap: float, columns: tuple[float, float]) -> Frame:
        """The place in one of several lines, `gap` between them."""
        high = (1 - gap * (lines - 1)) / lines
        top = 1 - line * (high + gap)
        return cls(*columns, max(top - high, 0.0), top)

    def bar(self) -> dict[str, float]:
        """Where its colour bar stands."""
        return {"x": self.right + 0.01, "y": (self.top + self.bottom) / 2, "len": self.top - self.bottom}

    def title(self, text: str) -> dict[str, Any]:
        """The title above it."""
        paper = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        return {"text": f"<b>{text}</b>", "x": self.left, "y": self.top, "showarrow": False, **paper}


def colour_range(values: np.ndarray, centred: bool) -> dict[str, float]:
    """Bound the colours: at least 5% either way, or rounding to the tick looks like a policy."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    if centred:
        top = max(float(np.abs(known).max()), 0.1)
        return {"zmin": -top, "zmax": top}
    middle = float(known.mean())
    return {"zmin": min(float(known.min()), 0.95 * middle), "zmax": max(float(known.max()), 1.05 * middle)}
