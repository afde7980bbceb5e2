"""Write the tasks of `mmenv.tasks`: what each freezes, and the scale of its scores.

    python -m benchmarks.freeze_tasks brownian-v0 hidden-regime-v0 large-tick-v0 nasdaq-msft-v0

Run it once for a new task. A test holds the files against what is computed here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np

from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.market.book import Book
from mmenv.tasks import FOLDER, FREE, Scale, Task, path_hash
from policies.book.ladder import BEST_RULE, BOUND, BOUND_PATHS, FIXED, find, ladder
from policies.book.rules import FAMILIES
from policies.make import make_policy
from train.baselines import CACHE, scale
from train.simulate import EVALUATION_SEED, simulate

ABOUT: dict[str, tuple[Any, int, str]] = {
    "brownian-v0": ("brownian", 4096, "Orders at random around a random walk; the optimum is exact."),
    "hidden-regime-v0": (
        "hidden-regime",
        4096,
        "Informed flow behind a hidden state: memory pays, and exactly how much is known.",
    ),
    "large-tick-v0": (
        {"name": "book", "preset": "large-tick"},
        1024,
        "An order book whose spread is one tick: which queue to stand in, and when to leave it.",
    ),
    "nasdaq-msft-v0": (
        {"name": "book", "preset": "nasdaq-msft"},
        512,
        "A large-tick stock as it was recorded, a decision every 0.1 s: a tick behind the touch, one earns.",
    ),
}
"""Market, episodes of a score, and what it is."""
BOUND_EPISODES = {"nasdaq-msft-v0": 8}
"""Where the bound stands on fewer episodes than by default: it costs minutes each."""


def freeze(name: str) -> Task:
    """The task as it is computed here; its `reference` is written beside it."""
    market, episodes, about = ABOUT[name]
    config = make_config(market)
    frozen = {key: value for key, value in config.to_dict().items() if key not in FREE}
    book = isinstance(config.market, Book)
    measure, rule = _bracket(name, config, episodes) if book else (_exact(name, config, episodes), {})
    paths = path_hash(config, EVALUATION_SEED)
    return Task(name, about, frozen, episodes, EVALUATION_SEED, paths, measure, rule)


def _exact(name: str, config: EnvConfig, episodes: int) -> Scale:
    """From what needs no skill to the optimum, whose value is known exactly."""
    found = scale(config)
    assert found is not None
    best = simulate(make_policy(found.top, config, cache=CACHE), config, episodes, seed=EVALUATION_SEED)
    _keep(name, best.controlled)
    zero, one = round(found.zero, 6), round(found.one, 6)
    return Scale(found.label, found.bottom, zero, found.top, one, anchor=one)


def _bracket(name: str, config: EnvConfig, episodes: int) -> tuple[Scale, dict[str, float]]:
    """From the best rule known to the bound that no policy can pass; the parameters of that rule."""
    bounded = BOUND_EPISODES.get(name, BOUND_PATHS)
    found = ladder(config, episodes, EVALUATION_SEED, bound_paths=bounded, note=print)
    rows = {row.name: row for row in found}
    best = max((rows[family] for family in FAMILIES), key=lambda row: float(row.value.mean()))
    rule, limit = best.value, rows[BOUND].money
    _keep(name, rule)
    half = 1.96 * float(limit.std(ddof=1)) / len(limit) ** 0.5
    label = "% of the way from the best rule to the bound"
    zero, one = round(float(rule.mean()), 4), round(float(limit.mean()), 4)
    given = find(config, note=print).rules[best.name]
    policy, rule_parameters = _rule(best.name, given, config.market.price_scale)
    return Scale(label, policy, zero, BOUND, one, round(half, 4), zero), rule_parameters


def _rule(family: str, found: tuple[float, ...], price_scale: int) -> tuple[str, dict[str, float]]:
    """The policy that plays the best member of a family of `policies.book.rules`, and its parameters; a price
    unit has `price_scale` half-ticks."""
    if family == FIXED:
        return family, {"half_spread": found[0] / price_scale}
    if family == BEST_RULE:
        leave, gap, skew = found
        return family, {"leave": leave, "rejoin": leave - gap, "skew": skew}
    distance, skew = (*found, 0.0)[:2]
    return "behind", {"distance": distance, "skew": skew}


def _keep(name: str, reference: np.ndarray) -> None:
    with replacing(FOLDER / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, reference=reference.astype(np.float32))


def main(names: list[str]) -> None:
    """Write the tasks of these names."""
    for name in names:
        content = dataclasses.asdict(freeze(name))
        with replacing(FOLDER / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(name, content["paths"], content["scale"])


if __name__ == "__main__":
    main(sys.argv[1:])
