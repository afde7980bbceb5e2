"""The tear sheet of a backtest: one HTML file that opens without a network."""

from __future__ import annotations

from mmenv.report.page import write_report

__all__ = ["write_report"]
