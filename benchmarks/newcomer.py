"""What a newcomer types first, in a terminal of 80 columns: `python -m benchmarks.newcomer`.

Thirty commands of README and docs, in their order, in an empty folder that holds one capture. Of each: when
the first word came, the longest silence and the end; whether it ended well, with a traceback, or with a word
cut by the edge of a table. Then the time of `--help` of every command.

Sizes are cut by NEURALMM_SHORT, but not with `--full`. The exit status is 1 where anything is wrong; being
slow is only shown, for that is the machine's too.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from train.cli import COMMANDS
from train.short import VARIABLE

SILENT_S, HELP_S, FIRST_S = 10.0, 1.0, 3.0
"""Longest silence, time of `--help`, and the first word of a train, as they should be."""
CUT = "…"
"""What rich ends a cut word with."""
LIST = """
neuralmm
neuralmm doctor
neuralmm list
neuralmm train
neuralmm train --resume logs/book_1
neuralmm evaluate logs/book_1
neuralmm evaluate logs
neuralmm evaluate glft --market brownian
neuralmm train --market brownian
neuralmm train --market hidden-regime
neuralmm solve
neuralmm members logs/book_1 --members volatility=1 order_rate=2
neuralmm signals train order-flow --data hidden-regime
neuralmm signals list
neuralmm import binance capture.gz -o store
neuralmm facts book store
neuralmm calibrate store -o tape.json
neuralmm evaluate logs/book_1 --store store
neuralmm backtest logs/book_1 glft store
neuralmm backtest glft:gamma=0.1,arrival_rate=0.5,fill_decay=1,volatility=1 fixed-spread:half_spread=1 store
neuralmm backtest logs/hidden-regime_1 glft hidden-regime --days 2
neuralmm export logs/book_1 -o policy.mmz
neuralmm verify policy.mmz
neuralmm backtest policy.mmz store
neuralmm record binance-usdm BTCUSDT -o recorded --seconds 5
neuralmm paper --policy fixed-spread --parameters half_spread 1.0 --store store
neuralmm halt
neuralmm halt --clear
neuralmm replay-journal journals/paper-binance-usdm-BTCUSDT.journal
neuralmm bench --sizes 1 64 --seconds 0.05
"""
REFUSED = ("neuralmm evaluate logs", "neuralmm record binance-usdm BTCUSDT -o recorded --seconds 5")
"""Commands that are right to end in a sentence; recording, where there is no network."""


@dataclass(frozen=True)
class Newcomer:
    """Run what a newcomer types first, and say how it went."""

    full: bool = False
    """As printed, at full size: hours."""
    log: Path | None = None
    """Write all that was shown here."""


@dataclass
class Seen:
    """What a command showed."""

    text: str = ""
    first: float | None = None
    silence: float = 0.0
    seconds: float = 0.0
    status: int = 0

    @property
    def wrong(self) -> str:
        """What is wrong with it; empty if nothing is."""
        found = ["traceback"] if "Traceback" in self.text else []
        found += ["a word is cut"] if CUT in self.text else []
        return ", ".join(found)


def watch(words: list[str], folder: Path, environment: dict[str, str]) -> Seen:
    """Run a command in a terminal of 80 columns, and watch when it says something."""
    seen, begun = Seen(), time.monotonic()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    last, parts = begun, []
    with contextlib.suppress(OSError):  # the end of the terminal, on Linux
        while True:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            part = os.read(ours, 65536)
            now = time.monotonic()
            if not part:
                break
            seen.first = seen.first if seen.first is not None else now - begun
            seen.silence, last = max(seen.silence, now - last), now
            parts.append(part)
    seen.status = process.wait()
    os.close(ours)
    end = time.monotonic()
    seen.seconds, seen.silence = end - begun, max(seen.silence, end - last)
    seen.text = b"".join(parts).decode(errors="replace")
    return seen


def prepare(folder: Path) -> None:
    """A capture of seven minutes of a random market."""
    from tests.helpers.captures import market, write

    write(folder / "capture.gz", market(seconds=420, seed=3).lines)


def main() -> None:
    """Run the benchmark."""
    options = tyro.cli(Newcomer)
    command = shutil.which("neuralmm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if command is None:
        sys.exit("there is no `neuralmm` beside this Python: pip install neuralmm, or -e .")
    environment = os.environ | {"COLUMNS": "80", "LINES": "40", "TERM": "xterm-256color"}
    if not options.full:
        environment[VARIABLE] = "1"
    lines, bad = LIST.strip().splitlines(), 0
    said: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        print(f"{'first':>6} {'silent':>6} {'end':>6}  command", flush=True)
        for line in lines:
            seen = watch([command, *shlex.split(line)[1:]], folder, environment)
            wrong = seen.wrong or ("" if seen.status == 0 or line in REFUSED else f"status {seen.status}")
            slow = f"silent for {seen.silence:.0f} s" if seen.silence > SILENT_S else ""
            bad += bool(wrong)
            first = seen.seconds if seen.first is None else seen.first
            told = f"  <- {'; '.join(filter(None, (wrong, slow)))}" if wrong or slow else ""
            print(f"{first:6.1f} {seen.silence:6.1f} {seen.seconds:6.1f}  {line}{told}", flush=True)
            said.append(f"$ {line}\n{seen.text}\n")
        print(f"\n`--help`, seconds (at most {HELP_S:g} on a machine that does nothing else):")
        for name in COMMANDS:
            seen = watch([command, *name.split(), "--help"], folder, environment)
            bad += bool(seen.wrong or seen.status)
            print(f"{seen.seconds:6.2f}  {name}{'  <- ' + seen.wrong if seen.wrong else ''}", flush=True)
    if options.log is not None:
        options.log.write_text("\n".join(said))
    print(f"{len(lines)} commands, {bad} wrong. A train should say its first word within {FIRST_S:g} s.")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
