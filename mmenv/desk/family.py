"""Families of markets: each episode draws its parameters, so that a policy is trained on many markets.

    gym.make("NeuralMM-v0", market="brownian",
             randomise={"volatility": (0.5, 2.0), "maker_fee_bp": {"choice": [0.0, 0.5, 1.0]}})

A name is a parameter that the market can vary (`Market.varied`) or `maker_fee_bp`. Its distribution is
`{"uniform": [low, high]}` (or just `(low, high)`), `{"log-uniform": [low, high]}` or `{"choice": [...]}`.

The family is a table of `MEMBERS` parameter sets, spread evenly by a low-discrepancy sequence: each is a
market that was built and checked like any other. An episode draws a row from its environment's generator, so
the same seed gives the same bytes for any number of environments. `info["parameters"]` says what it drew, and
the feature group `parameters` shows it to a critic or a policy.

Curriculum: with `curriculum_episodes=E` the ranges widen in `LEVELS` equal steps, from around the market's
own values to their full width, over the first E episodes of each environment. Choices do not widen.

Held-out members: `reset(options={"parameters": {"volatility": 3.0}})` starts an episode of that member,
inside the ranges or not; what is not named has the market's own value. `member` gives its configuration
without a family, for what is known exactly of single markets.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numba import types

from mmenv.checks import ConfigError, check_keys
from mmenv.config import EnvConfig
from mmenv.engine.memory import array_at
from mmenv.engine.rng import RESET_STEP, philox
from mmenv.engine.stage import stage
from mmenv.engine.state import LANES, fee_rate
from mmenv.market.base import Market

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32
Array = np.ndarray

MEMBERS = 1024
LEVELS = 8
LEVEL_MEMBERS = 256
"""Members at each level of a curriculum."""

WORDS = np.dtype([("words", "i4", (4096, LANES))])
"""A market's parameters by lane, whatever they are, as words; as many as there are."""

TABLE = np.dtype(
    [
        ("table", "i8"),  # address; a row holds the market's words, fee, values and marks
        ("rows", "i4"),
        ("words", "i4"),
        ("parameters", "i4"),
        ("levels", "i4"),
        ("members", "i4"),  # of a level
        ("level_episodes", "i4"),
    ],
    align=True,
)


