"""What a backtester says that fills by coin toss and never moves the inventory, beside one with a queue.

    python -m benchmarks.coin_toss STORE [--out docs/coin_toss.svg]

One policy quotes through the same recorded tape. Three judges look at the same quotes: a fair coin for each
side and decision; a coin that falls as often as the orders were truly filled; and the replay with queue,
latency and inventory. The coins credit the distance of the quote from the mid and hold nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mmenv import make_config
from mmenv.backtest import Entrant, Settings, backtest
from mmenv.market.replay import Replay
from mmenv.measure import intervals, metrics
from mmenv.report.words import number
from train.sources import Named

SECOND = 10


@dataclass(frozen=True)
class Verdict:
    """What a judge says."""

    judge: str
    fills: int
    profits: np.ndarray
    """Profit of each second, money."""
    turnover: float

    def row(self, days: float) -> str:
        sharpe = intervals.bootstrap(metrics.sharpe, [self.profits])
        annual = [number(metrics.annual_factor(1.0) * value) for value in sharpe]
        profit = float(self.profits.sum())
        lost = float((self.profits < 0).mean())
        drawdown = metrics.max_drawdown(np.cumsum(self.profits))
        cells = (
            *(self.judge, f"{self.fills:,}", number(profit), number(profit / days)),
            *(
                number(float(metrics.basis_points(profit, self.turnover))),
                f"{annual[0]} [{annual[1]}, {annual[2]}]",
            ),
            *(f"{100 * lost:.0f}%", number(drawdown)),
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| judge | fills | profit, USDT | a day | bp of turnover | Sharpe, annual "
    "| seconds that lose | drawdown |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def coin(judge: str, states: dict[str, np.ndarray], lot: float, chance: float, fee_bp: float) -> Verdict:
    """Each quote that stands fills with `chance`, whatever the market does; the position stays at zero."""
    random = np.random.default_rng(0)
    profit, fills, turnover = np.zeros(len(states["mid"])), 0, 0.0
    for side in ("bid", "ask"):
        hit = (random.random(len(profit)) < chance) & np.isfinite(states[side])
        money = lot * np.where(hit, states[side], 0.0)
        profit += np.where(hit, lot * np.abs(states[side] - states["mid"]), 0.0) - 1e-4 * fee_bp * money
        fills += int(hit.sum())
        turnover += float(money.sum())
    whole = len(profit) // SECOND * SECOND
    return Verdict(judge, fills, profit[:whole].reshape(-1, SECOND).sum(axis=1), turnover)


def judge(store: str, policy: Named, fee_bp: float, folder: Path) -> tuple[list[Verdict], float]:
    """The verdicts on `policy`, and the days of the tape."""
    config = make_config(
        Replay(store=store, split="all"), maker_fee_bp=fee_bp, risk={"daily_loss_limit": 1e9}
    )
    result = backtest([Entrant(policy, config)], folder, Settings(jobs=1, sensitivity=False))
    run = result.first
    table = run.states(0)
    states = {name: table[name].to_numpy() for name in ("mid", "bid", "ask")}
    lot = run.units[0]["scale"]["lot"] * config.risk.order_lots
    quotes = int(np.isfinite(states["bid"]).sum() + np.isfinite(states["ask"]).sum())
    real = Verdict(
        "queue, latency, inventory",
        len(run.fills),
        run.samples(1.0).sums["profit"],
        metrics.turnover(run.fills),
    )
    rate = len(run.fills) / quotes
    return [
        coin("fair coin", states, lot, 0.5, fee_bp),
        coin(f"coin that falls as often as we were filled ({100 * rate:.1f}%)", states, lot, rate, fee_bp),
        real,
    ], run.counts["decisions"] * config.market.step_seconds / 86_400


def draw(verdicts: list[Verdict], path: Path) -> None:
    """Profit over time by each judge; the fair coin on an axis of its own."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(np.cumsum(verdicts[0].profits), color="#ea580c")
    for verdict, colour in zip(verdicts[1:], ("#9333ea", "#2563eb"), strict=True):
        right.plot(np.cumsum(verdict.profits), color=colour, label=verdict.judge)
    right.axhline(0, color="#94a3b8", linewidth=0.8)
    right.legend(frameon=False, fontsize=8)
    left.set_title("fair coin", fontsize=10)
    right.set_title("the same quotes", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("seconds")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("profit, USDT")
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--half-spread", type=float, default=1.0, help="price units")
    parser.add_argument("--out", type=Path, help="also draw the profits of the first fee")
    options = parser.parse_args()
    policy = Named("fixed-spread", "fixed-spread", (("half_spread", options.half_spread),))
    with tempfile.TemporaryDirectory() as folder:
        for fee_bp in (0.0, 2.0):
            verdicts, days = judge(options.store, policy, fee_bp, Path(folder) / str(fee_bp))
            print(f"\n{policy.name} at {options.half_spread:g} price units, maker fee {fee_bp:g} bp, "
                  f"{number(1440 * days)} minutes\n\n{HEAD}")  # fmt: skip
            for verdict in verdicts:
                print(verdict.row(days))
            if options.out and fee_bp == 0.0:
                draw(verdicts, options.out)


if __name__ == "__main__":
    main()
