"""Pictures of what a policy has learned, gathered while it is simulated: for TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmenv.config import EnvConfig
from mmenv.observation import by_asset, observation_names
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.simulate import quoted_sides

SIDES = {"ask": "tab:red", "bid": "tab:blue"}
"""The two sides, and their colours."""


class Quotes:
    """Mean distance of ask and bid from the mid at each inventory, and how often they are left."""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.limit = config.risk.position_limit
        self.count = np.zeros(2 * self.limit + 1)
        self.quoted = np.zeros((2, 2 * self.limit + 1))
        self.sums = np.zeros((2, 2 * self.limit + 1))

    def __call__(self, observations: np.ndarray, actions: np.ndarray, position: np.ndarray) -> None:
        at = position.astype(int) + self.limit
        np.add.at(self.count, at, 1)
        sides = zip(
            self.config.quote.to_distances(by_asset(self.config, actions)),
            quoted_sides(self.config, actions),
            strict=True,
        )
        for row, (distance, stands) in enumerate(sides):
            np.add.at(self.quoted[row], at[stands], 1)
            np.add.at(self.sums[row], at[stands], distance[stands])

    @property
    def mean_distance(self) -> float:
        """Mean distance of the quotes that were made."""
        return float(self.sums.sum() / max(self.quoted.sum(), 1))

    @property
    def left(self) -> float:
        """Share of sides that were not quoted."""
        return float(1 - self.quoted.sum() / (2 * self.count.sum()))

    def curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inventories that were visited, (k,), mean distances there of ask and bid where they are quoted, and
        the shares of decisions in which they are left, (2, k) each."""
        seen = self.count > 0
        with np.errstate(invalid="ignore"):
            distances = self.sums[:, seen] / self.quoted[:, seen]
        left = 1 - self.quoted[:, seen] / self.count[seen]
        return np.arange(-self.limit, self.limit + 1)[seen], distances, left

    def figure(self, best: Quotes | None, name: str) -> Figure:
        """Learned quotes by inventory beside those of the policy `name`, and how often a side is left.

        A policy whose distances count from elsewhere than the learned one's is not drawn.
        """
        if best is not None and best.config.quote.distances_are != self.config.quote.distances_are:
            best = None
        left_out = self.config.quote.leaves
        figure = Figure(figsize=(7, 6.5 if left_out else 4.5), layout="constrained")
        axes = figure.subplots(2 if left_out else 1, 1, sharex=True, squeeze=False)[:, 0]
        inventories, distances, left = self.curves()
        for row, (side, colour) in enumerate(SIDES.items()):
            axes[0].plot(inventories, distances[row], "o-", color=colour, label=f"{side}, learned")
            if best is not None:
                known, quotes, _ = best.curves()
                axes[0].plot(known, quotes[row], "--", color=colour, label=f"{side}, {name}")
            if left_out:
                axes[1].plot(inventories, left[row], "o-", color=colour, label=f"{side} left")
        against = "" if best is None else f", and those of {name}"
        axes[0].set(
            ylabel=f"mean {self.config.quote.distances_are}", title=f"Learned quotes by inventory{against}"
        )
        axes[-1].set_xlabel("inventory, lots")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        if left_out:
            axes[1].set(ylabel="share of decisions", ylim=(-0.02, 1.02), title="How often a side is left")
        for one in axes:
            one.legend()
        return figure


