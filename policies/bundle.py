"""Policy bundles: one `.mmz` file with all a desk needs to quote, and nothing that can run code.

A bundle is a zip of `bundle.json` (format version, schema, features, quote and risk configuration, structure
of the network, provenance, evaluation), one `.npy` for each array of weights, `signals/*.mms`, the trained
signals that the policy observes and that of its risk manager, and `SHA256SUMS` over all of them, as
`sha256sum -c` reads it; in format "onnx" also `policy.onnx`. It loads without torch, without the data it was
trained on, in any folder, and without trusting its origin.

    bundle = load("policy.mmz")
    policy = bundle.policy()         # many environments: backtest, evaluation
    stream = bundle.stream()         # one, as a live desk steps it
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError, differences, require
from mmenv.config import EnvConfig, check_single, make_config, schema_of
from mmenv.market.base import Market
from mmenv.observation import observation_features
from mmenv.signals import Signal
from policies.archive import npy_array, npy_bytes, read_archive, write_archive
from policies.base import Policy
from policies.network.layers import Network
from policies.network.onnx_engine import OnnxPolicy, OnnxStream, to_onnx
from policies.network.runtime import BatchPolicy, Stream
from policies.signals import SUFFIX as SIGNAL_SUFFIX
from policies.signals import TrainedSignal, to_bytes
from policies.signals import load as load_signal

SUFFIX = ".mmz"
MODEL = "policy.onnx"
SIGNALS = "signals"
"""The folder within a bundle that has its signals."""
REFERENCE = "reference.npy"
FORMATS = ("float32", "float16", "int8", "onnx")
ENGINES = ("numba", "onnx")

REFERENCE_SEED = 3_000_000_000
"""Seed of the recorded actions, far from those of training, evaluation and tuning."""

UNSEEN = ("market", "start_inventory", "maker_fee_bp", "reward")
"""Fields of `EnvConfig` that a policy neither reads nor decides: it may run where only these differ."""


@dataclass(frozen=True)
class Bundle:
    """A trained policy with what it was made for."""

    network: Network
    config: EnvConfig
    """The configuration it was trained under."""
    format: str = "float32"
    """The format of its weights, one of `FORMATS`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """What it is worth, and how that was measured."""
    units: tuple[int, float] = (0, 0.0)
    """Half-ticks in a price unit, and typical lots of a step, on the market it was trained on."""
    reference: np.ndarray | None = None
    """Actions, float32 (T, 2), that torch gave in the first episode of seed `REFERENCE_SEED`."""
    onnx: bytes | None = None
    """The network as an ONNX model."""
    name: str = "bundle"

    def policy(self, engine: str = "numba") -> Policy:
        """The policy for any number of environments, on one of `ENGINES`; the first is the fastest.

        On it, an environment's actions do not depend on how many others there are.
        """
        if self._use_onnx(engine):
            return OnnxPolicy(self.network, self.to_onnx(), f"{self.name} (ONNX)")
        return BatchPolicy(self.network, self.name)

    def stream(self, engine: str = "numba") -> Stream | OnnxStream:
        """The policy for one stream of observations, on one of `ENGINES`; the first is the fastest."""
        if self._use_onnx(engine):
            return OnnxStream(self.network, self.to_onnx())
        return Stream(self.network)

    def to_onnx(self) -> bytes:
        """The ONNX model that came with it, or one made now."""
        return to_onnx(self.network) if self.onnx is None else self.onnx

    def _use_onnx(self, engine: str) -> bool:
        require(engine in ENGINES, "Bundle", "engine", engine, f"one of {', '.join(ENGINES)}")
        return engine == "onnx"

    def on(self, market: Market | str | dict[str, Any], maker_fee_bp: float | None = None) -> EnvConfig:
        """The configuration under which this policy runs on another market: that one's fees (or
        `maker_fee_bp`) and rewards, its own features, quotes, limits and horizon."""
        kept = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(EnvConfig)}
        more = {} if maker_fee_bp is None else {"maker_fee_bp": maker_fee_bp}
        return make_config(market, **{name: kept[name] for name in kept if name not in UNSEEN}, **more)

    def check(self, config: EnvConfig, *, other_market: bool = False) -> None:
        """Raise `ConfigError`, naming the fields, unless the policy was made for `config`.

        With `other_market`, what it neither reads nor decides (`UNSEEN`) may differ. Where the same signals
        come from may always differ.
        """
        ours, theirs = self.config.to_dict(sources=False), config.to_dict(sources=False)
        if other_market:
            ours, theirs = ({k: v for k, v in d.items() if k not in UNSEEN} for d in (ours, theirs))
        if differ := "; ".join(differences(ours, theirs)):
            raise ConfigError(
                f"{self.name} was made under another configuration ({differ}). Use the one it was made "
                "under, or train and export it for this one."
            )


