"""One run of training: environments, learner, checkpoints, evaluations."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure

from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig
from mmenv.observation import observation_names
from mmenv.progress import progress_bar
from policies.sb3 import ENV_CONFIG
from policies.signals import load as load_signal
from policies.signals.warm_start import warm_start
from train.callbacks import Front, Judge, Terms
from train.learner.checkpoint import Checkpoint, load_latest, remaining_timesteps, resume_logger
from train.learner.model_file import save_atomically
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.shortfall import SHOWN
from train.learner.vec_env import NeuralMMVecEnv
from train.settings import LAST_MODEL, Settings, judge_config, origin
from train.team import ALONE, Team


def device_of(settings: Settings) -> str:
    """The device of the updates, for Stable-Baselines3.

    With minibatches of fewer than 4,096 steps an LSTM of 64 units is no faster on an H100 than on one thread
    of a CPU (docs/training.md): its steps in time follow each other, and each is over in no time.
    """
    small = settings.lstm_size * settings.batch_size < 64 * 4096
    return "cpu" if settings.device == "auto" and small else settings.device


def train(
    settings: Settings,
    config: EnvConfig,
    folder: Path,
    watch: BaseCallback | None = None,
    team: Team = ALONE,
) -> None:
    """One run, from its beginning or from its last checkpoint; with a `team`, one worker's part of it.

    `watch` is shown it instead of a terminal.
    """
    alone = settings.workers == team.size
    require(alone, "Settings", "workers", settings.workers, f"{team.size} here: use `neuralmm train`")
    made = origin(settings, config)
    share = team.share(settings)
    judged = judge_config(settings) if settings.judged else config
    env = training_env(share, config)
    formats = ["tensorboard", "csv"] if team.first else []
    checkpoints = team.checkpoints(folder)
    resumed = team.agree(checkpoints)
    if resumed:
        model = load_latest(checkpoints, env, team.algorithm, device=device_of(share))
        model.set_logger(resume_logger(folder, formats, model))
        steps = remaining_timesteps(model)
    else:
        model = new_model(team.algorithm, share, config, env)
        # Saved with the model, so that it says what it was made for, and where it comes from.
        setattr(model, ENV_CONFIG, judged.to_dict())
        model.provenance = made  # type: ignore[attr-defined]
        model.set_logger(configure(str(folder), formats))
        assert settings.steps is not None, "minutes were turned into steps before"
        steps = settings.steps
    shown: list[BaseCallback] = []
    if team.first:
        judge = Judge(judged, folder, every=settings.eval_every, episodes=settings.eval_episodes)
        shown = [Front(settings, judge.headlines), Terms(), judge]
    callbacks = CallbackList([*shown, Checkpoint(checkpoints, every=settings.checkpoint_every)])
    if watch is None and team.first:
        watch = Shown()
    if watch is not None:
        callbacks.callbacks.append(watch)
    if steps > 0:
        model.learn(steps, callbacks, reset_num_timesteps=not resumed)
        if team.first:
            judge.judge(model)  # the last policy may be the best
            save_atomically(model, folder / LAST_MODEL)
    env.close()


def training_env(settings: Settings, config: EnvConfig) -> NeuralMMVecEnv:
    """The environments of training: from random positions, with what the learner alone is shown."""
    spread = min(settings.start_inventory, config.risk.position_limit)
    hidden = hidden_groups(settings, config)
    if settings.surprise_control:
        hidden = (*hidden, "surprise")
    return NeuralMMVecEnv(
        dataclasses.replace(config, start_inventory=spread, features=(*config.features, *hidden)),
        settings.num_envs,
        seed=settings.seed,
        control_variate=settings.control_variate,
        reward_scale=settings.reward_scale,
    )


def hidden_groups(settings: Settings, config: EnvConfig) -> tuple[str, ...]:
    """The feature groups that the critic observes besides those of the policy."""
    if settings.critic not in ("privileged", "memoryless"):
        return ()
    if config.randomise and "parameters" not in config.features:
        return ("latent", "parameters")  # the second says which market of the family it is
    return ("latent",)


def new_model(
    algorithm: type[FastRecurrentPPO], settings: Settings, config: EnvConfig, env: NeuralMMVecEnv
) -> FastRecurrentPPO:
    """The learner at the beginning of a run."""
    if env.shortfall is not None:
        _require_for_shortfall(settings)
    seen = dataclasses.replace(config, features=(*config.features, *hidden_groups(settings, config)))
    rate, judging = settings.learning_rate, 0 if env.shortfall is None else SHOWN
    model = algorithm(
        "MlpLstmPolicy",
        env,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        learning_rate=LinearDecay(rate) if settings.falling else rate,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        target_kl=settings.target_kl,
        seed=settings.seed,
        device=device_of(settings),
        threads=settings.threads or "auto",
        prediction_coef=settings.prediction_coef,
        noise_memory=settings.noise_memory,
        risk_aversion=config.reward.risk_aversion / settings.reward_scale,
        policy_kwargs={
            "cell": "lstm" if settings.cell == "none" else settings.cell,
            "forgetful": settings.cell == "none",
            "lstm_hidden_size": settings.lstm_size,
            "shared_lstm": settings.critic == "shared",
            "enable_critic_lstm": settings.critic == "lstm",
            "privileged": len(observation_names(seen)) - len(observation_names(config)) + judging,
            "critic_reads_memory": settings.critic == "privileged",
            "net_arch": list(settings.net_arch),
            "log_std_init": settings.log_std_init,
            "min_std": settings.min_std,
            **({"unpredicted": judging} if judging else {}),
            **({"falling_std": True} if settings.std_falls else {}),
        },
    )
    if settings.pretrained is not None:
        warm_start(model.policy, load_signal(settings.pretrained), observation_names(config))
    return model


def _require_for_shortfall(settings: Settings) -> None:
    """Raise `ConfigError` for settings under which mean less shortfall is not what would be learned for."""
    why = "where reward.shortfall_weight is above 0"
    known = settings.critic in ("privileged", "memoryless")
    require(known, "Settings", "critic", settings.critic, f"'privileged' or 'memoryless' {why}")
    require(settings.workers == 1, "Settings", "workers", settings.workers, f"1 {why}")


TIMED_UPDATES = 8
"""Updates that are timed to turn minutes into steps."""


class Shown(BaseCallback):
    """Shows how far the training is."""

    def _on_training_start(self) -> None:
        total, done = self.model._total_timesteps, self.num_timesteps
        self.bar = progress_bar(total=total, initial=done, unit=" steps", unit_scale=True, desc="training")

    def _on_rollout_end(self) -> None:
        self.bar.update(self.num_timesteps - self.bar.n)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.bar.close()


class Clock(BaseCallback):
    """Notes when each rollout starts."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_rollout_start(self) -> None:
        self.times.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def measured_steps(settings: Settings, config: EnvConfig) -> int:
    """How many decisions `settings.minutes` are enough for here: a learner of this kind is timed for a while.

    A tenth of the time is kept for evaluations.

    Raises
    ------
    ConfigError
        Not even one update would fit.
    """
    env, clock = training_env(settings, config), Clock()
    rollout = settings.num_envs * settings.n_steps
    new_model(FastRecurrentPPO, settings, config, env).learn(TIMED_UPDATES * rollout, clock)
    env.close()
    seconds = float(np.median(np.diff(clock.times)[1:]))  # the first one compiles
    updates = int(0.9 * 60 * settings.minutes / seconds)
    if updates < 1:
        raise ConfigError(
            f"minutes = {settings.minutes:g} is not possible: an update takes {seconds:.1f} s; give at least "
            f"{seconds / 54:.2g}, or steps."
        )
    return updates * rollout


@dataclass(frozen=True)
class LinearDecay:
    """A learning rate that falls linearly to zero: a class, so that checkpoints can hold it."""

    start: float

    def __call__(self, remaining: float) -> float:
        return self.start * remaining
