"""The tear sheet: what it shows is what was saved, and a real browser opens it without a network."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from mmenv import make_config
from mmenv.backtest import Entrant, Result, Settings, backtest
from mmenv.market.replay import Replay
from mmenv.measure.intervals import Estimate
from mmenv.report import words, write_report
from mmenv.report.caveats import caveats
from mmenv.report.plot import thin
from mmenv.report.story import story
from tests.helpers.captures import START_NS, market, write
from tests.helpers.entrants import Make

pytest.importorskip("hftbacktest")
pytest.importorskip("plotly")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two policies over half a minute of tape, with scenarios."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("report")
    path = write(folder / "capture.gz", market(seconds=45, seed=9, start_ns=START_NS).lines)
    Import("binance", (path,), folder / "store", strict=True, progress=False).run()
    config = make_config(Replay(store=str(folder / "store"), split="all"), horizon=150, maker_fee_bp=1.0)
    entrants = [Entrant(Make("a <b> & 'c'"), config), Entrant(Make("second", "Wandering"), config)]
    chosen = Settings(jobs=1, tries=7, latencies_ms=(10.0, 40.0), command="neuralmm backtest </script>")
    return backtest(entrants, folder / "it", chosen, progress=False)


@pytest.fixture(scope="module")
def sheet(result: Result) -> Path:
    write_report(result, result.folder / "report.html")
    return result.folder / "report.html"


@pytest.fixture(scope="module")
def drawn(sheet: Path) -> dict[str, dict[str, Any]]:
    """The pictures of the sheet, read back from its file."""
    found = re.findall(r'data-figure="([^"]+)">(.*?)</script>', sheet.read_text(encoding="utf-8"), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def traces(figure: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [t for t in figure["data"] if all(t.get(name) == value for name, value in wanted.items())]


def nanoseconds(times: list[str]) -> np.ndarray:
    return np.array(times, "datetime64[ns]").astype(np.int64)


# What is shown is what was saved.


def test_lines_are_sums_over_the_saved_fills(result, drawn):
    """Equity, its parts and the drawdown at every point drawn, from fills and mids row by row."""
    for number, run in enumerate(result.runs.values()):
        states, fills = run.table("states"), run.fills
        after = np.append(states["mid"].to_numpy()[1:], run.equity["mid"].iloc[-1])
        times = states["time_ns"].to_numpy() + 100_000_000
        known = {"profit": {}, "spread_capture": {}, "adverse_selection": {}, "carry": {}, "fees": {}}
        cash = position = 0.0
        parts = dict.fromkeys(known, 0.0)
        waiting = fills.to_dict("records")
        for t, mid in zip(times.tolist(), after.tolist(), strict=True):
            while waiting and waiting[0]["time_ns"] == t:
                fill = waiting.pop(0)
                signed = fill["side"] * fill["size"]
                cash -= signed * fill["price"] + fill["fee"]
                position += signed
                parts["spread_capture"] += signed * (fill["mid"] - fill["price"])
                parts["adverse_selection"] += signed * (fill["mid_after"] - fill["mid"])
                parts["fees"] -= fill["fee"]
            parts["profit"] = cash + position * mid
            parts["carry"] = parts["profit"] - sum(
                parts[p] for p in ("spread_capture", "adverse_selection", "fees")
            )
            cell = -(-t // 10**9)
            for name, value in parts.items():
                known[name][cell] = value
        assert not waiting
        own = drawn[f"attribution-{number}"]["data"]
        for name, trace in zip(
            ("spread_capture", "adverse_selection", "carry", "fees", "profit"), own, strict=True
        ):
            cells = nanoseconds(trace["x"]) // 10**9
            assert trace["y"] == pytest.approx([known[name][c] for c in cells], rel=1e-9, abs=1e-9), name
        equity, down = traces(drawn["equity"], name=run.name)
        cells = nanoseconds(equity["x"]) // 10**9
        assert equity["y"] == pytest.approx([known["profit"][c] for c in cells], rel=1e-9, abs=1e-9)
        values, peak = [], 0.0
        for cell in sorted(known["profit"]):
            peak = max(peak, known["profit"][cell])
            values.append(known["profit"][cell] - peak)
        assert min(down["y"]) == pytest.approx(min(values), rel=1e-9)
        bars = traces(drawn[f"waterfall-{number}"], type="waterfall")[0]["y"]
        final = [parts[p] for p in ("spread_capture", "adverse_selection", "carry", "fees", "profit")]
        assert bars == pytest.approx(final, rel=1e-9, abs=1e-9)
        day = traces(drawn["calendar"], type="heatmap")[0]["z"][number]
        assert day == pytest.approx([parts["profit"]])


def test_inventory_and_fills_are_the_saved_ones(result, drawn):
    for number, run in enumerate(result.runs.values()):
        states, fills = run.table("states"), run.fills
        held = states["position_lots"] + states["bid_filled_lots"] - states["ask_filled_lots"]
        bar = traces(drawn[f"inventory-{number}"], type="bar")[0]
        shares = held.value_counts(normalize=True).reindex(bar["y"], fill_value=0.0)
        assert bar["x"] == pytest.approx(shares.tolist())
        for name, side in (("bought", 1), ("sold", -1)):
            shown = traces(drawn[f"price-{number}"], name=name)[0]
            mine = fills[fills["side"] == side]
            assert shown["y"] == pytest.approx(mine["price"].tolist())
            assert (nanoseconds(shown["x"]) == mine["time_ns"].to_numpy() // 10**6 * 10**6).all()
        close = traces(drawn[f"close_up-{number}"], name="our bid")[0]
        saved = states.set_index("time_ns")["bid"]
        saved.index = saved.index // 10**6
        wanted = [saved[t // 10**6] for t in nanoseconds(close["x"])]
        assert [math.nan if y is None else y for y in close["y"]] == pytest.approx(wanted, nan_ok=True)


def test_markouts_and_sensitivity_are_of_saved_fills(result, drawn):
    for number, run in enumerate(result.runs.values()):
        fills = run.fills
        for name, side in (("all", 0), ("after buying", 1), ("after selling", -1)):
            mine = fills if not side else fills[fills["side"] == side]
            curve = traces(drawn[f"markouts-{number}"], name=name)[0]
            for horizon, value in zip(curve["x"], curve["y"], strict=True):
                some = mine[mine[f"mid_after_{horizon:g}s"].notna()]
                gain = (some["side"] * some["size"] * (some[f"mid_after_{horizon:g}s"] - some["price"])).sum()
                if value is None:
                    assert some.empty
                else:
                    assert value == pytest.approx(1e4 * gain / (some["size"] * some["price"]).sum(), rel=1e-9)
        heat = drawn[f"sensitivity-{number}"]["data"]
        own = next(h for h in heat if h["name"] == "fee 1 bp")
        row, column = own["y"].index("risk-adverse"), own["x"].index("10 ms")
        cell = own["z"][row][column]
        assert f"{len(fills)} fill" in own["text"][row][column]
        assert cell == pytest.approx(result.figures[run.name]["profit_bp"].value, rel=1e-9)
        free = next(h for h in heat if h["name"] == "fee 0 bp")
        assert np.array(free["z"]) == pytest.approx(np.array(own["z"]) + 1.0)
        assert np.shape(free["z"]) == (2, 2)


def test_the_table_shows_the_figures(result, sheet):
    text = re.sub(
        r"<[^>]+>",
        " ",
        sheet.read_text(encoding="utf-8").split('<table id="figures">')[1].split("</table>")[0],
    )
    for figures in result.figures.values():
        for name, unit in (("profit", "money"), ("turnover", "money"), ("fill_ratio", "%"), ("fills", "")):
            value = words.show(figures[name], unit).split(" ")[0]
            assert value in text


def test_pictures_are_valid_plotly(drawn):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in drawn.values():
        graph_objects.Figure(figure)


def test_thinning_keeps_the_extremes():
    values = np.random.default_rng(0).normal(size=50_000).cumsum()
    kept = thin(values, 100)
    assert len(kept) <= 102
    assert {0, len(values) - 1, values.argmin(), values.argmax()} <= set(kept.tolist())


# Words.


def test_caveats_say_what_the_data_cannot_support(result):
    titles = [caveat.title for caveat in caveats(result)]
    assert "Too little data to prove a profit" in titles
    assert "Many trials" in titles
    assert any("decisions without a quote" in title for title in titles)
    assert "7 configurations" in next(w.text for w in caveats(result) if w.title == "Many trials")


def test_fees_that_nobody_named_are_said(result):
    free = copy.deepcopy(result)
    for unit in free.first.units:
        unit["maker_fee_bp"] = 0.0
    titles = [caveat.title for caveat in caveats(free)]
    assert "No fees were counted" not in titles  # --fees 0 was asked for
    for found in (free, result):
        found.plan["policies"][0]["config"]["market"]["own_fees"] = True
    assert "No fees were counted" in [caveat.title for caveat in caveats(free)]
    assert "No fees were counted" not in [caveat.title for caveat in caveats(result)]


def test_a_day_without_a_fill_is_said(tmp_path):
    config = make_config("brownian", horizon=200)
    entrants = [Entrant(Make("idle", "no-trade", ()), config)]
    found = backtest(entrants, tmp_path, Settings(jobs=1, days=0.05), progress=False)
    assert "was never filled" in story(found)[0]
    assert "not because it broke even" in story(found)[0]
    assert any("days without a fill" in w.title for w in caveats(found))
    assert math.isnan(found.figures["idle"]["win_rate"].value)
    assert math.isnan(found.figures["idle"]["profit_bp"].value)
    write_report(found, tmp_path / "report.html")
    assert "No fill, so nothing to show." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (Estimate(0.1234, 0.1, 0.2), "%", "12.3% [10.0%, 20.0%]"),
        (Estimate(1234.0, math.nan, math.nan), "", "1,234"),
        (Estimate(-0.00123, math.nan, math.nan), "money", "\N{MINUS SIGN}0.00123"),
        (Estimate(math.nan, math.nan, math.nan), "bp", "n/a"),
    ],
)
def test_numbers_as_people_write_them(value, unit, shown):
    assert words.show(value, unit) == shown


# The browser.


def browse(page: Path, folder: Path) -> tuple[str, str]:
    """The document as the browser has it in the end, and what it logged, console included."""
    assert BROWSER is not None
    quiet = ["no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]
    flags = [
        f"--{flag}" for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", *quiet)
    ]
    done = subprocess.run(
        [
            *(BROWSER, *flags, f"--user-data-dir={folder}", "--enable-logging=stderr", "--timeout=300000"),
            *("--virtual-time-budget=30000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    return done.stdout, done.stderr


PROBE = """<script>
const faults = [];
const note = fault => { faults.push(String(fault)); document.body.dataset.faults = JSON.stringify(faults); };
window.addEventListener('error', e => note(e.message));
window.addEventListener('unhandledrejection', e => note(e.reason));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_browser_opens_it(sheet, drawn, tmp_path):
    """Every picture is drawn and the console stays empty: it would name a fault, or anything that is loaded
    from elsewhere, which the page forbids."""
    page = tmp_path / "page.html"
    source = sheet.read_text(encoding="utf-8").replace("<head>", f"<head>{PROBE}", 1)
    page.write_text(source, encoding="utf-8")
    document, log = browse(page, tmp_path / "profile")
    body = re.search(r"<body[^>]*>", document)
    assert body is not None
    assert "data-faults" not in body[0]
    assert "CONSOLE" not in log
    plots = re.findall(r'<div class="plot[^"]*" id="([^"]+)"', document)
    assert set(plots) == set(drawn)
    assert len(re.findall(r'class="plot js-plotly-plot"', document)) == len(drawn)
    assert document.count("<path") > 100
    # The same eyes on a page that fails: a script that is broken, and a picture from elsewhere.
    broken = source.replace("Plotly.newPlot(target", "Plotly.newPlot(nowhere", 1)
    page.write_text(
        broken.replace("<main>", '<main><img src="https://example.invalid/x.png">', 1), encoding="utf-8"
    )
    document, log = browse(page, tmp_path / "other")
    assert "nowhere is not defined" in document
    assert re.search(r"CONSOLE.*example\.invalid.*Content Security Policy", log)


