"""The pictures of the tear sheet, as plotly figures in plain JSON types.

Each function gives {"data": traces, "layout": layout}; the page adds plotly.js. Long series are thinned to
their lowest and highest points, so that what is drawn is always a value that was there.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from mmenv import metrics
from mmenv.backtest.result import REGIMES, Result, Run, Samples
from mmenv.backtest.tables import SIGNAL_EDGES, position_edges
from mmenv.metrics import Estimate
from mmenv.report.words import number

Figure = dict[str, Any]

POLICIES = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#db2777", "#65a30d")
PARTS = {
    "spread_capture": ("Spread capture", "#16a34a"),
    "adverse_selection": ("Adverse selection", "#dc2626"),
    "carry": ("Carry", "#64748b"),
    "fees": ("Fees", "#d97706"),
}
BOUGHT, SOLD = "#16a34a", "#dc2626"
INK, MUTED, GRID = "#0f172a", "#64748b", "#e8ecf1"
DIVERGING = [[0.0, "#b91c1c"], [0.5, "#f8fafc"], [1.0, "#15803d"]]
POINTS = 2_000
"""A line is thinned to about so many points."""
WINDOW = 600
"""Decisions in the close-up of quotes and fills."""
MOST_FILLS = 3_000
"""Fills drawn over the price of the whole run."""


def layout(height: int = 360, **more: Any) -> dict[str, Any]:
    """What all pictures share."""
    axis = {"gridcolor": GRID, "zerolinecolor": "#cbd5e1", "linecolor": "#cbd5e1", "automargin": True}
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 28, "b": 44},
        "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#cbd5e1", "activecolor": MUTED},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
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
    """Indices of the first, the last and the lowest and highest of each of points / 2 pieces."""
    if len(values) <= points:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), points // 2 + 1).astype(int)
    kept = [0, len(values) - 1]
    for a, b in itertools.pairwise(edges):
        kept += [a + int(np.argmin(values[a:b])), a + int(np.argmax(values[a:b]))]
    return np.unique(kept)


def rounded(values: Any) -> list[float | None]:
    """As JSON numbers of 12 significant digits; None for NaN."""
    return [None if not math.isfinite(v) else float(f"{v:.12g}") for v in np.asarray(values, float).tolist()]


class Times:
    """The time axis: dates on tapes, hours since the start in simulations."""

    def __init__(self, recorded: bool) -> None:
        self.recorded = recorded
        self.axis = {"title": {"text": "UTC" if recorded else "hours"}}

    def __call__(self, times_ns: Any) -> list[Any]:
        times = np.asarray(times_ns, np.int64)
        if self.recorded:
            return [str(t) for t in times.astype("datetime64[ns]").astype("datetime64[ms]")]
        return (times / 3.6e12).tolist()


def colour(result: Result, run: Run) -> str:
    return POLICIES[list(result.runs).index(run.name) % len(POLICIES)]


def fine(run: Run) -> Samples:
    """Sums at the resolution of the equity table, over all symbols."""
    return run.samples(max(run.units[0]["step_seconds"], 1.0))


# All policies in one picture.


def equity(result: Result) -> Figure:
    """Profit of every policy and its drawdown below."""
    times = Times(result.recorded)
    data = []
    for run in result.runs.values():
        samples = fine(run)
        profit = np.cumsum(samples.sums["profit"])
        down = metrics.drawdowns(profit)
        for values, axis, shown in ((profit, "y", True), (down, "y2", False)):
            kept = thin(values)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": run.name,
                    "legendgroup": run.name,
                    "showlegend": shown,
                    "x": times(samples.times_ns[kept]),
                    "y": rounded(values[kept]),
                    "yaxis": axis,
                    "line": {"color": colour(result, run), "width": 1.6 if shown else 1},
                    "fill": "none" if shown else "tozeroy",
                }
            )
    return {
        "data": data,
        "layout": layout(
            460,
            xaxis={**times.axis, "anchor": "y2"},
            yaxis={"domain": [0.36, 1], "title": {"text": f"profit, {result.currency}"}},
            yaxis2={"domain": [0, 0.28], "title": {"text": "drawdown"}},
        ),
    }


def distribution(result: Result) -> Figure:
    """Histogram of the profits of the sampling intervals, with the value at risk."""
    data: list[dict[str, Any]] = []
    shapes = []
    everything = np.concatenate([samples.sums["profit"] for samples in result.samples.values()])
    edges = np.histogram_bin_edges(everything, bins=61)
    for run in result.runs.values():
        profits = result.samples[run.name].sums["profit"]
        counts = np.histogram(profits, edges)[0]
        data.append(
            {
                "type": "bar",
                "name": run.name,
                "x": rounded((edges[:-1] + edges[1:]) / 2),
                "y": (counts / len(profits)).tolist(),
                "width": rounded(np.diff(edges)),
                "marker": {"color": colour(result, run)},
                "opacity": 0.6,
            }
        )
        risk = -float(metrics.value_at_risk(profits))
        line = {"color": colour(result, run), "width": 1.5, "dash": "dot"}
        shapes.append(
            {"type": "line", "x0": risk, "x1": risk, "yref": "paper", "y0": 0, "y1": 1, "line": line}
        )
    return {
        "data": data,
        "layout": layout(
            340,
            barmode="overlay",
            shapes=shapes,
            xaxis={
                "title": {"text": f"profit of an interval, {result.currency} (dotted: value at risk 95%)"}
            },
            yaxis={"title": {"text": "share"}, "tickformat": ".0%"},
        ),
    }


def calendar(result: Result) -> Figure:
    """Profit of every day and symbol, a row for each policy and symbol."""
    days = sorted({u["labels"]["day"] for run in result.runs.values() for u in run.units}, key=day_order)
    rows, z = [], []
    symbols = {u["labels"]["symbol"] for u in result.first.units}
    for run in result.runs.values():
        for symbol in sorted({u["labels"]["symbol"] for u in run.units}):
            sums = dict.fromkeys(days, math.nan)
            for unit in run.units:
                if unit["labels"]["symbol"] == symbol:
                    held = sums[unit["labels"]["day"]]
                    sums[unit["labels"]["day"]] = unit["totals"]["profit"] + (0 if math.isnan(held) else held)
            rows.append(f"{run.name} {symbol}" if len(symbols) > 1 else run.name)
            z.append(rounded(list(sums.values())))
    top = max((abs(v) for row in z for v in row if v is not None), default=1) or 1
    few = len(days) <= 12
    return {
        "data": [
            {
                "type": "heatmap",
                "x": days,
                "y": rows,
                "z": z,
                "colorscale": DIVERGING,
                "zmid": 0,
                "zmin": -top,
                "zmax": top,
                "text": [["" if v is None else number(v) for v in row] for row in z],
                "texttemplate": "%{text}" if few else "",
                "colorbar": {"title": {"text": result.currency}},
                "xgap": 2,
                "ygap": 2,
            }
        ],
        "layout": layout(
            120 + 42 * len(rows),
            hovermode="closest",
            xaxis={"type": "category"},
            yaxis={"autorange": "reversed"},
        ),
    }


def day_order(day: str) -> tuple[int, str]:
    """Sorts "day 2" before "day 10"."""
    return (int(day.removeprefix("day ")) if day.startswith("day ") else 0, day)


# One policy in a picture.


def waterfall(result: Result, run: Run) -> Figure:
    """From spread capture to profit."""
    figures = result.figures[run.name]
    signs = {"fees": -1}
    values = [signs.get(part, 1) * figures[part].value for part in PARTS] + [figures["profit"].value]
    return {
        "data": [
            {
                "type": "waterfall",
                "x": [title for title, _ in PARTS.values()] + ["Profit"],
                "y": rounded(values),
                "measure": ["relative"] * len(PARTS) + ["total"],
                "text": [number(v) for v in values],
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
    """The parts of the profit over time."""
    times, samples = Times(result.recorded), fine(run)
    data = []
    lines = {
        **{p: (t, c, -1 if p == "fees" else 1) for p, (t, c) in PARTS.items()},
        "profit": ("Profit", INK, 1),
    }
    for part, (title, tone, sign) in lines.items():
        values = sign * np.cumsum(samples.sums[part])
        kept = thin(values)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": title if part != "fees" else "Fees (as a loss)",
                "x": times(samples.times_ns[kept]),
                "y": rounded(values[kept]),
                "line": {"color": tone, "width": 2 if part == "profit" else 1.4},
            }
        )
    return {
        "data": data,
        "layout": layout(340, xaxis=times.axis, yaxis={"title": {"text": result.currency}}),
    }


def inventory(result: Result, run: Run) -> Figure:
    """Position over time, and how often it was how large."""
    times, table = Times(result.recorded), run.equity
    data: list[dict[str, Any]] = []
    names = [unit["labels"]["symbol"] for unit in run.units]
    for k, symbol in enumerate(sorted(set(names))):
        mine = np.array([name == symbol for name in names])
        some = table[mine[table["unit"].to_numpy()]]
        held = some["position_lots"].to_numpy(float)
        kept = thin(held)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": symbol,
                "x": times(some["time_ns"].to_numpy()[kept]),
                "y": rounded(held[kept]),
                "line": {
                    "color": POLICIES[(list(result.runs).index(run.name) + k) % len(POLICIES)],
                    "width": 1,
                    "shape": "hv",
                },
                "showlegend": len(set(names)) > 1,
            }
        )
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
            xaxis2={"domain": [0.8, 1], "tickformat": ".0%", "nticks": 4, "title": {"text": "share"}},
            yaxis={"title": {"text": "position, lots"}},
        ),
    }


def markouts(result: Result, run: Run) -> Figure:
    """Mean mark-out after buys and sells, with 95% bands, and by volatility beside."""
    x = list(result.horizons)
    data = []
    for side, name, tone in ((None, "all", INK), (1, "after buying", BOUGHT), (-1, "after selling", SOLD)):
        data += band(name, x, result.markout_curve(run, side), tone, "x", "y", side is not None)
    for regime, tone in zip(REGIMES, ("#0ea5e9", "#6366f1", "#be123c"), strict=True):
        data += band(f"{regime} market", x, result.markout_curve(run, None, regime), tone, "x2", "y2", True)
    axis = {
        "type": "log",
        "title": {"text": "seconds after the fill"},
        "tickvals": x,
        "ticktext": [f"{h:g}" for h in x],
    }
    return {
        "data": data,
        "layout": layout(
            380,
            xaxis={**axis, "domain": [0, 0.47]},
            xaxis2={**axis, "domain": [0.53, 1], "anchor": "y2"},
            yaxis={"title": {"text": "mark-out, bp"}},
            yaxis2={"anchor": "x2", "matches": "y"},
        ),
    }


def band(
    name: str, x: list[float], curve: list[Estimate], tone: str, xaxis: str, yaxis: str, shaded: bool
) -> list[dict[str, Any]]:
    """A line with its interval."""
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
    """The mid of the whole run, with fills. The first symbol, where there are several."""
    times, table, fills = Times(result.recorded), run.equity, run.fills
    units = first_symbol(run)
    table, fills = table[np.isin(table["unit"], units)], fills[np.isin(fills["unit"], units)]
    mid = table["mid"].to_numpy()
    kept = thin(mid)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "mid",
            "x": times(table["time_ns"].to_numpy()[kept]),
            "y": rounded(mid[kept]),
            "line": {"color": MUTED, "width": 1},
        }
    ]
    some = fills.iloc[:: max(-(-len(fills) // MOST_FILLS), 1)]
    return {
        "data": data + fill_marks(some, times, 5),
        "layout": layout(360, hovermode="closest", xaxis=times.axis, yaxis={"title": {"text": "price"}}),
    }


def first_symbol(run: Run) -> list[int]:
    """Numbers of the units of the first symbol."""
    symbol = run.units[0]["labels"]["symbol"]
    return [k for k, unit in enumerate(run.units) if unit["labels"]["symbol"] == symbol]


def fill_marks(fills: Any, times: Times, size: int) -> list[dict[str, Any]]:
    """Fills as triangles, up for those bought."""
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
                    "line": {"width": 0.5, "color": "white"},
                },
            }
        )
    return marks


def close_up(result: Result, run: Run) -> Figure:
    """Quotes at every decision of the stretch with the most fills, over the book; drag to zoom."""
    times = Times(result.recorded)
    states, fills = busiest(run)
    x = times(states["time_ns"].to_numpy())
    lines = (
        ("best_ask", "best ask", "#94a3b8", "dot", 1),
        ("best_bid", "best bid", "#94a3b8", "dot", 1),
        ("mid", "mid", "#475569", "solid", 1),
        ("ask", "our ask", SOLD, "solid", 1.3),
        ("bid", "our bid", BOUGHT, "solid", 1.3),
    )
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": x,
            "y": rounded(states[column].to_numpy()),
            "line": {"color": tone, "width": width, "dash": dash, "shape": "hv"},
        }
        for column, name, tone, dash, width in lines
        if states[column].notna().any()
    ]
    return {
        "data": data + fill_marks(fills, times, 10),
        "layout": layout(
            440,
            hovermode="closest",
            xaxis={**times.axis, "rangeslider": {"visible": True, "thickness": 0.08}},
            yaxis={"title": {"text": "price"}},
        ),
    }


def busiest(run: Run) -> tuple[Any, Any]:
    """States and fills of the `WINDOW` decisions on one path that hold the most fills."""
    columns = ["time_ns", "path", "mid", "best_bid", "best_ask", "bid", "ask"]
    fills = run.fills
    unit = int(fills["unit"].mode().iloc[0]) if len(fills) else 0
    states = run.states(unit, columns)
    ours = fills[fills["unit"] == unit]
    step_ns = round(run.units[0]["step_seconds"] * 1e9)
    times = np.sort(ours["time_ns"].to_numpy())
    span = WINDOW * step_ns
    inside = np.searchsorted(times, times + span, side="left") - np.arange(len(times))
    begin = int(times[np.argmax(inside)]) - step_ns if len(times) else int(states["time_ns"].iloc[0])
    begin = max(min(begin, int(states["time_ns"].iloc[-1]) - span), int(states["time_ns"].iloc[0]))
    seen = states[(states["time_ns"] >= begin) & (states["time_ns"] <= begin + span)]
    filled = ours[(ours["time_ns"] >= begin) & (ours["time_ns"] <= begin + span)]
    return seen, filled


def picture(result: Result, run: Run) -> Figure:
    """Mean half-spread and skew by position and signal, price units."""
    counts = run.counts["picture"]
    unit = run.units[0]
    edges = position_edges(unit["position_limit"])
    shape = (len(edges) - 1, len(SIGNAL_EDGES) - 1)
    often = np.array(counts["count"]).reshape(shape)
    y, x = (edges[:-1] + edges[1:]) / 2, (SIGNAL_EDGES[:-1] + SIGNAL_EDGES[1:]) / 2
    seen = np.flatnonzero(often.any(axis=1))
    rows = slice(seen[0], seen[-1] + 1) if len(seen) else slice(None)
    data = []
    for k, (name, title) in enumerate((("half_spread", "half-spread"), ("skew", "skew"))):
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.array(counts[name]).reshape(shape) / often / unit["price_scale"]
        data.append(
            {
                "type": "heatmap",
                "name": title,
                "x": rounded(x),
                "y": rounded(y[rows]),
                "z": [rounded(row) for row in mean[rows]],
                "xaxis": f"x{k + 1}" if k else "x",
                "yaxis": f"y{k + 1}" if k else "y",
                "colorscale": "Viridis" if not k else DIVERGING,
                **colour_range(mean[rows], centred=bool(k)),
                "colorbar": {
                    "x": 0.4 if not k else 0.98,
                    "title": {"text": f"{title}, pu", "side": "right"},
                    "thickness": 12,
                },
                "hoverongaps": False,
            }
        )
    signal = unit["signal"].replace("_", " ")
    return {
        "data": data,
        "layout": layout(
            360,
            hovermode="closest",
            plot_bgcolor="#e2e8f0",
            xaxis={"domain": [0, 0.39], "title": {"text": signal}},
            xaxis2={"domain": [0.58, 0.97], "anchor": "y2", "title": {"text": signal}},
            yaxis={"title": {"text": "position before, lots"}},
            yaxis2={"anchor": "x2"},
        ),
    }


def colour_range(values: np.ndarray, centred: bool) -> dict[str, float]:
    """Bounds of the colours: at least 5% either way, or rounding to the tick looks like a policy."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    if centred:
        top = max(float(np.abs(known).max()), 0.1)
        return {"zmin": -top, "zmax": top}
    middle = float(known.mean())
    return {"zmin": min(float(known.min()), 0.95 * middle), "zmax": max(float(known.max()), 1.05 * middle)}


