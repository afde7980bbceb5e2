"""Spoilt captures of every format, thousands of each: `python -m benchmarks.fuzz --inputs 10000`."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from hypothesis import HealthCheck, given, seed, settings

from tests.helpers.fuzz import Files, Spoil, check_import, samples, spoils


@dataclass(frozen=True)
class Fuzz:
    """Import spoilt files of every format; the first that ends in neither tapes nor a sentence is shown."""

    inputs: int = 10_000
    """Files of each format."""
    formats: tuple[str, ...] = ()
    """Formats; by default all."""
    seed: int = 0

    def run(self) -> None:
        """Print how many of each format became tapes, how many were refused, and the slowest."""
        print("format", "tapes", "refused", "kinds of sentences", "slowest, s", sep="\t")
        with tempfile.TemporaryDirectory() as folder:
            for name, files in samples(Path(folder) / "samples").items():
                if not self.formats or name in self.formats:
                    found, slowest = self.spoil(name, files, Path(folder) / "x")
                    refused = sum(found.values()) - found["tapes"]
                    print(
                        name, found["tapes"], refused, len(found) - 1, f"{slowest:.2f}", sep="\t", flush=True
                    )

    def spoil(self, name: str, files: Files, folder: Path) -> tuple[Counter[str], float]:
        """What came of the inputs of one format, and the longest that one of them took, s."""
        found: Counter[str] = Counter()
        times = []

        @seed(self.seed)
        @settings(
            max_examples=self.inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(spoils)
        def run(edits: list[Spoil]) -> None:
            begun = time.perf_counter()
            found[check_import(name, files, edits, folder)] += 1
            times.append(time.perf_counter() - begun)

        run()
        return found, max(times)


if __name__ == "__main__":
    tyro.cli(Fuzz).run()
