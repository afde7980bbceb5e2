"""`neuralmm doctor`: what is installed here, where things are kept, and what is missing for which command."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

NAME = "neuralmm"
WANTED_BY = {
    "replay": "backtest and evaluate --store on recorded tapes, neuralmm train --store",
    "live": "record, paper and live at a venue",
    "deploy": "export --format onnx, verify --engine onnx",
    "scale": "sweep, and --ray wherever it is an option",
}
"""Extras, and the commands that need them."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SHOWN = ("numpy", "numba", "llvmlite", "gymnasium", "torch", "stable-baselines3", "sb3-contrib")


@functools.cache
def extras() -> dict[str, list[str]]:
    """The packages that each extra brings, by the names they are installed under; under "" the base."""
    found: dict[str, list[str]] = {}
    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:  # run from a folder that nobody installed
        lines = []
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        if name is not None:
            found.setdefault(extra.group(1) if extra else "", []).append(name.group())
    return found


def extra_of(package: str) -> str | None:
    """The extra that brings a package, named as it is imported; None where none does."""
    plain = package.replace("_", "-").lower()
    for extra, packages in extras().items():
        if extra in WANTED_BY and plain in (name.replace("_", "-").lower() for name in packages):
            return extra
    return None


@dataclass(frozen=True)
class Doctor:
    """Say what is installed here, where things are kept, and what is missing for which command.

    The exit status is 1 where not even training would run.
    """


def main(options: Doctor) -> None:
    """Run the command."""
    broken = absent("")
    sections: dict[str, Callable[[], list[str]]] = {
        "Versions": versions,
        "Processor": processor,
        "Places": places,
        "Extras": lambda: [extra_line(extra, wanted) for extra, wanted in WANTED_BY.items()],
        "Graphics processor": lambda: [gpu()],  # last, for torch takes seconds to import
    }
    for title, lines in sections.items():
        print(f"{title}:", flush=True)
        for line in lines():
            print(f"  {line}", flush=True)
    if broken:
        sys.exit(f"Missing: {', '.join(broken)}: pip install {' '.join(broken)}")
    print("Nothing that training needs is missing.")


def absent(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [name for name in extras().get(extra, []) if installed(name) is None]


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> list[str]:
    python = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.platform(terse=True)}"
    )
    return [
        f"{NAME} {installed(NAME) or 'not installed (run from its folder)'}, {python}",
        ", ".join(f"{name} {installed(name) or 'missing'}" for name in SHOWN),
    ]


def processor() -> list[str]:
    """Instruction set and threads."""
    lines = []
    if installed("numba") and installed("llvmlite"):
        from mmenv.engine.compiler import vector_extension
        from mmenv.engine.threads import processors

        widest, lanes = vector_extension()
        lines.append(f"{platform.machine()}, {widest}: {lanes} numbers of 32 bits at a time")
        lines.append(f"{processors()} of {os.cpu_count()} processors may be used")
    given = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    return [*lines, f"threads by environment: {', '.join(given) or 'as the libraries choose'}"]


def gpu() -> str:
    """What torch finds."""
    if installed("torch") is None:
        return "not known without torch"
    import torch

    if not torch.cuda.is_available():
        return "none; none is needed"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{', '.join(names)}; docs/training.md says when --device auto takes it"


def places() -> list[str]:
    """Where things are read and written, and whether they can be."""
    logs, store, data = Path("logs"), Path("store"), os.environ.get("NEURALMM_DATA")
    tapes = len(list(store.rglob("tape.parquet"))) if store.is_dir() else 0
    return [
        f"compiled code: {cache()}",
        f"runs: {logs.resolve()}: {'can be written' if writable(logs) else 'CANNOT BE WRITTEN'}",
        f"tapes: {store.resolve()}: {tapes or 'none; `neuralmm import` makes some'}",
        f"recorded data of the tests (NEURALMM_DATA): {data or 'not given'}"
        + ("" if data is None or Path(data).is_dir() else ", which does not exist"),
    ]


def cache() -> str:
    """Where numba keeps compiled code: beside the source, or where the environment says."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(named) if named else Path(__file__).parents[1] / "mmenv"
    if writable(folder):
        return str(folder) if named else f"beside the source, {folder}"
    return f"{folder} CANNOT BE WRITTEN, so every start compiles anew; set NUMBA_CACHE_DIR to one that can"


def writable(folder: Path) -> bool:
    """Whether a file can be written to a folder, or to the one in which it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent if folder.name else Path(".")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def extra_line(extra: str, wanted: str) -> str:
    lost = absent(extra)
    if not extras().get(extra):
        return f"{extra}: not known, for {NAME} is not installed; for {wanted}"
    if not lost:
        return f"{extra}: installed; for {wanted}"
    return f"{extra}: {', '.join(lost)} missing: pip install '{NAME}[{extra}]'; for {wanted}"
