"""A trained model as a policy bundle: `neuralmm export MODEL -o policy.mmz`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, check_single
from mmenv.progress import progress_bar
from policies.base import Policy
from policies.bundle import REFERENCE_SEED, SUFFIX, Bundle, load, save
from policies.network.onnx_engine import to_onnx
from policies.network.quantise import to_float16, to_int8
from policies.network.trained import TrainedPolicy, actor_network
from train.baselines import Best
from train.evaluate import load as load_model
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.options.bundles import Export
from train.simulate import EVALUATION_SEED, Interval, simulate

CALIBRATION_EPISODES, CALIBRATION_SEED = 16, 4_000_000_000
CALIBRATION_STEPS = 1000
REFERENCE_STEPS = 1000


def export(options: Export) -> Bundle:
    """Make and write the bundle."""
    if options.output.suffix != SUFFIX:
        raise ConfigError(f"--output = {options.output} is not possible: it must end in {SUFFIX}.")
    options.output.parent.mkdir(parents=True, exist_ok=True)  # said before any work where it cannot be
    model, config = load_model(options.model)
    check_single(config, "a bundle")
    full = plain_bundle(model, config, options.output.name)
    network = full.network
    bundle = dataclasses.replace(
        full,
        format=options.format,
        provenance=provenance(options.model, model.num_timesteps),
        reference=first_actions(TrainedPolicy(model.policy), config),
    )
    if options.format == "float16":
        bundle = dataclasses.replace(bundle, network=to_float16(network))
    elif options.format == "int8":
        bundle = dataclasses.replace(bundle, network=to_int8(network, calibration(full.policy(), config)))
    elif options.format == "onnx":
        bundle = dataclasses.replace(bundle, onnx=to_onnx(network))
    if options.episodes > 0:
        bundle = dataclasses.replace(bundle, evaluation=evaluation(bundle, full, options.episodes))
    save(bundle, options.output)
    return load(options.output, config)


def plain_bundle(model: FastRecurrentPPO, config: EnvConfig, name: str) -> Bundle:
    """The float32 bundle of a model, unwritten, without a reference or an evaluation."""
    units = config.market.price_scale, float(config.market.lot_scale)
    return Bundle(actor_network(model.policy), config, units=units, name=name)


def provenance(path: Path, timesteps: int) -> dict[str, Any]:
    """Where the model comes from: its file, the settings of its run, the versions that made it."""
    file = path / "best_model.zip" if path.is_dir() else path
    settings = file.with_name("config.json")
    return {
        "model": f"{file.resolve().parent.name}/{file.name}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "steps": timesteps,
        "settings": json.loads(settings.read_text()).get("settings", {}) if settings.exists() else {},
        "versions": {name: version(name) for name in ("neuralmm", "torch", "stable-baselines3", "numpy")},
    }


def first_actions(policy: Policy, config: EnvConfig) -> np.ndarray:
    """What the policy does in the first episode of `REFERENCE_SEED`, float32 (steps, 2)."""
    found: list[np.ndarray] = []
    simulate(policy, config, 1, seed=REFERENCE_SEED, watch=lambda seen, given, held: found.append(given[0]))
    return np.array(found[:REFERENCE_STEPS], np.float32)


def calibration(policy: Policy, config: EnvConfig) -> np.ndarray:
    """Observations that the policy meets, float32 (steps, episodes, F)."""
    found: list[np.ndarray] = []
    episodes, seed = CALIBRATION_EPISODES, CALIBRATION_SEED
    simulate(policy, config, episodes, seed=seed, watch=lambda seen, given, held: found.append(seen.copy()))
    return np.array(found[:CALIBRATION_STEPS])


def evaluation(bundle: Bundle, full: Bundle, episodes: int) -> dict[str, Any]:
    """What the bundle is worth on its market, and what it lost against full precision, on the same paths."""
    config = bundle.config
    policies = (
        [full.policy()] if bundle.network.digest == full.network.digest else [full.policy(), bundle.policy()]
    )
    with progress_bar(total=episodes * len(policies), unit=" episodes", leave=False) as bar:
        outcomes = [simulate(policy, config, episodes, progress=bar.update) for policy in policies]
    found: dict[str, Any] = {"market": config.market.name, "episodes": episodes, "seed": EVALUATION_SEED}
    found["value"] = rounded(outcomes[-1].value())
    best = Best.of(config, episodes, progress=True)
    if best is not None:
        found[best.scale.label] = rounded(best.percent(outcomes[-1]), 2)
    if len(outcomes) > 1:
        found["minus float32"] = rounded(outcomes[1].minus(outcomes[0]))
    return found


def rounded(interval: Interval, places: int = 5) -> list[float]:
    """Mean, low, high."""
    return [round(value, places) for value in interval]


def main(options: Export) -> None:
    """Run `neuralmm export`."""
    torch.set_num_threads(1)
    bundle = export(options)
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    size = options.output.stat().st_size
    console.print(f"{options.output}: {bundle.format}, {size:,} bytes, {bundle.network.describe()}")
    for name, value in bundle.evaluation.items():
        shown = Interval(*value).text("g") if isinstance(value, list) else value
        console.print(f"  {name}: {shown}")
    console.print(f"Next: neuralmm verify {shlex.quote(str(options.output))}")
