"""Money of several currencies is never added: in each by itself, or in one by rates that are said."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.backtest import Entrant, Result, Settings, backtest
from mmenv.backtest.result import FIGURES
from mmenv.data.currency import currency_of
from mmenv.market.replay import Replay
from tests.helpers.captures import START_NS, market, write
from tests.helpers.entrants import Make

pytest.importorskip("hftbacktest")

MONEY = [name for name, (_, unit, _) in FIGURES.items() if unit == "money"]
SUMMED = ("profit", "spread_capture", "adverse_selection", "carry", "fees", "turnover")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days in USDT, one in BTC on a linear pair, and one in BTC on a contract margined in it."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    for number, (venue, symbol, day) in enumerate(
        [("usdm", "BTCUSDT", 0), ("usdm", "BTCUSDT", 1), ("usdm", "ETHBTC", 0), ("coinm", None, 0)]
    ):
        lines = market(seconds=25, seed=number, venue=venue, start_ns=START_NS + day * 86_400 * 10**9).lines
        lines = [line.replace("BTCUSDT", symbol) if symbol else line for line in lines]
        path = write(folder / f"{number}.gz", lines)
        Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"


def played(store: Path, folder: Path, **given) -> Result:
    config = make_config(Replay(store=str(store), split="all"), horizon=100, maker_fee_bp=1.0)
    entrants = [Entrant(Make(name, "Wandering"), config) for name in ("a", "b")]
    return backtest(entrants, folder, Settings(jobs=1, sensitivity=False, **given), progress=False)


@pytest.fixture(scope="module")
def mixed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return played(store, tmp_path_factory.mktemp("result") / "it")


def part_of(found: Result, folder: Path, chosen: list[int], rates: list[dict]) -> Result:
    """The result of a store that held some of the tapes only."""
    (folder / "units").parent.mkdir(parents=True, exist_ok=True)
    plan = found.plan | {"units": [found.plan["units"][k] for k in chosen], "rates": rates}
    for name in ("units", "fills", "states", "orders", "equity"):
        if not (folder / name).exists():
            (folder / name).symlink_to(found.folder / name)
    (folder / "plan.json").write_text(json.dumps(plan))
    return Result(folder)


@settings(max_examples=15, deadline=None)
@given(
    tapes=st.sets(st.integers(0, 3), min_size=1),
    price=st.sampled_from([None, 0.5, 61_234.5]),
)
def test_no_figure_mixes_currencies(mixed, tmp_path_factory, tapes, price):
    rates = [{"base": "BTC", "quote": "USDT", "price": price, "source": "given"}] if price else []
    folder = tmp_path_factory.mktemp("part")
    chosen = sorted(tapes) + [4 + k for k in sorted(tapes)]  # both policies
    whole = part_of(mixed, folder, chosen, rates)
    alone = [part_of(mixed, folder / str(k), [k, k + 4], []) for k in sorted(tapes)]
    found: dict[str, list[Result]] = {}
    for result in alone:
        found.setdefault("USDT" if price else result.currency, []).append(result)
    assert [part.currency for part in whole.by_currency()] == sorted(found)
    for part, name in itertools.product(whole.by_currency(), "ab"):
        for figure in SUMMED:
            worth = [price if price and one.currency == "BTC" else 1.0 for one in found[part.currency]]
            values = [one.figures[name][figure].value for one in found[part.currency]]
            total = math.fsum(x * y for x, y in zip(worth, values, strict=True))
            scale = math.fsum(abs(x * y) for x, y in zip(worth, values, strict=True))
            assert part.figures[name][figure].value == pytest.approx(total, rel=1e-9, abs=1e-9 * scale)
        assert part.capital == pytest.approx(
            sum({one.first.units[0]["labels"]["symbol"]:
                 one.capital * (price if price and one.currency == "BTC" else 1.0)
                 for one in reversed(found[part.currency])}.values())
        )  # fmt: skip
    if len(found) > 1:
        for ask in (lambda: whole.figures, lambda: whole.capital, lambda: whole.difference("b")):
            with pytest.raises(ConfigError, match="do not add"):
                ask()
        assert set(whole.summary()["by_currency"]) == set(found)


def test_rates_are_given_or_read_from_a_tape_and_named(store, mixed, tmp_path):
    from mmenv.report import write_report

    given_rates = played(store, tmp_path / "given", rates=("BTC/USDT=60000",))
    read = played(store, tmp_path / "read", rates=("BTC/USDT",))
    assert given_rates.currencies == read.currencies == ["USDT"]
    assert given_rates.rates[0].price == 60000
    mids = [unit["first_mid"] for unit in mixed.by_currency()[1].first.units]
    assert min(mids) * 0.98 < read.rates[0].price < max(mids) * 1.02
    write_report(read, tmp_path / "report.html")
    assert "mean trade price of BTCUSDT" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("given_settings", "sentence"),
    [
        ({"rates": ("BTC=3",)}, "must be a price such as"),
        ({"rates": ("ETH/USDT=3",)}, "what BTC is worth in USDT: add BTC/USDT=PRICE"),
        ({"rates": ("BTC/EUR",)}, "no trades of that pair"),
        ({"rates": ("BTC/USDT=3", "ETH/EUR=3")}, "lead to EUR, USDT"),
        ({"capital": 10.0}, "profits are in BTC, USDT"),
    ],
)
def test_what_cannot_be_added_is_said_before_any_work(store, tmp_path, given_settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        played(store, tmp_path / "it", **given_settings)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("symbol", "contract", "venue", "currency"),
    [
        ("BTCUSDT", "linear", "binance-usdm", "USDT"),
        ("ethbtc", "linear", "binance-spot", "BTC"),
        ("BTC-USD", "linear", "coinbase", "USD"),
        ("BTC/EUR:EUR", "linear", "kraken", "EUR"),
        ("BTCUSDT_240927", "linear", "okx-swap", "USDT"),
        ("BTCUSD_PERP", "inverse", "binance-coinm", "BTC"),
        ("MSFT", "linear", "nasdaq", "USD"),
        ("ABNB", "linear", "nasdaq", "USD"),
        ("MSFT", "linear", "elsewhere", "currency of MSFT"),
    ],
)
def test_a_currency_is_read_from_symbol_and_venue(symbol, contract, venue, currency):
    assert currency_of(symbol, contract, venue) == currency
