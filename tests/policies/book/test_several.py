"""Several lots and orders a side: as in the environment, below the bound, and worth something."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from policies.book import bound, ladder, orders, penalty, play, programme, rules
from policies.book.paths import record
from policies.book.policy import SizedPolicy
from policies.book.several import Several
from policies.book.sizing import Sized
from policies.make import make_policy
from train.ladder import ladder_sheets
from train.simulate import simulate

N, HORIZON, SEED = 96, 150, 7_000


def made(quote: dict[str, object], lots: int, preset: str = "large-tick", **more: object) -> EnvConfig:
    config = make_config(
        {"name": "book", "preset": preset},
        horizon=HORIZON,
        quote=quote,
        risk={"order_lots": lots, "position_limit": 6},
        **more,
    )
    return dataclasses.replace(config, features=tuple(dict.fromkeys((*config.features, "queues"))))


SIZE = made({"name": "size"}, 3)
WIDE = {"max_distance": 6.0, "max_half_spread": 7.0, "max_skew": 3.5}
LADDER = made({"name": "ladder", **WIDE}, 2)
DEEP = made({"name": "ladder", "levels": 3}, 3)
SIZES = [
    Several(3, 1, 0.0, 0.0, np.inf, 0, 0, 0),
    Several(3, 1, 1.0, 2.0, np.inf, 0, 0, 1),
    Several(3, 1, -1.0, 3.0, 0.5, 0, 0, 0),
]
PAIRS = [
    Several(2, 2, 20.0, 0.0, np.inf, 0, 0, 0),
    Several(2, 2, 20.0, 0.0, np.inf, 1, 0, 0),
    Several(2, 2, 2.0, 0.0, np.inf, 1, 1, 1),
    Several(2, 2, -20.0, 0.0, np.inf, 1, 2, 0),
]
TRIPLES = [Several(3, 3, 4.0, 0.0, np.inf, 1, 0, 1), Several(3, 3, -20.0, 0.0, np.inf, 1, 2, 0)]


def anywhere(table: np.ndarray) -> np.ndarray:
    """A table that does the same in any market."""
    return np.repeat(table[:1], programme.SEEN, axis=0)


def at_random(seed: int) -> np.ndarray:
    """A table by place and level that mostly stays where it is."""
    rng = np.random.default_rng(seed)
    table = rng.choice(6, (1, orders.PLACES, 2 * orders.LEVELS + 1), p=[0.1, 0.5, 0.2, 0.1, 0.05, 0.05])
    return table.astype(np.uint8)


TABLES = {
    "touch": rules.constant(0.0),
    "inside": rules.constant(-1.0),
    "fixed": rules.fixed(3.0),
    "glft": rules.constant(-2.0, 1.0),
    "random": at_random(0),
    "other random": at_random(1),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("config", "several"),
    [
        *((SIZE, each) for each in SIZES),
        *((LADDER, each) for each in PAIRS),
        *((DEEP, each) for each in TRIPLES),
    ],
)
def test_orders_do_what_they_do_in_the_environment(config: EnvConfig, several: Several, name: str) -> None:
    paths, table = record(config, range(SEED, SEED + N)), anywhere(TABLES[name])
    filtered = programme.fit_filter(paths)
    solved = programme.Programme(table, 1.0, np.zeros(table.shape[:2], np.float32))
    policy = SizedPolicy("sized", config, solved, filtered, Sized(several, 0.7))
    outcome = simulate(policy, config, N, seed=SEED)
    result = play.play(paths, filtered.indices(paths), table, 0.7, several=several)
    assert result.fills.max() > several.lots
    same = result.fills == outcome.terms["fills"]
    same &= np.isclose(result.money - result.penalty, outcome.returns, atol=1e-9)
    assert same.all()


@pytest.mark.parametrize(("config", "some"), [(SIZE, SIZES), (LADDER, PAIRS), (DEEP, TRIPLES)])
def test_no_policy_passes_the_bound_on_any_path(config: EnvConfig, some: list[Several]) -> None:
    few, rng = record(config, range(SEED, SEED + 24)), np.random.default_rng(0)
    fitted = rng.normal(0, 0.1, (penalty.SEEN, penalty.PLACED))
    lots, count = some[0].lots, some[0].orders
    limit = bound.bound(few, fitted, lots=lots, orders=count, redraws=32)
    alone = bound.bound(few, fitted, redraws=32).value
    assert (limit.value >= lots * alone - 1e-6).all()  # with none of ours ahead
    imbalance = rules.imbalance_index(rules.look(few).imbalance)
    for several in some:
        for each in (*map(at_random, range(6)), *TABLES.values(), rules.by_imbalance(0.9, 0.9, 0.03)):
            table = np.repeat(each, rules.BINS // len(each), axis=0)
            result = play.play(few, imbalance, table, 1.0, limit.charges, several=several)
            assert (result.bounded <= limit.value + 1e-6).all()
            less = result.bounded - (result.money - result.martingale)  # the penalties have mean zero
            assert abs(less.mean()) < 4 * less.std() / len(less) ** 0.5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is found for one lot is found once."""
    return tmp_path_factory.mktemp("optima")


@pytest.mark.parametrize(("action", "lots"), [("size", 3), ("ladder", 2)])
def test_what_several_lots_are_worth(
    action: str, lots: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in {"TRAINING_PATHS": 192, "TAKING_PATHS": 128, "FITTED": 16, "CHOOSING": 8}.items():
        monkeypatch.setattr(ladder, name, count)
    config = make_config("book", horizon=100, quote={"name": action}, risk={"order_lots": lots})
    rows = {row.name: row for row in ladder.ladder(config, 128, bound_paths=32, cache=cache)}
    plain = ladder.ladder(make_config("book", horizon=100), 128, bound_paths=32, cache=cache)
    assert (rows["book-programme"].value == next(r for r in plain if r.name == "book-programme").value).all()
    name = f"{action}-programme"
    for less, more in (("book-programme", "all-lots"), ("book-programme", name), (name, "told")):
        gain = rows[more].value - rows[less].value
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert rows["told"].money.mean() < rows["bound"].money.mean() < 1.5 * lots * plain[-1].money.mean()
    assert f"{name} earns" in ladder_sheets("x", list(rows.values()))[0].legend[-1]
    outcome = simulate(make_policy(name, config, cache=cache), config, 128, seed=ladder.SEED)
    # The first observation of an episode shows no queues.
    assert outcome.terms["fills"].mean() == pytest.approx(rows[name].fills.mean(), rel=0.05)
    with pytest.raises(ConfigError, match=f"'{action}' for '{name}'"):
        make_policy(name, make_config("book"))


def test_other_actions_have_one_lot() -> None:
    with pytest.raises(ConfigError, match="order_lots = 2 is not possible: for the ladder of values it must"):
        record(make_config("book", risk={"order_lots": 2}), range(2))
