"""Use the built wheel in an environment of its own: with the lowest versions that it allows, or the newest.

    python .ci/versions.py lowest
    python3.13 .ci/versions.py newest

It takes the Python that runs it, some minutes, and for `lowest` the torch of its bound: gigabytes on Linux.
Commands are run from an empty folder, then tests of the package's core (`TESTS`) beside the wheel, not in the
checkout. `--keep FOLDER` keeps the environment and goes on with it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("replay", "live", "deploy")
PYTHON = """
import gymnasium as gym, mmenv
from gymnasium.utils.env_checker import check_env
check_env(gym.make("mmenv:NeuralMM-v0", market="brownian").unwrapped, skip_render_check=True)
check_env(gym.make("mmenv:NeuralMM-v0").unwrapped)
envs = gym.make_vec("NeuralMM/brownian-v0", num_envs=3)
envs.reset(seed=1)
envs.step(envs.action_space.sample())
"""
COMMANDS = """
doctor
train --market brownian --num-envs 8 --steps 4800 --final-episodes 16 --name smoke
evaluate logs/smoke --episodes 16
export logs/smoke -o smoke.mmz --episodes 64
export logs/smoke -o onnx.mmz --format onnx --episodes 64
verify smoke.mmz --episodes 1 --value-episodes 64
score smoke.mmz glft no-trade --task brownian
zoo play brownian --episodes 16
"""

TESTS = (
    "tests/mmenv/test_env.py",
    "tests/mmenv/test_tasks.py",
    "tests/mmenv/engine/test_marks.py",
    "tests/policies/test_bundle.py",
    "tests/policies/test_sb3.py",
    "tests/train/learner/test_sb3_tools.py",
)
"""What rests most on other libraries: gymnasium's and Stable-Baselines3's interfaces, numba, torch."""
NEWER = (
    "tests/mmenv/test_env.py::test_record_video",  # gymnasium.wrappers.vector.RecordVideo
    "tests/mmenv/test_env.py::test_episode_statistics_single_and_vector",  # DictInfoToList of dicts
)
"""Of wrappers that the lowest gymnasium does not have yet, so left out with it."""
COPIED = ("tests", "examples", "benchmarks", "pyproject.toml")
"""What those tests need beside the wheel."""


def lower_bounds() -> list[str]:
    """The lowest version that pyproject.toml allows of each library, as constraints of pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    found = [re.match(r"([\w.-]+)[^>]*>=([\w.]+)", line) for line in wanted]
    return [f"{match[1]}=={match[2]}" for match in found if match]


def main() -> None:
    """Build, install, use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).absolute()
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        work = Path(temporary) / "work"
        work.mkdir()
        install(python, work, lower_bounds() if given.which == "lowest" else [])
        use(python, work)
        test(python, work, NEWER if given.which == "lowest" else ())


def install(python: Path, work: Path, bounds: list[str]) -> None:
    """The wheel with its extras, under these constraints."""
    run([python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, ROOT], work)
    wheel = next(work.glob("*.whl"))
    constraints = work / "constraints.txt"
    constraints.write_text("\n".join(bounds))
    wanted = f"{wheel}[{','.join(EXTRAS)}]"
    run([python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wanted], work)


def use(python: Path, work: Path) -> None:
    """The environment, and the main commands, from an empty folder."""
    run([python, "-c", PYTHON], work)
    for line in COMMANDS.strip().splitlines():
        run([python, "-m", "train.cli", *line.split()], work)
    run([python, "-m", "pip", "list", "--format", "freeze"], work)


def test(python: Path, work: Path, left_out: Sequence[str]) -> None:
    """The core's tests, on the wheel, but for some."""
    run([python, "-m", "pip", "install", "--quiet", "pytest", "hypothesis"], work)
    for name in COPIED:
        source, copy = ROOT / name, work / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    run(
        [
            python,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *TESTS,
            *(f"--deselect={one}" for one in left_out),
        ],
        work,
    )


def run(words: list[str | Path], work: Path) -> None:
    """A command, which must end well."""
    print("$", *words[1:], flush=True)
    subprocess.run(words, cwd=work, check=True, env={**os.environ, "PYTHONSAFEPATH": "1"})


if __name__ == "__main__":
    sys.exit(main())
