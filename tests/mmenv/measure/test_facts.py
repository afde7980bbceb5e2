"""Stylised facts: they are found where they are, and missed where they are not."""

from __future__ import annotations

import math
import re

import pytest
import tyro

from mmenv import ConfigError
from mmenv.data.importer import Import
from mmenv.measure import facts, facts_page
from mmenv.measure.intervals import Estimate
from mmenv.measure.options import Facts
from mmenv.measure.record import record_market
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
    neuralmm_facts(["book:binance-usdm-eth", str(tmp_path / "store"), *arguments])
    text = capsys.readouterr().out
    assert "binance-usdm-eth" in text
    assert "tails: Hill index" in text
    assert page.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.glob(".*")] == []
    with pytest.raises(ConfigError, match=r"Did you mean 'book'.*the path of a store or tape"):
        neuralmm_facts(["bok"])


def test_facts_over_many_seeds(capsys, monkeypatch):
    """Counts of passes are those of the single runs with the seeds that each repeat takes."""
    monkeypatch.setenv("COLUMNS", "200")
    size = {"environments": 4, "seconds": 60.0}
    neuralmm_facts(["book", "brownian", "--repeats", "3", "--environments", "4", "--seconds", "60"])
    shown = dict(re.findall(r"^│ (\S.*?) +│.*?│ +(\S+)", capsys.readouterr().out, re.MULTILINE))
    single = [facts.findings(record_market("book", seed=4 * k, **size)) for k in range(3)]
    for rows in zip(*single, strict=True):
        name = rows[0].fact.name
        fact, values = rows[0].fact, [row.estimate.value for row in rows]
        passed = sum(math.isnan(value) or fact.low <= value <= fact.high for value in values)
        assert shown[name] == ("-" if all(row.verdict == "-" for row in rows) else str(passed)), name
    assert len({shown[fact.fact.name] for fact in single[0]}) > 2
    with pytest.raises(ConfigError, match="give no tape"):
        neuralmm_facts(["book", "--repeats", "2", "--output", "page.png"])