def sensitivity(result: Result, run: Run) -> Figure:
    """Profit per turnover, bp, by latency and queue model, for each maker fee."""
    cells = scenario_cells(result, run)
    latencies = sorted({latency for latency, _ in cells})
    queues = sorted({queue for _, queue in cells}, key=lambda q: (q != "risk-adverse", q))
    fees = sorted({*result.settings["fees_bp"], *(unit["maker_fee_bp"] for unit in run.units)})
    data: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    values = []
    notes = []
    for k, fee in enumerate(fees):
        z = [[net_bp(cells.get((latency, queue)), fee) for latency in latencies] for queue in queues]
        values += [v for row in z for v in row if math.isfinite(v)]
        suffix = "" if k == 0 else str(k + 1)
        low, high = k / len(fees), (k + 1) / len(fees)
        data.append(
            {
                "type": "heatmap",
                "name": f"fee {fee:g} bp",
                "x": [f"{latency:g} ms" for latency in latencies],
                "y": queues,
                "z": [rounded(row) for row in z],
                "texttemplate": "%{z:.2f}",
                "colorscale": DIVERGING,
                "zmid": 0,
                "showscale": False,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "xgap": 2,
                "ygap": 2,
            }
        )
        more[f"xaxis{suffix}"] = {
            "domain": [low + 0.01, high - 0.01],
            "anchor": f"y{suffix}",
            "type": "category",
        }
        more[f"yaxis{suffix}"] = {"anchor": f"x{suffix}", "type": "category", "showticklabels": k == 0}
        notes.append(
            {
                "text": f"maker fee {fee:g} bp",
                "x": (low + high) / 2,
                "y": 1.0,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    top = max((abs(v) for v in values), default=1) or 1
    for trace in data:
        trace |= {"zmin": -top, "zmax": top}
    return {
        "data": data,
        "layout": layout(150 + 44 * len(queues), hovermode="closest", annotations=notes, **more),
    }


def scenario_cells(result: Result, run: Run) -> dict[tuple[float, str], tuple[float, float]]:
    """Profit before fees and turnover by latency and queue model, the run itself included."""
    market = result.plan["policies"][0]["config"]["market"]
    cells: dict[tuple[float, str], tuple[float, float]] = {}
    base = (market["order_latency_ms"], market["queue_model"])
    tagged = [(base, unit) for unit in run.units] + [
        ((u["labels"]["latency_ms"], u["labels"]["queue"]), u)
        for u in result.scenarios
        if u["labels"]["policy"] == run.name
    ]
    for cell, unit in tagged:
        totals = unit["totals"]
        gross, traded = cells.get(cell, (0.0, 0.0))
        cells[cell] = (gross + totals["profit"] + totals["fees"], traded + totals["turnover"])
    return cells


def net_bp(cell: tuple[float, float] | None, fee_bp: float) -> float:
    """Profit per turnover at a maker fee, basis points."""
    return math.nan if cell is None else float(metrics.basis_points(cell[0], cell[1])) - fee_bp