def save(bundle: Bundle, path: str | Path) -> None:
    """Write a bundle with its signals, whole or not at all.

    Raises `ConfigError` for a signal that cannot be saved, and for several quoted assets.
    """
    check_single(bundle.config, "a bundle")
    config, signals = _placed(bundle.config)
    manifest = {
        "version": 2 if signals else 1,
        "format": bundle.format,
        "schema_id": config.schema_id,
        "config": config.to_dict(),
        "units": bundle.units,
        "features": _features(bundle.config),
        "provenance": bundle.provenance,
        "evaluation": bundle.evaluation,
    }
    files = signals if bundle.reference is None else {REFERENCE: npy_bytes(bundle.reference), **signals}
    if bundle.onnx is not None:
        files[MODEL] = bundle.onnx
    write_archive(path, manifest, bundle.network, files)


def load(path: str | Path, config: EnvConfig | None = None, *, other_market: bool = False) -> Bundle:
    """The bundle at `path`, checked against its sums and, where given, against `config` (`Bundle.check`).

    Raises `FileNotFoundError` where there is none; `ConfigError` where it is damaged, newer than this
    program, or made under another configuration.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such bundle; `neuralmm export MODEL` makes one.")
    manifest, network, files = read_archive(path)
    if "config" not in manifest:
        raise ConfigError(f"{path} holds no policy; give a bundle that `neuralmm export` made.")
    made = _made(path, manifest)
    # Version 1 counted where signals lie.
    schemas = made.schema_id, schema_of(made.to_dict())
    if _features(made) != manifest["features"] or manifest["schema_id"] not in schemas:
        raise ConfigError(
            f"{path} was made with other features or settings of the same names "
            f"({_changed(made, manifest)}); export the policy anew."
        )
    bundle = Bundle(
        network,
        made,
        format=manifest["format"],
        provenance=manifest["provenance"],
        evaluation=manifest["evaluation"],
        units=(manifest["units"][0], manifest["units"][1]),
        reference=npy_array(path, files, REFERENCE) if REFERENCE in files else None,
        onnx=files.get(MODEL),
        name=path.name,
    )
    if config is not None:
        bundle.check(config, other_market=other_market)
    return bundle


def _placed(config: EnvConfig) -> tuple[EnvConfig, dict[str, bytes]]:
    """The configuration with the trained signals taken from within the bundle, and their files there."""
    files: dict[str, bytes] = {}

    def place(signal: Signal) -> Signal:
        if isinstance(signal, TrainedSignal):
            name = f"{SIGNALS}/{signal.identity}{SIGNAL_SUFFIX}"
            files[name] = to_bytes(signal)
            return dataclasses.replace(signal, source=name)
        if not signal.source:
            raise ConfigError(
                f"signal {signal.name!r} cannot go into a bundle: it is code, and does not say by its "
                "`source` which; register it, or give it as module:name."
            )
        return signal

    manager = config.manager and dataclasses.replace(config.manager, signal=place(config.manager.signal))
    signals = tuple(place(signal) for signal in config.signals)
    return dataclasses.replace(config, signals=signals, manager=manager), files


def _made(path: Path, manifest: dict[str, Any]) -> EnvConfig:
    """The configuration that a manifest describes, with the signals that are within the bundle.

    Raises `ConfigError` where one is missing, or another than the policy learned with.
    """
    plain = dict(manifest["config"])

    def take(told: dict[str, Any]) -> Any:
        source = str(told["source"])
        if manifest["version"] < 2 or not source.startswith(f"{SIGNALS}/"):
            return told
        try:
            signal = load_signal(path.absolute() / source)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path} lacks its signal {told['name']!r} ({source}); copy or export it anew."
            ) from error
        if signal.identity != told["identity"]:
            raise ConfigError(
                f"{path} holds another signal {told['name']!r} than its policy learned with "
                f"({signal.identity}, not {told['identity']}); export the policy anew."
            )
        return signal

    if "signals" in plain:
        plain["signals"] = [take(told) for told in plain["signals"]]
    if plain.get("manager"):
        plain["manager"] = {**plain["manager"], "signal": take(plain["manager"]["signal"])}
    try:
        return make_config(**plain)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} names the file of a signal, as older programs wrote bundles: {error} Put it there, and "
            "export the policy anew: then it is within."
        ) from error


def _features(config: EnvConfig) -> list[list[Any]]:
    return [[f.name, f.low, f.high, f.meaning] for f in observation_features(config)]


def _changed(made: EnvConfig, manifest: dict[str, Any]) -> str:
    """What differs between what the configuration means here and what it meant when the file was written."""
    now, then = _features(made), manifest["features"]
    names = [a[0] for a, b in zip(now, then, strict=False) if a != b]
    if len(now) != len(then):
        names.append(f"{len(then)} features then, {len(now)} now")
    told = manifest["config"]
    # Signals are the same, or it would not have come so far; they only lie elsewhere.
    same = {name: told[name] for name in ("signals", "manager") if name in told}
    return ", ".join(names + differences(told, made.to_dict() | same)) or "another schema"
