"""The workers of a run: which part of it is whose.

The first worker alone logs, evaluates and keeps the best model. Each has checkpoints of its own; a run one of
whose workers dies continues from the last that all have.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from train.learner.checkpoint import drop_after, newest_step
from train.learner.parallel import DataParallelPPO
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.settings import Settings, require_shares


@dataclass(frozen=True)
class Team:
    """The workers that train one policy, as one of them sees it."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it logs, evaluates and keeps the model."""
        return self.rank == 0

    @property
    def algorithm(self) -> type[FastRecurrentPPO]:
        """The learner, which a team steps together."""
        return FastRecurrentPPO if self.size == 1 else DataParallelPPO

    def share(self, settings: Settings) -> Settings:
        """The part of environments and minibatches that is this worker's."""
        require_shares(settings, self.size)
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
