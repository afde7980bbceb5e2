"""The tear sheet of a backtest: one HTML file that opens without a network.

May import: `mmenv.backtest`, `mmenv.measure`.
"""

from __future__ import annotations

from mmenv.report.page import write_report

__all__ = ["write_report"]
