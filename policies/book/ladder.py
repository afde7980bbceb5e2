"""The ladder of values of a market `book`: from not trading to what no policy can pass, on the same paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.actions.taker import MarketOrders
from mmenv.config import EnvConfig
from mmenv.run.provenance import digest
from policies.book.bound import bound
from policies.book.found import Found, pack, unpack
from policies.book.improvement import CHOSEN, improve
from policies.book.orders import LEVELS, PLACES
from policies.book.paths import Paths, lots_of_side, record, require_book
from policies.book.penalty import PLACED
from policies.book.penalty import SEEN as MARKETS
from policies.book.play import NEVER, Rule, money, play, value
from policies.book.programme import SEEN, TOLD, Programme, fit_filter, gap, solve, told_indices
from policies.book.rules import FAMILIES, imbalance_index, look, search
from policies.book.several import ONE, Several
from policies.book.sizing import Sized, all_lots, chosen, in_words
from policies.book.sizing import search as search_sizes
from policies.book.taking import most_taken
from policies.book.taking import search as search_taking
from policies.book.tightening import tighten
from policies.cache import read, write

CACHE = Path("logs/optima")
"""What was found is kept here, beside the solutions of the solvable markets."""
VERSION = 6
"""Part of every cache key: raise it when results change."""
TRAINING_SEED = 2_000_000_000
TRAINING_PATHS = 1024
TAKING_PATHS = 256
"""Those on which the rules of market orders and of several lots are searched."""
ROUNDS = 4
IMPROVEMENTS = 6
"""Rounds of improvement of the programmes."""
FITTED, CHOOSING = 48, 24
"""Training paths on which the penalty of the bound is fitted, and others on which it is chosen."""
MOST_FITTED = 150_000
"""Decisions on which it is fitted at most: each takes 17 kB meanwhile."""
SEED = 1_000_000_000
"""First seed of the paths that are judged: those of `neuralmm evaluate`."""
PATHS, BOUND_PATHS = 1024, 128
CHUNK = 256
"""Paths that are held in memory at a time when judged."""

BEST_RULE, PROGRAMME, TOLD_NAME, BOUND = "imbalance-rule", "book-programme", "told", "bound"
TAKER_PROGRAMME = "taker-programme"
"""`PROGRAMME` with market orders, where the action has them; `told` and `bound` then have them too."""
ALL_LOTS = "all-lots"
"""`PROGRAMME` with all lots at one price, always, where the action has several; `told` and `bound` then have
them too."""
SIZE_PROGRAMME, LADDER_PROGRAMME = "size-programme", "ladder-programme"
"""`PROGRAMME` with as many lots, or orders as far apart, as earns most."""
FREE_PROGRAMMES = TAKER_PROGRAMME, ALL_LOTS, SIZE_PROGRAMME, LADDER_PROGRAMME
FIXED = "fixed-spread"
SLACK = "slack"
"""By how much the bound passes the told policy that pays its penalties, on each path."""

Note = Callable[[str], Any]


@dataclass(frozen=True)
class Row:
    """A rung: what a policy, or the bound, earns on each path. Arrays (paths,), price units x lots."""

    name: str
    note: str
    """Its parameters, or how it was computed."""
    value: np.ndarray
    """Reward: money less the penalties on the position. Parts with a mean of zero are taken off both."""
    money: np.ndarray
    fills: np.ndarray | None
    """None of the bound."""


def find(config: EnvConfig, cache: Path | None = CACHE, note: Note = lambda what: None) -> Found:
    """The best rules and programmes for `config`, from training paths or from the cache.

    Raises `ConfigError` for a market other than `book` and for what its simulator does not know.
    """
    require_book(config)
    path = cache and cache / f"book-found-{_key(config, TRAINING_PATHS, ROUNDS, IMPROVEMENTS)}.npz"
    kept = read(path)
    if kept is not None:
        return unpack(kept)
    if isinstance(config.quote, MarketOrders) or lots_of_side(config)[0] > 1:
        found = _with_freedom(config, find(_of_quotes_alone(config), cache, note), note)
        write(path, pack(found))
        return found
    note("recording training paths")
    paths = record(config, range(TRAINING_SEED, TRAINING_SEED + TRAINING_PATHS))
    rules = {}
    for name in FAMILIES:
        note(f"searching {name}")
        rules[name] = search(name, paths)
    note("fitting the filter")
    filtered = fit_filter(paths)
    note("solving the programme")
    seen, index = filtered.indices(paths), told_indices(paths, 1)
    programme = solve(paths, seen, SEEN, rounds=ROUNDS)
    note("improving the programme")
    choices = np.append(CHOSEN, np.unique(FAMILIES[FIXED].make(*rules[FIXED])))
    programme = improve(
        paths, seen, [programme, *_playable(rules, SEEN)], rounds=IMPROVEMENTS, choices=choices
    )
    note("solving the told programme")
    told = solve(paths, index, TOLD, rounds=2, smooth=True)
    note("improving the told programme")
    told = improve(paths, index, [told, *_playable(rules, TOLD)], rounds=IMPROVEMENTS, choices=choices)
    penalty = np.zeros((MARKETS, PLACED))
    if paths.market.exact_impact and paths.queues_are_short:
        note("fitting the penalty of the bound")
        count = max(min(FITTED, MOST_FITTED // config.horizon), 1)
        table = np.ascontiguousarray(told.table[:, :, LEVELS])
        fitted = tighten(_some(paths, count), index[:count], table)
        penalty = _tightest(_some(paths, CHOOSING, count), told, (fitted, penalty))
    found = Found(rules, filtered, programme, told, penalty)
    write(path, pack(found))
    return found


def _of_quotes_alone(config: EnvConfig) -> EnvConfig:
    """The same market with a quote of one lot a side and no market orders."""
    quote, risk = config.quote, dataclasses.replace(config.risk, taker_spacing=1, order_lots=1)
    if isinstance(quote, MarketOrders):
        return dataclasses.replace(config, quote=quote.alone(), risk=risk)
    box = {each.name: getattr(quote, each.name) for each in dataclasses.fields(SpreadSkew)}
    return dataclasses.replace(config, quote=SpreadSkew(**box | {"withdraw": True}), risk=risk)


def _with_freedom(config: EnvConfig, found: Found, note: Note) -> Found:
    """What was found for quotes of one lot, and the best rules by which either programme sends market orders
    too, or several lots."""
    paths = record(config, range(TRAINING_SEED, TRAINING_SEED + TAKING_PATHS))
    (seen, forecasts), told = found.filter.read(paths), told_indices(paths, 1)
    if isinstance(config.quote, MarketOrders):
        note("searching market orders")
        return dataclasses.replace(
            found,
            taking=search_taking(paths, seen, found.programme, forecasts),
            told_taking=search_taking(paths, told, found.told, gap(paths)),
        )
    note("searching lots")
    return dataclasses.replace(
        found,
        all_lots=search_sizes(paths, seen, found.programme, all_lots),
        sized=search_sizes(paths, seen, found.programme, chosen),
        told_sized=search_sizes(paths, told, found.told, chosen),
    )


def _playable(rules: dict[str, tuple[float, ...]], markets: int) -> list[Programme]:
    """The best rules that do not ask what the market is like, as programmes on any `markets`."""
    tables = [FAMILIES[name].make(*rules[name])[:1] for name in FAMILIES if name != BEST_RULE]
    nothing = np.zeros((markets, PLACES), np.float32)
    return [Programme(np.repeat(table, markets, axis=0), 1.0, nothing) for table in tables]


def _some(paths: Paths, count: int, first: int = 0) -> Paths:
    """So many of the paths."""
    part = slice(first, first + count)
    return Paths(paths.config, paths.seeds[part], paths.rows[part])


def _tightest(paths: Paths, told: Programme, candidates: Sequence[np.ndarray]) -> np.ndarray:
    """The coefficients of the penalty with which the bound passes the told policy by the least."""
    index = told_indices(paths, 2)
    return min(candidates, key=lambda each: _slack(paths, index, told, each).mean())


def _slack(
    paths: Paths, index: np.ndarray, told: Programme, penalty: np.ndarray, taking: Rule | None = None,
    sized: Sized | None = None,
) -> np.ndarray:  # fmt: skip
    """By how much the bound passes the told policy that pays its penalties, on each path."""
    lots, orders = lots_of_side(paths.config) if sized else (1, 1)
    limit = bound(paths, penalty, lots=lots, orders=orders)
    forecasts = NEVER if taking is None else (gap(paths), taking)
    several, scale = sized or Sized(ONE, told.scale)
    result = play(paths, index, told.table, scale, limit.charges, forecasts, several)
    most = limit.value + most_taken(paths, limit.charges[1])
    return np.asarray(most - result.bounded / paths.market.price_scale)


def ladder(
    config: EnvConfig,
    paths: int = PATHS,
    seed: int = SEED,
    *,
    bound_paths: int = BOUND_PATHS,
    cache: Path | None = CACHE,
    note: Note = lambda what: None,
) -> list[Row]:
    """The rungs for `config` from the lowest: no-trade, the rules, the programme, the same with market orders
    where the action has them, the told one, the bound.

    The bound stands on the first `bound_paths` of the paths, and is left out where the market has none.

    Parameters
    ----------
    paths, seed
        Episodes seeded seed, seed + 1, ... as environments would be.
    note
        Hears what is being done.

    Raises
    ------
    ConfigError
        As `find`.
    """
    bound_paths = _bounded_paths(config, paths, bound_paths)
    path = _ladder_file(config, paths, seed, bound_paths, cache)
    kept = read(path)
    if kept is None:
        found = find(config, cache, note)
        parts = []
        for first in range(0, paths, CHUNK):
            note(f"judging, {first} of {paths} paths")
            recorded = record(config, range(seed + first, seed + min(first + CHUNK, paths)))
            parts.append(_judge(recorded, found, max(min(bound_paths - first, CHUNK), 0), note))
        kept = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
        kept |= {f"note:{name}": np.array(text) for name, text in _notes(found).items()}
        write(path, kept)
    return _rows(kept, paths, bound_paths)


def known_ladder(
    config: EnvConfig, paths: int, seed: int, *, bound_paths: int = BOUND_PATHS, cache: Path | None = CACHE
) -> list[Row] | None:
    """What `ladder` gives, where it was computed before; None elsewhere."""
    bound_paths = _bounded_paths(config, paths, bound_paths)
    kept = read(_ladder_file(config, paths, seed, bound_paths, cache))
    return None if kept is None else _rows(kept, paths, bound_paths)


def _bounded_paths(config: EnvConfig, paths: int, bound_paths: int) -> int:
    """On how many of the paths there is a bound."""
    return min(bound_paths, paths) if require_book(config).exact_impact else 0


def _ladder_file(
    config: EnvConfig, paths: int, seed: int, bound_paths: int, cache: Path | None
) -> Path | None:
    """Where the ladder is kept."""
    key = _key(config, TRAINING_PATHS, ROUNDS, IMPROVEMENTS, paths, seed, bound_paths)
    return cache and cache / f"book-ladder-{key}.npz"


@dataclass(frozen=True)
class _Play:
    """A policy as `play` takes it."""

    index: np.ndarray
    table: np.ndarray
    scale: float
    taking: tuple[np.ndarray, Rule] = NEVER
    several: Several = ONE


def _judge(paths: Paths, found: Found, bounded: int, note: Note) -> dict[str, np.ndarray]:
    """Value, money and fills of each policy, (3, paths), and `SLACK` on the first `bounded` paths."""
    imbalance = imbalance_index(look(paths).imbalance)
    plays = {name: _Play(imbalance, FAMILIES[name].make(*given), 1.0) for name, given in found.rules.items()}
    (seen, forecasts), told, programme = found.filter.read(paths), told_indices(paths, 2), found.programme
    plays[PROGRAMME] = _Play(seen, programme.table, programme.scale)
    plays[TOLD_NAME] = _Play(told, found.told.table, found.told.scale)
    if found.taking and found.told_taking:
        plays[TAKER_PROGRAMME] = dataclasses.replace(plays[PROGRAMME], taking=(forecasts, found.taking))
        plays[TOLD_NAME] = dataclasses.replace(plays[TOLD_NAME], taking=(gap(paths), found.told_taking))
    if found.all_lots and found.sized and found.told_sized:
        for name, sized in ((ALL_LOTS, found.all_lots), (_sized_name(found.sized), found.sized)):
            plays[name] = dataclasses.replace(plays[PROGRAMME], **sized._asdict())
        plays[TOLD_NAME] = dataclasses.replace(plays[TOLD_NAME], **found.told_sized._asdict())
    done = {}
    for name, each in plays.items():
        result = play(paths, each.index, each.table, each.scale, taking=each.taking, several=each.several)
        done[name] = np.stack([value(paths, result), money(paths, result), result.fills + result.taken])
    done[SLACK] = np.zeros(0)
    if bounded:
        note(f"bounding {bounded} paths")
        part = _some(paths, bounded)
        done[SLACK] = _slack(
            part, told[:bounded], found.told, found.penalty, found.told_taking, found.told_sized
        )
    return done


def _bounded(money: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """The bound as an estimate on all paths: the told policy's money, and by how much the bound passes it.

    On the paths on which there is a bound the policy pays its penalties too, so that the difference varies
    little; they have mean zero, so its money without them has the same mean and is known on more paths. The
    elements are such that their mean and its standard error are those of the estimate.
    """
    values = money + slack.mean()
    values[: len(slack)] += len(money) / len(slack) * (slack - slack.mean())
    return values


def _notes(found: Found) -> dict[str, str]:
    """What is said of each policy beside its name."""
    names = {
        "touch": (),
        "constant": ("ticks behind the touch",),
        FIXED: ("half-ticks from the mid",),
        "glft": ("ticks behind the touch", "skew a lot"),
        BEST_RULE: ("leave above", "rejoin lower by", "skew a lot"),
    }
    notes = {
        rule: ", ".join(f"{what} {number:g}" for what, number in zip(names[rule], given, strict=False))
        for rule, given in found.rules.items()
    }
    notes[PROGRAMME] = f"filter, own queue, place; levels per lot: {found.programme.scale:g}"
    notes[TOLD_NAME] = "is told the efficient price; nobody can play it"
    if found.taking and found.told_taking:
        notes[TAKER_PROGRAMME] = f"{PROGRAMME}; {_in_words(found.taking)}"
        notes[TOLD_NAME] += f"; {_in_words(found.told_taking)}"
    if found.all_lots and found.sized and found.told_sized:
        notes[ALL_LOTS] = f"{PROGRAMME} at one price; levels per lot: {found.all_lots.scale:g}"
        notes[_sized_name(found.sized)] = f"{PROGRAMME}; {in_words(found.sized)}"
        notes[TOLD_NAME] += f"; {in_words(found.told_sized)}"
    return notes


def _in_words(rule: Rule) -> str:
    """When market orders are sent."""
    return f"a market order for {rule.margin:g} half-ticks beyond its cost, a lot weighs {rule.skew:g}"


def _sized_name(sized: Sized) -> str:
    return LADDER_PROGRAMME if sized.several.orders > 1 else SIZE_PROGRAMME


def _rows(kept: dict[str, np.ndarray], paths: int, bound_paths: int) -> list[Row]:
    nothing = np.zeros(paths)
    rows = [Row("no-trade", "", nothing, nothing, nothing)]
    names = [name for name in (*FAMILIES, PROGRAMME, *FREE_PROGRAMMES, TOLD_NAME) if name in kept]
    rows += [Row(name, str(kept[f"note:{name}"]), *kept[name]) for name in names]
    if bound_paths:
        limit = _bounded(kept[TOLD_NAME][1], kept[SLACK])
        rows.append(Row(BOUND, f"no policy earns more; {bound_paths} paths", limit, limit, None))
    return rows


def best_rule(rows: Sequence[Row]) -> Row:
    """The rung of the rule that earns most on these paths."""
    return max((row for row in rows if row.name in FAMILIES), key=lambda row: float(row.value.mean()))


# Cache ----------------------------------------------------------------------------------------------------


def _key(config: EnvConfig, *numbers: int) -> str:
    """A hash of what results depend on."""
    whole = config.to_dict()
    whole["quote"].pop("taker_threshold", None)  # how a market order is asked for is nothing to the ladder
    parts = ("market", "horizon", "maker_fee_bp", "quote", "risk", "reward")
    return digest([VERSION, *numbers, {name: whole[name] for name in parts}])
