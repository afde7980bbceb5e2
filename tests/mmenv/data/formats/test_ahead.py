"""What reads a capture is compiled in another process; until then Python reads, and nothing shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.feeds import ORDERS
from mmenv.data.formats import ahead, binance, feed
from tests.helpers import captures, feeds
from tests.helpers.archives import coinbase_full
from tests.helpers.orders import write_lines
from tests.mmenv.data.formats.test_feeds import bitstamp
from tests.mmenv.data.formats.test_order_logs import read

MODULES = {"okx": (feed, "scan"), "binance": (binance, "scan")} | {
    name: (module, scan) for name, (_, module, scan) in ORDERS.items()
}
HELPER = ahead._HELPER
NEVER = "import sys, time; sys.stdin.read(); time.sleep(600)"


class Uncompiled:
    """A compiled function as long as it is none; how often it is called all the same."""

    def __init__(self, function: Any) -> None:
        self.function, self.signatures, self.calls = function, (), 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    monkeypatch.setattr(ahead, "_helpers", found)
    monkeypatch.setattr(ahead, "kept", lambda compiled: False)
    monkeypatch.setattr(ahead, "_HELPER", NEVER)
    yield found
    ahead._end()


@pytest.mark.parametrize("name", MODULES)
def test_python_reads_while_another_process_compiles(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: dict[str, Any]
) -> None:
    market = feeds.market(events=40)
    lines = {
        "bitstamp": bitstamp,
        "coinbase": lambda: coinbase_full(market),
        "binance": lambda: captures.market(seconds=20, seed=4).lines,
    }
    path = write_lines(tmp_path / "x", lines.get(name, lambda: feeds.capture(market, name))())
    module, scan = MODULES[name]
    whole = read(name, path)
    assert whole[0]
    assert set(helpers.values()) == {None}  # it was compiled already
    uncompiled = Uncompiled(getattr(module, scan))
    monkeypatch.setattr(module, scan, uncompiled)
    helpers.clear()
    assert read(name, path) == whole
    [helper] = helpers.values()
    assert (uncompiled.calls, helper.poll()) == (0, None)
    helper.kill()
    helper.wait()
    assert read(name, path) == whole
    assert uncompiled.calls > 0


def test_the_process_compiles_what_it_is_told_to(tmp_path: Path, helpers: dict[str, Any]) -> None:
    (tmp_path / "told.py").write_text(f"def told():\n    open({str(tmp_path / 'done')!r}, 'w').close()\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        patched.setattr(ahead, "_HELPER", HELPER)
        from told import told

        assert not ahead.ready(Uncompiled(None), told)
        [helper] = helpers.values()
        assert helper.wait(60) == 0
        assert ahead.ready(Uncompiled(None), told)
    assert (tmp_path / "done").exists()
