"""Pictures that show all policies of a backtest together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mmenv.backtest.result import Result
from mmenv.measure import metrics
from mmenv.report.plot import DIVERGING, Figure, Times, colour, fine, layout, rounded, thin
from mmenv.report.words import number


def equity(result: Result) -> Figure:
    """Draw the profit of every policy, and its drawdown below."""
    times = Times(result)
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
    """Draw a histogram of the profits of the sampling intervals, with the value at risk."""
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
        style = {"color": colour(result, run), "width": 1.5, "dash": "dot"}
        shapes.append(
            {"type": "line", "x0": risk, "x1": risk, "yref": "paper", "y0": 0, "y1": 1, "line": style}
        )
    return {
        "data": data,
        "layout": layout(
            340,
            barmode="overlay",
            shapes=shapes,
            xaxis={"title": {"text": f"profit of an interval, {result.currency}"}},
            yaxis={"title": {"text": "share"}, "tickformat": ".0%"},
        ),
    }


def calendar(result: Result) -> Figure:
    """Draw the profit of every day, a row for each policy and symbol."""
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
                "colorbar": {"title": {"text": result.currency, "side": "right"}, "thickness": 12},
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
    """Key that sorts "day 2" before "day 10"."""
    return (int(day.removeprefix("day ")) if day.startswith("day ") else 0, day)
