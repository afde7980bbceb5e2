"""A run of several workers: processes here, or Ray Train on a cluster."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from mmenv.run.job import RETRIES, JobError
from train.run import train
from train.settings import read_settings
from train.team import Team


def launch(folder: Path, workers: int, ray: str | None) -> None:
    """Train the run in `folder` by `workers` processes here, or by Ray Train on the cluster at `ray`."""
    if ray is not None:
        _launch_on_ray(folder.resolve(), workers, ray)
        return
    for _ in range(RETRIES + 1):
        try:
            with tempfile.TemporaryDirectory() as meeting:
                spawn(_local_worker, (workers, meeting, folder), nprocs=workers, daemon=True)
            return
        except ProcessExitedException as error:
            print(f"A worker died ({error}); all go on from their last checkpoint.", file=sys.stderr)
    raise JobError(f"{folder} lost a worker {RETRIES + 1} times. If memory is short, use fewer workers.")


def _local_worker(rank: int, size: int, meeting: str, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends us
    backend = "nccl" if torch.cuda.device_count() >= size else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{meeting}/store", rank=rank, world_size=size)
    try:
        _work(folder, Team(rank, size))
    finally:
        dist.destroy_process_group()


def _work(folder: Path, team: Team) -> None:
    torch.set_num_threads(1)
    train(*read_settings(folder), folder, team=team)


def _launch_on_ray(folder: Path, workers: int, address: str) -> None:
    # Ray is an optional extra; the first of these says so where it is missing.
    from mmenv.run.ray_cluster import Driver, connect

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
