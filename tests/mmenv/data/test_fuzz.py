"""Whatever is in a file, an import ends in tapes or in a sentence; `benchmarks.fuzz` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers.archives import ARCHIVES
from tests.helpers.fuzz import Files, Spoil, check_import, samples, spoils

NAMES = (
    *("binance", "bitstamp", "bybit", "coinbase", "databento", "databento-dbn", "databento-parquet"),
    *("hyperliquid", "kraken", "hftbacktest", "itch", "lobster", "okx", "plain", "plain-parquet", "tardis"),
    *ARCHIVES,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    found = samples(tmp_path_factory.mktemp("samples"))
    assert set(found) == set(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_spoilt_file_ends_in_tapes_or_in_a_sentence(
    name: str, files: dict[str, Files], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(spoils)
    def run(edits: list[Spoil]) -> None:
        check_import(name, files[name], edits, folder / "x")

    assert check_import(name, files[name], [], folder / "x") == "tapes"
    run()


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("databento-dbn", ("cut", 1354, 0, 48)),  # within a record, where several symbols are in it
        ("databento-dbn", ("value", 243_088, 243_090, 48)),  # a symbol of the header without a name
        ("nautilus", ("value", 535, 1, 48)),  # text that is no UTF-8
        ("plain-parquet", ("value", 3346, 3346, 48)),  # a price near the largest float
    ],
)
def test_what_ended_in_a_traceback(name: str, edit: Spoil, files: dict[str, Files], tmp_path: Path) -> None:
    check_import(name, files[name], [edit], tmp_path)


@pytest.mark.parametrize("name", ["plain-parquet", "databento-parquet"])
def test_a_column_whose_name_is_no_text_is_refused(
    name: str, files: dict[str, Files], tmp_path: Path
) -> None:
    at = files[name]["x.parquet"].index(b"price")
    assert "'utf-8' codec" in check_import(name, files[name], [("value", at, 1, 48)], tmp_path)
