"""The fit of a signal's network: Adam, a checkpoint after each epoch, the best epoch kept."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from mmenv.files import replacing
from mmenv.progress import progress_bar
from mmenv.recording.windows import Part, Recording
from policies.signals.network import Design, Net
from train.signals.data import Batches
from train.signals.inputs import signs, swapped
from train.signals.settings import Train
from train.signals.tasks import Task

Array = np.ndarray


def make_net(
    design: Design, recording: Recording, columns: Array, target: Array, part: Part, seed: int
) -> Net:
    """The network, its standardisation fitted on the training part."""
    torch.manual_seed(seed)
    inputs = np.concatenate([recording.features[begin:end][:, columns] for begin, end in part.stretches])
    mean, scale = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    linear = [head.kind == "value" for head in design.heads]
    return Net(
        design,
        mean,
        # An input that never moves says nothing: it is centred and left alone.
        np.where(scale > 1e-6, scale, 1.0),
        [float(m) if is_linear else 0.0 for m, is_linear in zip(np.nanmean(target, 0), linear, strict=True)],
        [float(s) if is_linear else 1.0 for s, is_linear in zip(np.nanstd(target, 0), linear, strict=True)],
    )


@dataclass(frozen=True)
class Material:
    """What a network is fitted to."""

    task: Task
    names: tuple[str, ...]
    """Names of the inputs."""
    train: Batches
    validation: Batches

    def weights(self) -> Array:
        """The inverse variance of each head's target in training, (heads,)."""
        return np.asarray(1 / np.maximum(np.nanvar(self.train.target, axis=0), 1e-9))


class Fit:
    """A fit at work. The weights of the epoch with the least validation loss stay."""

    def __init__(self, net: Net, material: Material, options: Train, folder: Path) -> None:
        self.device = device_of(options)
        self.net, self.material, self.options = net.to(self.device), material, options
        self.optimizer = torch.optim.Adam(net.parameters(), lr=options.learning_rate, eps=1e-6)
        total = options.epochs * len(material.train)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: max(1 - step / total, 0.0)
        )
        self.generator = np.random.default_rng(options.seed)
        self.best: dict[str, Any] = {"loss": np.inf, "weights": copy.deepcopy(net.state_dict())}
        self.epoch = 0
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()
        self._flip = torch.from_numpy(signs(material.names)).to(self.device)
        self._swap = torch.from_numpy(swapped(material.names)).to(self.device)
        self._weight = torch.as_tensor(material.weights(), dtype=torch.float32, device=self.device)
        self._writer = SummaryWriter(str(folder), purge_step=self.epoch)

    def run(self) -> Net:
        """The network, fitted."""
        began, epochs = time.monotonic(), self.options.epochs
        with progress_bar(
            total=epochs, initial=self.epoch, unit=" epochs", desc=self.material.task.name
        ) as bar:
            while self.epoch < epochs:
                last = self._train()
                losses = validation_loss(self.net.eval(), self.material.validation, self._weight, self.device)
                self.epoch += 1
                self._log(losses, last, time.monotonic() - began)
                if float(losses.sum()) < self.best["loss"]:
                    weights = copy.deepcopy(self.net.state_dict())
                    self.best = {"loss": float(losses.sum()), "weights": weights}
                save_checkpoint(self.checkpoint, self._state())
                bar.update()
                bar.set_postfix(validation=f"{float(losses.sum()):.5f}")
        self._writer.close()
        self.net.load_state_dict(self.best["weights"])
        return self.net

    def _train(self) -> float:
        """One epoch; the loss of its last batch."""
        self.net.train()
        for x, y in self.material.train(self.generator):
            x, y = x.to(self.device), y.to(self.device)
            # Who buys and who sells may change places: half of each batch is seen so.
            turned = torch.from_numpy(self.generator.random(len(x)) < 0.5).to(self.device)[:, None, None]
            mirrored = torch.from_numpy(self.material.task.mirror(y.cpu().numpy())).to(self.device)
            x, y = torch.where(turned, x[..., self._swap] * self._flip, x), torch.where(turned, mirrored, y)
            self.optimizer.zero_grad()
            loss = self.net.loss(self.net(x), y, self._weight).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
        return float(loss.item())

    def _log(self, losses: torch.Tensor, last: float, seconds: float) -> None:
        for head, value in zip(self.net.design.heads, losses.tolist(), strict=True):
            self._writer.add_scalar(f"validation loss/{head.name}", value, self.epoch)
        self._writer.add_scalar("training loss of the last batch", last, self.epoch)
        self._writer.add_scalar("learning rate", self.schedule.get_last_lr()[0], self.epoch)
        self._writer.add_scalar("seconds", seconds, self.epoch)

    def _state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "best": self.best,
            "epoch": self.epoch,
        }

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=False)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.bit_generator.state = state["generator"]
        torch.set_rng_state(state["torch"])
        torch.cuda.set_rng_state_all(state["cuda"])
        self.best, self.epoch = state["best"], state["epoch"]


def device_of(options: Train) -> torch.device:
    """The device on which the network is fitted."""
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def validation_loss(net: Net, batches: Batches, weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Mean loss of each head over the validation part."""
    total, count = torch.zeros(len(weight)), torch.zeros(len(weight))
    with torch.inference_mode():
        for x, y in batches(None):
            known = torch.isfinite(y).sum(dim=(0, 1))
            total = total + net.loss(net(x.to(device)), y.to(device), weight).cpu() * known
            count = count + known
    return total / count.clamp(min=1)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
