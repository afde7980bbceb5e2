"""One policy trained by several workers, each with environments of its own: data parallelism.

Worker r of W has environments r E/W to (r+1) E/W of the E that one worker would have, with the same seeds,
and takes a W-th of every minibatch. What would be computed over the minibatch of one worker is computed over
those of all: moments of the advantages, gradients, the approximate KL divergence that ends an update early,
and the statistics from which the surprise control learns. So all workers take the same steps, and these are
those of one worker with the whole batch, except for the noise of the actions. That all hold the same weights
is checked after every update.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.learner.buffer import Batch
from train.learner.control_variate import SurpriseControl
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.update import Gradients


class DataParallelPPO(FastRecurrentPPO):
    """One worker's `FastRecurrentPPO`, in step with those of the others in the default process group."""

    _measuring = False

    def _setup_model(self) -> None:
        super()._setup_model()
        for parameter in self.policy.parameters():
            dist.broadcast(parameter.data, 0)

    def _make_control(self) -> SurpriseControl:
        return SharedSurpriseControl(terms=getattr(self.env, "surprise_terms", None))

    def collect_rollouts(self, env: Any, *args: Any, **kwargs: Any) -> bool:
        going = super().collect_rollouts(env, *args, **kwargs)
        # Steps are those of all workers: schedules, evaluations and logs go by them.
        self.num_timesteps += (dist.get_world_size() - 1) * self.n_steps * env.num_envs
        return going

    def train(self) -> None:
        super().train()
        self._check_weights()

    def fastest_threads(self) -> int:
        self._measuring = True  # each for itself: it is no step that all take
        found = super().fastest_threads()
        self._measuring = False
        return found

    def advantage_moments(self, advantages: Tensor) -> tuple[Tensor, Tensor]:
        if self._measuring:
            return super().advantage_moments(advantages)
        x = advantages.double()
        sums = torch.stack([torch.full_like(x[0], len(x)), x.sum(), x.square().sum()])
        dist.all_reduce(sums)
        count, total, squares = sums
        variance = (squares - total**2 / count) / (count - 1)
        return (total / count).float(), variance.clamp(min=0).sqrt().float()

    def gradients(
        self, batches: list[Batch], parameters: list[nn.Parameter], pool: ThreadPoolExecutor
    ) -> tuple[Gradients, Tensor]:
        gradients, statistics = super().gradients(batches, parameters, pool)
        if self._measuring:
            return gradients, statistics
        whole = torch.cat([g.flatten() for g in (*gradients, statistics) if g is not None])
        dist.all_reduce(whole)
        whole /= dist.get_world_size()
        shapes = [g.shape for g in (*gradients, statistics) if g is not None]
        parts = iter(whole.split([shape.numel() for shape in shapes]))
        averaged = tuple(None if g is None else next(parts).view_as(g) for g in gradients)
        return averaged, next(parts).view_as(statistics)

    def _check_weights(self) -> None:
        weights = torch.cat([p.detach().flatten() for p in self.policy.parameters()])
        low, high = weights.clone(), weights.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        if not torch.equal(low, high):
            apart = float((high - low).abs().max())
            raise RuntimeError(
                f"the workers' weights have drifted apart by up to {apart:.3g}: resume from a checkpoint."
            )


class SharedSurpriseControl(SurpriseControl):
    """Learns from the residuals of all workers, so that all take off the same."""

    def _sums(self, terms: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gram, moment = super()._sums(terms, residuals)
        both = torch.from_numpy(np.concatenate([gram, moment[:, None]], axis=1))
        both = both.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(both)
        found = both.cpu().numpy()
        return found[:, :-1], found[:, -1]
