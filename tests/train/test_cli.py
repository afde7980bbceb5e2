"""The command line: quick help, sentences for what cannot be, and ways out that say how to go on."""

from __future__ import annotations

import inspect
import io
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmenv.config import make_config
from mmenv.files import alone
from mmenv.progress import LOG_SECONDS, LogLines
from policies.book import ladder
from policies.optimal import KINDS
from tests.helpers.commands import neuralmm
from train import cli, completion, doctor, look, ppo, reproduce
from train.options.solve import Solve
from train.settings import LAST_MODEL, Settings, read_settings, write_settings

HEAVY = ("torch", "stable_baselines3", "sb3_contrib", "scipy.stats", "pandas", "matplotlib", "ray", "optuna")


def test_a_folder_with_modules_of_our_names_hides_none_of_ours(tmp_path: Path) -> None:
    """Projects have a train.py, and `neuralmm` is called in them."""
    for name in ("train", "policies"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path[0] = {root!r}; from train.cli import main; main()"
    words = [sys.executable, "-c", code, "list", "policies"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert "avellaneda-stoikov" in found.stdout, found.stderr


def test_help_needs_no_heavy_library() -> None:
    """What `--help` of all commands imports; `python -m benchmarks.newcomer` times it."""
    code = f"""
import sys
from train import cli
for command in cli.COMMANDS.values():
    cli.find(command.options)
    if command.default:
        cli.find(command.default)([])
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_is_there_and_in_the_help() -> None:
    text = cli.help_text()
    for name, command in cli.COMMANDS.items():
        assert inspect.isfunction(cli.find(command.run)), name
        assert f"  {name} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("more", [[], ["--help"]])
def test_the_first_word_of_two_lists_the_second(more, monkeypatch, capsys) -> None:
    assert neuralmm(monkeypatch, "zoo", *more) is None
    told = capsys.readouterr().out
    wanted = {name for name in cli.COMMANDS if name.startswith("zoo ")}
    assert {" ".join(line.split()[:2]) for line in told.splitlines() if line.startswith("  ")} == wanted


@pytest.mark.parametrize("words", [["list"], ["zoo", "list"], ["zoo"]])
def test_help_before_a_command_is_its_help(words, monkeypatch, capsys) -> None:
    neuralmm(monkeypatch, "help", *words)
    told = capsys.readouterr().out
    neuralmm(monkeypatch, *words, "--help")
    assert told == capsys.readouterr().out
    assert f"usage: neuralmm {' '.join(words)} " in told
    neuralmm(monkeypatch, "--help", "help")
    assert capsys.readouterr().out == f"{cli.help_text()}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys; from train import cli; sys.argv = ['neuralmm']; "
        "cli.help_text = lambda: 200_000 * 'x'; cli.main()"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" | head -c 1', shell=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("x", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), cli.INTERRUPTED, "Nothing is half-written: neuralmm evaluate glft"),
        (KeyboardInterrupt("go on so"), cli.INTERRUPTED, "stopped. go on so"),
        (PermissionError(13, "Permission denied", "/logs"), None, "/logs: you have no right"),
        (OSError(30, "Read-only file system", "logs"), None, "logs: you have no right"),
        (NotADirectoryError(20, "Not a directory", "/dev/null/x"), None, "/dev/null/x: not a directory."),
        (ModuleNotFoundError("No module named 'ccxt'", name="ccxt"), None, "pip install 'neuralmm[live]'"),
        (ValueError("no"), None, "neuralmm evaluate: no"),
    ],
)
def test_errors_end_in_a_sentence(
    error: BaseException, code: int | None, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(options: object) -> None:
        raise error

    module = ModuleType("failing")
    module.run = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing", module)
    command = cli.COMMANDS["evaluate"]._replace(run="failing:run")
    monkeypatch.setitem(cli.COMMANDS, "evaluate", command)
    ended = neuralmm(monkeypatch, "evaluate", "glft")
    assert ended == code or code is None
    assert said in f"{ended} {capsys.readouterr().err}"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_a_minus_sign_shows_a_hyphen(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    monkeypatch.setattr(look, "names", lambda kind: [("\N{MINUS SIGN}1 \N{GREEK SMALL LETTER SIGMA}", "")])
    neuralmm(monkeypatch, "list", "venues")
    sys.stdout.flush()
    sign, sigma = "\N{MINUS SIGN}\N{GREEK SMALL LETTER SIGMA}" if encoding == "utf-8" else "-?"
    assert f"{sign}1 {sigma}" in shown.getvalue().decode(encoding)


def test_feature_groups_are_listed_with_what_they_are() -> None:
    about = dict(look.names("features"))
    assert about["queues"].startswith("How much stands at the touch")
    assert len({*about.values()}) == len(about)


def test_errors_of_others_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "names", lambda kind: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        neuralmm(monkeypatch, "list", "venues")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "glft", "--episodes", "0"], "--episodes = 0 is not possible: it must be at least 1"),
        (["backtest", "glft", "s", "--days", "-1"], "--days = -1 is not possible: it must be above 0"),
        (["paper", "--policy", "glft", "--max-loss", "nan"], "--max-loss = nan is not possible"),
        (["trian"], "Did you mean 'train'"),
        (["zoo", "plya"], "neuralmm zoo has no command 'plya'. There are list, play,"),
    ],
)
def test_numbers_and_names_that_cannot_be(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in str(neuralmm(monkeypatch, *words))


def test_options_given_twice_have_the_values_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Settings] = []
    monkeypatch.setattr(ppo, "main", found.append)
    neuralmm(
        monkeypatch, "train", "--set", "horizon=5", "--seed", "3", "--set=market.tilt=1", "risk.order_lots=2"
    )
    neuralmm(monkeypatch, "train", "--net-arch", "8", "--net_arch", "16", "4", "--seed", "1", "--seed", "2")
    assert found[0].set == ("horizon=5", "market.tilt=1", "risk.order_lots=2")
    assert (found[0].seed, found[1].seed, found[1].net_arch) == (3, 2, (8, 16, 4))


@pytest.mark.parametrize(
    "words", [["--device", "nope"], ["--device", "cuda:99"], ["--workers", "3", "--num-envs", "4"]]
)
def test_what_the_learner_cannot_have_is_said_before_there_is_a_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = str(neuralmm(monkeypatch, "train", "--steps", "100", *words))
    assert f"{words[-2].strip('-').replace('-', '_')} = " in said
    assert "is not possible" in said
    assert not any(tmp_path.iterdir())


def test_settings_that_cannot_be() -> None:
    refused: tuple[dict[str, Any], ...] = (
        {"steps": 0}, {"steps": -1}, {"minutes": 0.0}, {"num_envs": 0}, {"learning_rate": -1.0},
        {"gamma": 1.5}, {"gae_lambda": -0.1}, {"learning_rate": math.inf}, {"clip_range": -1.0},
        {"noise_memory": 1.0}, {"net_arch": (64, 0)}, {"target_kl": 0.0}, {"seed": 2**32},
    )  # fmt: skip
    for given in refused:
        with pytest.raises(ValueError, match=f"{next(iter(given))} = .* is not possible"):
            Settings(**given)


def test_a_finished_run_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(market="brownian", steps=1000)
    write_settings(tmp_path, settings, make_config("brownian"))
    (tmp_path / LAST_MODEL).touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert neuralmm(monkeypatch, "train", "--resume", str(tmp_path)) is None
    assert "is finished: 1,000 steps. Nothing was changed." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    said = str(neuralmm(monkeypatch, "train", "--resume", str(tmp_path), "--steps", "2000"))
    assert "--steps = 2000 is not possible with --resume: the run was begun with 1000" in said
    said = str(neuralmm(monkeypatch, "train", "--resume", str(tmp_path), "--name", "other"))
    assert "--name = 'other' is not possible with --resume" in said
    assert neuralmm(monkeypatch, "train", "--resume", str(tmp_path), "--steps", "1000") is None
    assert read_settings(tmp_path)[0].steps == 1000


def test_a_run_that_another_process_trains_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("brownian", horizon=5)
    write_settings(tmp_path, Settings(market="brownian", steps=100), config)
    monkeypatch.setattr(ppo, "work", lambda *_: pytest.fail("trained beside another process"))
    with alone(tmp_path):
        assert "another process works in it" in str(neuralmm(monkeypatch, "train", "--resume", str(tmp_path)))


def test_a_run_is_reproduced_without_the_table_that_evaluate_writes(tmp_path: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    for folder in (then, now):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "progress.csv").write_text("steps,value\n1,2\n")
    (then / "evaluation.csv").write_text("policy,value\ntrained,1\n")
    kind, folder = reproduce.find(then)
    compared, found = reproduce.compare(folder, now, kind.unless)
    assert found == []
    assert compared >= 1


def test_a_folder_of_runs_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("book_1", "book_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best_model.zip").touch()
    said = str(neuralmm(monkeypatch, "evaluate", str(tmp_path)))
    assert f"is no run, but there are runs in it: {tmp_path / 'book_1'}, {tmp_path / 'book_2'}" in said


def test_bash_completes_commands_options_and_names(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion.bash())
    for words, expected in (
        (["tra"], "train"),
        (["evaluate", "--tape-e"], "--tape-episodes"),
        (["list", "pol"], "policies"),
        (["list", "al"], "all"),
        (["zo"], "zoo"),
        (["zoo", "pl"], "play"),
        (["zoo", "evaluate", "--base"], "--baselines"),
        (["pla"], ""),
    ):
        given = f"COMP_WORDS=(neuralmm {' '.join(words)}); COMP_CWORD={len(words)}"
        line = f"source {script}; cd {tmp_path}; {given}"
        done = subprocess.run(
            ["bash", "-c", f'{line}; _neuralmm; echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True
        )
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_the_doctor_says_what_is_missing_for_which_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "ccxt" else version(name))
    monkeypatch.setattr(doctor, "gpu", lambda: "none")
    assert neuralmm(monkeypatch, "doctor") is None
    assert "live: ccxt missing: pip install 'neuralmm[live]'; for record, paper" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "tyro" else version(name))
    assert str(neuralmm(monkeypatch, "doctor")) == "Missing: tyro: pip install tyro"


def test_options_that_stand_apart_say_what_the_work_says() -> None:
    options = Solve()
    assert (options.paths, options.bound_paths, options.seed) == (
        ladder.PATHS, ladder.BOUND_PATHS, ladder.SEED,
    )  # fmt: skip
    assert options.belief_resolution == KINDS["belief-optimal"].resolution
    assert options.average_nodes == KINDS["exponential-average"].resolution


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("mmenv.progress.time.monotonic", lambda: now[0])
    with LogLines(total=100, unit=" episodes", desc="playing") as bar:
        for _ in range(100):
            now[0] += LOG_SECONDS / 30
            bar.update(1)
            bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("playing" in line and "% of 100 episodes" in line for line in lines)
