"""Tables are read in a terminal: nothing is cut at any width, and what is printed is what is kept."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mmenv import make_config
from mmenv import sheet as sheet_module
from mmenv.measure import facts, facts_page
from mmenv.measure.intervals import Estimate
from mmenv.sheet import Sheet, as_markdown, write_csv
from policies.book import ladder
from policies.book.ladder import BEST_RULE, BOUND
from train import baselines
from train.baselines import Best, Scale
from train.evaluate import csv_rows, parts_sheet, value_sheet
from train.experiments import members, pairs, population, study, sweep
from train.experiments.members import Row
from train.experiments.study import Run
from train.ladder import ladder_sheets
from train.simulate import TERMS, Outcome

names = st.text("abcdefghij-_:=.0123456789", min_size=1, max_size=40)
numbers = st.floats(-1e6, 1e6).map(lambda x: f"{x:,.2f} [{x - 1:,.2f}, {x + 1:,.2f}]")


def printed(sheet: Sheet, width: int, wide: bool = False) -> str:
    file = io.StringIO()
    sheet.print(Console(file=file, width=width), wide)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(names, numbers, numbers, numbers), min_size=1, max_size=6),
       width=st.sampled_from([80, 100, 120]))  # fmt: skip
def test_no_name_or_number_is_cut(rows, width):
    """Every cell stands whole on a line (a name longer than half of it is folded), no line is too long."""
    sheet = Sheet(
        "t", dict(zip(("policy", "a\nb", "c", "d [e]"), map(list, zip(*rows, strict=True)), strict=True))
    )
    text = printed(sheet, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for name, *cells in rows:
        assert all(cell in text for cell in cells)
        assert name in text or len(name) > width // 2


def outcome(name: str, scale: float, quoted: float = 1.0) -> Outcome:
    random = np.random.default_rng(0)
    values = scale * (1 + 0.1 * random.normal(size=64))
    terms = {term: values.copy() for term in TERMS}
    ones = np.ones(64)
    return Outcome(name, values, values, terms, ones, quoted * ones, ones, -ones)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_final_table_at_usual_widths(width):
    """Compared as text: all rows whole, in at most two tables and a legend of two lines."""
    kinds = ("trained", "belief-optimal", "exponential-average", "memoryless", "avellaneda-stoikov")
    outcomes = [outcome(name, -123.45 + k, 0.5) for k, name in enumerate(kinds)]
    measure = baselines.scale(make_config("hidden-regime"))
    sheet = value_sheet("hidden-regime", outcomes, measure)
    text = printed(sheet, width) + printed(parts_sheet(outcomes), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for judged in outcomes:
        row = next(line for line in text.splitlines() if line.startswith(judged.name))
        assert f"{judged.value().mean:.1f} [" in row
    row = next(line for line in text.splitlines() if line.startswith("belief-optimal"))
    assert f"{measure.one:.1f}" in row  # the exact value beside the simulated one
    assert "Bound: belief-optimal" in text
    assert re.search(r"Memory gap: memoryless .* 0%, belief-optimal is 100%", text)
    assert len(sheet.legend) == 2
    assert all(len(line) <= 80 for line in sheet.legend)


def run(variant: str, seed: int) -> Run:
    return Run(variant, seed, Path(f"logs/{variant}_{seed}"))


def members_sheet() -> Sheet:
    values = [outcome("it", 50.0), outcome("it", 49.0)]
    best = Best(Scale("% of memory gap", 1.0, 51.0, "memoryless", "belief-optimal", True), outcome("b", 51.0))
    rows = [Row(f"volatility = {k}, fill_decay = 1.25", tuple(values), best) for k in range(3)]
    return members.sheet(
        "Members of hidden-regime", [*rows, Row("drawn", tuple(values), None)], ["hidden-regime_1", "other"]
    )


def population_sheets() -> tuple[Sheet, Sheet]:
    runs = [
        run(variant, seed) for variant in ("nominal", "family", "parameter-conditioned") for seed in (0, 1)
    ]
    draws = np.random.default_rng(0)
    panels = []
    for role, count in (("selection", 4), ("final", 3)):
        those = tuple({"volatility": 0.5 + k, "arrival_rate": 1.25, "fill_decay": 0.75} for k in range(count))
        panel = population.Panel(role, those, 16, 0)
        scores = {each: draws.normal(95, 3, (count, 16)) for each in runs}
        panels.append(population.Judged(panel, "% of optimum", scores, scores))
    result = population.Result("worst", *panels, kept=runs[0])
    return population.selection_sheet(result, "it"), population.final_sheet(result)


def study_sheet() -> Sheet:
    names = ("default", "privileged critic without memory", "start flat")
    rows = [
        {
            "variant": v,
            "seed": s,
            "score": 97 + 0.1 * s,
            "value": 58.0,
            "steps_per_second": 28_123.0,
            "seconds": 99.0,
        }
        for v in names
        for s in range(5)
    ]
    return study.tabulate("optimum, hidden-regime", pd.DataFrame(rows), "% of memory gap")


def paired_sheet() -> Sheet:
    draws = np.random.default_rng(0)
    names = ("default", "privileged critic without memory")
    return pairs.compared("memory, hidden-regime", {name: draws.normal(58, 3, (5, 16)) for name in names})


def sweep_sheet() -> Sheet:
    found = {
        "learning_rate": 0.00031623,
        "n_steps": 512,
        "reward.inventory_penalty": 0.0123456,
        "lstm": "gru",
    }
    search = SimpleNamespace(
        space=SimpleNamespace(search=found), parameters=lambda key: found,
        sweep=SimpleNamespace(folder=Path("logs/sweeps/it"), episodes=4096),
    )  # fmt: skip
    best = Best(Scale("% of optimum", 0.0, 51.0), outcome("optimum", 51.0))
    played = {12: outcome("it", 50.0), 3: outcome("it", 49.5), None: outcome("it", 49.0)}
    return sweep.finals_sheet(search, sweep.Winner(list(played), played, best))


def facts_sheet() -> Sheet:
    record = SimpleNamespace(
        has_book=False, blocks={"spread": np.zeros(3)}, name="binance-usdm BTCUSDT 2024-08-08"
    )
    found = [facts.Finding(fact, Estimate(-0.714, -1.234, 0.508)) for fact in facts.FACTS]
    return facts_page.sheet([record, record], [found, found])


SHEETS = {
    "members": lambda: [members_sheet()],
    "population": population_sheets,
    "study": lambda: [study_sheet(), paired_sheet()],
    "sweep": lambda: [sweep_sheet()],
    "facts": lambda: [facts_sheet()],
}


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("kind", SHEETS)
def test_the_tables_of_experiments_at_usual_widths(kind, width):
    """Every row and every number whole; in one piece when asked for."""
    for sheet in SHEETS[kind]():
        text, wide = printed(sheet, width), printed(sheet, width, wide=True)
        assert max(map(len, text.splitlines())) <= width
        folded = {*sheet.left, *list(sheet.columns)[: sheet.keys]}
        for shown in (text, wide):
            assert "…" not in shown
            for name, cells in sheet.columns.items():
                parts = [part for cell in cells for part in cell.split(None if name in folded else "\n")]
                assert all(part in shown for part in parts), name
        assert len([line for line in wide.splitlines() if line and set(line) == {"─"}]) == 1


def test_every_table_is_a_sheet():
    """What fits a terminal is made in one place; a desk's screen and the list of names fit by themselves."""
    apart = {"mmenv/sheet.py", "mmenv/live/screen.py", "train/look.py"}
    root = Path(sheet_module.__file__).parents[1]
    files = [path for room in ("mmenv", "policies", "train") for path in (root / room).rglob("*.py")]
    tables = {str(path.relative_to(root)) for path in files if "rich.table" in path.read_text()}
    assert tables == apart


