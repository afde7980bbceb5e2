"""After `neuralmm warm` the first commands compile nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

MARKETS = """
import gymnasium as gym
from mmenv.market.base import MARKETS, Market

for name in [name for name, kind in MARKETS.items() if kind.attach is Market.attach]:
    env = gym.make("NeuralMM-v0", market=name)
    env.reset(seed=0)
    env.step(env.action_space.sample())
env = gym.make_vec("NeuralMM-v0", 200, market="book", quote={"name": "touch"})
env.reset(seed=0)
env.step(env.action_space.sample())
"""

LEARNER = """
import tempfile
from pathlib import Path
from mmenv.config import make_config
from train.run import train
from train.settings import Settings

for cell in ("lstm", "gru", "mingru", "lru"):
    settings = Settings(
        market="brownian", cell=cell, num_envs=8, n_steps=16, batch_size=64, steps=256, eval_episodes=2
    )
    with tempfile.TemporaryDirectory() as folder:
        train(settings, make_config(settings.market), Path(folder))
"""

READERS = """
import tempfile
from pathlib import Path
from mmenv.data.importer import Import
from tests.helpers import orders
from tests.helpers.orders import Market, write_lines

with tempfile.TemporaryDirectory() as name:
    folder, market = Path(name), Market(events=60, seed=5)
    itch = folder / "06212012.NASDAQ_ITCH50"
    itch.write_bytes(orders.itch(market, orders.NEW_YORK_MIDNIGHT_NS))
    (folder / "x.dbn").write_bytes(orders.dbn(orders.databento(market)))
    files = {
        "lobster": orders.lobster_files(market, folder)[0],
        "plain": [write_lines(folder / "x.csv", orders.plain(market))],
        "databento": [write_lines(folder / "d.csv", orders.databento_csv(orders.databento(market), False))],
        "databento-dbn": [folder / "x.dbn"],
        "itch": [itch],
    }
    for kind, paths in files.items():
        options = {"plain": {"venue": "x"}, "itch": {"symbol": "AAPL"}}.get(kind, {})
        store = folder / "store" / kind
        Import(kind.partition("-")[0], tuple(paths), store, progress=False, **options).run()
"""

CAPTURES = """
import tempfile
from pathlib import Path
from mmenv.data.importer import Import
from tests.helpers import captures, feeds
from tests.helpers.archives import coinbase_full
from tests.helpers.orders import write_lines
from tests.mmenv.data.formats.test_feeds import bitstamp

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    market = feeds.market(events=60)
    paths = {venue: write_lines(folder / venue, feeds.capture(market, venue)) for venue in feeds.VENUES}
    paths["binance"] = captures.write(folder / "b.gz", captures.market(seconds=3, seed=4).lines)
    paths["bitstamp"] = write_lines(folder / "x.log", bitstamp())
    paths["coinbase "] = write_lines(folder / "full.raw", coinbase_full(market))
    for venue, path in paths.items():
        Import(venue.strip(), (path,), folder / "store" / venue, progress=False).run()
"""


@pytest.mark.parametrize(
    ("job", "program"),
    [("markets", MARKETS), ("learner", LEARNER), ("readers", READERS), ("captures", CAPTURES)],
)
def test_nothing_is_left_to_compile(job, program):
    command = [sys.executable, "-m", "train.cli", "warm", "--only", job]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = "\nfrom mmenv.engine.compiler import notice\nprint(notice.compiled)"
    done = subprocess.run([sys.executable, "-c", program + told], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
