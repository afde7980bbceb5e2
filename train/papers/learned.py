"""A policy learned in a few minutes, for the tables of a paper."""

from __future__ import annotations

from mmenv.config import EnvConfig
from mmenv.progress import progress_bar
from policies.base import Policy
from policies.network.trained import TrainedPolicy
from train.experiments.training import ProgressCallback
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.run import new_model, training_env
from train.settings import Settings


def learn(config: EnvConfig, settings: Settings, name: str) -> Policy:
    """The policy after `settings.steps` decisions in the market of `config`; the last one, none is chosen.

    Nothing is written; on the same machine the same seed learns the same policy.
    """
    assert settings.steps is not None
    env = training_env(settings, config)
    try:
        model = new_model(FastRecurrentPPO, settings, config, env)
        with progress_bar(total=settings.steps, desc=f"training {name}", unit=" steps", leave=False) as bar:
            model.learn(settings.steps, ProgressCallback(lambda steps: bar.update(steps - bar.n)))
    finally:
        env.close()
    return TrainedPolicy(model.policy, name)
