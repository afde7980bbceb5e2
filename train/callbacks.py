"""What a training run shows: terms of the reward, paired evaluation against the optimum, learned quotes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure as LoggedFigure

from mmenv.config import EnvConfig
from mmenv.files import replacing
from mmenv.observation import observation_names
from policies.base import Policy
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import CACHE, Scale, bound, scale
from train.learner.model_file import save_atomically
from train.simulate import TERMS, Outcome, simulate

matplotlib.use("Agg")


SEED = 1_500_000_000
"""Seed of the evaluations that choose the best model: other paths than those of the final table."""


class Terms(BaseCallback):
    """Log the mean terms of the reward over the last episodes, after each rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or ()
        for name in (*TERMS, "inventory") if episodes else ():
            self.logger.record(f"episode/{name}", float(np.mean([e[name] for e in episodes])))


class Quotes:
    """Mean distance of ask and bid from the mid at each inventory, and how often they are left, gathered
    while a policy is simulated."""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.limit = config.risk.position_limit
        self.count = np.zeros(2 * self.limit + 1)
        self.quoted = np.zeros((2, 2 * self.limit + 1))
        self.sums = np.zeros((2, 2 * self.limit + 1))

    def __call__(self, observations: np.ndarray, actions: np.ndarray, position: np.ndarray) -> None:
        at = position.astype(int) + self.limit
        np.add.at(self.count, at, 1)
        for row, distance in enumerate(self.config.quote.to_distances(actions)):
            stands = np.isfinite(distance)
            np.add.at(self.quoted[row], at[stands], 1)
            np.add.at(self.sums[row], at[stands], distance[stands])

    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Inventories that were visited, (k,), and mean distances there of ask and bid where they are not
        left, (2, k)."""
        seen = self.count > 0
        with np.errstate(invalid="ignore"):
            distances = self.sums[:, seen] / self.quoted[:, seen]
        return np.arange(-self.limit, self.limit + 1)[seen], distances

    def left(self) -> np.ndarray:
        """How often ask and bid are left at the inventories of `curves`, shares (2, k)."""
        seen = self.count > 0
        return 1 - self.quoted[:, seen] / self.count[seen]


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
        ask, bid, inventory = self.sums[:, seen] / self.count[seen]
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(imbalance, ask, "o-", color="tab:red", label="ask at the touch")
        left.plot(imbalance, bid, "o-", color="tab:blue", label="bid at the touch")
        left.set(xlabel="book imbalance (1: only bids)", ylabel="share of decisions", ylim=(-0.02, 1.02))
        left.legend()
        right.plot(imbalance, inventory, "o-", color="tab:green")
        right.set(xlabel="book imbalance (1: only bids)", ylabel="mean inventory / limit")
        right.axhline(0, color="grey", linewidth=0.5)
        return figure


SIDES = ("ask", "bid")


class Judge(BaseCallback):
    """Every `every` steps, evaluate on fixed seeds; keep the best model; show the learned quotes.

    The evaluation draws nothing from the generators of the training and leaves it as it was. `folder` gets
    `best_model.zip` and `evaluations.npz` (steps, values (k, episodes)).
    """

    def __init__(self, config: EnvConfig, folder: Path, *, every: int, episodes: int) -> None:
        super().__init__()
        self.config, self.folder, self.every, self.episodes = config, folder, every, episodes
        self.scale: Scale | None = None

    def _on_training_start(self) -> None:
        self._prepare()
        self._history = self._read_history(self.model.num_timesteps)

    def _prepare(self) -> None:
        name = bound(self.config)
        self.scale = scale(self.config)
        self._optimal = Quotes(self.config)
        self._optimal_outcome: Outcome | None = None
        if name is not None:
            policy = make_policy(name, self.config, cache=CACHE)
            self._optimal_outcome = self._play(policy, self._optimal)

    def _play(self, policy: Policy, watch: Callable[..., None]) -> Outcome:
        return simulate(policy, self.config, self.episodes, seed=SEED, watch=watch)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        judged = self._history[-1][0] if self._history else -1
        if self.model.num_timesteps // self.every > judged // self.every:
            self.judge(self.model)

    def judge(self, model: Any) -> None:
        """Evaluate now."""
        if self._history and self._history[-1][0] == model.num_timesteps:
            return
        quotes, standing = Quotes(self.config), Standing(self.config)

        def watch(*seen: np.ndarray) -> None:
            quotes(*seen)
            standing(*seen)

        outcome = self._play(TrainedPolicy(model.policy), watch)
        value = outcome.value()
        record = model.logger.record
        record("eval/value", value.mean)
        record("eval/value_error", float(outcome.controlled.std() / np.sqrt(len(outcome.controlled))))
        if self.scale is not None:
            record(f"eval/{self.scale.label.replace('% of ', 'percent of ')}", self.scale.percent(value.mean))
        if self._optimal_outcome is not None:
            record("eval/paired difference to the bound", outcome.minus(self._optimal_outcome).mean)
        for term in TERMS:
            record(f"eval/{term}", float(outcome.terms[term].mean()))
        record("eval/inventory", float(outcome.inventory.mean()))
        inventories, distances = quotes.curves()
        record("eval/half_spread", float(quotes.sums.sum() / max(quotes.quoted.sum(), 1)))
        record("eval/sides left", float(1 - quotes.quoted.sum() / (2 * quotes.count.sum())))
        if standing.known:
            picture = LoggedFigure(standing.figure(), close=True)
            record("eval/standing", picture, exclude=("stdout", "log", "json", "csv"))
        figure = self._figure(inventories, distances)
        record("eval/quotes", LoggedFigure(figure, close=True), exclude=("stdout", "log", "json", "csv"))
        if value.mean > max((values.mean() for _, values in self._history), default=-np.inf):
            save_atomically(model, self.folder / "best_model.zip")
        self._history.append((model.num_timesteps, outcome.controlled))
        self._write_history()

    def _figure(self, inventories: np.ndarray, distances: np.ndarray) -> Figure:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for row, (side, colour) in enumerate((("ask", "tab:red"), ("bid", "tab:blue"))):
            axes.plot(inventories, distances[row], "o-", color=colour, label=f"{side}, learned")
            if self._optimal_outcome is not None:
                known, best = self._optimal.curves()
                axes.plot(known, best[row], "--", color=colour, label=f"{side}, {self._optimal_outcome.name}")
        axes.set(xlabel="inventory, lots", ylabel="mean distance from the mid, price units", title="Quotes")
        axes.legend()
        return figure

    def _read_history(self, steps: int) -> list[tuple[int, np.ndarray]]:
        path = self.folder / "evaluations.npz"
        if not path.exists():
            return []
        with np.load(path) as file:
            pairs = zip(file["timesteps"].tolist(), file["results"], strict=True)
            return [(at, values) for at, values in pairs if at <= steps]

    def _write_history(self) -> None:
        timesteps = np.array([at for at, _ in self._history])
        results = np.stack([values for _, values in self._history])
        with replacing(self.folder / "evaluations.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, timesteps=timesteps, results=results)
