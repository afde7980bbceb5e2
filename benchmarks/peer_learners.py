"""Recurrent PPO of skrl, TorchRL and sb3-contrib, on environments of Stable-Baselines3's interface.

Each in the library's own classes: actor and critic with an LSTM of 64 units and two tanh layers of 64 each.
TorchRL's modules, advantages and loss are stepped by a loop of ours, without its collector. Episodes of the
environment must end where skrl's sequences do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from benchmarks.learner import N_ENVS, N_STEPS, SEPARATE
from policies.base import Policy
from policies.sb3 import SB3Policy

UNITS = 64


@dataclass(frozen=True)
class Setup:
    """Rollouts and updates; by default those that `benchmarks.learner` times."""

    n_envs: int = N_ENVS
    n_steps: int = N_STEPS
    sequence: int = 256
    """Steps of the sequences that skrl makes of a rollout; the others take them as they are."""
    minibatch: int = 4096
    """Steps, a multiple of `n_steps`, or of `sequence` for skrl; any number for sb3-contrib."""
    epochs: int = 4
    rate: float = 3e-4
    falling: bool = False
    """The rate falls linearly to 0."""
    kl_target: float = 0.0
    """skrl's rate adapts to this KL divergence of an update; 0: it is as said."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    max_grad_norm: float = 0.5
    log_std: float = 0.0


@dataclass(frozen=True)
class Learner:
    """A learner of another library."""

    update: Callable[[float], object]
    """One rollout, and what is learned from it at a learning rate."""
    policy: Policy
    """Its mean actions, whatever it has learned by then."""


class Mean:
    """The mean actions of an LSTM and the layers behind it."""

    def __init__(self, name: str, env: VecEnv, memory: nn.LSTM, head: nn.Module) -> None:
        self.name, self._memory, self._head = name, memory, head
        self._seen = env.normalize_obs if isinstance(env, VecNormalize) else np.asarray

    def reset(self, n: int) -> None:
        return None

    @torch.no_grad()
    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        seen = torch.from_numpy(self._seen(observation))
        output, state = self._memory(seen[:, None], state)
        return self._head(output[:, 0]).clamp(-1, 1).numpy(), state


def tanh_layers(outputs: int) -> nn.Sequential:
    """Two hidden layers behind the memory, and a linear one."""
    return nn.Sequential(
        nn.Linear(UNITS, UNITS), nn.Tanh(), nn.Linear(UNITS, UNITS), nn.Tanh(), nn.Linear(UNITS, outputs)
    )


