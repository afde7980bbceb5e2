"""The update of recurrent PPO: passes over a rollout in minibatches, each divided among threads."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from mmenv.engine.threads import processors
from policies.network.recurrent import RecurrentPolicy
from train.learner import direct
from train.learner.buffer import Batch, TimeMajorBuffer
from train.learner.control_variate import SurpriseControl
from train.learner.ppo_loss import policy_loss, value_loss

STATISTICS = (
    "policy_gradient_loss",
    "value_loss",
    "entropy_loss",
    "prediction_loss",
    "clip_fraction",
    "approx_kl",
)
"""What is known of a minibatch: losses first, then the share of clipped steps and the approximate KL."""
LOSSES, KL = 4, STATISTICS.index("approx_kl")

Gradients = tuple[Tensor | None, ...]
"""A gradient for each of the policy's parameters; None where the loss does not depend on it."""


class MinibatchUpdate(RecurrentPPO):
    """The half of `FastRecurrentPPO` that learns from the rollout in `rollout_buffer`."""

    policy: RecurrentPolicy
    rollout_buffer: TimeMajorBuffer  # type: ignore[assignment]
    clip_range: Schedule
    clip_range_vf: Schedule | None
    prediction_coef: float
    active_threads: int | None
    surprise_control: SurpriseControl | None
    _direct = False
    """Whether `train.learner.direct` knows the policy, which `train` asks."""

    def train(self) -> None:
        """Update the policy on the rollout in the buffer: `n_epochs` passes over it in minibatches."""
        policy = self.policy
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        self._clip = self.clip_range(self._current_progress_remaining)
        self._clip_vf = (
            None if self.clip_range_vf is None else self.clip_range_vf(self._current_progress_remaining)
        )
        self._direct = direct.knows(policy)
        if self.active_threads is None:
            self.active_threads = self.fastest_threads()

        parameters = list(policy.parameters())  # finding them takes a walk through all modules
        statistics: list[Tensor] = []
        stop = False
        with threads_of_update(self.active_threads) as pool:
            for _ in range(self.n_epochs):
                epoch_start = len(statistics)
                for batches in self._minibatches(pool):
                    gradients, stats = self.gradients(batches, parameters, pool)
                    statistics.append(stats)
                    if self.target_kl is not None and stats[KL].item() > 1.5 * self.target_kl:
                        stop = True
                        break
                    for parameter, gradient in zip(parameters, self._clipped(gradients), strict=True):
                        parameter.grad = gradient
                    policy.optimizer.step()
                    policy.hold()
                self._n_updates += 1
                if stop:
                    break
        self._log(torch.stack(statistics), epoch_start)

    def _log(self, statistics: Tensor, epoch_start: int) -> None:
        """Record what is known of the minibatches, (minibatches, 6), of which the last epoch's come last."""
        record, policy, buffer = self.logger.record, self.policy, self.rollout_buffer
        mean = dict(zip(STATISTICS, statistics.mean(0).tolist(), strict=True))
        if policy.predictor is None:
            del mean["prediction_loss"]
        mean["approx_kl"] = statistics[epoch_start:].mean(0)[KL].item()
        for name, value in mean.items():
            record(f"train/{name}", value)
        record("train/loss", (statistics[-1][:LOSSES] @ self._loss_weights()).item())
        values, returns = buffer.values.flatten().cpu().numpy(), buffer.returns.flatten().cpu().numpy()
        record("train/explained_variance", explained_variance(values, returns))
        if hasattr(policy, "log_std"):
            record("train/std", policy.log_std.exp().mean().item())
        if self.surprise_control is not None:
            record("train/residual_variance_left", self.surprise_control.variance_left)
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", self._clip)
        if self._clip_vf is not None:
            record("train/clip_range_vf", self._clip_vf)
        record("time/threads", self.active_threads)

    # Minibatches --------------------------------------------------------------------------------------------

    def _minibatches(self, pool: ThreadPoolExecutor) -> Iterator[list[Batch]]:
        """One epoch: all chunks, shuffled, in groups of about `batch_size` steps, cut up for the threads.

        Each is packed while the one before it is at work.
        """
        order = np.random.permutation(self.rollout_buffer.n_chunks)  # noqa: NPY002 (SB3 seeds this one)
        size = self._chunks_per_minibatch()
        packing = pool.submit(self.packed, order[:size], pool)
        for first in range(size, len(order), size):
            batches = packing.result()
            packing = pool.submit(self.packed, order[first : first + size], pool)
            yield batches
        yield packing.result()

    def packed(self, chunks: np.ndarray, pool: ThreadPoolExecutor) -> list[Batch]:
        """The minibatch of these chunks, in as many shares as the threads need."""
        return self.rollout_buffer.batches(chunks, pool._max_workers // len(self._parts(pool)))

    def _parts(self, pool: ThreadPoolExecutor) -> tuple[str, ...]:
        """What of the policy is differentiated at a time (see `_loss_terms`)."""
        return ("actor", "critic") if self.policy.apart and pool._max_workers % 2 == 0 else ("both",)

    def _chunks_per_minibatch(self) -> int:
        chunks = self.rollout_buffer.n_chunks
        if self.batch_size is None:
            return chunks
        return min(max(1, round(self.batch_size / self.rollout_buffer.chunk_length)), chunks)

    # Gradients ----------------------------------------------------------------------------------------------

    def gradients(
        self, batches: list[Batch], parameters: list[nn.Parameter], pool: ThreadPoolExecutor
    ) -> tuple[Gradients, Tensor]:
        """Gradients of the loss on a minibatch with respect to `parameters`, and its `STATISTICS`, (6,)."""
        n = sum(len(batch.returns) for batch in batches)
        if self.normalize_advantage and n > 1:
            mean, std = self.advantage_moments(torch.cat([batch.advantages for batch in batches]))
            batches = [
                batch._replace(advantages=(batch.advantages - mean) / (std + 1e-8)) for batch in batches
            ]
        work = [(batch, part) for batch in batches for part in self._parts(pool)]
        results = list(pool.map(lambda job: self._share_gradients(job[0], job[1], parameters, n), work))
        gradients = tuple(
            functools.reduce(torch.add, found) if (found := [g for g in shares if g is not None]) else None
            for shares in zip(*(g for g, _ in results), strict=True)
        )
        return gradients, torch.stack([stats for _, stats in results]).sum(0)

    def advantage_moments(self, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation by which the advantages of a minibatch, (n,), are normalised."""
        return advantages.mean(), advantages.std()

    def _share_gradients(
        self, batch: Batch, part: str, parameters: list[nn.Parameter], n: int
    ) -> tuple[Gradients, Tensor]:
        """One share's contribution to the mean over the `n` steps of the minibatch."""
        if self._direct:
            clips = self._clip, math.inf if self._clip_vf is None else self._clip_vf
            found, terms = direct.loss_gradients(self.policy, batch, part, clips, self._loss_weights() / n)
            return tuple(map(found.get, parameters)), terms / n
        terms = self._loss_terms(batch, part) / n
        loss = terms[:LOSSES] @ self._loss_weights()
        return torch.autograd.grad(loss, parameters, allow_unused=True), terms.detach()

    def _loss_weights(self) -> Tensor:
        weights = [1.0, self.vf_coef, self.ent_coef, self.prediction_coef]
        return torch.tensor(weights, device=self.device)

    def _loss_terms(self, batch: Batch, part: str) -> Tensor:
        """Sums of the `STATISTICS` over the steps, (6,), of "actor", "critic" or "both"; the others are 0."""
        policy, sizes, memory = self.policy, batch.batch_sizes, None
        seen, known = policy.features_of(batch.observations)
        policy_term = value_term = entropy_term = prediction_term = clipped = kl = seen.new_zeros(())
        if part != "critic":
            memory, latent = policy.actor_sequences(seen, batch.lstm_states.pi, sizes)
            policy_term, entropy_term, clipped, kl = policy_loss(
                policy, latent, batch.actions, batch.old_log_prob, batch.advantages, self._clip
            )
            surprise = policy.surprise(memory, batch.observations)
            if surprise is not None:
                prediction_term = surprise.sum()
        if part != "actor":
            latent = policy.critic_sequences(known, batch.lstm_states.vf, sizes, memory)
            clip = math.inf if self._clip_vf is None else self._clip_vf
            value_term = value_loss(policy.value_net, latent, batch.returns, batch.old_values, clip)
        return torch.stack([policy_term, value_term, entropy_term, prediction_term, clipped, kl])

    def _clipped(self, gradients: Gradients) -> Gradients:
        """Scaled to a norm of at most `max_grad_norm`. Never in place: two parameters may share a tensor."""
        found = [g for g in gradients if g is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)))
        scaled = iter(torch._foreach_mul(found, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1)))
        return tuple(None if g is None else next(scaled) for g in gradients)

    # Threads ------------------------------------------------------------------------------------------------

    def fastest_threads(self) -> int:
        """Time one minibatch's gradient (it changes nothing) on 1, 2, ... threads, the best of three each."""
        parameters, chunks = list(self.policy.parameters()), np.arange(self._chunks_per_minibatch())
        seconds = {}
        for threads in range(1, processors() + 1):
            with threads_of_update(threads) as pool:
                batches = self.packed(chunks, pool)
                self.gradients(batches, parameters, pool)  # the first call compiles and warms up
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    self.gradients(batches, parameters, pool)
                    times.append(time.perf_counter() - start)
            seconds[threads] = min(times)
        # More threads must earn their keep: what they gain here is lost where another process wants the core.
        return min(seconds, key=lambda threads: seconds[threads] * 1.15 ** (threads - 1))


def quiet_thread() -> None:
    """One thread a library call, tiny numbers to zero (both are settings of the calling thread)."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@contextmanager
def threads_of_update(count: int) -> Iterator[ThreadPoolExecutor]:
    """Quiet threads for the shares of a minibatch."""
    with ThreadPoolExecutor(count, thread_name_prefix="ppo", initializer=quiet_thread) as pool:
        yield pool
