"""Prometheus metrics of live desks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmenv.live.desk import LiveDesk
from mmenv.live.screen import TERMS, quantiles, signed

try:
    from prometheus_client import start_http_server
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError as error:
    raise ImportError(
        "metrics need prometheus_client, which is not installed; install the extra `live`: "
        "pip install 'neuralmm[live]'"
    ) from error


class Desks(Collector):
    """Reads the desks when it is asked, so that nothing is done between two questions."""

    def __init__(self, desks: Sequence[LiveDesk]) -> None:
        self.desks = desks

    def collect(self) -> Iterable[Metric]:
        """All metrics; money in the currency of profits, position in lots."""
        families: dict[str, GaugeMetricFamily] = {}
        for desk in self.desks:
            for name, help_text, labels, value in _values(desk):
                family = families.setdefault(
                    name,
                    GaugeMetricFamily(f"neuralmm_{name}", help_text, labels=["symbol", "mode", *labels]),
                )
                family.add_metric([desk.plan.symbol, desk.plan.mode, *labels.values()], value)
        return families.values()


def _values(desk: LiveDesk) -> Iterable[tuple[str, str, dict[str, str], float]]:
    session = desk.session
    if session is None:
        return
    yield "state", "0 ACTIVE, 1 REDUCING, 2 HALTED", {}, session.state
    yield "position_lots", "position", {}, session.working.position
    yield "profit", "since the session began", {}, session.wealth
    for term, value in zip(TERMS, signed(session.episodes.terms), strict=True):
        yield "profit_part", "what the profit is made of", {"part": term.replace(" ", "_")}, value
    yield "fills", "fills since the session began", {}, session.fills
    yield "rows", "market data rows received", {}, desk.rows
    for quantile, value in zip(("0.5", "0.99", "1"), quantiles(desk.latencies), strict=True):
        yield "tick_to_quote_seconds", "of the last 10,000 decisions", {"quantile": quantile}, value


def serve(desks: Sequence[LiveDesk], port: int, host: str = "127.0.0.1") -> None:
    """Answer Prometheus on this port, from a thread of its own."""
    registry = CollectorRegistry()
    registry.register(Desks(desks))
    start_http_server(port, host, registry)