def test_the_optimum_is_100_percent():
    """Whatever the luck of the paths; the others by what they earn less than it on the same ones."""
    measure = baselines.Scale("% of optimum", 0.0, 10.0)
    outcomes = [outcome("trained", 10.2), outcome("optimum", 10.4), outcome("worse", 5.2)]
    rows = csv_rows("brownian", outcomes, measure)
    expected = [100 * (1 + outcome.minus(outcomes[1]).mean / 10) for outcome in outcomes]
    assert [row["% of optimum"] for row in rows] == pytest.approx(expected)
    assert rows[1]["% of optimum"] == 100
    assert [row["exact_value"] for row in rows][1] == 10
    shown = value_sheet("it", outcomes, measure).columns["% of\noptimum"]
    assert shown[1] == "100.0"
    assert float(shown[0]) < 100


def test_the_ladder_at_80():
    values = np.arange(64.0)
    rows = [ladder.Row(name, "leave above 0.35, rejoin lower by 0.1, skew a lot 0.05", values, values, values)
            for name in ("no-trade", BEST_RULE, "told")]  # fmt: skip
    rows.append(ladder.Row(BOUND, "no policy earns more; 128 paths", values, values, None))
    text = "".join(printed(sheet, 80) for sheet in ladder_sheets("book", rows))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("31.50 ±") == 3 + 4  # reward of all but the bound, money of all
    assert "no policy earns more" in text


def test_what_is_kept_is_what_was_found(tmp_path):
    """The CSV holds unrounded what the tables round; Markdown holds every cell."""
    outcomes = [outcome("trained", 10.0), outcome("a|b", 20.0)]
    write_csv(tmp_path / "it.csv", csv_rows("brownian", outcomes, None))
    with (tmp_path / "it.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, judged in zip(rows, outcomes, strict=True):
        assert float(row["value"]) == judged.controlled.mean()
        assert float(row["fees"]) == judged.terms["fees"].mean()
    sheet = value_sheet("title", outcomes, None)
    text = as_markdown(sheet, "a sentence")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(outcomes)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {1 + len(sheet.columns)}
    assert "a sentence" in text
    assert all(line in text for line in sheet.legend)
