"""A recording that several files of tests replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenv.data.importer import Import
from tests.helpers.captures import market, write


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=60, seed=3).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"
