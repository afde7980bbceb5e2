"""What policies trained on a family know of the market they are in, and how they quote there:
`python -m benchmarks.family logs/populations/brownian/family_0 --members fill_decay=0.65 fill_decay=1.5`.

First the share of the variance of each parameter's place in its range that the actor's memory foretells (by
the layer that training reads it off), at several steps of episodes drawn from the family; then the mean
half-spread on single members, beside the optimum's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from mmenv.config import EnvConfig
from mmenv.desk.family import member
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Policy
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import CACHE, bound
from train.callbacks import Quotes
from train.evaluate import load
from train.experiments.members import able, parse
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.simulate import EVALUATION_SEED, simulate


@dataclass(frozen=True)
class Options:
    """Print what models know of the member of their family, and their half-spreads on members."""

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    members: tuple[str, ...] = ()
    """Each such as volatility=2 or tilt=0.15,maker_fee_bp=0.5."""
    episodes: int = 512


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    for path in options.models:
        model, config = load(path)
        if config.randomise and "parameters" not in config.features:
            for step, shares in foretold(model, config, options.episodes).items():
                words = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
                print(f"{path.name}, step {step}: R2 of {words}")
        for text in options.members:
            values = parse(text)
            single = member(able(config, [values]), values)
            spread = half_spread(
                TrainedPolicy(model.policy), able(config, [values]), options.episodes, values
            )
            best = bound(single)
            exact = best and half_spread(make_policy(best, single, cache=CACHE), single, options.episodes)
            print(
                f"{path.name}, {text}: half-spread {spread:.2f}" + (f", optimum {exact:.2f}" if exact else "")
            )


def foretold(
    model: FastRecurrentPPO,
    config: EnvConfig,
    episodes: int,
    steps: tuple[int, ...] = (20, 50, 100, 200, 299),
) -> dict[int, dict[str, float]]:
    """R2 of the prediction of each parameter's mark, by step."""
    names = [drawn.name for drawn in config.randomise]
    shown = dataclasses.replace(config, features=(*config.features, "parameters"), curriculum_episodes=0)
    envs = NeuralMMVectorEnv(episodes, config=shown, strict_actions=False)
    policy = TrainedPolicy(model.policy)
    observations, _ = envs.reset(seed=EVALUATION_SEED)
    state, found = policy.reset(episodes), {}
    for step in range(max(steps) + 1):
        actions, state = policy.act(observations[:, : -len(names)], state)
        if step in steps:
            memory = torch.as_tensor(state[0])[-1]
            with torch.no_grad():
                told = model.policy.predictor(memory).numpy()[:, -len(names) :]
            marks = observations[:, -len(names) :]
            shares = 1 - np.square(told - marks).mean(axis=0) / marks.var(axis=0)
            found[step] = dict(zip(names, shares.tolist(), strict=True))
        observations, *_ = envs.step(actions)
    return found


def half_spread(policy: Policy, config: EnvConfig, episodes: int, values: dict | None = None) -> float:
    """Mean over steps, price units."""
    quotes = Quotes(config)
    simulate(policy, config, episodes, parameters=values, watch=quotes)
    return float(quotes.sums.sum() / quotes.count.sum() / 2)


if __name__ == "__main__":
    main()
