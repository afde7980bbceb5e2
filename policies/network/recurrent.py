"""The recurrent actor-critic policy: sb3-contrib's, with other memories, a forget bias, packed sequences.

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
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from mmenv.checks import require
from policies.network.compiled import pack
from policies.network.lru import LRU
from policies.network.min_gru import MinGRU
from policies.network.packed_gru import GRU
from policies.network.packed_lstm import (
    draw,
    is_plain_lstm,
    linear,
    lstm_weights,
    network_step,
    pack_lstm,
    recurrent_step,
    run_network,
    run_packed,
    tanh_layers,
    tanh_network,
)
from policies.network.scan_cell import ScanCell

CELLS: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": GRU, "mingru": MinGRU, "lru": LRU}
OWN_KERNELS = (GRU, ScanCell)
"""Cells that know their compiled kernels; those of an LSTM are in `packed_lstm`."""


class RecurrentPolicy(RecurrentActorCriticPolicy):
    """Actor and critic over a recurrent memory. Arguments as `RecurrentActorCriticPolicy`, and those below.

    Parameters
    ----------
    cell
        "lstm", "gru", "mingru" (`policies.network.min_gru`), or "lru" (`policies.network.lru`).
    forget_bias
        Added at initialisation to the bias of the gate that keeps the memory (LSTM: forget; GRU: update; the
        memories that scan begin with all lengths and take none),
        after Jozefowicz et al. (2015). With 0, as in sb3-contrib, the memory halves every step at first and
        tasks with delays of tens of steps are not learned.
    critic_gradient
        With `shared_lstm=True`, let the value loss train the shared LSTM too. sb3-contrib stops it there (the
        critic reads the actor's memory but does not shape it); so do we by default.
    privileged
        How many of the last observation entries are for the critic alone; the actor does not have them (an
        asymmetric actor-critic, Pinto et al. 2017). Training may then show the critic what nobody will see
        when the policy is used. The actor's memory also learns to predict them, by a linear head that is used
        for nothing else (an auxiliary task, Jaderberg et al. 2017).
    unpredicted
        How many of the privileged entries, the last ones, it does not learn to predict: such as are no hint
        of what the market does.
    critic_reads_memory
        A critic without an LSTM of its own reads the actor's memory besides the observation, without shaping
        it: what an inventory is worth depends on what the actor believes.
    min_std
        The Gaussian's standard deviation never falls below it. Where it shrinks to nothing, any step of the
        mean is many deviations, and PPO's ratios explode.
    falling_std
        The standard deviation never exceeds the first one times `std_left`, which the learner sets to what is
        left of the training, but for `min_std`. The best quotes under noise are wider than the best without
        it: left to itself it is still there when the training ends.
    forgetful
        The LSTM's memory is held shut: no weight on the state before, and the gate that keeps it at 0. What
        is left is a feed-forward policy of the same size, to measure what memory is worth.
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
        unpredicted: int = 0,
        critic_reads_memory: bool = False,
        min_std: float = 0.0,
        falling_std: bool = False,
        forgetful: bool = False,
        **kwargs: Any,
    ):
        _require(cell in CELLS, "cell", cell, f"one of {', '.join(CELLS)}")
        _require(
            cell == "lstm" or not forgetful, "forgetful", forgetful, "False with another cell than an LSTM"
        )
        shared = kwargs.get("shared_lstm", False)
        _require(shared or not critic_gradient, "critic_gradient", True, "False without shared_lstm=True")
        _require(not (shared and privileged), "privileged", privileged, "0 with shared_lstm=True")
        optimizer_class = kwargs.get("optimizer_class", torch.optim.Adam)
        if optimizer_class is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"eps": 1e-5, "fused": True} | (kwargs.get("optimizer_kwargs") or {})
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.critic_gradient = critic_gradient
        self.min_std = min_std
        self.std_left: float | None = 1.0 if falling_std else None
        self.forgetful = forgetful
        some = 0 <= privileged < self.features_dim
        _require(some, "privileged", privileged, f"from 0 to {self.features_dim - 1}: the actor needs some")
        known = 0 <= unpredicted <= privileged
        _require(known, "unpredicted", unpredicted, f"from 0 to {privileged}, those that are privileged")
        own = self.critic is not None or not critic_reads_memory
        _require(own, "critic_reads_memory", True, "False where the critic has or shares an LSTM")
        self.critic_reads_memory = critic_reads_memory
        self.unpredicted = unpredicted
        self.predictor: nn.Linear | None = None
        if cell != "lstm" or privileged or critic_reads_memory:
            kind = CELLS[cell]
            self.lstm_actor = _remake(self.lstm_actor, kind, self.lstm_kwargs, privileged)
            if self.lstm_critic is not None:
                self.lstm_critic = _remake(self.lstm_critic, kind, self.lstm_kwargs)
            units = self.lstm_actor.hidden_size
            if privileged > unpredicted:
                self.predictor = nn.Linear(units, privileged - unpredicted)
            if critic_reads_memory:
                self.critic = nn.Linear(self.features_dim + units, units)
            optimizer: Any = self.optimizer_class
            self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)
        for rnn in (self.lstm_actor, self.lstm_critic):
            if isinstance(rnn, nn.RNNBase) and rnn.bias:
                _bias_towards_memory(rnn, forget_bias)
        self.hold()

    @staticmethod
    def _process_sequence(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: Any) -> Any:
        """Do what the parent does, on the features that are meant for `lstm`."""
        features = features[:, : lstm.input_size]
        return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)

    def features_of(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor and the critic get of the observations (N, *observation shape)."""
        features: Any = self.extract_features(obs)
        return (features, features) if self.share_features_extractor else features

    def _actor_and_critic(
        self, obs: Tensor, lstm_states: Any, episode_starts: Tensor
    ) -> tuple[Distribution, Tensor, Any]:
        """Distribution of the actions, values (n, 1) by a critic that reads the memory, new states."""
        seen, known = self.features_of(obs)
        memory, states = self._process_sequence(seen, lstm_states, episode_starts, self.lstm_actor)
        distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(memory))
        values = self.value_net(self.mlp_extractor.forward_critic(self._criticise(known, memory)))
        return distribution, values, states

    def _criticise(self, features: Tensor, memory: Tensor | None) -> Tensor:
        """What a critic without an LSTM makes of the features, and of the actor's memory if it reads it."""
        assert self.critic is not None
        return self.critic(self.critic_inputs(features, memory))

    def critic_inputs(self, features: Tensor, memory: Tensor | None) -> Tensor:
        """What a critic without an LSTM reads."""
        if not self.critic_reads_memory:
            return features
        assert memory is not None
        return torch.cat([features, memory.detach()], 1)

    def forward(  # type: ignore[override]
        self, obs: Tensor, lstm_states: Any, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Do what the parent does, where the critic reads the memory too."""
        if not self.critic_reads_memory:
            return super().forward(obs, lstm_states, episode_starts, deterministic)
        distribution, values, states = self._actor_and_critic(obs, lstm_states.pi, episode_starts)
        actions = distribution.get_actions(deterministic)
        log_prob = distribution.log_prob(actions)
        actions = actions.reshape(-1, *(self.action_space.shape or ()))
        return actions, values, log_prob, RNNStates(states, states)

    def predict_values(  # type: ignore[override]
        self, obs: Tensor, lstm_states: Any, episode_starts: Tensor
    ) -> Tensor:
        """Do what the parent does; `lstm_states` are the actor's where the critic has none."""
        if not self.critic_reads_memory:
            return super().predict_values(obs, lstm_states, episode_starts)
        return self._actor_and_critic(obs, lstm_states, episode_starts)[1]

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, actions: Tensor, lstm_states: Any, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Do what the parent does: sb3-contrib's own learner calls it."""
        if not self.critic_reads_memory:
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)
        distribution, values, _ = self._actor_and_critic(obs, lstm_states.pi, episode_starts)
        return values, distribution.log_prob(actions), distribution.entropy()

    @torch.no_grad()
    def hold(self) -> None:
        """Hold `falling_std`, `min_std` and `forgetful`; called after each step of the optimiser."""
        if self.std_left is not None:
            self.log_std.clamp_(max=self.log_std_init + math.log(max(self.std_left, 1e-6)))
        if self.min_std > 0:
            self.log_std.clamp_(min=math.log(self.min_std))
        if self.forgetful:
            for rnn in (self.lstm_actor, self.lstm_critic):
                if rnn is not None:
                    _shut_memory(rnn)

    # Packed sequences (layout: `policies.network.packed_lstm`) of N steps without resets inside.
    # `batch_sizes`: int64, falling, summing to N; states before each sequence: (hidden, cell), (layers,
    # sequences, H) each.

    @property
    def apart(self) -> bool:
        """Whether actor and critic share nothing, so that each can be differentiated alone."""
        if self.shared_lstm or self.critic_reads_memory:
            return False
        return self.share_features_extractor and not list(self.features_extractor.parameters())

    def actor_sequences(
        self, features: Tensor, states: tuple[Tensor, ...], batch_sizes: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """The actor's memory (N, H) and what its head makes of it."""
        memory = _remember(self.lstm_actor, features[:, : self.lstm_actor.input_size], states, batch_sizes)
        return memory, run_network(self.mlp_extractor.policy_net, memory)

    def critic_sequences(
        self, features: Tensor, states: tuple[Tensor, ...], batch_sizes: np.ndarray, memory: Tensor | None
    ) -> Tensor:
        """What the critic's head makes of its own memory, or of the actor's (not needed if `apart`)."""
        if self.lstm_critic is not None:
            latent = _remember(self.lstm_critic, features, states, batch_sizes)
        elif self.shared_lstm:
            assert memory is not None
            latent = memory if self.critic_gradient else memory.detach()
        else:
            latent = self._criticise(features, memory)
        return run_network(self.mlp_extractor.value_net, latent)

    def distribution(self, latent: Tensor) -> Distribution:
        """The actions' distribution. SB3 overwrites one object at every call; several threads call this."""
        own = copy(self)
        own.action_dist = copy(self.action_dist)
        return own._get_action_dist_from_latent(latent)

    def surprise(self, memory: Tensor, obs: Tensor) -> Tensor | None:
        """Squared error (N,) of the predicted privileged entries; None without them."""
        if self.predictor is None:
            return None
        return (self.predictor(memory) - self.predicted(obs)).square().sum(1)

    def predicted(self, obs: Tensor) -> Tensor:
        """The privileged entries that the memory learns to predict."""
        assert self.predictor is not None
        last = obs.shape[1] - self.unpredicted
        return obs[:, last - self.predictor.out_features : last]

    def for_rollout(self) -> Callable[[np.ndarray, RNNStates, np.ndarray], tuple[Any, Any, Any, RNNStates]]:
        """`forward` for the weights as they are now: compiled where it can be, valid until they change.

        It takes observations (E, ...), states, and booleans (E,): whose episode starts here. It returns
        actions, values (E,), log-probabilities (E,) and states; arrays if compiled, else tensors.
        """
        return CompiledForward(self) if CompiledForward.knows(self) else self._forward_arrays

    @torch.no_grad()
    def _forward_arrays(
        self, obs: np.ndarray, lstm_states: RNNStates, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        starts = torch.as_tensor(episode_starts, dtype=torch.float32, device=self.device)
        actions, values, *rest = self(torch.as_tensor(obs, device=self.device), lstm_states, starts)
        return actions, values.flatten(), *rest


class CompiledForward:
    """`RecurrentActorCriticPolicy.forward` on CPU, weights packed once, of all `CELLS`, and tanh heads.

    A step of 64 environments spends more time in torch's dispatch than in arithmetic; here it is a handful
    of calls.
    """

    def __init__(self, policy: RecurrentPolicy):
        self.policy = policy
        rnn: Any = policy.lstm_actor
        self.step = rnn.step if isinstance(rnn, OWN_KERNELS) else recurrent_step
        self.actor_lstm = _pack_layers(policy.lstm_actor)
        self.seen = policy.lstm_actor.input_size
        shape = policy.observation_space.shape or ()
        flat = type(policy.features_extractor) is FlattenExtractor and len(shape) == 1
        self.plain = flat and policy.observation_space.dtype == np.float32  # what is observed is the features
        self.critic_lstm = None if policy.lstm_critic is None else _pack_layers(policy.lstm_critic)
        self.critic = None if policy.critic is None else _pack_linear(policy.critic)
        self.actor_head = _pack_head(policy.mlp_extractor.policy_net)
        self.critic_head = _pack_head(policy.mlp_extractor.value_net)
        self.value = _pack_linear(policy.value_net)
        self.gaussian = isinstance(policy.action_dist, DiagGaussianDistribution)
        self.mean = _pack_linear(policy.action_net)  # type: ignore[arg-type]
        if self.gaussian:
            self.log_std = policy.log_std.detach().numpy()

    @staticmethod
    def knows(policy: RecurrentPolicy) -> bool:
        heads = (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net)
        return (
            _has_kernels(policy.lstm_actor)
            and all(tanh_layers(head) for head in heads)
            and policy.share_features_extractor
        )

    @classmethod
    def knows_mean(cls, policy: RecurrentPolicy) -> bool:
        """Whether the mean that a Gaussian action was drawn around can be told: `mean_drawn`."""
        return cls.knows(policy) and isinstance(policy.action_dist, DiagGaussianDistribution)

    def __call__(
        self, obs: np.ndarray, lstm_states: RNNStates, episode_starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, RNNStates]:
        features = obs if self.plain else self._extract(obs)
        hidden, cell, latent, mean = self.step(
            features[:, : self.seen],
            episode_starts,
            self.actor_lstm,
            *_arrays(lstm_states.pi),
            self.actor_head,
            self.mean,
        )
        states_pi = states_vf = torch.from_numpy(hidden), torch.from_numpy(cell)
        actions, log_prob = self._sample(latent, mean)
        if self.critic_lstm is not None:
            hidden, cell, _, values = self.step(
                features,
                episode_starts,
                self.critic_lstm,
                *_arrays(lstm_states.vf),
                self.critic_head,
                self.value,
            )
            states_vf = torch.from_numpy(hidden), torch.from_numpy(cell)
        elif self.critic is not None:
            memory = hidden[-1] if self.policy.critic_reads_memory else features[:, :0]
            values = network_step(features, memory, self.critic, self.critic_head, self.value)
        else:
            values = linear(tanh_network(hidden[-1], *self.critic_head), *self.value)
        return actions, values[:, 0], log_prob, RNNStates(states_pi, states_vf)

    @torch.no_grad()
    def _extract(self, obs: np.ndarray) -> np.ndarray:
        features: Any = self.policy.extract_features(torch.as_tensor(obs))
        return features.numpy()

    def _sample(self, latent: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.gaussian:
            return self._sample_other(torch.from_numpy(latent))
        self.mean_drawn = mean
        noise = torch.randn(mean.shape).numpy()  # the same draw as SB3's
        return draw(mean, self.log_std, noise)

    @torch.no_grad()
    def _sample_other(self, latent: Tensor) -> tuple[np.ndarray, np.ndarray]:
        distribution = self.policy._get_action_dist_from_latent(latent)
        actions = distribution.get_actions()
        log_prob = distribution.log_prob(actions)
        return actions.numpy().reshape(-1, *(self.policy.action_space.shape or ())), log_prob.numpy()


def _arrays(states: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
    return states[0].numpy(), states[1].numpy()


def _has_kernels(rnn: Any) -> bool:
    """Whether the compiled kernels can run this memory."""
    return rnn.compiled if isinstance(rnn, OWN_KERNELS) else is_plain_lstm(rnn)


def _remember(rnn: Any, x: Tensor, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Tensor:
    """Output (N, H) of a memory over packed sequences."""
    if isinstance(rnn, OWN_KERNELS):
        return rnn.run_packed(x, state, batch_sizes)
    return run_packed(rnn, x, state, batch_sizes)


def _pack_layers(rnn: Any) -> tuple[Any, ...]:
    if isinstance(rnn, OWN_KERNELS):
        return rnn.packed_weights()
    return tuple(pack_lstm(*lstm_weights(rnn, layer)) for layer in range(rnn.num_layers))


def _pack_linear(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return pack(layer.weight.detach().t().numpy()), layer.bias.detach().numpy()


def _pack_head(network: nn.Sequential) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    layers = tanh_layers(network) or []
    panels, biases = zip(*(_pack_linear(layer) for layer in layers), strict=True)
    return panels, biases


class CnnRecurrentPolicy(RecurrentPolicy):
    """`RecurrentPolicy` on images: the features come from SB3's NatureCNN unless told otherwise."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN} | kwargs)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    require(condition, "RecurrentPolicy", name, value, allowed)


def _remake(rnn: nn.RNNBase, kind: Any, kwargs: dict[str, Any], privileged: int = 0) -> Any:
    return kind(rnn.input_size - privileged, rnn.hidden_size, num_layers=rnn.num_layers, **kwargs)


SHUT = -100.0
"""Bias of a gate that lets nothing through, whatever the inputs."""


def _shut_memory(rnn: nn.LSTM) -> None:
    keep_gate = slice(rnn.hidden_size, 2 * rnn.hidden_size)
    for layer in range(rnn.num_layers):
        getattr(rnn, f"weight_hh_l{layer}").zero_()
        for name in ("weight_ih", "bias_ih", "bias_hh"):
            getattr(rnn, f"{name}_l{layer}")[keep_gate] = SHUT if name == "bias_ih" else 0.0


def _bias_towards_memory(rnn: nn.RNNBase, amount: float) -> None:
    # Second of four gates in an LSTM (i, f, g, o) and of three in a GRU (r, z, n).
    keep_gate = slice(rnn.hidden_size, 2 * rnn.hidden_size)
    with torch.no_grad():
        for layer in range(rnn.num_layers):
            getattr(rnn, f"bias_ih_l{layer}")[keep_gate] += amount
