"""From simulation to the tape: the command on a small store, stopped and continued."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.data.importer import Import
from tests.helpers.captures import market, write
from train.evaluate import load
from train.experiments import tape
from train.options.experiments import TapeStudy


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TapeStudy:
    folder = tmp_path_factory.mktemp("tape")
    capture = write(folder / "capture.gz", market(240.0, seed=4).lines)
    Import("binance", (capture,), folder / "store", progress=False).run()
    return TapeStudy(
        store=folder / "store",
        session=5.0,
        steps=1,
        evaluations=0,
        lessons=12,
        latencies_ms=(1.0,),
        queues=("power-prob",),
        logs=folder / "logs",
    )


def test_it_calibrates_trains_plays_and_goes_on(study: TapeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.logs.parent)  # what is solved is kept in logs/optima
    monkeypatch.setattr("policies.book.ladder.TRAINING_PATHS", 64)
    monkeypatch.setattr("policies.book.ladder.ROUNDS", 1)
    monkeypatch.setattr(tape, "PATHS", 4)
    console = Console(quiet=True, record=True)
    folder = tape.run(study, console)
    page = (folder / "report.html").read_text()
    for said in ("trained", "touch", "glft", "no-trade", "power-prob", "The test part", "Facts"):
        assert said in page
    assert (folder / "tear-sheet.html").exists()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.[zm][im][ps]")}
    assert {path.suffix for path in made} == {".zip", ".mms"}
    _, config = load(folder / "trained")
    assert [signal.name for signal in config.signals] == ["fair-value"]
    assert tape.run(study, console) == folder
    assert (folder / "report.html").read_text() == page
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_another_study_in_its_folder_is_refused(study: TapeStudy) -> None:
    tape.claim(study, folder := study.logs / "other")
    with pytest.raises(ConfigError, match="other session"):
        tape.claim(dataclasses.replace(study, session=9.0), folder)


def test_a_symbol_that_is_not_there_is_refused(study: TapeStudy) -> None:
    with pytest.raises(ValueError, match="no tape of"):
        tape.run(dataclasses.replace(study, symbol="nothing-of-this-name"), Console(quiet=True))
