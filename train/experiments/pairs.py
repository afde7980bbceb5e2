"""Variants of a study on the same paths: values, worst episodes, and what is known of the market.

All runs of a market are judged on the same episodes, so differences are paired by episode. The intervals are
95%, from a bootstrap that draws seeds and episodes anew; with one seed they say nothing of another training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmenv.config import EnvConfig
from mmenv.sheet import Sheet, as_columns
from policies.book.ladder import BEST_RULE, PROGRAMME, SEED, TOLD_NAME
from train.experiments.statistics import interquartile
from train.ladder import PATHS, Standings, computed
from train.simulate import EVALUATION_SEED, Interval

DRAWS = 1000
TAIL = 100
"""The worst episodes are one in so many."""

assert SEED == EVALUATION_SEED, "a ladder stands on the first episodes that runs are judged on"


def worst(earned: np.ndarray) -> np.ndarray:
    """Mean of the worst percent of the last axis (expected shortfall)."""
    count = max(earned.shape[-1] // TAIL, 1)
    return np.partition(earned, count - 1, axis=-1)[..., :count].mean(axis=-1)


class Resampled:
    """Interquartile means over seeds under a bootstrap, of variants, (seeds, episodes) each."""

    def __init__(self, earned: Mapping[str, np.ndarray]) -> None:
        self.earned = earned
        generator = np.random.default_rng(0)
        episodes = next(iter(earned.values())).shape[1]
        self._paths = generator.integers(episodes, size=(DRAWS, episodes), dtype=np.int32)
        self._seeds = {name: generator.integers(len(x), size=(DRAWS, len(x))) for name, x in earned.items()}

    def means(self, name: str) -> np.ndarray:
        """Of the value: that of the sample, then of each draw, (1 + DRAWS,)."""
        return self._over(name, lambda x: x.mean(axis=-1))

    def worsts(self, name: str) -> np.ndarray:
        """Of the worst percent, as `means`."""
        return self._over(name, worst)

    def _over(self, name: str, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        earned, seeds = self.earned[name], self._seeds[name]
        drawn = np.stack([[measure(row[at]) for row in earned] for at in self._paths])
        return np.append(
            interquartile(measure(earned)), interquartile(np.take_along_axis(drawn, seeds, axis=1), axis=1)
        )


def compared(title: str, earned: Mapping[str, np.ndarray]) -> Sheet:
    """A row for each variant: value and worst percent, and both less the first's."""
    drawn = Resampled(earned)
    measured = {name: (drawn.means(name), drawn.worsts(name)) for name in earned}
    first = next(iter(measured))
    rows = []
    for name, (values, tails) in measured.items():
        other = None if name == first else measured[first]
        rows.append({
            "variant": name,
            "value": in_words(values),
            "minus the\nfirst": "" if other is None else in_words(values - other[0], "+.2f"),
            "worst 1%": in_words(tails),
            "worst 1% minus\nthe first": "" if other is None else in_words(tails - other[1], "+.2f"),
            "each seed": " ".join(f"{x:.1f}" for x in earned[name].mean(axis=1)),
        })  # fmt: skip
    seeds, episodes = next(iter(earned.values())).shape
    several = f"interquartile mean of {seeds} seeds" if seeds > 1 else "one seed"
    title = f"{title}: {several}, {episodes:,} episodes, the same for all"
    return Sheet(title, as_columns(rows), left=frozenset({"each seed"}))


def in_ladder(title: str, config: EnvConfig, earned: Mapping[str, np.ndarray]) -> Sheet:
    """Where the variants stand among what is known of a market `book`, on the ladder's paths.

    Raises `ConfigError` where it has no ladder.
    """
    paths = min(PATHS, *(x.shape[1] for x in earned.values()))
    rungs = computed(config, paths, SEED)
    known = Standings.of(rungs)
    played = {row.name: row.value[None] for row in rungs if row.fills is not None}
    rows = []
    for name, x in (played | {name: x[:, :paths] for name, x in earned.items()}).items():
        drawn = Resampled(played | {name: x})
        own, rule, programme, told = (drawn.means(each) for each in (name, BEST_RULE, PROGRAMME, TOLD_NAME))
        row = {
            "policy": name,
            "value": in_words(own),
            f"minus\n{BEST_RULE}": in_words(own - rule, "+.2f"),
            f"minus\n{PROGRAMME}": in_words(own - programme, "+.2f"),
            "% of told": in_words(100 * own / told, ".1f"),
        }
        if known.bound is not None:
            row["% of the way from\nrule to bound"] = in_words(
                100 * (own - rule) / (known.bound - rule), ".1f"
            )
        rows.append(row)
    return Sheet(f"{title}: among what is known, {paths:,} episodes, the same for all", as_columns(rows))


def in_words(values: np.ndarray, form: str = ".2f") -> str:
    """The first of the values, with the 95% interval that the others give."""
    return Interval(float(values[0]), *(float(x) for x in np.quantile(values[1:], [0.025, 0.975]))).text(form)
