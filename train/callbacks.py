"""What a training run shows: terms of the reward, paired evaluation against what is known, what was learned.

Names in TensorBoard are group/what, in lower case: `eval` is the evaluation on fixed paths, `episode` what
training episodes earn and from what, `picture` what was learned; `rollout`, `time` and `train` are SB3's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure as LoggedFigure
from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from mmenv.config import EnvConfig
from mmenv.files import replacing
from policies.base import Policy
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import CACHE, Scale, bound, scale, with_observed
from train.ladder import Standings, known_standings
from train.learner.model_file import save_atomically
from train.pictures import Quotes, Standing, place_value
from train.settings import APART, Settings
from train.simulate import TERMS, Interval, Outcome, simulate

SEED = 1_500_000_000
"""Seed of the evaluations that choose the best model: other paths than those of the final table."""

PICTURE = ("stdout", "log", "json", "csv")
"""Where pictures are not shown."""


def publish(logger: Logger, values: dict[str, Any], step: int) -> None:
    """Write values under their own step, at once: what is recorded waits for the next rollout's."""
    shown = {**values, "time/total_timesteps": step}  # the step of a row of progress.csv
    without: dict[str, tuple[str, ...]] = {
        name: PICTURE if isinstance(value, LoggedFigure) else () for name, value in shown.items()
    }
    without["time/total_timesteps"] = ("tensorboard",)
    for output in logger.output_formats:
        output.write(shown, without, step)


ASIDE = (
    *(*APART, "device", "threads", "workers"),
    *("checkpoint_every", "eval_every", "eval_episodes", "final_episodes", "judged"),
)
"""Settings that say how a run is kept and watched, not what it learns."""


class Terms(BaseCallback):
    """Log the mean terms of the reward over the last episodes, after each rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or ()
        for name in (*TERMS, "inventory") if episodes else ():
            self.logger.record(f"episode/{name}", float(np.mean([e[name] for e in episodes])))


class Front(BaseCallback):
    """The front page in TensorBoard: a layout with the headline first, and the settings beside the result."""

    def __init__(self, settings: Settings, headlines: list[str]) -> None:
        super().__init__()
        self.settings, self.headlines = settings, headlines

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        for output in self.model.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(layout(self.headlines))
                hparams = HParam(told(self.settings), dict.fromkeys([*self.headlines, FINAL_VALUE], 0.0))
                output.write({"hparams": hparams}, {"hparams": ()})


FINAL_VALUE = "final/value"
"""Mean value over the episodes of the final table."""


def log_final(
    folder: Path, tables: str, value: Interval, percent: float | None, frontier: Figure | None = None
) -> None:
    """Show the final table, in Markdown, what it says of the policy, and the picture of an appetite for risk,
    at the last step of a run."""
    with np.load(folder / "evaluations.npz") as file:
        step = int(file["timesteps"][-1])
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("final/table", tables, step)
        for name, number in (("", value.mean), ("_low", value.low), ("_high", value.high)):
            writer.add_scalar(f"{FINAL_VALUE}{name}", number, step)
        if percent is not None:
            writer.add_scalar("final/percent", percent, step)
        if frontier is not None:
            writer.add_figure("final/frontier", frontier, step)


def layout(headlines: list[str]) -> dict[str, dict[str, list[Any]]]:
    """The charts of TensorBoard's "custom scalars", the headline first."""
    value, *percents = headlines
    interval = ["Margin", [value, f"{value}_low", f"{value}_high"]]
    found = {"Headline: value of an episode, fixed paths": {"value, with its 95% interval": interval}}
    if percents:
        found["Headline: percent of what is known"] = {
            name.removeprefix("eval/").replace("_", " "): lines(name) for name in percents
        }
    found["Where the value comes from"] = {
        "terms of the reward, fixed paths": lines(*(f"eval/{term}" for term in TERMS[:-1])),
        "fills and mean absolute inventory": lines("eval/fills", "eval/inventory"),
        "share of sides left": lines("eval/sides_left"),
    }
    found["Whether it learns"] = {
        "losses": lines("train/policy_gradient_loss", "train/value_loss"),
        "explained variance of the critic": lines("train/explained_variance"),
        "standard deviation of the actions": lines("train/std"),
    }
    return found


