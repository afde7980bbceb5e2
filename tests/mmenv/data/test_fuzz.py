"""Whatever is in a file, an import ends in tapes or in a sentence; `benchmarks.fuzz` tries many more."""

from __future__ import annotations

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
