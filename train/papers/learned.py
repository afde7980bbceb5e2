"""A policy learned in a few minutes, for the tables of a paper."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from mmenv.config import EnvConfig
from mmenv.progress import progress_bar
from policies.network.trained import TrainedPolicy
from train.experiments.training import ProgressCallback
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.run import new_model, training_env
from train.settings import Settings


def learn(config: EnvConfig, settings: Settings, name: str, *watch: BaseCallback) -> TrainedPolicy:
    """The policy after `settings.steps` decisions in the market of `config`; the last one, none is chosen.

    `watch` is shown the training as well, and may change the market.
    Nothing is written; on the same machine the same seed learns the same policy.
    """
    assert settings.steps is not None
    env = training_env(settings, config)
    try:
        model = new_model(FastRecurrentPPO, settings, config, env)
        with progress_bar(total=settings.steps, desc=f"training {name}", unit=" steps", leave=False) as bar:
            shown = ProgressCallback(lambda steps: bar.update(steps - bar.n))
            model.learn(settings.steps, CallbackList([shown, *watch]))
    finally:
        env.close()
    return TrainedPolicy(model.policy, name)
