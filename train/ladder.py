"""The ladder of values of `book` as a table, with a trained policy among its rungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.market.book import Book
from mmenv.progress import progress_bar
from mmenv.sheet import Sheet
from policies.book.ladder import (
    ALL_LOTS,
    BOUND,
    CACHE,
    FREE_PROGRAMMES,
    PROGRAMME,
    SEED,
    TOLD_NAME,
    Row,
    best_rule,
    known_ladder,
    ladder,
)
from train.baselines import closed_form_config
from train.simulate import Outcome

PATHS = 1024
"""Of the ladder that follows a table of policies; the first ones of the table's episodes."""


def ladder_sheets(title: str, rows: list[Row]) -> list[Sheet]:
    """The rungs of `policies.book.ladder.ladder`: what they earn, and what they are."""
    best = best_rule(rows)
    policies = [row for row in rows if row.fills is not None]
    values = {
        "policy": [row.name for row in rows],
        "reward": [_interval(row.value) if row.fills is not None else _at_most(row.money) for row in rows],
        "money": [_interval(row.money) for row in rows],
        "reward minus\nbest rule": [
            "" if row is best or row.fills is None else _interval(row.value - best.value) for row in rows
        ],
        "fills": ["" if row.fills is None else f"{row.fills.mean():.1f}" for row in rows],
    }
    described = [row for row in rows if row.note]
    notes = {
        "policy": [row.name for row in described],
        "what it is": [row.note for row in described],
    }
    legend = ["Reward is money less the penalties on the position, in price units x lots an episode."]
    if len(policies) < len(rows):
        legend.append(f"{BOUND}: no policy earns more money, so none earns more reward.")
    legend += _freedom(rows)
    title = f"{title}: {len(rows[0].value):,} episodes, the same paths for all; mean ± 95%"
    return [Sheet(title, values, legend), Sheet("", notes, left=frozenset({"what it is"}))]


def _freedom(rows: list[Row]) -> list[str]:
    """What the action's freedom is worth to the programme beside the better of those that do without."""
    by_name = {row.name: row for row in rows}
    free = [by_name[name] for name in FREE_PROGRAMMES if name in by_name and name != ALL_LOTS]
    if not free:
        return []
    plain = [by_name[name] for name in (PROGRAMME, ALL_LOTS) if name in by_name]
    best = max(plain, key=lambda row: float(row.value.mean()))
    return [f"{row.name} earns {_interval(row.value - best.value)} more than {best.name}." for row in free]


def _at_most(money: np.ndarray) -> str:
    return f"<= {money.mean():.2f}"


def _interval(samples: np.ndarray) -> str:
    """Mean and 95% interval; normal, for there are hundreds of episodes."""
    half = 1.96 * samples.std(ddof=1) / len(samples) ** 0.5 if len(samples) > 1 else 0.0
    return f"{samples.mean():.2f} ± {half:.2f}"


def ladder_of(config: EnvConfig, judged: Outcome) -> list[Row]:
    """The ladder for `config`, and the judged policy above the rule; on the first paths of its evaluation.

    Raises `ConfigError` where `config` has no ladder.
    """
    count = min(PATHS, len(judged.controlled))
    rows = computed(config, count, SEED)
    money = judged.controlled + judged.terms["inventory_penalty"]
    ours = Row(
        judged.name, "judged here", judged.controlled[:count], money[:count], judged.terms["fills"][:count]
    )
    place = next(k for k, row in enumerate(rows) if row.name == TOLD_NAME)
    return [*rows[:place], ours, *rows[place:]]


def computed(config: EnvConfig, paths: int, seed: int) -> list[Row]:
    """The ladder for `config` on episodes seeded seed, seed + 1, ...; says meanwhile what it does."""
    with progress_bar(bar_format="{desc}", leave=False) as bar:
        return ladder(closed_form_config(config), paths, seed, note=bar.set_description_str)


def compute_ahead(config: EnvConfig, wanted: dict[int, int]) -> None:
    """Compute the ladders that a run will ask for, paths by first seed, while nobody waits for them yet."""
    if not isinstance(config.market, Book):
        return
    closed = closed_form_config(config)
    try:
        missing = {seed: n for seed, n in wanted.items() if known_ladder(closed, n, seed) is None}
        if missing:
            print(f"Finding out what is known of this market, once: it is kept in {CACHE}.", flush=True)
        for seed, paths in missing.items():
            computed(config, paths, seed)
    except ConfigError:
        return  # there is none; the evaluation says why


@dataclass(frozen=True)
class Standings:
    """What is known on some paths: best rule and told policy, (paths,) each, and the bound if any."""

    rule: np.ndarray
    told: np.ndarray
    bound: float | None

    @classmethod
    def of(cls, rows: list[Row]) -> Standings:
        """Read the rungs."""
        by_name = {row.name: row for row in rows}
        limit = float(by_name[BOUND].money.mean()) if BOUND in by_name else None
        return cls(best_rule(rows).value, by_name[TOLD_NAME].value, limit)

    def percents(self, earned: np.ndarray) -> dict[str, float]:
        """Where a policy stands that earned this on the same paths, (paths,), by the names of TensorBoard."""
        gained = float((earned - self.rule).mean())
        found = {"percent_of_told": 100 * float(earned.mean() / self.told.mean())}
        found["percent_of_way_from_rule_to_told"] = 100 * gained / float((self.told - self.rule).mean())
        if self.bound is not None:
            found["percent_of_way_from_rule_to_bound"] = 100 * gained / (self.bound - float(self.rule.mean()))
        return found


def known_standings(config: EnvConfig, paths: int, seed: int) -> Standings | None:
    """What is known on these paths, where a ladder was computed before; else None."""
    if not isinstance(config.market, Book):
        return None
    try:
        rows = known_ladder(closed_form_config(config), paths, seed)
    except ConfigError:
        return None
    return None if rows is None else Standings.of(rows)


def summary(rows: list[Row], name: str) -> str:
    """In a sentence: how far the policy `name` comes from the best rule to the bound, and to the told one."""
    ours = next(row for row in rows if row.name == name)
    known = Standings.of(rows)
    gained = ours.value - known.rule
    half = 1.96 * gained.std(ddof=1) / len(gained) ** 0.5
    more = "more" if gained.mean() >= 0 else "less"
    text = f"{name} earns {abs(gained.mean()):.2f} ± {half:.2f} {more} than the best rule"
    if known.bound is not None and gained.mean() > 0:
        span = known.bound - known.rule.mean()
        text += f", {100 * gained.mean() / span:.1f} ± {100 * half / span:.1f}% of the way to the bound"
    share = known.percents(ours.value)["percent_of_told"]
    return f"{text}, and {share:.1f}% of what is earned when told the latent state."
