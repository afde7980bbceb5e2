"""The picture of what a policy earns under other latencies, queue models and fees."""

from __future__ import annotations

import math
from typing import Any

from mmenv.backtest.result import Result, Run
from mmenv.measure import metrics
from mmenv.report.plot import DIVERGING, Figure, layout, rounded


def sensitivity(result: Result, run: Run) -> Figure:
    """Draw the profit per turnover, bp, by latency and queue model, for each maker fee."""
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
    """Sum profit before fees and turnover by latency and queue model, the run itself included."""
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
