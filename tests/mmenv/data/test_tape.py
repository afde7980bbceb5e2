"""Stores and tapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenv.data.tape import Tape, TapeError, tapes


def test_a_foreign_or_missing_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="neuralmm import"):
        tapes(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(TapeError, match="not a readable Parquet"):
        Tape(tmp_path / "x.parquet")
