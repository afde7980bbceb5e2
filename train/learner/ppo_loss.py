"""The losses of PPO (Schulman et al. 2017) over packed steps, from what the heads make of the memory.

Gaussian actions and values on CPU take one compiled pass over the steps for the last linear layer, the loss
and its gradient: in torch it is forty operations on a few thousand numbers each, a tenth of an update. All
else goes to torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor, nn

from policies.network.compiled import F, compiled_lanes
from policies.network.packed_lstm import HALF_LOG_TWO_PI, on_cpu
from policies.network.recurrent import RecurrentPolicy


def policy_loss(
    policy: RecurrentPolicy,
    latent: Tensor,
    actions: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip: float,
) -> tuple[Tensor, ...]:
    """Sums over N steps: clipped surrogate loss, entropy loss, clipped steps, approximate KL divergence.

    Parameters
    ----------
    latent
        What the actor's head makes of its memory, (N, H).
    actions
        Those of the rollout, (N, *action shape), with their log-probabilities then and advantages, (N,).
    clip
        How far the probability ratio may leave 1 before its gradient ends.
    """
    if knows_actions(policy):
        return GaussianLoss.apply(
            latent, *actor_parameters(policy), actions, old_log_prob, advantages, clip
        ).unbind()
    distribution = policy.distribution(latent)
    log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).sum()
    with torch.no_grad():
        clipped, kl = ((ratio - 1).abs() > clip).float().sum(), (ratio - 1 - log_ratio).sum()
    return loss, log_prob.sum() if entropy is None else -entropy.sum(), clipped, kl


def knows_actions(policy: RecurrentPolicy) -> bool:
    """Whether the compiled loss knows the policy's actions."""
    return type(policy.action_dist) is DiagGaussianDistribution and on_cpu(policy.action_net.weight)


def actor_parameters(policy: RecurrentPolicy) -> list[Tensor]:
    """Those that make a Gaussian of what the actor's head gives."""
    last: Any = policy.action_net
    return [last.weight, last.bias, policy.log_std]


def value_loss(last: nn.Linear, latent: Tensor, returns: Tensor, old_values: Tensor, clip: float) -> Tensor:
    """Sum of squared errors of the values that `last` makes of `latent` (N, H).

    Parameters
    ----------
    returns, old_values
        What the values should be, and what they were in the rollout, (N,).
    clip
        How far they may go from there before their gradient ends; infinity: anywhere.
    """
    if on_cpu(last.weight):
        return ValueLoss.apply(latent, last.weight, last.bias, returns, old_values, clip)
    values = last(latent).flatten()
    return (old_values + (values - old_values).clamp(-clip, clip) - returns).square().sum()


@compiled_lanes
def _gaussian_loss(x, weight, bias, log_std, actions, old_log_prob, advantages, clip, gradients):
    """Loss, clipped steps and KL; writes the gradient by `x` and adds to those by the next three."""
    dx, d_weight, d_bias, d_log_std = gradients
    low, high = F(1 - clip), F(1 + clip)
    z, precision = np.empty_like(bias), np.exp(-log_std)
    loss, clipped, kl = 0.0, 0.0, 0.0
    for k in range(x.shape[0]):
        log_ratio = -old_log_prob[k]
        for a in range(bias.size):
            mean = bias[a]
            for j in prange(x.shape[1]):
                mean += x[k, j] * weight[a, j]
            z[a] = (actions[k, a] - mean) * precision[a]
            log_ratio -= F(0.5) * z[a] * z[a] + log_std[a] + HALF_LOG_TWO_PI
        ratio, advantage = np.exp(log_ratio), advantages[k]
        surrogate, bound = advantage * ratio, advantage * min(max(ratio, low), high)
        loss -= min(surrogate, bound)
        clipped += ratio < low or ratio > high
        kl += ratio - F(1) - log_ratio
        dx[k] = F(0)
        if surrogate > bound:
            continue
        for a in range(bias.size):
            d_mean = -surrogate * z[a] * precision[a]
            d_bias[a] += d_mean
            d_log_std[a] -= surrogate * (z[a] * z[a] - F(1))
            for j in prange(x.shape[1]):
                dx[k, j] += d_mean * weight[a, j]
                d_weight[a, j] += d_mean * x[k, j]
    return loss, clipped, kl


@compiled_lanes
def _value_loss(x, weight, bias, returns, old_values, clip, dx, d_weight):
    """Loss and its derivative by the bias; writes `dx` and adds to `d_weight`."""
    loss, d_bias = np.float64(0), np.float64(0)
    for k in range(x.shape[0]):
        value = bias[0]
        for j in prange(x.shape[1]):
            value += x[k, j] * weight[0, j]
        step = value - old_values[k]
        kept = min(max(step, F(-clip)), F(clip))
        error = old_values[k] + kept - returns[k]
        loss += error * error
        slope = F(2) * error if kept == step else F(0)
        d_bias += slope
        for j in prange(x.shape[1]):
            dx[k, j] = slope * weight[0, j]
            d_weight[0, j] += slope * x[k, j]
    return loss, d_bias


class GaussianLoss(torch.autograd.Function):
    """`policy_loss` of a Gaussian with diagonal covariance. The gradients are made on the way forward."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, clip = arguments  # latent, weight, bias, log_std, then what is known of the steps
        inputs = [tensor.detach().numpy() for tensor in tensors]
        gradients = (np.empty_like(inputs[0]), *(np.zeros_like(x) for x in inputs[1:4]))
        loss, clipped, kl = _gaussian_loss(*inputs, clip, gradients)
        ctx.gradients, ctx.steps = [torch.from_numpy(g) for g in gradients], len(inputs[0])
        entropy = float((inputs[3] + HALF_LOG_TWO_PI + F(0.5)).sum())
        return torch.tensor([loss, -ctx.steps * entropy, clipped, kl])

    @staticmethod
    def backward(ctx: Any, d_terms: Tensor) -> tuple[Tensor | None, ...]:
        d_loss, d_entropy = d_terms[:2].tolist()
        *rest, d_log_std = (gradient.mul_(d_loss) for gradient in ctx.gradients)
        return (*rest, d_log_std - d_entropy * ctx.steps, None, None, None, None)


class ValueLoss(torch.autograd.Function):
    """`value_loss`. The gradients are made on the way forward."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, clip = arguments
        inputs = [tensor.detach().numpy() for tensor in tensors]
        dx, d_weight = np.empty_like(inputs[0]), np.zeros_like(inputs[1])
        loss, d_bias = _value_loss(*inputs, clip, dx, d_weight)
        ctx.gradients = torch.from_numpy(dx), torch.from_numpy(d_weight), torch.tensor([d_bias])
        return torch.tensor(loss)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient.mul_(d_loss) for gradient in ctx.gradients), None, None, None)
