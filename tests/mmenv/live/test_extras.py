"""Live markets need the extra `live` alone: not hftbacktest, which the extra `replay` brings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ccxt")

from examples.paper import free_port, until_open
from mmenv.data.tape import Tape, tapes
from mmenv.live.api_key import KEY, SECRET
from mmenv.live.journal import ORDERS, read
from mmenv.live.rerun import decisions
from tests.helpers.exchanges import tape

BLOCKED = "import sys; sys.modules['hftbacktest'] = None\n"
EVERYTHING = """
import importlib, pkgutil
import mmenv.exchange, mmenv.live
for package in (mmenv.live, mmenv.exchange):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
importlib.import_module("train.live")
importlib.import_module("train.journals")
"""
SERVE = "from mmenv.exchange.serve import main; main()"
NEURALMM = "sys.argv[0] = 'neuralmm'; from train.cli import main; main()"
POLICY = ("--policy", "fixed-spread", "--parameters", "half_spread", "0.5")
SHORT = ("--price-unit", "4", "--lot-unit", "20", "--warm-up", "0.5", "--seconds", "3", "--no-show")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    return tape(tmp_path_factory.mktemp("stores"), "binance-usdm")


def neuralmm(*arguments: str, **environment: str) -> str:
    """What the command says in a process without hftbacktest."""
    command = [sys.executable, "-c", BLOCKED + NEURALMM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def url(recorded: Tape) -> Iterator[str]:
    """A local exchange in a process without hftbacktest."""
    port = free_port()
    options = ["--store", str(recorded.path.parents[3]), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", BLOCKED + SERVE, *options], stdout=subprocess.DEVNULL)
    try:
        until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def played(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The journal of a session on paper, and what is said where it is played again."""
    folder = tmp_path_factory.mktemp("journals")
    neuralmm("paper", *POLICY, *SHORT, "--url", url, "--journals", str(folder))
    [path] = folder.glob("paper-*.journal")
    return path, neuralmm("replay-journal", str(path), *POLICY)


def test_every_module_of_live_and_exchange_can_be_imported() -> None:
    subprocess.run([sys.executable, "-c", BLOCKED + EVERYTHING], check=True)


def test_a_paper_session_runs_and_plays_again(played: tuple[Path, str]) -> None:
    path, said = played
    assert len(decisions(path)) > 10
    assert "frames agree byte for byte" in said
    assert "backtest by hftbacktest: left out" in said
    assert re.search(r"backtest by matcher: [1-9]\d* decisions agree", said)


def test_recording_and_real_orders(url: str, tmp_path: Path) -> None:
    store, journals = tmp_path / "recorded", tmp_path / "journals"
    options = ("--url", url, "--seconds", "3", "--no-progress")
    neuralmm("record", "binance-usdm", "BTCUSDT", "-o", str(store), *options)
    assert tapes(store)[0].info.symbol == "BTCUSDT"
    limits = ("--real-orders", "--position-limit", "5", "--order-lots", "1", "--max-loss", "1000")
    options = (*POLICY, *SHORT, *limits, "--url", url, "--journals", str(journals))
    neuralmm("live", *options, **{KEY: "demo", SECRET: "demo"})
    [path] = journals.glob("live-*.journal")
    assert any(frame.kind == ORDERS for frame in read(path))
