"""Rules and the programme of `book` as policies: they act on observations alone, so rules play tapes too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.actions.ladder import Ladder
from mmenv.actions.size import Size
from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig
from mmenv.observation import observation_names
from policies.base import POLICIES, Policy, Reading
from policies.book.ladder import (
    BEST_RULE,
    CACHE,
    LADDER_PROGRAMME,
    PROGRAMME,
    SIZE_PROGRAMME,
    TAKER_PROGRAMME,
    find,
)
from policies.book.orders import (
    AT,
    BEHIND,
    EDGES,
    FAR_BEHIND,
    HOLD,
    INSIDE,
    LEAVE,
    ONE_BEHIND,
    terms_of,
)
from policies.book.paths import ROW
from policies.book.play import Rule
from policies.book.programme import Filter
from policies.book.programme import Programme as Solved
from policies.book.rules import Look, by_imbalance, constant, imbalance_index
from policies.book.several import AHEAD, LEFT, PRICE, ROUNDING, ask_all
from policies.book.sizing import Sized
from policies.book.taking import market_orders

SIDES = ("ask", "bid")


class TablePolicy:
    """Acts by a table of `policies.book.orders`; a subclass says which market each side sees."""

    needs: tuple[str, ...] = ("spread", "book_imbalance", "ask_order_ahead")
    """Entries of the observation without which it cannot act."""

    def __init__(self, name: str, config: EnvConfig, table: np.ndarray, scale: float) -> None:
        self.name, self.config, self._table, self._scale = name, config, table, scale
        self._unit, self._lot_scale = config.market.price_scale, config.market.lot_scale
        self._reading = Reading(config)
        names = observation_names(config)
        for need in self.needs:
            if need not in names:
                raise ConfigError(
                    f"EnvConfig.features = {config.features!r} is not possible: {name!r} reads {need!r}; "
                    "add the feature group that has it."
                )
        self._column = {each: column for column, each in enumerate(names)}

    def reset(self, n: int) -> Any:
        return None

    def see(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """The index of the market as each side sees it, (n, 2), and the memory after."""
        raise NotImplementedError

    def entry(self, observation: np.ndarray, name: str) -> np.ndarray:
        """An entry of observations, float64 (n,)."""
        return observation[:, self._column[name]].astype(float)

    def spread(self, observation: np.ndarray) -> np.ndarray:
        """Ticks, int64 (n,)."""
        return np.rint(self.entry(observation, "spread") * self._unit / 2).astype(np.int64)

    def lots(self, observation: np.ndarray, side: str) -> np.ndarray:
        """Lots of the queue at the touch, for the index of places; 1 where it is not seen."""
        name = f"{side}_queue"
        if name not in self._column:
            return np.ones(len(observation))
        # The entry is half of log(1 + lots / typical lots of a step).
        lots = np.rint(np.expm1(2 * self.entry(observation, name)) * self._lot_scale)
        return np.maximum(lots, 1.0)

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        distances, state = self.quotes(observation, state)
        return self.config.quote.to_action(*distances), state

    def quotes(self, observation: np.ndarray, state: Any) -> tuple[list[np.ndarray], Any]:
        """The distances of ask and bid as the action counts them, infinite where a side is left, (n,) each;
        and the memory after."""
        index, state = self.see(observation, state)
        position, spread = self._reading.position(observation), self.spread(observation)
        distances = []
        for s, side in enumerate(SIDES):
            behind = np.rint(self.entry(observation, f"{side}_order_distance")).astype(np.int64)
            has = self.entry(observation, f"{side}_order_lots") > 0
            ahead = self.entry(observation, f"{side}_order_ahead") * self.lots(observation, side)
            place = np.where(behind == 1, ONE_BEHIND, FAR_BEHIND)
            place = np.where(behind > 0, place, 1 + np.searchsorted(EDGES, np.rint(ahead)))
            most = (self._table.shape[2] - 1) // 2
            level = (
                np.clip(np.rint(self._scale * (1 - 2 * s) * position), -most, most).astype(np.int64) + most
            )
            choice = self._table[index[:, s], np.where(has, place, 0), level].astype(np.int64)
            ticks = np.select(
                [(choice == HOLD) & has, choice == INSIDE, choice >= AT, choice > BEHIND],
                [
                    behind,
                    np.where(spread > 1, -1, 0),
                    np.maximum(-((spread - (choice - AT)) // 2), 1 - spread),
                    choice - BEHIND,
                ],
                0,
            )
            from_mid = np.where(choice >= AT, choice - AT, spread + 2 * ticks) / self._unit
            distance = ticks if self.config.quote.from_touch else from_mid
            distances.append(np.where(choice == LEAVE, np.inf, distance))
        return distances, state


class ImbalanceRule(TablePolicy):
    """At the touch; leaves a side against which the imbalance stands."""

    def see(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        return imbalance_index(self.entry(observation, "book_imbalance")), state


class FilterPolicy(TablePolicy):
    """The programme: its memory is what the filter of the efficient price remembers."""

    needs = (*TablePolicy.needs, "ask_queue", "volume", "flow_imbalance", "return")

    def __init__(self, name: str, config: EnvConfig, solved: Solved, filtered: Filter) -> None:
        super().__init__(name, config, solved.table, solved.scale)
        self._filter = filtered

    def reset(self, n: int) -> Any:
        return self._filter.start(n), np.zeros(n), np.zeros(n)

    def see(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        memory, mid, _ = state
        spread, first = self.spread(observation), self._reading.step(observation) == 0
        mid = np.where(first, spread, mid + np.rint(self._reading.move(observation) * self._unit))
        volume = self.entry(observation, "volume") * self.config.market.lot_scale
        flow = volume * self.entry(observation, "flow_imbalance")
        ask, bid = (np.rint(self.lots(observation, side)) for side in SIDES)
        # Prices count from the first bid, as `policies.book.paths` has them.
        seen = Look((mid + spread) / 2, (mid - spread) / 2, ask, bid, flow)
        memory, features = self._filter.follow(self._started(memory, observation), seen)
        features = features.astype(np.float32)
        state = memory, mid, self._filter.estimate(features)
        return self._filter.index(features, seen, memory[3]), state

    def book(self, observation: np.ndarray, mid: np.ndarray) -> np.ndarray:
        """Touches and queues as seen, ROW (n,); `mid` is that of the memory."""
        rows, spread = np.zeros(len(observation), ROW), self.spread(observation)
        rows["ask"], rows["bid"] = (mid + spread) / 2, (mid - spread) / 2
        for side in SIDES:
            rows[f"{side}_queue"] = np.rint(self.lots(observation, side))
        return rows

    def _started(self, memory: tuple[Any, ...], observation: np.ndarray) -> tuple[Any, ...]:
        """The memory, empty again where an episode begins."""
        fresh = self._reading.step(observation) == 0
        if memory[0] is None or fresh.all():
            return self._filter.start(len(observation))
        if not fresh.any():
            return memory
        return memory[0], *(
            np.where(fresh.reshape(-1, *[1] * (part.ndim - 1)), 0.0, part) for part in memory[1:]
        )


class TakerPolicy(FilterPolicy):
    """The programme that also sends market orders, by what its filter says of the efficient price."""

    def __init__(self, name: str, config: EnvConfig, solved: Solved, filtered: Filter, rule: Rule) -> None:
        super().__init__(name, config, solved, filtered)
        self._rule, self._terms = rule, terms_of(config)

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        distances, state = self.quotes(observation, state)
        rows, estimate = self.book(observation, state[1]), state[2]
        position = self._reading.position(observation)
        lots = market_orders(rows, estimate, position, self._rule, self._terms)
        return self.config.quote.to_action(*distances, lots=lots), state


class SizedPolicy(FilterPolicy):
    """The programme with several lots a side, in one order or in several."""

    def __init__(self, name: str, config: EnvConfig, solved: Solved, filtered: Filter, sized: Sized) -> None:
        super().__init__(name, config, dataclasses.replace(solved, scale=sized.scale), filtered)
        self._several, self._terms = sized.several, terms_of(config)

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        index, state = self.see(observation, state)
        rows, position = self.book(observation, state[1]), self._reading.position(observation)
        orders = self.orders(observation, rows)
        lots, apart, want = ask_all(
            rows, index, self._table, self._scale, position, orders, self._several, self._terms
        )
        from_mid = (2 * want - (rows["ask"] + rows["bid"])[:, None]) * np.array([1, -1]) / self._unit
        distances = np.where(lots > 0, from_mid, np.inf).T
        if self._several.orders > 1:
            steps = np.where(apart > 0, 2 * apart - ROUNDING, 0) / self._unit
            return self.config.quote.to_action(*distances, ask_step=steps[:, 0], bid_step=steps[:, 1]), state
        shares = lots / self.config.risk.order_lots
        return self.config.quote.to_action(*distances, ask_share=shares[:, 0], bid_share=shares[:, 1]), state

    def orders(self, observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Ours as seen, int64 (n, 2, orders of a side, 4), as `policies.book.several` has them."""
        orders = np.zeros((len(rows), 2, self._several.orders, 4), np.int64)
        for s, side in enumerate(SIDES):
            for k, order in enumerate((side, *(f"{side}_{j + 1}" for j in range(1, self._several.orders)))):
                behind, left, ahead = (
                    self.entry(observation, f"{order}_order_{what}") for what in ("distance", "lots", "ahead")
                )
                orders[:, s, k, PRICE] = rows[side] + (1 - 2 * s) * np.rint(behind).astype(np.int64)
                orders[:, s, k, LEFT] = np.rint(left * self.config.risk.order_lots)
                orders[:, s, k, AHEAD] = np.rint(ahead * self.lots(observation, side))
        return orders


