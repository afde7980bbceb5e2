"""Stylised facts: they are found where they are, and missed where they are not."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import numpy as np
import pytest
import tyro
from rich.console import Console

from mmenv import ConfigError, make_config
from mmenv.data.importer import Import
from mmenv.data.tape import tapes
from mmenv.measure import facts, facts_page, large_tick, touch
from mmenv.measure.beside import BEHIND
from mmenv.measure.calibrate import calibrate_tapes
from mmenv.measure.intervals import Estimate, TooShort
from mmenv.measure.options import Facts
from mmenv.measure.record import record_market, record_tape
from mmenv.venue.settings import ReplayConfig
from tests.helpers.captures import market, write


def test_facts_see_their_absence():
    """The table is no rubber stamp: a random walk without a book has none of the heavy tails."""
    found = record_market("brownian", environments=30, seconds=1200, seed=0)
    verdicts = {f.fact.name: f.verdict for f in facts.findings(found)}
    assert verdicts["tails: Hill index of 10 s returns"] == "fail"
    assert verdicts["volatility: correlation of absolute 1 s returns 10 s apart"] == "fail"
    assert verdicts["book: AUC of the imbalance for the move in 1 s"] == "-"
    assert verdicts["returns: correlation of a 10 s return with the next"] == "pass"


def neuralmm_facts(arguments):
    facts_page.main(tyro.cli(Facts, args=arguments))


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        ((0.5, 0.2, 0.9), "pass"),
        ((0.5, -0.1, 0.9), "unclear"),
        ((1.5, 0.9, 2.0), "unclear"),
        ((1.5, 1.1, 2.0), "fail"),
        ((0.5, math.nan, math.nan), "unclear"),
        ((math.nan, math.nan, math.nan), "-"),
    ],
)
def test_a_verdict_needs_its_interval(estimate, verdict):
    fact = facts.Fact("it", 0.0, 1.0, lambda record: record.returns(1.0), facts.hill)
    assert facts.Finding(fact, Estimate(*estimate)).verdict == verdict


def test_facts_command(tmp_path, monkeypatch, capsys):
    """A market and a tape side by side, with a page of plots; a wrong name gets a sentence."""
    path = write(tmp_path / "capture.gz", market(seed=3, seconds=100).lines)
    Import("binance", (path,), tmp_path / "store", progress=False).run()
    monkeypatch.setenv("COLUMNS", "200")
    page = tmp_path / "facts.png"
    arguments = ["--seconds", "60", "--environments", "4", "--output", str(page)]
    neuralmm_facts(["book:nasdaq-msft", "book:binance-usdm-eth", str(tmp_path / "store"), *arguments])
    text = capsys.readouterr().out
    moments = large_tick.moments(record_market({"name": "book", "preset": "nasdaq-msft"}, 4, 60.0, seed=0))
    assert f"{moments['fills']:.4g}" in re.search(r"^fills +.*", text, re.MULTILINE).group()
    assert "binance-usdm-eth" in text
    assert "tails: Hill index" in text
    assert page.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.glob(".*")] == []
    with pytest.raises(ConfigError, match=r"Did you mean 'book'.*the path of a store or tape"):
        neuralmm_facts(["bok"])


def test_a_market_beside_a_tape(monkeypatch):
    """A market is all that is asked of it beside itself, in lots of any size; another one is not."""
    options = Facts(("book:nasdaq-msft", "store"), lot=100.0)

    def records(options, away=0):
        found = record_market({"name": "book", "preset": "nasdaq-msft"}, 64, 300.0, seed=0, away=away)
        shares = {
            name: 100 * found.blocks[name] if "lots" in name else found.blocks[name] for name in found.blocks
        }
        yield found
        yield dataclasses.replace(found, blocks=shares, recorded=True)

    monkeypatch.setattr(facts_page, "records", records)
    [sheet] = facts_page.besides([*records(options)], options)
    *cells, tally = sheet.columns["book:nasdaq-msft"]
    asked = len([cell for cell in cells if not cell.endswith("-")])
    assert len(cells) == 7 + 3 * 5
    assert asked > 10
    assert tally == f"{asked} of {asked}"
    behind = cells[-5].split()[0]
    other = record_market({"name": "book", "preset": "nasdaq-msft"}, 64, 300.0, seed=0, away=BEHIND)
    assert behind == f"{touch.fills(other)[0].rate.value:.3f}"
    [sheet] = facts_page.besides([*records(options)], dataclasses.replace(options, lot=90.0))
    pairs = zip(sheet.columns["asked"], sheet.columns["book:nasdaq-msft"], strict=True)
    wrong = [name for name, cell in pairs if cell.endswith("no")]
    assert wrong == ["volume, lots a second"]  # of the queue 15% are allowed
    tapes_alone = [record for record in records(options) if record.recorded]
    assert facts_page.besides(tapes_alone, options) == []


def test_facts_over_many_seeds():
    """Counts of verdicts are those of the single runs with the seeds that each repeat takes."""
    size = {"environments": 4, "seconds": 60.0}
    options = Facts(sources=("book", "brownian"), repeats=3, **size)
    sheet = facts_page.repeated(options)
    single = [facts.findings(record_market("book", seed=4 * k, **size)) for k in range(3)]
    for shown, rows in zip(sheet.columns["book"], zip(*single, strict=True), strict=False):
        verdicts = [row.verdict for row in rows]
        if verdicts == ["-"] * 3:
            assert shown == "-"
            continue
        counted = dict(re.findall(r"(pass|fail|unclear) (\d+)", re.sub(r"(\d+) (\w+)", r"\2 \1", shown)))
        assert counted == {v: str(verdicts.count(v)) for v in verdicts if v != "-"}, rows[0].fact.name
    passed = [all(row.verdict in ("pass", "-") for row in found) for found in single]
    assert sheet.columns["book"][-1].startswith(f"{sum(passed)} pass")
    file = io.StringIO()
    sheet.print(Console(file=file, width=80))
    assert max(map(len, file.getvalue().splitlines())) <= 80
    assert all(cell.split("\n")[0] in file.getvalue() for cell in sheet.columns["book"])
    with pytest.raises(ConfigError, match="give no tape"):
        neuralmm_facts(["book", "--repeats", "2", "--output", "page.png"])


def test_a_lot_at_the_touch_order_by_order():
    """Rates and mark-outs by place against a count by hand, decision by decision."""
    found = record_market(
        {"name": "book", "preset": "large-tick", "step_seconds": 0.5, "substeps": 5}, 6, 300.0, seed=9
    )
    b = found.blocks
    counts = {True: [0, 0, 0.0, 0], False: [0, 0, 0.0, 0]}  # joined below the mean: fills, decisions, worth
    for side, name in ((1, "ask"), (-1, "bid")):
        price, queue = b["mid"] + side * b["spread"] // 2, b[f"best_{name}_lots"]
        for block in range(len(price)):
            joined = 0
            for t in range(price.shape[1] - 1):
                if t and (price[block, t] != price[block, t - 1] or b[f"{name}_fill"][block, t]):
                    joined = t
                kind = counts[bool(queue[block, joined] < queue.mean())]
                lots = b[f"{name}_fill"][block, t + 1]
                kind[0] += lots
                kind[1] += 1
                if t + 10 < price.shape[1]:  # 5 s later
                    worth = b[f"{name}_value"][block, t + 1] - lots * b["mid"][block, t + 10]
                    kind[2] += side * worth
                    kind[3] += lots
    shorter, longer = touch.fills(found)[1:3]
    for row, (lots, decisions, worth, marked) in ((shorter, counts[True]), (longer, counts[False])):
        assert lots > 20
        assert row.rate.value == pytest.approx(lots / (decisions * 0.5 / 120))
        assert isinstance(row.rate, TooShort) or row.rate.low < row.rate.value < row.rate.high
        assert row.after[5.0].value == pytest.approx(worth / marked)
    rate, worth = touch.every_fill(found)
    whole = touch.fills(found)[0]
    assert rate == pytest.approx(whole.rate.value, rel=0.01)
    assert worth == pytest.approx({h: e.value for h, e in whole.after.items()})


def test_blocks_of_a_ratio_go_by_the_ratio():
    """Activity that wanders does not make a ratio of two of its sums unknown, but each of them."""
    generator = np.random.default_rng(0)
    whole = 2 + np.sin(np.arange(200) * 2 * np.pi / 100)
    part = 0.5 * whole + 0.1 * generator.standard_normal(200)
    found = touch.quotient(part, whole)
    assert found.low < 0.5 < found.high < 0.55
    assert isinstance(touch.quotient(part, np.ones(200)), TooShort)


def test_a_price_that_comes_back_finds_its_queue():
    price = np.array([[10, 12, 10, 10, 8, 8, 8, 10]])
    queue = np.array([[50, 7, 20, 30, 6, 6, 6, 9]])
    now, before = touch.returned(price, queue, most=3)
    # Left at 50, found 20 two decisions later; left at 30, four later: too late.
    assert (now.sum(), before.sum()) == (20, 50)


def test_regimes():
    """Each preset lies in its regime, and a market without a book in none."""
    for preset, regime in (
        ("large-tick", "large-tick stock"),
        ("nasdaq-msft", "large-tick stock"),
        ("binance-usdm-btc", "small-tick perpetual"),
    ):
        found = record_market({"name": "book", "preset": preset}, environments=4, seconds=60, seed=0)
        assert facts.regime_of(found) == regime
    assert facts.regime_of(record_market("brownian", environments=4, seconds=60, seed=0)) == ""


WIDE = """local_ns,kind,side,price,size,id
0,snapshot,bid,5.51,100,1
0,snapshot,ask,21.33,100,1
"""


def test_a_wide_opening_quote(tmp_path, capsys):
    """Until both sides are within what can be quoted they stand at its edges; everything measures it."""
    rows = [WIDE]
    for second in range(60, 360):
        bid, ask = (13.0, 13.1) if second % 2 else (13.01, 13.1)
        rows += [f"{second}000000000,depth,{s},{p},{100 + second % 7},{second}\n" for s, p in (("bid", bid),
                 ("ask", ask))]  # fmt: skip
        rows.append(
            f"{second}500000000,trade,{'buy' if second % 3 else 'sell'},{13.1 if second % 3 else 13.0},1,\n"
        )
    path = tmp_path / "wide.csv"
    path.write_text("".join(rows))
    Import("plain", (path,), tmp_path / "s", symbol="W", venue="x", progress=False).run()
    record = record_tape(tapes(tmp_path / "s"), 1.0)
    assert (record.blocks["spread"] > 0).all()
    assert (record.blocks["mid"] > 0).all()
    neuralmm_facts([str(tmp_path / "s"), "--step-seconds", "1"])
    found = calibrate_tapes(tapes(tmp_path / "s"), 1.0)
    assert set(found.presets) | set(found.left_out) >= {"brownian", "book"}
    rest = calibrate_tapes(tapes(tmp_path / "s"), 1.0, config=ReplayConfig(split="test"))
    assert 0 < rest.seconds < found.seconds / 2
    assert all(len(reason) > 10 for reason in found.left_out.values())
    config = make_config({"name": "replay", "store": str(tmp_path / "s"), "step_seconds": 1.0})
    assert config.quote.max_distance * config.market.price_scale >= 9  # nine ticks apart
    with pytest.raises(ConfigError, match=r"max_distance = 0.5 .*at least .*the touch"):
        make_config(config.market, quote={"max_distance": 0.5})
