"""One policy trained by several workers, each with environments of its own: data parallelism.

Worker r of W has environments r E/W to (r+1) E/W of the E that one worker would have, with the same seeds,
and takes a W-th of every minibatch. What would be computed over the minibatch of one worker is computed over
those of all: moments of the advantages, gradients, the approximate KL divergence that ends an update early,
and the statistics from which the surprise control learns. So all workers take the same steps, and these are
those of one worker with the whole batch, except for the noise of the actions. That all hold the same weights
is checked after every update.

The first worker alone logs, evaluates and keeps the best model. Each has checkpoints of its own; a run one of
whose workers dies continues from the last that all have.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from mmenv.config import ConfigError
from mmenv.jobs import RETRIES, JobError
from train.checkpoint import drop_after, newest_step
from train.control_variate import SurpriseControl
from train.recurrent_ppo import Batch, FastRecurrentPPO, Gradients

if TYPE_CHECKING:
    from train.ppo import Settings


@dataclass(frozen=True)
class Team:
    """The workers that train one policy, as one of them sees it."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def algorithm(self) -> type[FastRecurrentPPO]:
        return FastRecurrentPPO if self.size == 1 else DataParallelPPO

    def share(self, settings: Settings) -> Settings:
        """The part of environments and minibatches that is this worker's."""
        for name in ("num_envs", "batch_size"):
            if getattr(settings, name) % self.size:
                raise ConfigError(
                    f"{name} = {getattr(settings, name)} is no multiple of the {self.size} workers."
                )
        envs = settings.num_envs // self.size
        return dataclasses.replace(
            settings,
            num_envs=envs,
            batch_size=settings.batch_size // self.size,
            seed=settings.seed + self.rank * envs,
        )

    def checkpoints(self, folder: Path) -> Path:
        """Where this worker keeps its checkpoints."""
        return folder / "checkpoints" / (f"worker_{self.rank}" if self.size > 1 else "")

    def agree(self, checkpoints: Path) -> bool:
        """Go back to the newest checkpoint that all have; whether there is one."""
        if self.size == 1:
            return any(checkpoints.glob("*.ckpt"))
        newest = newest_step(checkpoints)
        step = torch.tensor(-1 if newest is None else newest)
        dist.all_reduce(step, dist.ReduceOp.MIN)
        drop_after(checkpoints, int(step))
        return int(step) >= 0


ALONE = Team()


class DataParallelPPO(FastRecurrentPPO):
    """One worker's `FastRecurrentPPO`, in step with those of the others in the default process group."""

    _measuring = False

    def _setup_model(self) -> None:
        resumed = self.surprise_control is not None
        super()._setup_model()
        for parameter in self.policy.parameters():
            dist.broadcast(parameter.data, 0)
        if self.surprise_control is not None and not resumed:
            self.surprise_control = SharedSurpriseControl()

    def collect_rollouts(self, env: Any, *args: Any, **kwargs: Any) -> bool:
        going = super().collect_rollouts(env, *args, **kwargs)
        # Steps are those of all workers: schedules, evaluations and logs go by them.
        self.num_timesteps += (dist.get_world_size() - 1) * self.n_steps * env.num_envs
        return going

    def train(self) -> None:
        super().train()
        self._check_weights()

    def _fastest_threads(self) -> int:
        self._measuring = True  # each for itself: it is no step that all take
        found = super()._fastest_threads()
        self._measuring = False
        return found

    def _advantage_moments(self, advantages: Tensor) -> tuple[Tensor, Tensor]:
        if self._measuring:
            return super()._advantage_moments(advantages)
        x = advantages.double()
        sums = torch.stack([torch.full_like(x[0], len(x)), x.sum(), x.square().sum()])
        dist.all_reduce(sums)
        count, total, squares = sums
        variance = (squares - total**2 / count) / (count - 1)
        return (total / count).float(), variance.clamp(min=0).sqrt().float()

    def _gradients(
        self, batches: list[Batch], parameters: list[nn.Parameter], pool: ThreadPoolExecutor
    ) -> tuple[Gradients, Tensor]:
        gradients, statistics = super()._gradients(batches, parameters, pool)
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
            raise RuntimeError(f"the workers' weights have drifted apart by up to {apart:.3g}.")


class SharedSurpriseControl(SurpriseControl):
    """Learns from the residuals of all workers, so that all take off the same."""

    def _sums(self, terms: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gram, moment = super()._sums(terms, residuals)
        both = torch.from_numpy(np.concatenate([gram, moment[:, None]], axis=1))
        both = both.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(both)
        found = both.cpu().numpy()
        return found[:, :-1], found[:, -1]


# Launching --------------------------------------------------------------------------------------------------


def launch(folder: Path, workers: int, ray: str | None) -> None:
    """Train the run in `folder` by `workers` processes here, or by Ray Train on the cluster at `ray`."""
    if ray is not None:
        _launch_on_ray(folder.resolve(), workers, ray)
        return
    for _ in range(RETRIES + 1):
        try:
            with tempfile.TemporaryDirectory() as meeting:
                spawn(_local_worker, (workers, meeting, folder), nprocs=workers)
            return
        except ProcessExitedException as error:
            print(f"A worker died ({error}); all go on from their last checkpoint.", file=sys.stderr)
    raise JobError(f"{folder} lost a worker {RETRIES + 1} times. If memory is short, use fewer workers.")


def _local_worker(rank: int, size: int, meeting: str, folder: Path) -> None:
    backend = "nccl" if torch.cuda.device_count() >= size else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{meeting}/store", rank=rank, world_size=size)
    try:
        _work(folder, Team(rank, size))
    finally:
        dist.destroy_process_group()


def _work(folder: Path, team: Team) -> None:
    from train.ppo import read_settings, train

    torch.set_num_threads(1)
    train(*read_settings(folder), folder, team=team)


def _launch_on_ray(folder: Path, workers: int, address: str) -> None:
    from mmenv.ray_jobs import Driver, connect

    connect(address, workers)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    try:
        gpu = ray.cluster_resources().get("GPU", 0) >= workers
        TorchTrainer(
            _ray_worker,
            train_loop_config={"folder": str(folder), "driver": Driver.here()},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=RETRIES),
            ),
        ).fit()
    finally:
        ray.shutdown()


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train

    config["driver"].follow()
    context = ray.train.get_context()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _work(Path(config["folder"]), Team(context.get_world_rank(), context.get_world_size()))
