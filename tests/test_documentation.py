"""README and docs: every command is one, and runs as printed; every block of Python and TOML works.

Tutorials are notebooks: `make site` runs them, at their true size. Elsewhere sizes are cut by the environment
(`train.short`), not in the documents. What stands in a block may use what is made before it: runs, a store,
files.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from mmenv.times import HOUR
from tests.helpers.captures import START_NS, market, write
from train import cli, short

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("**/*.md"))),
)


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def split(text: str) -> list[list[str]]:
    """The words of every command in a block, a prompt before it or not."""
    lines = re.sub(r"^\$ ", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_printed_command_is_one(page: str) -> None:
    """Names, options and values are those that the command takes."""
    for words in split("\n".join(blocks(page, "(?:sh|console)"))):
        if words[0] == "neuralmm" and len(words) > 1:
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in cli.COMMANDS else words[1]
            command, given = cli.COMMANDS[name], words[1 + len(name.split()) :]
            more = {}
            if command.default and "--config" not in given:  # what that file says is not known here
                more = {"default": cli.find(command.default)(given)}
            tyro.cli(cli.find(command.options), args=given, **more)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), words


LEFT_OUT = {
    r"make paper": "takes a minute; tests/mmenv/live/test_extras.py runs exchange, desk and replay",
    r"eval": "changes the shell; tests/train/test_cli.py asks bash",
    r"make": "CI runs them as they are",
    r"ray|.* --ray": "needs a cluster; tests/mmenv/run/test_jobs.py runs jobs on one",
    r"pip|python3": "installs",
    r"tensorboard|pre-commit": "serves until it is stopped, or changes this repository's hooks",
    r"python -m benchmarks": "takes minutes to hours",
    r"neuralmm (record|live)": "needs a venue; tests/mmenv/live runs them at the local exchange",
    r"neuralmm paper (?!.*--store)": "needs a venue; tests/mmenv/live runs it at the local exchange",
    r"neuralmm solve (large-tick|book)": "searches rules for a minute; tests/policies/book does with fewer",
    r".* --symbol MSFT": "needs the recorded tape of a stock, which is not in this repository",
    r"neuralmm members logs/hidden": "solves each member's optimum; tests/mmenv/desk/test_family.py does",
    r"neuralmm (import .*ethusdt|.* replay-basket|evaluate logs/replay-basket)": (
        "needs tapes of two symbols of one time; tests/mmenv/market/test_replay_basket.py makes them"
    ),
    r"neuralmm (study|population|sweep|reproduce)": "starts processes; tests/train/experiments runs them",
    r"neuralmm warm": "starts processes; tests/train/test_warm.py runs it",
}
"""Commands that are not run here, by what they begin with, and why."""

BEFORE = {
    "README.md": "",
    "docs/markets.md": "import gymnasium as gym, mmenv",
    "docs/training.md": """
from stable_baselines3 import PPO
import gymnasium as gym

env = gym.make("mmenv:NeuralMM-v0", market="brownian")
model = PPO("MlpPolicy", env, device="cpu", n_steps=8, batch_size=8)
""",
    "docs/deploy.md": """
import dataclasses
import numpy as np
from torch import nn
from mmenv.config import make_config
from mmenv.observation import observation_names
from mmenv.venue.outcome import OUTCOME
from policies.network.layers import Network
from policies.network.trained import layers_of
from policies.tick import TickToQuote

config = make_config("hidden-regime")
observation = np.zeros(len(observation_names(config)), np.float32)
first_outcome = outcome = np.ones(1, OUTCOME)
lstm, dense = nn.LSTM(25, 16), nn.Sequential(nn.Linear(16, 8), nn.Tanh())
price, spread = nn.Linear(8, 1), nn.Linear(8, 1)
""",
    "docs/signals.md": "",
}
"""What the blocks of Python on a page take for granted."""

FILE = r"# ([\w.]+\.(?:py|toml))\n"
"""First line of a block that is a file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where everything is run, in the order of the pages: a capture, runs, and the files that pages print."""
    found = tmp_path_factory.mktemp("documentation")
    write(found / "capture.gz", market(seconds=420, seed=3, start_ns=START_NS - 3 * HOUR).lines)
    for page in PAGES:
        for text in (*blocks(page, "python"), *blocks(page, "toml")):
            if name := re.match(FILE, text):
                (found / name.group(1)).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.setenv(short.VARIABLE, "1")
        patch.setenv("COLUMNS", "80")
        for kind in ("book", "hidden-regime"):
            run(["neuralmm", "train", "--market", kind, "--name", f"{kind}_1"])
        shutil.copytree("logs/hidden-regime_1", "logs/hidden-regime_2")
        best = Path("logs/sweeps/sweep/best.toml")
        best.parent.mkdir(parents=True)
        best.write_text('market = "brownian"\nlearning_rate = 2e-3\n')
        yield found


def run(words: list[str]) -> str | None:
    """Run a command of ours in this process; what it said where it did not end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(words))
        patch.setattr(sys, "path", list(sys.path))
        ended: object = None
        try:
            cli.main()
        except SystemExit as stop:
            ended = stop.code
    return None if ended in (None, 0) else f"{shlex.join(words)}: {ended}"


def test_every_printed_block_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Page by page, Python and commands in the order in which they stand there; no tutorials."""
    wrong: list[str | None] = []
    ran: set[str] = set()
    for page in (page for page in PAGES if not page.startswith("docs/tutorials/")):
        names: dict[str, object] = {}
        exec(BEFORE.get(page, ""), names)
        for language, text in re.findall(r"^```(python|sh)\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE):
            if language == "python" and page in BEFORE and not re.match(FILE, text):
                exec(compile(text, page, "exec"), names)
            elif language == "sh":
                for words in split(text):
                    command = " ".join(words)
                    if command not in ran and not any(re.match(what, command) for what in LEFT_OUT):
                        ran.add(command)  # a command that several pages print is run once
                        wrong.append(run(words))
    assert [line for line in wrong if line] == []
    assert "Traceback" not in "".join(capsys.readouterr())
