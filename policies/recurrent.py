"""The recurrent actor-critic policy: sb3-contrib's, with a GRU, a forget-gate bias and packed sequences.

It runs anywhere `RecurrentActorCriticPolicy` runs (Box observations), with the same constructor arguments
and the same `predict(observation, state, episode_start, deterministic)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from policies.compiled import pack
from policies.packed_lstm import (
    is_plain_lstm,
    linear_tanh,
    lstm_forward,
    lstm_weights,
    pack_lstm,
    run_network,
    run_packed,
    tanh_layers,
)

CELLS = ("lstm", "gru")


class GRU(nn.GRU):
    """`torch.nn.GRU` called like an LSTM: its state is (hidden, cell), and the cell passes through."""

    def forward(self, x: Any, state: Any) -> Any:  # type: ignore[override]
        output, hidden = super().forward(x, state[0])
        return output, (hidden, state[1])


class RecurrentPolicy(RecurrentActorCriticPolicy):
    """Actor and critic over an LSTM or a GRU. Arguments as `RecurrentActorCriticPolicy`, and:

    :param cell: "lstm" or "gru".
    :param forget_bias: added at initialisation to the bias of the gate that keeps the memory (LSTM: forget;
        GRU: update), after Jozefowicz et al. (2015). With 0, as in sb3-contrib, the memory halves every step
        at first and tasks with delays of tens of steps are not learned.
    :param critic_gradient: with `shared_lstm=True`, let the value loss train the shared LSTM too.
        sb3-contrib stops it there (the critic reads the actor's memory but does not shape it); so do we by
        default.
    :param privileged: so many of the last observation entries are for the critic alone; the actor does not
        have them (an asymmetric actor-critic, Pinto et al. 2017). Training may then show the critic what
        nobody will see when the policy is used. The actor's memory also learns to predict them, by a linear
        head that is used for nothing else (an auxiliary task, Jaderberg et al. 2017).
    :param min_std: the Gaussian's standard deviation never falls below it. Where it shrinks to nothing, any
        step of the mean is many deviations, and PPO's ratios explode.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        cell: str = "lstm",
        forget_bias: float = 2.0,
        critic_gradient: bool = False,
        privileged: int = 0,
        min_std: float = 0.0,
        **kwargs: Any,
    ):
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r} is unknown; choose one of {', '.join(CELLS)}.")
        if critic_gradient and not kwargs.get("shared_lstm", False):
            raise ValueError("critic_gradient=True needs shared_lstm=True (and enable_critic_lstm=False).")
        optimizer_class = kwargs.get("optimizer_class", torch.optim.Adam)
        if optimizer_class is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"eps": 1e-5, "fused": True} | (kwargs.get("optimizer_kwargs") or {})
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.critic_gradient = critic_gradient
        self.min_std = min_std
        if not 0 <= privileged < self.features_dim:
            raise ValueError(
                f"privileged={privileged} must leave the actor some of {self.features_dim} features."
            )
        if privileged and kwargs.get("shared_lstm", False):
            raise ValueError("privileged entries need a critic of its own: set shared_lstm=False.")
        self.predictor: nn.Linear | None = None
        if cell == "gru" or privileged:
            kind = GRU if cell == "gru" else nn.LSTM
            self.lstm_actor = _remake(self.lstm_actor, kind, self.lstm_kwargs, privileged)
            if self.lstm_critic is not None:
                self.lstm_critic = _remake(self.lstm_critic, kind, self.lstm_kwargs)
            if privileged:
                self.predictor = nn.Linear(self.lstm_actor.hidden_size, privileged)
            optimizer: Any = self.optimizer_class
            self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)
        for rnn in (self.lstm_actor, self.lstm_critic):
            if rnn is not None and rnn.bias:
                _bias_towards_memory(rnn, forget_bias)

    @staticmethod
    def _process_sequence(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: Any) -> Any:
        """As the parent's, on the features that are meant for `lstm`."""
        features = features[:, : lstm.input_size]
        return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)

    def keep_exploring(self) -> None:
        """Hold `min_std`; called after each step of the optimiser."""
        if self.min_std > 0:
            with torch.no_grad():
                self.log_std.clamp_(min=math.log(self.min_std))

    def evaluate_sequences(
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, batch_sizes: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """`evaluate_actions` over packed sequences (layout: `policies.packed_lstm`) without resets inside.

        :param obs: (N, *observation shape), packed; `actions` likewise.
        :param lstm_states: states before each sequence, each tensor (layers, sequences, H).
        :param batch_sizes: int64, falling, summing to N.
        :return: values (N,), log-probabilities (N,), entropies (N,) or None where the distribution has no
            formula, squared errors (N,) of the prediction of the privileged entries or None without them.
        """
        features: Any = self.extract_features(obs)
        pi_features, vf_features = (features, features) if self.share_features_extractor else features
        pi_features = pi_features[:, : self.lstm_actor.input_size]
        latent_pi = run_packed(self.lstm_actor, pi_features, lstm_states.pi, batch_sizes)
        if self.lstm_critic is not None:
            latent_vf = run_packed(self.lstm_critic, vf_features, lstm_states.vf, batch_sizes)
        elif self.shared_lstm:
            latent_vf = latent_pi if self.critic_gradient else latent_pi.detach()
        else:
            latent_vf = self.critic(vf_features)  # type: ignore[misc]
        # The distribution object is overwritten by every call, and several threads call: each has its own.
        own = copy(self)
        own.action_dist = copy(self.action_dist)
        distribution = own._get_action_dist_from_latent(run_network(self.mlp_extractor.policy_net, latent_pi))
        values = self.value_net(run_network(self.mlp_extractor.value_net, latent_vf)).flatten()
        return values, distribution.log_prob(actions), distribution.entropy(), self._surprise(latent_pi, obs)

    def _surprise(self, memory: Tensor, obs: Tensor) -> Tensor | None:
        """Squared error (N,) of the predicted privileged entries."""
        if self.predictor is None:
            return None
        return (self.predictor(memory) - obs[:, -self.predictor.out_features :]).square().sum(1)

    def for_rollout(self) -> Callable[[Tensor, RNNStates, Tensor], tuple[Tensor, Tensor, Tensor, RNNStates]]:
        """`forward` for the weights as they are now: compiled where it can be, valid until they change."""
        return CompiledForward(self) if CompiledForward.knows(self) else self


class CompiledForward:
    """`RecurrentActorCriticPolicy.forward` for an LSTM policy with tanh heads on CPU, weights packed once.

    A step of 64 environments spends more time in torch's dispatch than in arithmetic; here it is a handful
    of calls.
    """

    def __init__(self, policy: RecurrentPolicy):
        self.policy = policy
        self.actor_lstm = _pack_layers(policy.lstm_actor)
        self.seen = policy.lstm_actor.input_size
        self.critic_lstm = None if policy.lstm_critic is None else _pack_layers(policy.lstm_critic)
        self.actor_head = _pack_head(policy.mlp_extractor.policy_net)
        self.critic_head = _pack_head(policy.mlp_extractor.value_net)
        self.value_weight = policy.value_net.weight.detach().numpy()[0]
        self.value_bias = policy.value_net.bias.item()

    @staticmethod
    def knows(policy: RecurrentPolicy) -> bool:
        heads = (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net)
        return (
            is_plain_lstm(policy.lstm_actor)
            and all(tanh_layers(head) is not None for head in heads)
            and policy.share_features_extractor
        )

    def __call__(
        self, obs: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        features = self.policy.extract_features(obs).numpy()  # type: ignore[union-attr]
        keep = 1 - episode_starts.numpy()[:, None]
        seen = np.ascontiguousarray(features[:, : self.seen])
        latent_pi, states_pi = _lstm_step(self.actor_lstm, seen, lstm_states.pi, keep)
        latent_vf, states_vf = latent_pi, states_pi
        if self.critic_lstm is not None:
            latent_vf, states_vf = _lstm_step(self.critic_lstm, features, lstm_states.vf, keep)
        elif self.policy.critic is not None:
            latent_vf = self.policy.critic(torch.from_numpy(features)).numpy()
        latent_pi, latent_vf = _head(self.actor_head, latent_pi), _head(self.critic_head, latent_vf)
        values = torch.from_numpy(latent_vf @ self.value_weight + np.float32(self.value_bias))
        actions, log_prob = self._sample(torch.from_numpy(latent_pi))
        return (
            actions.reshape(-1, *(self.policy.action_space.shape or ())),
            values,
            log_prob,
            RNNStates(states_pi, states_vf),
        )

    def _sample(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.policy.action_dist, DiagGaussianDistribution):
            distribution = self.policy._get_action_dist_from_latent(latent)
            actions = distribution.get_actions()
            return actions, distribution.log_prob(actions)
        # The same draw as SB3's, without five objects for each.
        mean, log_std = self.policy.action_net(latent), self.policy.log_std
        noise = torch.normal(torch.zeros_like(mean), 1.0)
        log_prob = -0.5 * noise.square().sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * mean.shape[1]
        return mean + log_std.exp() * noise, log_prob


def _pack_layers(lstm: nn.LSTM) -> list[np.ndarray]:
    return [pack_lstm(*lstm_weights(lstm, layer)) for layer in range(lstm.num_layers)]


def _lstm_step(
    layers: list[np.ndarray], x: np.ndarray, states: tuple[Tensor, ...], keep: np.ndarray
) -> tuple[np.ndarray, tuple[Tensor, Tensor]]:
    one_step = np.array([len(x)])
    hidden, cell = [], []
    for layer, panels in enumerate(layers):
        work = lstm_forward(
            x, states[0][layer].numpy() * keep, states[1][layer].numpy() * keep, panels, one_step
        )
        x = work.hidden
        hidden.append(x)
        cell.append(work.cell)
    return x, (torch.from_numpy(np.stack(hidden)), torch.from_numpy(np.stack(cell)))


def _pack_head(network: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    layers = tanh_layers(network) or []
    return [(pack(layer.weight.detach().t().numpy()), layer.bias.detach().numpy()) for layer in layers]


def _head(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    for panels, bias in layers:
        y = np.empty((len(x), panels.shape[0] * panels.shape[2]), np.float32)
        linear_tanh(x, panels, bias, y)
        x = y[:, : len(bias)]
    return x


class CnnRecurrentPolicy(RecurrentPolicy):
    """`RecurrentPolicy` on images: the features come from SB3's NatureCNN unless told otherwise."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN} | kwargs)


def _remake(rnn: nn.RNNBase, kind: Any, kwargs: dict[str, Any], privileged: int = 0) -> Any:
    return kind(rnn.input_size - privileged, rnn.hidden_size, num_layers=rnn.num_layers, **kwargs)


def _bias_towards_memory(rnn: nn.RNNBase, amount: float) -> None:
    # Second of four gates in an LSTM (i, f, g, o) and of three in a GRU (r, z, n).
    keep_gate = slice(rnn.hidden_size, 2 * rnn.hidden_size)
    with torch.no_grad():
        for layer in range(rnn.num_layers):
            getattr(rnn, f"bias_ih_l{layer}")[keep_gate] += amount