def lines(*names: str) -> list[Any]:
    """A chart of these series; TensorBoard takes each for a regular expression."""
    return ["Multiline", [f"{name}$" for name in names]]


def told(settings: Settings) -> dict[str, bool | str | float | int]:
    """The settings that a result depends on, as TensorBoard compares them: numbers and words."""
    shown = {name: value for name, value in dataclasses.asdict(settings).items() if name not in ASIDE}
    plain = (bool, str, float, int)
    return {name: value if isinstance(value, plain) else str(value) for name, value in shown.items()}


class Judge(BaseCallback):
    """Every `every` steps, evaluate on fixed seeds; keep the best model; show what was learned.

    The evaluation draws nothing from the generators of the training and leaves it as it was. `folder` gets
    `best_model.zip` and `evaluations.npz` (steps, values (k, episodes)).
    """

    def __init__(self, config: EnvConfig, folder: Path, *, every: int, episodes: int) -> None:
        super().__init__()
        self.config, self.folder, self.every, self.episodes = config, folder, every, episodes
        self.scale: Scale | None = scale(config)
        self.standings: Standings | None = known_standings(config, episodes, SEED)

    @property
    def headlines(self) -> list[str]:
        """The names under which the value, and what it is in percent, are logged."""
        names = ["value"]
        if self.scale is not None:
            names.append(self.scale.label.replace("% of ", "percent of ").replace(" ", "_"))
        if self.standings is not None:
            names += self.standings.percents(np.zeros(self.episodes))
        return [f"eval/{name}" for name in names]

    def _on_training_start(self) -> None:
        self._prepare()
        self._history = self._read_history(self.model.num_timesteps)

    def _prepare(self) -> None:
        name, seen = bound(self.config), with_observed(self.config)
        self._optimal = Quotes(seen)
        self._optimal_outcome: Outcome | None = None
        if name is not None:
            policy = make_policy(name, seen, cache=CACHE)
            self._optimal_outcome = self._play(policy, seen, self._optimal)

    def _play(self, policy: Policy, config: EnvConfig, watch: Callable[..., None]) -> Outcome:
        return simulate(policy, config, self.episodes, seed=SEED, watch=watch)

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

        outcome = self._play(TrainedPolicy(model.policy), self.config, watch)
        publish(model.logger, self._found(outcome, quotes) | self._pictures(model, quotes, standing),
                model.num_timesteps)  # fmt: skip
        if outcome.value().mean > max((values.mean() for _, values in self._history), default=-np.inf):
            save_atomically(model, self.folder / "best_model.zip")
        self._history.append((model.num_timesteps, outcome.controlled))
        self._write_history()

    def _found(self, outcome: Outcome, quotes: Quotes) -> dict[str, float]:
        """The figures of an evaluation by their names."""
        value = outcome.value()
        found = {"value": value.mean, "value_low": value.low, "value_high": value.high}
        if self.scale is not None:
            same_paths = [outcome, *([self._optimal_outcome] if self._optimal_outcome else [])]
            found[self.headlines[1].removeprefix("eval/")] = self.scale.percents(same_paths)[0]
        if self._optimal_outcome is not None:
            found["minus_bound"] = outcome.minus(self._optimal_outcome).mean
        if self.standings is not None:
            found |= self.standings.percents(outcome.controlled)
        found |= {term: float(outcome.terms[term].mean()) for term in TERMS}
        found |= {"inventory": float(outcome.inventory.mean()), "sides_left": quotes.left}
        found["quoted_distance"] = quotes.mean_distance
        return {f"eval/{name}": float(number) for name, number in found.items()}

    def _pictures(self, model: Any, quotes: Quotes, standing: Standing) -> dict[str, LoggedFigure]:
        """What was learned, by its names."""
        best = self._optimal_outcome
        drawn = {"quotes": quotes.figure(None if best is None else self._optimal, best.name if best else "")}
        if standing.known:
            drawn["standing"] = standing.figure()
        place = place_value(model, self.config)
        if place is not None:
            drawn["place_in_the_queue"] = place
        return {f"picture/{name}": LoggedFigure(figure, close=True) for name, figure in drawn.items()}

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
