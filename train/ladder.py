"""The ladder of values of `book` as a table, with a trained policy among its rungs."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from mmenv.config import EnvConfig
from policies.book.ladder import BEST_RULE, BOUND, TOLD_NAME, Row, ladder
from train.simulate import Outcome
from train.tables import Sheet

PATHS = 1024
"""Of the ladder that follows a table of policies; the first ones of the table's episodes."""


def ladder_sheets(title: str, rows: list[Row]) -> list[Sheet]:
    """The rungs of `policies.book.ladder.ladder`: what they earn, and what they are."""
    best = next(row for row in rows if row.name == BEST_RULE)
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
    title = f"{title}: {len(rows[0].value):,} episodes, the same paths for all; mean ± 95%"
    return [Sheet(title, values, legend), Sheet("", notes, left=frozenset({"what it is"}))]


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
    with tqdm(bar_format="{desc}", leave=False) as bar:
        rows = ladder(config, count, note=bar.set_description_str)
    money = judged.controlled + judged.terms["inventory_penalty"]
    ours = Row(
        judged.name, "judged here", judged.controlled[:count], money[:count], judged.terms["fills"][:count]
    )
    place = next(k for k, row in enumerate(rows) if row.name == TOLD_NAME)
    return [*rows[:place], ours, *rows[place:]]


def summary(rows: list[Row], name: str) -> str:
    """In a sentence: how far the policy `name` comes from the best rule to the bound, and to the told one."""
    by_name = {row.name: row for row in rows}
    ours, rule, told = by_name[name], by_name[BEST_RULE], by_name[TOLD_NAME]
    gained = ours.value - rule.value
    half = 1.96 * gained.std(ddof=1) / len(gained) ** 0.5
    text = f"{name} earns {gained.mean():.2f} ± {half:.2f} more than the best rule"
    if BOUND in by_name:
        span = by_name[BOUND].money.mean() - rule.value.mean()
        text += f", {100 * gained.mean() / span:.1f} ± {100 * half / span:.1f}% of the way to the bound"
    share = 100 * ours.value.mean() / told.value.mean()
    return f"{text}, and {share:.1f}% of what is earned when told the latent state."
