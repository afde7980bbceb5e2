"""The picture of what a policy earns under other latencies, queue models and fees."""

from __future__ import annotations

import math
from typing import Any

from mmenv.backtest.result import Result, Run
from mmenv.measure.intervals import Estimate
from mmenv.report.plot import DIVERGING, Figure, layout, rounded
from mmenv.report.words import decimals, fixed, number

CELL = 54
"""Height of a cell, three lines of text, pixels."""
GAP = 52
"""Between two maps, pixels: the labels of one and the title of the next."""


def sensitivity(result: Result, run: Run) -> Figure:
    """Draw the profit per turnover, bp, by latency and queue model, a map for each maker fee.

    Each cell names its interval and its fills.
    """
    cells = scenario_cells(result, run)
    latencies = sorted({latency for latency, _ in cells})
    queues = sorted({queue for _, queue in cells}, key=lambda q: (q != "risk-adverse", q))
    fees = sorted({*result.settings["fees_bp"], *(unit["maker_fee_bp"] for unit in run.units)})
    inner = len(fees) * CELL * len(queues) + (len(fees) - 1) * GAP
    data: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    notes = []
    for k, fee in enumerate(fees):
        found = [[cells.get((latency, queue)) for latency in latencies] for queue in queues]
        suffix = "" if k == 0 else str(k + 1)
        top = 1 - k * (CELL * len(queues) + GAP) / inner
        bottom = top - CELL * len(queues) / inner
        data.append(
            {
                "type": "heatmap",
                "name": f"fee {fee:g} bp",
                "x": [f"{latency:g} ms" for latency in latencies],
                "y": queues,
                "z": [rounded([math.nan if c is None else c[0].value - fee for c in row]) for row in found],
                "text": [[cell_text(c, fee) for c in row] for row in found],
                "texttemplate": "%{text}",
                "hovertemplate": "%{x}, %{y}: %{text}<extra></extra>",
                "colorscale": DIVERGING,
                "zmid": 0,
                "showscale": k == 0,
                "colorbar": {"title": {"text": "profit, bp of turnover", "side": "right"}, "thickness": 10},
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "xgap": 2,
                "ygap": 2,
            }
        )
        more[f"xaxis{suffix}"] = {"anchor": f"y{suffix}", "type": "category", "tickangle": 0}
        more[f"yaxis{suffix}"] = {
            "anchor": f"x{suffix}",
            "type": "category",
            "domain": [max(bottom, 0.0), top],
            "autorange": "reversed",
            "ticktext": [queue.replace("-", "-<br>", 1) for queue in queues],
            "tickvals": queues,
        }
        notes.append(
            {
                "text": f"<b>maker fee {fee:g} bp</b>",
                "x": 0,
                "y": top,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    values = [v for trace in data for row in trace["z"] for v in row if v is not None]
    most = max(map(abs, values), default=1) or 1
    for trace in data:
        trace |= {"zmin": -most, "zmax": most}
    shown = layout(78 + inner, hovermode="closest", annotations=notes, **more)
    return {"data": data, "layout": shown}


def cell_text(cell: tuple[Estimate, int] | None, fee_bp: float) -> str:
    """Write profit per turnover, its interval and the number of fills of a cell."""
    if cell is None:
        return ""
    estimate, fills = cell
    if not fills:
        return "no fill"
    net = Estimate(*(value - fee_bp for value in estimate))
    count = f"{fills:,} fill{'s' if fills > 1 else ''}"
    if math.isnan(net.low):
        return f"{number(net.value, 2)}<br>too short<br>{count}"
    places = decimals(net)
    return f"{fixed(net.value, places)}<br>[{fixed(net.low, places)}, {fixed(net.high, places)}]<br>{count}"


def scenario_cells(result: Result, run: Run) -> dict[tuple[float, str], tuple[Estimate, int]]:
    """Profit before fees per turnover, bp, and fills, by latency and queue model, the run itself included."""
    market = result.plan["policies"][0]["config"]["market"]
    played = {(market["order_latency_ms"], market["queue_model"]): run}
    for (name, latency, queue), other in result.scenario_runs.items():
        if name == run.name:
            played[latency, queue] = other
    return {
        place: (result.gross_bp(other), sum(unit["fills"] for unit in other.units))
        for place, other in played.items()
    }
