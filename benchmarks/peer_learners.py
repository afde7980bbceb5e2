"""Recurrent PPO of skrl and TorchRL on the environment, network and settings of `benchmarks.learner`.

Each is a function that makes one rollout and updates on it, in the library's own classes: actor and critic
with an LSTM of 64 units and two tanh layers of 64 each, 64 environments x 512 steps, 4 epochs, minibatches of
4,096 steps. TorchRL's modules, advantages and loss are stepped by a loop of ours, without its collector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.learner import N_ENVS, N_STEPS, Noise

UNITS, EPOCHS, MINIBATCH, SEQUENCE = 64, 4, 4096, 256
RATE, GAMMA, LAMBDA = 3e-4, 0.99, 0.95

Update = Callable[[], None]
"""One rollout, and what is learned from it."""


def tanh_layers(outputs: int) -> nn.Sequential:
    """Two hidden layers behind the memory, and a linear one."""
    return nn.Sequential(
        nn.Linear(UNITS, UNITS), nn.Tanh(), nn.Linear(UNITS, UNITS), nn.Tanh(), nn.Linear(UNITS, outputs)
    )


def tensors(env: Noise, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Observations (n, 27), rewards (n, 1) and whose episode ended, bool (n, 1), after one step."""
    observations, rewards, dones, _ = env.step(actions.numpy())
    return (
        torch.from_numpy(observations),
        torch.from_numpy(rewards)[:, None],
        torch.from_numpy(dones)[:, None],
    )


# skrl -------------------------------------------------------------------------------------------------------


def skrl_update() -> Update:
    """`PPO_RNN` of skrl."""
    from skrl.agents.torch.ppo import PPO_CFG, PPO_RNN
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model

    class Recurrent(Model):
        """An LSTM behind the observations; the episodes of this environment end where sequences do."""

        outputs = 1

        def __init__(self, **spaces: Any) -> None:
            super().__init__(**spaces)
            self.memory = nn.LSTM(self.num_observations, UNITS, batch_first=True)
            self.head = tanh_layers(self.outputs)

        def get_specification(self) -> dict[str, Any]:
            return {"rnn": {"sequence_length": SEQUENCE, "sizes": [(1, N_ENVS, UNITS)] * 2}}

        def remembered(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
            seen, states = inputs["observations"], inputs["rnn"]
            if self.training:
                seen = seen.view(-1, SEQUENCE, seen.shape[-1])
                states = [s.view(1, -1, SEQUENCE, UNITS)[:, :, 0].contiguous() for s in states]
            else:
                seen = seen[:, None]
            output, states = self.memory(seen, tuple(states))
            return self.head(output.flatten(0, 1)), {"rnn": list(states)}

    class Policy(GaussianMixin, Recurrent):
        outputs = 2

        def __init__(self, **spaces: Any) -> None:
            Recurrent.__init__(self, **spaces)
            GaussianMixin.__init__(self)
            self.log_std = nn.Parameter(torch.zeros(self.num_actions))

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            mean, states = self.remembered(inputs)
            return mean, states | {"log_std": self.log_std}

    class Value(DeterministicMixin, Recurrent):
        def __init__(self, **spaces: Any) -> None:
            Recurrent.__init__(self, **spaces)
            DeterministicMixin.__init__(self)

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return self.remembered(inputs)

    env = Noise()
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    cfg = PPO_CFG(
        rollouts=N_STEPS, mini_batches=N_ENVS * N_STEPS // MINIBATCH, learning_epochs=EPOCHS,
        discount_factor=GAMMA, gae_lambda=LAMBDA, learning_rate=RATE,
    )  # fmt: skip
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = PPO_RNN(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=N_STEPS, num_envs=N_ENVS, device="cpu"),
        cfg=cfg,
        **spaces,
    )
    agent.init()
    agent.enable_training_mode(True)
    agent.enable_models_training_mode(False)
    seen = torch.from_numpy(env.reset())

    def update() -> None:
        nonlocal seen
        for step in range(N_STEPS):
            times = {"timestep": step, "timesteps": N_STEPS}
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

    return update


# TorchRL ----------------------------------------------------------------------------------------------------


def torchrl_update() -> Update:
    """`LSTMModule`, `ClipPPOLoss` and the advantages of TorchRL."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torch.distributions import Independent, Normal
    from torchrl.modules import LSTMModule, ProbabilisticActor, set_recurrent_mode
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.log_std = tanh_layers(2), nn.Parameter(torch.zeros(2))

        def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
            mean = self.head(memory)
            return mean, self.log_std.exp().expand_as(mean)

    def memory(name: str) -> LSTMModule:
        states = [f"{name}_h", f"{name}_c"]
        return LSTMModule(
            27, UNITS, in_keys=["observation", *states], out_keys=[name, *(("next", s) for s in states)]
        )

    actor = ProbabilisticActor(
        TensorDictSequential(memory("actor"), TensorDictModule(Gaussian(), ["actor"], ["loc", "scale"])),
        in_keys=["loc", "scale"],
        distribution_class=lambda loc, scale: Independent(Normal(loc, scale), 1),
        return_log_prob=True,
    )
    critic = TensorDictSequential(
        memory("critic"), TensorDictModule(tanh_layers(1), ["critic"], ["state_value"])
    )
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=RATE)
    env = Noise()
    states = ("actor_h", "actor_c", "critic_h", "critic_c")
    now = TensorDict(
        {"observation": torch.from_numpy(env.reset()), "is_init": torch.ones(N_ENVS, 1, dtype=torch.bool)}
        | {name: torch.zeros(N_ENVS, 1, UNITS) for name in states},
        [N_ENVS],
    )

    def act() -> TensorDict:
        return critic(actor(now.clone()))

    @torch.no_grad()
    def rollout() -> TensorDict:
        nonlocal now
        steps, rewards, ends = [], [], []
        for _ in range(N_STEPS):
            step = act()
            observations, reward, ended = tensors(env, step["action"])
            now = TensorDict(
                {"observation": observations, "is_init": ended}
                | {name: step["next", name] * ~ended[:, None] for name in states},
                [N_ENVS],
            )
            steps.append(step.exclude("next"))
            rewards.append(reward)
            ends.append(ended)
        seen = torch.stack(steps, 1)
        values, ended = seen["state_value"], torch.stack(ends, 1)
        after = torch.cat([values[:, 1:], act()["state_value"][:, None]], 1)
        advantage, target = vec_generalized_advantage_estimate(
            GAMMA, LAMBDA, values, after, torch.stack(rewards, 1), ended, ended
        )
        return seen.update({"advantage": advantage, "value_target": target})

    def update() -> None:
        seen = rollout()
        for _ in range(EPOCHS):
            for chosen in np.array_split(np.random.permutation(N_ENVS), N_ENVS * N_STEPS // MINIBATCH):  # noqa: NPY002
                with set_recurrent_mode(True):
                    found = loss(seen[torch.from_numpy(chosen)])
                optimizer.zero_grad()
                (found["loss_objective"] + found["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()

    return update