def _rule(
    config: EnvConfig,
    leave: float | None = None,
    rejoin: float | None = None,
    skew: float = 0.0,
    cache: Path | str | None = CACHE,
) -> Policy:
    """At the touch of `book`, leaving a side against which the imbalance stands; found by search."""
    if leave is None:
        leave, gap, skew = find(config, Path(cache) if cache else None).rules[BEST_RULE]
        rejoin = leave - gap
    table = by_imbalance(leave, leave if rejoin is None else rejoin, skew)
    return ImbalanceRule(BEST_RULE, config, table, 1.0)


def _programme(config: EnvConfig, cache: Path | str | None = CACHE) -> Policy:
    """The dynamic programme of `book` on what is seen, group `queues` included; see `docs/bounds.md`."""
    found = find(config, Path(cache) if cache else None)
    return FilterPolicy(PROGRAMME, config, found.programme, found.filter)


def _taker_programme(config: EnvConfig, cache: Path | str | None = CACHE) -> Policy:
    """The programme of `book` with market orders by what it sees; for `taker` and `touch-taker`."""
    takes = config.quote.taking is not None
    require(takes, "EnvConfig", "quote", config.quote.name, f"'taker' for {TAKER_PROGRAMME!r}")
    found = find(config, Path(cache) if cache else None)
    assert found.taking is not None, "found for an action with market orders"
    return TakerPolicy(TAKER_PROGRAMME, config, found.programme, found.filter, found.taking)


