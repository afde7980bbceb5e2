"""The recurrent actor-critic policy: sb3-contrib's, with a GRU, a forget-gate bias and packed sequences.

It runs anywhere `RecurrentActorCriticPolicy` runs (Box observations), with the same constructor arguments and the same
`predict(observation, state, episode_start, deterministic)`.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from policies.packed_lstm import Tanh, run_packed

CELLS = ("lstm", "gru")


class GRU(nn.GRU):
    """`torch.nn.GRU` called like an LSTM: its state is (hidden, cell) and the cell is passed through untouched."""

    def forward(self, x, state):
        output, hidden = super().forward(x, state[0])
        return output, (hidden, state[1])


class RecurrentPolicy(RecurrentActorCriticPolicy):
    """Actor and critic over an LSTM or a GRU. Arguments as `RecurrentActorCriticPolicy`, and:

    :param cell: "lstm" or "gru".
    :param forget_bias: added at initialisation to the bias of the gate that keeps the memory (LSTM: forget; GRU:
        update), after Jozefowicz et al. (2015). With 0, as in sb3-contrib, the memory halves every step at first and
        tasks with delays of tens of steps are not learned.
    :param critic_gradient: with `shared_lstm=True`, let the value loss train the shared LSTM too. sb3-contrib stops it
        there (the critic reads the actor's memory but does not shape it); so do we by default.
    """

    def __init__(
        self,
        observation_space,
        action_space,
        lr_schedule,
        *args: Any,
        cell: str = "lstm",
        forget_bias: float = 2.0,
        critic_gradient: bool = False,
        **kwargs: Any,
    ):
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r} is unknown; choose one of {', '.join(CELLS)}.")
        if critic_gradient and not kwargs.get("shared_lstm", False):
            raise ValueError("critic_gradient=True needs shared_lstm=True (and enable_critic_lstm=False).")
        optimizer_class = kwargs.get("optimizer_class", torch.optim.Adam)
        if optimizer_class is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"eps": 1e-5, "fused": True} | (kwargs.get("optimizer_kwargs") or {})
        if kwargs.get("activation_fn", nn.Tanh) is nn.Tanh:
            kwargs["activation_fn"] = Tanh
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.critic_gradient = critic_gradient
        if cell == "gru":
            self.lstm_actor = _as_gru(self.lstm_actor, self.lstm_kwargs)
            if self.lstm_critic is not None:
                self.lstm_critic = _as_gru(self.lstm_critic, self.lstm_kwargs)
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)
        for rnn in (self.lstm_actor, self.lstm_critic):
            if rnn is not None and rnn.bias:
                _bias_towards_memory(rnn, forget_bias)

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        """As sb3-contrib; one step (rollouts, predict) takes the packed kernel, reset states by multiplication."""
        n = lstm_states[0].shape[1]
        if len(features) != n:
            return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        keep = (1.0 - episode_starts).view(1, n, 1)
        state = (keep * lstm_states[0], keep * lstm_states[1])
        output, hidden, cell = run_packed(lstm, features, state, np.array([n]))
        return output, (hidden, cell)

    def evaluate_sequences(
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, batch_sizes: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`evaluate_actions` over packed sequences (layout: `policies.packed_lstm`) without resets inside.

        :param obs: (N, *observation shape), packed; `actions` likewise.
        :param lstm_states: states before each sequence, each tensor (layers, sequences, H).
        :param batch_sizes: int64, falling, summing to N.
        :return: values (N,), log-probabilities (N,), entropies (N,) or None where the distribution has no formula.
        """
        features = self.extract_features(obs)
        pi_features, vf_features = (features, features) if self.share_features_extractor else features
        latent_pi = run_packed(self.lstm_actor, pi_features, lstm_states.pi, batch_sizes)[0]
        if self.lstm_critic is not None:
            latent_vf = run_packed(self.lstm_critic, vf_features, lstm_states.vf, batch_sizes)[0]
        elif self.shared_lstm:
            latent_vf = latent_pi if self.critic_gradient else latent_pi.detach()
        else:
            latent_vf = self.critic(vf_features)
        # The distribution object is overwritten by every call, and several threads call: each has its own.
        own = copy(self)
        own.action_dist = copy(self.action_dist)
        distribution = own._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent_pi))
        values = self.value_net(self.mlp_extractor.forward_critic(latent_vf)).flatten()
        return values, distribution.log_prob(actions), distribution.entropy()


class CnnRecurrentPolicy(RecurrentPolicy):
    """`RecurrentPolicy` on images: the features come from SB3's NatureCNN unless another extractor is named."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN} | kwargs)


def _as_gru(lstm: nn.LSTM, kwargs: dict[str, Any]) -> GRU:
    return GRU(lstm.input_size, lstm.hidden_size, num_layers=lstm.num_layers, **kwargs)


def _bias_towards_memory(rnn: nn.RNNBase, amount: float) -> None:
    # Second of four gates in an LSTM (i, f, g, o) and of three in a GRU (r, z, n).
    keep_gate = slice(rnn.hidden_size, 2 * rnn.hidden_size)
    with torch.no_grad():
        for layer in range(rnn.num_layers):
            getattr(rnn, f"bias_ih_l{layer}")[keep_gate] += amount