@stage(WORDS, TABLE)
def draw(s, w, p, x):
    """Give each lane whose `done` is set the parameters of a row: the one `chosen`, or one drawn."""
    words, count, members = p.words, p.parameters, p.members
    table = array_at(p.table, types.int32, (p.rows, words + 1 + 2 * count))
    for i in range(s.count):
        if s.done[i] == 0:
            continue
        word, _, _, _ = philox(RESET_STEP, s.episode[i], U(3), U(0), s.key0[i], s.key1[i])
        level = min(np.int64(s.episode[i]) // np.int64(p.level_episodes), np.int64(p.levels - 1))
        drawn = level * members + np.int64((np.uint64(word) * np.uint64(members)) >> np.uint64(32))
        row = np.int64(s.chosen[i] - 1) if s.chosen[i] > 0 else drawn
        s.chosen[i] = 0
        for k in range(words):
            w.words[k, i] = table[row, k]
        s.fee_rate[i] = table[row, words]
        for k in range(count):
            s.parameters[k, i] = np.int32(table[row, words + 1 + k]).view(np.float32)
            s.range_place[k, i] = np.int32(table[row, words + 1 + count + k]).view(np.float32)


def member(config: EnvConfig, parameters: Mapping[str, float]) -> EnvConfig:
    """`config` with these parameters and no family.

    Raises `ConfigError` where one is not of the family, or not possible.
    """
    check_keys("parameters", parameters, [d.name for d in config.randomise])
    given = dict(parameters)
    fee = given.pop("maker_fee_bp", config.maker_fee_bp)
    return dataclasses.replace(
        config,
        market=dataclasses.replace(config.market, **given),
        maker_fee_bp=fee,
        randomise=(),
        curriculum_episodes=0,
        features=tuple(name for name in config.features if name != "parameters"),
    )


class Family:
    """The table of a configuration's members, and the record that the stage `draw` reads it by."""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        levels, members = grid(config)
        table = _members(config)
        # One row more, for a member that is chosen at reset.
        self.table = np.concatenate([table, table[:1]])
        self.params = np.zeros(1, TABLE)
        self.params["table"] = self.table.__array_interface__["data"][0]
        self.params["rows"], width = self.table.shape
        self.params["parameters"] = len(config.randomise)
        self.params["words"] = width - 1 - 2 * len(config.randomise)
        self.params["levels"], self.params["members"] = levels, members
        self.params["level_episodes"] = max(-(-config.curriculum_episodes // LEVELS), 1)

    def choose(self, parameters: Mapping[str, float]) -> int:
        """Put a member into the last row; what to set `chosen` to for episodes of it."""
        self.table[-1] = _row(self.config, parameters)
        return len(self.table)

    def weigh(self, members: Sequence[Mapping[str, float]], chances: Array) -> None:
        """From the next episodes on, draw these members with `chances`, (k,), to within a row of the table.

        Raises `ConfigError` where a member is not of the family, or not possible.
        """
        ends = np.cumsum(chances) / np.sum(chances)
        rows = np.stack([_row(self.config, values) for values in members])
        count = len(self.table) - 1
        self.table[:-1] = rows[np.searchsorted(ends, (np.arange(count) + 0.5) / count)]


def grid(config: EnvConfig) -> tuple[int, int]:
    """Levels of the table, and members of each."""
    return (LEVELS, LEVEL_MEMBERS) if config.curriculum_episodes else (1, MEMBERS)


def varies_market(config: EnvConfig) -> bool:
    """Whether more than the fee of `config` differs between episodes."""
    return any(d.name != "maker_fee_bp" for d in config.randomise)


def _row(config: EnvConfig, parameters: Mapping[str, float]) -> Array:
    """The int32 words of a member: compiled parameters, fee, values, marks."""
    made = member(config, parameters)
    if (made.market.price_scale, made.market.lot_scale) != (
        config.market.price_scale,
        config.market.lot_scale,
    ):
        raise ConfigError(
            f"randomise: {dict(parameters)} changes the market's units, which an episode cannot."
        )
    words = made.market.compiled().view(np.int32) if varies_market(config) else np.zeros(0, np.int32)
    own = base_values(config.market, config.maker_fee_bp)
    values = [parameters.get(d.name, own[d.name]) for d in config.randomise]
    marks = [d.mark(value) for d, value in zip(config.randomise, values, strict=True)]
    return np.concatenate(
        [words, np.array([fee_rate(made.maker_fee_bp)], np.int32), np.array(values + marks, F).view(np.int32)]
    )


def base_values(market: Market, maker_fee_bp: float) -> dict[str, float]:
    """What the market has for each parameter that can vary, where nothing is drawn."""
    return {**{name: getattr(market, name) for name in market.varied}, "maker_fee_bp": maker_fee_bp}


def even_points(count: int, dimensions: int) -> Array:
    """Points that fill the unit cube evenly, (count, dimensions): multiples, modulo one, of the powers of
    1 / g with g^(dimensions + 1) = g + 1, which generalises the golden ratio (Roberts 2018)."""
    g = 2.0
    for _ in range(60):
        g = (1 + g) ** (1 / (dimensions + 1))
    return (0.5 + np.outer(np.arange(1, count + 1), g ** -np.arange(1.0, dimensions + 1))) % 1.0


@functools.lru_cache(maxsize=16)
def _members(config: EnvConfig) -> Array:
    """The table, int32 (levels x members, words), read-only.

    Raises `ConfigError` where a corner of the ranges, or a member, is not possible.
    """
    family = config.randomise
    for corner in itertools.product(*((d.low, d.high) for d in family)):
        _checked(config, dict(zip((d.name for d in family), corner, strict=True)))
    rows = []
    own = base_values(config.market, config.maker_fee_bp)
    levels, members = grid(config)
    points = even_points(members, len(family))
    for level in range(levels):
        ranges = [d.shrunk(own[d.name], (level + 1) / levels) for d in family]
        for point in points:
            values = {d.name: _rounded(d.name, d.draw(float(u))) for d, u in zip(ranges, point, strict=True)}
            # Marks tell where a value lies in the full range, also while it has not been reached.
            rows.append(_checked(config, values))
    table = np.stack(rows)
    table.flags.writeable = False
    return table


def _rounded(name: str, value: float) -> float:
    """What the kernel can hold, so that what is shown is what is used."""
    return round(value, 2) if name == "maker_fee_bp" else float(F(value))


def _checked(config: EnvConfig, parameters: Mapping[str, float]) -> Array:
    try:
        return _row(config, parameters)
    except ConfigError as error:
        shown = ", ".join(f"{name} = {value:g}" for name, value in parameters.items())
        raise ConfigError(f"randomise contains a member that cannot be, {shown}: {error}") from None
