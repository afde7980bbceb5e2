"""`neuralmm reproduce RESULT`: run again what made a result, and compare.

RESULT is what one of the commands wrote: the folder of a training run, study, sweep, population or backtest,
or a file in it. It is made again in another folder, by the code as it is now, and every file with numbers is
compared. First it says what differs in code, libraries and data from those that the result names.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from mmenv.checks import ConfigError
from mmenv.run.provenance import code, contents, libraries
from train.options.reproduce import Reproduce
from train.settings import read_settings, write_settings

TIMES = ("second", "minute", "time/", "fps", "clock")
"""What contains one of these words is measured, and never the same twice."""
ORIGIN = ("provenance", "command", "settings", "options")
"""What went in, compared first and in other words."""


@dataclass(frozen=True)
class Kind:
    """A kind of result: the file that tells it, and how its folder is made again."""

    marker: str
    unless: tuple[str, ...]
    """Files there that something else made of it."""
    again: Callable[[Path, Path], tuple[list[str], Path]]
    """Arguments of `neuralmm` that make the result (folder) again in a new folder, and where it is then."""


def _run_again(folder: Path, out: Path) -> tuple[list[str], Path]:
    settings, config = read_settings(folder)
    new = out / folder.name
    # How many threads were fastest is no property of the configuration, but changes the last bits.
    progress = pd.read_csv(folder / "progress.csv")
    threads = int(progress["time/threads"].dropna().iloc[-1])
    again = dataclasses.replace(settings, logs=out, threads=settings.threads or threads, final_episodes=0)
    write_settings(new, again, config)
    return ["train", "--resume", str(new)], new


def _file_again(command: str) -> Callable[[Path, Path], tuple[list[str], Path]]:
    """How a command is run again that keeps its file as COMMAND.toml and its options in COMMAND.json."""

    def again(folder: Path, out: Path) -> tuple[list[str], Path]:
        options = json.loads((folder / f"{command}.json").read_text())["options"]
        file = out / f"{folder.name}.toml"
        file.write_text((folder / f"{command}.toml").read_text())
        words = [word for name, value in options.items() for word in _option(name, value)]
        return [command, str(file), *words, "--logs", str(out)], out / folder.name

    return again


def _option(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def _backtest_again(folder: Path, out: Path) -> tuple[list[str], Path]:
    command = json.loads((folder / "plan.json").read_text())["provenance"]["command"]
    if not command:
        raise ConfigError(f"{folder} was made by a program, not by a command: run that again.")
    return [*command, "--out", str(out / folder.name)], out / folder.name


KINDS = (
    Kind("plan.json", (), _backtest_again),
    Kind("study.json", (), _file_again("study")),
    Kind("sweep.json", (), _file_again("sweep")),
    Kind("population.json", (), _file_again("population")),
    Kind("config.json", ("result.json", "selection.npz", "final.npz", "evaluation.csv"), _run_again),
)


def find(path: Path) -> tuple[Kind, Path]:
    """The kind of a result, and its folder: `path`, or the first above it that is one."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such result.")
    for folder in (path, *path.resolve().parents):
        for kind in KINDS:
            if (folder / kind.marker).is_file():
                return kind, folder
    raise ConfigError(
        f"{path} does not say where it comes from: name the folder of a run, study, sweep, "
        "population or backtest."
    )


# What has changed since -------------------------------------------------------------------------------------


def changes(origin: Mapping[str, Any]) -> list[str]:
    """What differs now from where the result comes from, in words."""
    today = {"source code": code()["source"], **libraries()}
    found = [
        f"{what}: {then} then, {today.get(what)} now"
        for what, then in {"source code": origin["code"].get("source"), **origin["libraries"]}.items()
        if then != today.get(what)
    ]
    for path, parts in origin["data"].items():
        try:
            now = contents(path)
        except FileNotFoundError:
            found.append(f"data {path}: not there any more")
            continue
        for part in sorted(parts.keys() | now.keys()):
            if parts.get(part) != now.get(part):
                found.append(f"data {path}/{part}: {parts.get(part)} then, {now.get(part)} now")
    return found


# Comparison -------------------------------------------------------------------------------------------------


def compare(old: Path, new: Path, unless: Sequence[str] = ()) -> tuple[int, list[str]]:
    """How many files of two result folders were compared, and what differs, in words."""
    compared, found = 0, []
    for path in sorted(p for p in old.rglob("*") if p.is_file()):
        read = READERS.get(path.suffix)
        name = path.relative_to(old)
        if read is None or path.name in unless:
            continue
        compared += 1
        if not (new / name).exists():
            found.append(f"{name}: was not made again")
            continue
        found += [f"{name}: {text}" for text in differences(dict(read(path)), dict(read(new / name)))]
    return compared, found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Each value that is not the same in both, byte for byte."""
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"{name} only {'then' if name in old else 'now'}"
            continue
        a, b = np.asarray(old[name]), np.asarray(new[name])
        if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and a.dtype != object:
            continue
        if a.dtype.kind in "fiub" and b.dtype.kind in "fiub" and a.shape == b.shape:
            if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                continue
            apart = (
                np.nanmax(np.abs(a.astype(float) - b.astype(float))) if a.size > 1 else f"{a} then, {b} now"
            )
            yield f"{name}: " + (apart if isinstance(apart, str) else f"up to {apart:.3g} apart")
        elif a.shape != b.shape or not (a == b).all():
            yield f"{name}: {_short(old[name])} then, {_short(new[name])} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _measured(name: str) -> bool:
    return any(word in name for word in TIMES)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    yield from _flat("", json.loads(path.read_text()))


def _flat(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in ORIGIN and not _measured(key):
                yield from _flat(f"{name}.{key}" if name else key, value)
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _flat(f"{name}[{i}]", value)
    else:
        yield name, content


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    table = pd.read_csv(path)
    for name in table.columns:
        if not _measured(name) and name not in ("commit", "source"):
            yield name, table[name].to_numpy()


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    table = pq.read_table(path)
    for name in table.column_names:
        yield name, table[name].to_numpy()


def _npz(path: Path) -> Iterator[tuple[str, Any]]:
    with np.load(path) as file:
        yield from ((name, file[name]) for name in file.files)


def _model(path: Path) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
    yield from ((name, value.numpy()) for name, value in weights.items())


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
    ".zip": _model,
}
"""Files with numbers; all others (logs, plots, checkpoints) follow from these or are not compared."""


# The command ------------------------------------------------------------------------------------------------


def reproduce(options: Reproduce) -> bool:
    """Print what has changed and what differs; whether everything is equal."""
    kind, folder = find(options.result)
    marker = json.loads((folder / kind.marker).read_text())
    if "provenance" not in marker:
        raise ConfigError(f"{folder} is of a version that did not say where results come from.")
    for change in changes(marker["provenance"]):
        print(f"changed since: {change}")
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        command, new = kind.again(folder, out.resolve())
        print(f"again: neuralmm {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "train.cli", *command]).returncode
        if status:
            raise ConfigError(f"it cannot be made again: the command ended with status {status}.")
        compared, found = compare(folder, new, kind.unless)
    for line in found:
        print(f"differs: {line}")
    print(f"{folder}: {compared} files compared, " + (f"{len(found)} differences" if found else "all equal"))
    return not found


def main(options: Reproduce) -> None:
    """Run `neuralmm reproduce`."""
    sys.exit(0 if reproduce(options) else 1)