WIDTHS = (1280, 800, 500)

MEASURE = """<script>
const watch = setInterval(() => {
  if (!document.body.dataset.drawn) return;
  clearInterval(watch);
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth + 1) faults.push('the page is wider than the window');
  for (const plot of document.querySelectorAll('.plot')) {
    const frame = plot.getBoundingClientRect();
    const seen = [...plot.querySelectorAll('text, .modebar')]
      .filter(e => getComputedStyle(e).visibility !== 'hidden')
      .map(e => [e.matches('.modebar') ? 'toolbar' : e.textContent.trim(), e.getBoundingClientRect()])
      .filter(([text]) => text)
      .filter(([, box]) => box.width > 0 && box.height > 0);
    for (const [text, box] of seen)
      if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2)
        faults.push(`${plot.id}: "${text}" is cut`);
    seen.forEach(([one, a], k) => seen.slice(k + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 2) faults.push(`${plot.id}: "${one}" lies over "${other}"`);
    }));
  }
  const texts = document.querySelectorAll('.plot text').length;
  const page = location.pathname.split('/').pop();
  parent.postMessage({page, width: innerWidth, texts, faults}, '*');
}, 200);
</script>"""

FRAMES = """<!doctype html><body><script>
const told = [];
addEventListener('message', event => {
  told.push(event.data);
  if (told.length === %d) document.body.dataset.told = encodeURIComponent(JSON.stringify(told));
});
</script>%s</body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
def test_no_text_lies_over_another_at_any_width(sheet, tmp_path):
    """The boxes of all texts and toolbars of every picture, as a browser lays them out; none of them is cut.

    A page that leaves no room for the toolbar is found out.
    """
    source = sheet.read_text(encoding="utf-8")
    good = source.replace("</body>", f"{MEASURE}</body>")
    bad = good.replace("{'margin.t': TOOLBAR + high,", "{'margin.t': high,")
    assert bad != good
    bad = re.sub(r'<script type="application/json" data-figure="(?!attribution-0").*?</script>', "", bad)
    frames = ""
    for name, text, widths in (("good.html", good, WIDTHS), ("bad.html", bad, WIDTHS[-1:])):
        (tmp_path / name).write_text(text, encoding="utf-8")
        frames += "".join(f'<iframe src="{name}" width="{w}" height="900"></iframe>' for w in widths)
    page = tmp_path / "frames.html"
    page.write_text(FRAMES % (len(WIDTHS) + 1, frames), encoding="utf-8")
    document, _ = browse(page, tmp_path / "profile")
    told = re.search(r'data-told="([^"]+)"', document)
    assert told is not None, "the pictures were not drawn"
    found = json.loads(unquote(told[1]))
    assert {f["width"]: f["faults"] for f in found if f["page"] == "good.html"} == {w: [] for w in WIDTHS}
    assert any('over "toolbar"' in fault for f in found if f["page"] == "bad.html" for fault in f["faults"])
    assert all(f["texts"] > 100 for f in found if f["page"] == "good.html")


def test_nothing_points_elsewhere(sheet):
    """Outside plotly's own source no address is named."""
    text = sheet.read_text(encoding="utf-8")
    longest = max(text.split("<script>"), key=len)
    rest = text.replace(longest, "")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", rest)
    assert "://" not in rest
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;" in rest
    assert "</script>" not in rest.split('<pre id="command">')[1].split("</pre>")[0]
