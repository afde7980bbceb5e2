"""Spoilt captures of every format, thousands of each: `python -m benchmarks.fuzz --inputs 10000`."""

from __future__ import annotations

import faulthandler
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro
from hypothesis import HealthCheck, given, seed, settings

from tests.helpers.fuzz import Files, Spoil, check_import, samples, spoils

MEMORY: Final = Path("/dev/shm")
"""A file system that lies in memory, where there is one: the inputs are many and small."""
STUCK_S: Final = 60
"""Of a processor. An import of a few kilobytes that takes longer hangs: where is printed, and all ends."""


@dataclass(frozen=True)
class Fuzz:
    """Import spoilt files of every format; the first that ends in neither tapes nor a sentence is shown."""

    inputs: int = 10_000
    """Files of each format."""
    formats: tuple[str, ...] = ()
    """Samples; by default all."""
    seed: int = 0

    def run(self) -> bool:
        """Print how many of each format became tapes, how many were refused, and times; whether all did."""
        print("format", "inputs", "tapes", "refused", "kinds of sentences", "slowest, s", "CPU, s", sep="\t")
        sound = True
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
            found = samples(Path(folder) / "samples")
            for name in self.formats or found:
                try:
                    line = self.spoil(name, found[name], Path(folder) / name)
                except Exception:
                    line, sound = traceback.format_exc(), False
                print(name, line, sep="\t", flush=True)
        return sound

    def spoil(self, name: str, files: Files, folder: Path) -> str:
        """What came of the inputs of one format, as a line of the table."""
        found: Counter[str] = Counter()
        slowest = 0.0
        faulthandler.register(signal.SIGPROF, chain=True)  # and then as the signal does: it ends
        check_import(name, files, [], folder)  # what is compiled is compiled now

        @seed(self.seed)
        @settings(
            max_examples=self.inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(spoils)
        def run(edits: list[Spoil]) -> None:
            nonlocal slowest
            signal.setitimer(signal.ITIMER_PROF, STUCK_S)
            begun = time.perf_counter()
            found[check_import(name, files, edits, folder)] += 1
            slowest = max(slowest, time.perf_counter() - begun)
            signal.setitimer(signal.ITIMER_PROF, 0)

        begun = time.process_time()
        run()
        took = time.process_time() - begun
        refused = found.total() - found["tapes"]
        counts = found.total(), found["tapes"], refused, len(found) - 1
        return "\t".join([*map(str, counts), f"{slowest:.2f}", f"{took:.0f}"])


if __name__ == "__main__":
    raise SystemExit(not tyro.cli(Fuzz).run())
