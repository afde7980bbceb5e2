"""Where a result comes from: code, configuration, seed and data; written into every result file.

Nothing here depends on when, where or on how many machines a result was made, so results that are the same
stay the same byte for byte. `neuralmm reproduce RESULT` reads it, runs the command again and compares.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmenv.files import replacing

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mmenv", "policies", "train")
LIBRARIES = ("numpy", "numba", "torch", "stable-baselines3", "hftbacktest")
"""Those whose version can change a result."""
PLACES = ("jobs", "ray", "out", "logs", "name", "wide")
"""Options that say where work is done, where it is written and how it is shown: they change no result."""
FLAGS = ("--wide",)
"""Those of them that have no value on the command line."""


def provenance(
    configuration: Any,
    seed: int | Sequence[int],
    *,
    data: Sequence[str | Path] = (),
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """What a result says of its origin, as plain JSON types.

    Parameters
    ----------
    configuration
        Everything that was chosen, as JSON types; its hash is kept.
    seed
        All seeds.
    data
        Files or stores (folders) that were read; each is kept with the hashes of its parts.
    command
        Arguments of `neuralmm` that make the result, `PLACES` left out.
    """
    return {
        "code": code(),
        "libraries": libraries(),
        "configuration": digest(configuration),
        "seed": seed if isinstance(seed, int) else list(seed),
        "data": {str(path): contents(path) for path in data},
        "command": without_places(command),
    }


def in_words(origin: dict[str, Any]) -> str:
    """One line for a table or a plot."""
    made = origin["code"]
    commit = f" ({made['commit'][:10]}{', changed' if made['dirty'] else ''})" if made["commit"] else ""
    data = "; ".join(f"{path} {digest(parts)}" for path, parts in origin["data"].items()) or "simulated"
    return (
        f"neuralmm {made['version']}{commit}, source {made['source']}, configuration "
        f"{origin['configuration']}, seed {origin['seed']}, data {data}"
    )


def columns(origin: dict[str, Any]) -> dict[str, Any]:
    """The same as columns of a table (the seed has one already)."""
    made = origin["code"]
    return {
        "commit": made["commit"],
        "source": made["source"],
        "configuration": origin["configuration"],
        "data": digest(origin["data"]) if origin["data"] else "simulated",
    }


def digest(content: Any) -> str:
    """Hash of plain JSON types, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def without_places(command: Sequence[str]) -> list[str]:
    """A command line without the options in `PLACES`."""
    places = [f"--{name}" for name in PLACES]
    kept, skip = [], False
    for word in command:
        if not skip and word.partition("=")[0] not in places:
            kept.append(word)
        skip = not skip and word in places and word not in FLAGS
    return kept


def keep(folder: Path, command: str, file: str, options: dict[str, Any], origin: dict[str, Any]) -> None:
    """Write what `neuralmm reproduce` runs again.

    That is COMMAND.toml, the text of the file that a command was given, and COMMAND.json, its options and
    where its results come from.
    """
    content = json.dumps({"options": options, "provenance": origin}, indent=2)
    for suffix, text in (("toml", file), ("json", content)):
        with replacing(folder / f"{command}.{suffix}") as temporary:
            temporary.write_text(text)


# Code -------------------------------------------------------------------------------------------------------


@functools.cache
def code() -> dict[str, Any]:
    """Version, git commit (None outside a checkout), whether files differ from it, hash of the source."""
    return {"version": version(), **_git(), "source": source_hash()}


def version() -> str:
    """Version of the installed package."""
    try:
        return importlib.metadata.version("neuralmm")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def source_hash() -> str:
    """Hash of the files that make up the three packages."""
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".toml"):
                found.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _git() -> dict[str, Any]:
    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit, changed = (
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *PACKAGES])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changed)}


@functools.cache
def libraries() -> dict[str, str]:
    """Versions of Python and of `LIBRARIES`, those that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# Data -------------------------------------------------------------------------------------------------------


def contents(path: str | Path) -> dict[str, str]:
    """Hash of each part of a store (relative path of its tapes), or of one file.

    Raises `FileNotFoundError` where there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return {path.name: file_hash(path)}
    parts = sorted(path.rglob("tape.parquet"))
    if not parts:
        raise FileNotFoundError(f"{path}: there is neither a file nor a store of recorded tapes.")
    return {part.relative_to(path).as_posix(): file_hash(part) for part in parts}


def file_hash(path: Path) -> str:
    """Hash of a file's content, 16 hexadecimal digits; computed again only when the file has changed."""
    status = path.stat()
    return _hash(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
