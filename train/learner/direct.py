"""The gradients of a minibatch without autograd, for policies all of whose parts know their own.

Such a policy is a few autograd functions in a row. Here they are called forward and, in the order that is
known, backward, which gives the bytes that autograd gives: what it does around them is a twelfth of an update
of 1,200 steps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policies.network.packed_gru import GRU
from policies.network.packed_lstm import (
    Piece,
    TanhNetwork,
    is_plain_lstm,
    packed_layers,
    tanh_layers,
    weights_and_biases,
)
from policies.network.recurrent import RecurrentPolicy
from train.learner.buffer import Batch
from train.learner.ppo_loss import GaussianLoss, ValueLoss, actor_parameters, knows_actions

Found = dict[Tensor, Tensor]
"""Gradients by parameters."""


class Linear(torch.autograd.Function):
    """`torch.nn.functional.linear`, as autograd differentiates it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return dy @ weight if ctx.needs_input_grad[0] else None, dy.t() @ x, dy.sum(0)


class Run:
    """A part of a network that has run, and what it keeps for its way back: autograd's context to it."""

    saved_tensors: tuple[Tensor, ...] = ()

    def __init__(self, x: Tensor, piece: Piece, inside: bool = True) -> None:
        """`inside`: whether the gradient by the input `x` is wanted."""
        self._function, self._parameters, data = piece
        self.needs_input_grad = (inside,)
        self.output: Tensor = self._function.forward(self, x, *self._parameters, *data)

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def back(self, d_output: Tensor, found: Found) -> Tensor:
        """The gradient by the input; those by the parameters go to `found`."""
        d_input, *d_parameters = self._function.backward(self, d_output)
        found.update(zip(self._parameters, d_parameters, strict=False))
        return d_input


def knows(policy: RecurrentPolicy) -> bool:
    """Whether all parts of the policy know their gradients."""
    memories = [rnn for rnn in (policy.lstm_actor, policy.lstm_critic) if rnn is not None]
    kernels = all(rnn.compiled if isinstance(rnn, GRU) else is_plain_lstm(rnn) for rnn in memories)
    heads = all(tanh_layers(net) for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net))
    fixed = policy.share_features_extractor and not list(policy.features_extractor.parameters())
    return kernels and heads and fixed and knows_actions(policy)


@torch.no_grad()
def loss_gradients(
    policy: RecurrentPolicy, batch: Batch, part: str, clips: tuple[float, float], weights: Tensor
) -> tuple[Found, Tensor]:
    """Gradients of the losses, weighted, and sums of `train.learner.update.STATISTICS` over the steps, (6,).

    Parameters
    ----------
    part
        "actor", "critic" or "both": of the others there are no gradients, and the sums are 0.
    clips
        Of the probability ratio and of the values.
    weights
        Of the losses, (4,).
    """
    sizes, states = batch.batch_sizes, batch.lstm_states
    seen, known = policy.features_of(batch.observations)
    found: Found = {}
    value = nothing = weights.new_zeros(())
    policy_term, entropy, prediction, clipped, kl = [nothing] * 5
    memories: list[Run] = []
    memory: Any = None
    d_memory: Any = None
    if part != "critic":
        memories = _remember(policy.lstm_actor, seen[:, : policy.lstm_actor.input_size], states.pi, sizes)
        memory = memories[-1].output
        d_memory, (policy_term, entropy, clipped, kl) = _act(policy, memory, batch, clips[0], weights, found)
        if policy.predictor is not None:
            d_predicting, prediction = _predict(policy, memory, batch, weights[3], found)
            d_memory = d_memory + d_predicting
    if part != "actor":
        below: list[Run] = []
        if policy.lstm_critic is not None:
            below = _remember(policy.lstm_critic, known, states.vf, sizes)
        elif not policy.shared_lstm:
            below = [Run(policy.critic_inputs(known, memory), _linear(policy.critic), inside=False)]
        latent = below[-1].output if below else memory
        d_latent, value = _value(policy, latent, batch, clips[1], weights[1], found)
        if below:
            _back(below, d_latent, found)
        elif policy.critic_gradient:
            d_memory = d_memory + d_latent
    _back(memories, d_memory, found)
    return found, torch.stack([policy_term, value, entropy, prediction, clipped, kl])


def _act(
    policy: RecurrentPolicy, memory: Tensor, batch: Batch, clip: float, weights: Tensor, found: Found
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The gradient by the actor's memory, and what `train.learner.ppo_loss.policy_loss` gives."""
    head = _head(policy.mlp_extractor.policy_net, memory)
    data = batch.actions, batch.old_log_prob, batch.advantages, clip
    loss = Run(head.output, (GaussianLoss, actor_parameters(policy), data))
    return head.back(loss.back(weights[0:3:2], found), found), loss.output.unbind()


def _predict(
    policy: RecurrentPolicy, memory: Tensor, batch: Batch, weight: Tensor, found: Found
) -> tuple[Tensor, Tensor]:
    """The gradient by the actor's memory of the squared errors of what it predicts, and their sum."""
    prediction = Run(memory, _linear(policy.predictor))
    error = prediction.output - policy.predicted(batch.observations)
    return prediction.back(error * (2 * weight), found), error.square().sum(1).sum()


def _value(
    policy: RecurrentPolicy, latent: Any, batch: Batch, clip: float, weight: Tensor, found: Found
) -> tuple[Tensor, Tensor]:
    """The gradient by what the critic's head reads of the squared errors of the values, and their sum."""
    head = _head(policy.mlp_extractor.value_net, latent)
    data = batch.returns, batch.old_values, clip
    loss = Run(head.output, (ValueLoss, [policy.value_net.weight, policy.value_net.bias], data))
    return head.back(loss.back(weight, found), found), loss.output


def _remember(rnn: Any, x: Tensor, states: tuple[Tensor, ...], batch_sizes: np.ndarray) -> list[Run]:
    """The layers of a memory."""
    layers = rnn.packed_layers if isinstance(rnn, GRU) else functools.partial(packed_layers, rnn)
    runs: list[Run] = []
    for piece in layers(states, batch_sizes):
        runs.append(Run(runs[-1].output if runs else x, piece, inside=bool(runs)))
    return runs


def _head(network: Any, x: Tensor) -> Run:
    return Run(x, (TanhNetwork, weights_and_biases(tanh_layers(network) or []), ()))


def _linear(layer: Any) -> Piece:
    return Linear, [layer.weight, layer.bias], ()


def _back(runs: list[Run], d_output: Any, found: Found) -> None:
    for run in reversed(runs):
        d_output = run.back(d_output, found)