def tensors(env: VecEnv, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Observations (n, F), rewards (n, 1) and whose episode ended, bool (n, 1), after one step of actions,
    which are cut to [-1, 1]."""
    observations, rewards, dones, _ = env.step(actions.clamp(-1, 1).numpy())
    assert isinstance(observations, np.ndarray)
    return (
        torch.from_numpy(observations),
        torch.from_numpy(rewards.astype(np.float32))[:, None],
        torch.from_numpy(dones)[:, None],
    )


# sb3-contrib ------------------------------------------------------------------------------------------------


def sb3_learner(env: VecEnv, setup: Setup) -> Learner:
    """`RecurrentPPO` of sb3-contrib."""
    from sb3_contrib import RecurrentPPO

    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=setup.n_steps,
        batch_size=setup.minibatch,
        n_epochs=setup.epochs,
        gamma=setup.gamma,
        gae_lambda=setup.gae_lambda,
        max_grad_norm=setup.max_grad_norm,
        policy_kwargs={**SEPARATE, "log_std_init": setup.log_std},
        seed=0,
        device="cpu",
    )

    def update(rate: float) -> None:
        model.lr_schedule = lambda _: rate
        model.learn(setup.n_envs * setup.n_steps, reset_num_timesteps=False)

    normalisation = env if isinstance(env, VecNormalize) else None
    return Learner(update, SB3Policy(model.policy, "sb3-contrib", normalisation))


# skrl -------------------------------------------------------------------------------------------------------


def skrl_learner(env: VecEnv, setup: Setup) -> Learner:
    """`PPO_RNN` of skrl."""
    from skrl.agents.torch.ppo import PPO_CFG, PPO_RNN
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.schedulers.torch import KLAdaptiveLR

    n_envs, n_steps, sequence = setup.n_envs, setup.n_steps, setup.sequence

    class Recurrent(Model):
        """An LSTM behind the observations; the episodes of this environment end where sequences do."""

        outputs = 1

        def __init__(self, **spaces: Any) -> None:
            super().__init__(**spaces)
            self.memory = nn.LSTM(self.num_observations, UNITS, batch_first=True)
            self.head = tanh_layers(self.outputs)

        def get_specification(self) -> dict[str, Any]:
            return {"rnn": {"sequence_length": sequence, "sizes": [(1, n_envs, UNITS)] * 2}}

        def remembered(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
            seen, states = inputs["observations"], inputs["rnn"]
            if self.training:
                seen = seen.view(-1, sequence, seen.shape[-1])
                states = [s.view(1, -1, sequence, UNITS)[:, :, 0].contiguous() for s in states]
            else:
                seen = seen[:, None]
            output, states = self.memory(seen, tuple(states))
            return self.head(output.flatten(0, 1)), {"rnn": list(states)}

    class Policy(GaussianMixin, Recurrent):
        outputs = 2

        def __init__(self, **spaces: Any) -> None:
            Recurrent.__init__(self, **spaces)
            GaussianMixin.__init__(self)
            self.log_std = nn.Parameter(torch.full((self.num_actions,), setup.log_std))

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            mean, states = self.remembered(inputs)
            return mean, states | {"log_std": self.log_std}

    class Value(DeterministicMixin, Recurrent):
        def __init__(self, **spaces: Any) -> None:
            Recurrent.__init__(self, **spaces)
            DeterministicMixin.__init__(self)

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return self.remembered(inputs)

    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    cfg = PPO_CFG(
        rollouts=n_steps, mini_batches=n_envs * n_steps // setup.minibatch, learning_epochs=setup.epochs,
        discount_factor=setup.gamma, gae_lambda=setup.gae_lambda, learning_rate=setup.rate,
        grad_norm_clip=setup.max_grad_norm, value_loss_scale=0.5, value_clip=0.0,
    )  # fmt: skip
    if setup.kl_target:
        cfg.learning_rate_scheduler = KLAdaptiveLR
        cfg.learning_rate_scheduler_kwargs = {"kl_threshold": setup.kl_target}
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    policy = Policy(**spaces)
    agent = PPO_RNN(
        models={"policy": policy, "value": Value(**spaces)},
        memory=RandomMemory(memory_size=n_steps, num_envs=n_envs, device="cpu"),
        cfg=cfg,
        **spaces,
    )
    agent.init()
    agent.enable_training_mode(True)
    agent.enable_models_training_mode(False)
    seen = torch.from_numpy(env.reset())

    def update(rate: float) -> None:
        nonlocal seen
        if not setup.kl_target:
            for group in agent.optimizer.param_groups:
                group["lr"] = rate
        for step in range(n_steps):
            times = {"timestep": step, "timesteps": n_steps}
            with torch.no_grad():
                actions, _ = agent.act(seen, None, **times)
                after, rewards, ended = tensors(env, actions)
                agent.record_transition(
                    observations=seen, states=None, actions=actions, rewards=rewards,
                    next_observations=after, next_states=None, terminated=ended,
                    truncated=torch.zeros_like(ended), infos={}, **times,
                )  # fmt: skip
                seen = after
            agent.post_interaction(**times)

    return Learner(update, Mean("skrl", env, policy.memory, policy.head))


# TorchRL ----------------------------------------------------------------------------------------------------


def torchrl_learner(env: VecEnv, setup: Setup) -> Learner:
    """`LSTMModule`, `ClipPPOLoss` and the advantages of TorchRL."""
    from tensordict import TensorDict
    from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
    from torch.distributions import Independent, Normal
    from torchrl.modules import LSTMModule, ProbabilisticActor, set_recurrent_mode
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.log_std = tanh_layers(2), nn.Parameter(torch.full((2,), setup.log_std))

        def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
            mean = self.head(memory)
            return mean, self.log_std.exp().expand_as(mean)

    def memory(name: str) -> LSTMModule:
        states, entries = [f"{name}_h", f"{name}_c"], env.observation_space.shape[0]
        return LSTMModule(
            entries, UNITS, in_keys=["observation", *states], out_keys=[name, *(("next", s) for s in states)]
        )

    remembered, gaussian = memory("actor"), Gaussian()
    actor = ProbabilisticActor(
        TensorDictSequential(remembered, TensorDictModule(gaussian, ["actor"], ["loc", "scale"])),
        in_keys=["loc", "scale"],
        distribution_class=lambda loc, scale: Independent(Normal(loc, scale), 1),
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )
    critic = TensorDictSequential(
        memory("critic"), TensorDictModule(tanh_layers(1), ["critic"], ["state_value"])
    )
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=setup.rate)
    n_envs, n_steps = setup.n_envs, setup.n_steps
    states = ("actor_h", "actor_c", "critic_h", "critic_c")
    now = TensorDict(
        {"observation": torch.from_numpy(env.reset()), "is_init": torch.ones(n_envs, 1, dtype=torch.bool)}
        | {name: torch.zeros(n_envs, 1, UNITS) for name in states},
        [n_envs],
    )

    def act() -> TensorDict:
        return critic(actor(now.clone()))

    @torch.no_grad()
    def rollout() -> TensorDict:
        nonlocal now
        steps, rewards, ends = [], [], []
        for _ in range(n_steps):
            step = act()
            observations, reward, ended = tensors(env, step["action"])
            now = TensorDict(
                {"observation": observations, "is_init": ended}
                | {name: step["next", name] * ~ended[:, None] for name in states},
                [n_envs],
            )
            steps.append(step.exclude("next"))
            rewards.append(reward)
            ends.append(ended)
        seen = torch.stack(steps, 1)
        values, ended = seen["state_value"], torch.stack(ends, 1)
        after = torch.cat([values[:, 1:], act()["state_value"][:, None]], 1)
        advantage, target = vec_generalized_advantage_estimate(
            setup.gamma, setup.gae_lambda, values, after, torch.stack(rewards, 1), ended, ended
        )
        return seen.update({"advantage": advantage, "value_target": target})

    def update(rate: float) -> None:
        seen = rollout()
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(setup.epochs):
            order = torch.from_numpy(np.random.permutation(n_envs))  # noqa: NPY002
            for chosen in order.split(setup.minibatch // n_steps):
                with set_recurrent_mode(True):
                    found = loss(seen[chosen])
                optimizer.zero_grad()
                (found["loss_objective"] + found["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), setup.max_grad_norm)
                optimizer.step()

    return Learner(update, Mean("torchrl", env, remembered.lstm, gaussian.head))


LEARNERS = {"sb3-contrib": sb3_learner, "torchrl": torchrl_learner, "skrl": skrl_learner}
"""By the name of the library."""
