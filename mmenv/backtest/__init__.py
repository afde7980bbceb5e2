"""Backtests: any policy over recorded or simulated markets, by the desk it was trained at.

`backtest(entrants, folder, settings)` runs what is not yet done and gives a `Result`; `mmenv.report` makes
its tear sheet, and `neuralmm backtest` is the command.

May import: `mmenv.data`, `mmenv.market`, `mmenv.config`, `mmenv.desk`, `mmenv.run`, `mmenv.measure`.
"""

from __future__ import annotations

from mmenv.backtest.play import BacktestError, Player, Tabulated
from mmenv.backtest.result import Result, Run
from mmenv.backtest.run import Entrant, Settings, backtest
from mmenv.backtest.unit import Source

__all__ = [
    "BacktestError",
    "Entrant",
    "Player",
    "Result",
    "Run",
    "Settings",
    "Source",
    "Tabulated",
    "backtest",
]
