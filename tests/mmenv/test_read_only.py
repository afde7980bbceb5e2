"""An installation that cannot be written, of a user without a home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import gymnasium as gym, mmenv, os
env = gym.make("NeuralMM-v0", market="brownian")
assert env.reset(seed=1)[0].shape == env.observation_space.shape
assert env.step(env.action_space.sample())[4]["ledger"]["position"] in (-1, 0, 1)
print(mmenv.__file__, os.environ["NUMBA_CACHE_DIR"])
"""


def test_compiles_where_nothing_can_be_kept(tmp_path):
    """Compiled code goes to a folder that is gone afterwards, and a line says how to keep it."""
    shutil.copytree(ROOT / "mmenv", tmp_path / "mmenv", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [tmp_path / "mmenv", *(p for p in (tmp_path / "mmenv").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("")  # in the way of a folder, for root too
    environment = {
        **os.environ,
        "HOME": "/dev/null",
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "NEURALMM_QUIET"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, folder = done.stdout.split()
    assert imported.startswith(str(tmp_path))
    assert not Path(folder).exists()
    assert "Set NUMBA_CACHE_DIR" in done.stderr