class Standing:
    """Where a policy stands: how often it is at the touch, and what it holds, against the book's imbalance.

    Reads the groups `trade_book`, `orders` and `inventory` of the observation; `known` says whether they are
    there.
    """

    BINS = 21

    def __init__(self, config: EnvConfig) -> None:
        names = observation_names(config)
        wanted = (
            "book_imbalance",
            "inventory",
            *(f"{s}_order_{f}" for s in SIDES for f in ("lots", "distance")),
        )
        self.known = all(name in names for name in wanted)
        self._at = {name: names.index(name) for name in wanted if name in names}
        self.count = np.zeros(self.BINS)
        self.sums = np.zeros((3, self.BINS))
        """At the touch with the ask, with the bid, inventory over its limit."""

    def __call__(self, observations: np.ndarray, actions: np.ndarray, position: np.ndarray) -> None:
        if not self.known:
            return
        column = {name: observations[:, at] for name, at in self._at.items()}
        bins = np.round((column["book_imbalance"] + 1) / 2 * (self.BINS - 1)).astype(int)
        np.add.at(self.count, bins, 1)
        for row, side in enumerate(SIDES):
            at_touch = (column[f"{side}_order_lots"] > 0) & (column[f"{side}_order_distance"] <= 0)
            np.add.at(self.sums[row], bins, at_touch)
        np.add.at(self.sums[2], bins, column["inventory"])

    def figure(self) -> Figure:
        """The picture: shares at the touch, and mean inventory, against the imbalance."""
        seen = self.count > 0
        imbalance = np.linspace(-1, 1, self.BINS)[seen]
        shares = self.sums[:, seen] / self.count[seen]
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row, (side, colour) in enumerate(SIDES.items()):
            left.plot(imbalance, shares[row], "o-", color=colour, label=f"{side} at the touch")
        left.set(ylabel="share of decisions", ylim=(-0.02, 1.02), title="Standing at the touch")
        left.legend()
        right.plot(imbalance, shares[2], "o-", color="tab:green")
        right.set(ylabel="mean inventory / limit", title="Inventory held")
        right.axhline(0, color="grey", linewidth=0.5)
        for axes in (left, right):
            axes.set_xlabel("book imbalance (1: bids alone)")
            axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        return figure


STATES = 512
"""States in which the critic is asked, at most."""


def place_value(model: FastRecurrentPPO, config: EnvConfig) -> Figure | None:
    """What the critic thinks a place in the queue is worth: its estimate at a place less that at the back.

    In states of the last rollout in which an order of ours stands at the touch, that order alone is moved
    through the queue; all else stays as it was, the memory included. None where the observation shows no
    places, or no order stands there.
    """
    names = observation_names(config)
    if "ask_order_ahead" not in names or model.iteration == 0:
        return None
    buffer = model.rollout_buffer
    first = np.arange(0, buffer.n_steps, buffer.chunk_length)  # the steps before which memories are kept
    observations = buffer.observations[torch.as_tensor(first)].flatten(0, 1)
    starts = torch.as_tensor(buffer.episode_starts[first]).flatten().float()
    places = np.linspace(0, 1, 11)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for side, colour in SIDES.items():
        lots, distance = (
            observations[:, names.index(f"{side}_order_{what}")] for what in ("lots", "distance")
        )
        chosen = torch.nonzero((lots > 0) & (distance == 0)).flatten()[:STATES]
        if not len(chosen):
            continue
        memory = buffer.chunk_states[chosen, 2:].permute(1, 2, 0, 3).contiguous()
        values = []
        for place in places:
            moved = observations[chosen].clone()
            moved[:, names.index(f"{side}_order_ahead")] = float(place)
            values.append(_critic(model, moved, (memory[0], memory[1]), starts[chosen]))
        gains = (np.stack(values) - values[-1]) / _reward_scale(model)
        half = 1.96 * gains.std(axis=1) / max(len(chosen) - 1, 1) ** 0.5
        axes.plot(places, gains.mean(axis=1), "o-", color=colour, label=f"{side}, {len(chosen)} states")
        axes.fill_between(
            places, gains.mean(axis=1) - half, gains.mean(axis=1) + half, color=colour, alpha=0.15, lw=0
        )
    if not axes.lines:
        return None
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(
        xlabel="lots ahead of our order / queue at the touch (0: front, 1: back)",
        ylabel="critic's estimate less that at the back,\nprice units x lots",
        title="Value of a place in the queue, all else equal (band: 95%)",
    )
    axes.legend()
    return figure


def _critic(model: FastRecurrentPPO, observations: Any, memory: Any, starts: Any) -> np.ndarray:
    policy = model.policy
    with torch.inference_mode():
        given = (x.to(policy.device) for x in (observations, *memory, starts))
        observations, hidden, cell, starts = given
        values: np.ndarray = (
            policy.predict_values(observations, (hidden, cell), starts).flatten().cpu().numpy()
        )
    return values


def _reward_scale(model: FastRecurrentPPO) -> float:
    """By what the training multiplies rewards."""
    env = model.get_env()
    return float(getattr(env, "reward_scale", 1.0))
