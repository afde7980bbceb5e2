"""Files are replaced whole, in folders that are made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmenv.files import BusyError, alone, replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with replacing(path) as temporary:
        temporary.write_text("one")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"{temporary.write_text('half') // 0}")
    assert path.read_text() == "one"
    assert [*path.parent.iterdir()] == [path]


def test_one_process_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    """The next one may in once the process that was in it has died."""
    enter = "import sys, pathlib, mmenv.files as f\nwith f.alone(pathlib.Path(sys.argv[1])):"
    words = [sys.executable, "-c", f"{enter} print('in', flush=True), sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(BusyError, match="another process works in it"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):
        pass