def _size_programme(config: EnvConfig, cache: Path | str | None = CACHE) -> Policy:
    """The programme of `book` with as many lots as earn most by what it sees; for `size`."""
    return _sized(SIZE_PROGRAMME, Size.name, config, cache)


def _ladder_programme(config: EnvConfig, cache: Path | str | None = CACHE) -> Policy:
    """The programme of `book` with further orders behind its own, of one lot each; for `ladder`."""
    return _sized(LADDER_PROGRAMME, Ladder.name, config, cache)


def _sized(name: str, action: str, config: EnvConfig, cache: Path | str | None) -> Policy:
    require(config.quote.name == action, "EnvConfig", "quote", config.quote.name, f"{action!r} for {name!r}")
    lots = config.risk.order_lots
    require(lots > 1, "RiskConfig", "order_lots", lots, f"more than 1 for {name!r}")
    found = find(config, Path(cache) if cache else None)
    assert found.sized is not None, "found for an action with several lots"
    return SizedPolicy(name, config, found.programme, found.filter, found.sized)


def _touch(config: EnvConfig) -> Policy:
    """At the touch with both sides, always."""
    return ImbalanceRule("touch", config, constant(0.0), 1.0)


def _behind(config: EnvConfig, distance: float = 1.0, skew: float = 0.0) -> Policy:
    """So many ticks behind the touch; a lot of position brings the side that sheds it `skew` nearer."""
    return ImbalanceRule("behind", config, constant(distance, skew), 1.0)


POLICIES.register("touch", _touch)
POLICIES.register("behind", _behind)
POLICIES.register(BEST_RULE, _rule)
POLICIES.register(PROGRAMME, _programme)
POLICIES.register(TAKER_PROGRAMME, _taker_programme)
POLICIES.register(SIZE_PROGRAMME, _size_programme)
POLICIES.register(LADDER_PROGRAMME, _ladder_programme)
