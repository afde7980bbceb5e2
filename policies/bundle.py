"""Policy bundles: one `.mmz` file with all a desk needs to quote, and nothing that can run code.

A bundle is a zip of `bundle.json` (format version, schema, features, quote and risk configuration, structure
of the network, provenance, evaluation), one `.npy` for each array of weights, and `SHA256SUMS` over all of
them, as `sha256sum -c` reads it; in format "onnx" also `policy.onnx`. It loads without torch, without the
data it was trained on, and without trusting its origin.

    bundle = load("policy.mmz")
    policy = bundle.policy()         # many environments: backtest, evaluation
    stream = bundle.stream()         # one, as a live desk steps it
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError, differences, require
from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.market.base import Market
from mmenv.observation import observation_features
from policies.base import Policy
from policies.network.layers import Layer, Network
from policies.network.onnx_engine import OnnxPolicy, OnnxStream, to_onnx
from policies.network.runtime import BatchPolicy, Stream

SUFFIX = ".mmz"
VERSION = 1
"""The version of the file format; a reader refuses what is newer than itself."""
MANIFEST, SUMS = "bundle.json", "SHA256SUMS"
MODEL = "policy.onnx"
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

        With `other_market`, what it neither reads nor decides (`UNSEEN`) may differ.
        """
        ours, theirs = self.config.to_dict(), config.to_dict()
        if other_market:
            ours, theirs = ({k: v for k, v in d.items() if k not in UNSEEN} for d in (ours, theirs))
        if differ := "; ".join(differences(ours, theirs)):
            raise ConfigError(
                f"{self.name} was made under another configuration ({differ}). Use the one it was made "
                "under, or train and export it for this one."
            )


def save(bundle: Bundle, path: str | Path) -> None:
    """Write a bundle, whole or not at all."""
    manifest = {
        "format": bundle.format,
        "schema_id": bundle.config.schema_id,
        "config": bundle.config.to_dict(),
        "units": bundle.units,
        "features": _features(bundle.config),
        "provenance": bundle.provenance,
        "evaluation": bundle.evaluation,
    }
    files = {} if bundle.reference is None else {REFERENCE: _npy(bundle.reference)}
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
    made = make_config(**manifest["config"])
    if _features(made) != manifest["features"] or made.schema_id != manifest["schema_id"]:
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
        reference=_array(path, files, REFERENCE) if REFERENCE in files else None,
        onnx=files.get(MODEL),
        name=path.name,
    )
    if config is not None:
        bundle.check(config, other_market=other_market)
    return bundle


def write_archive(
    path: str | Path, manifest: Mapping[str, Any], network: Network, extra: Mapping[str, bytes] | None = None
) -> None:
    """Write a network, what `manifest` says of it (JSON types) and `extra` files, whole or not at all."""
    files: dict[str, bytes] = dict(extra or {})
    layers = []
    for i, layer in enumerate(network.layers):
        names = {}
        for name, array in layer.arrays.items():
            names[name] = f"weights/{i}.{name}.npy"
            files[names[name]] = _npy(array)
        plain = {"kind": layer.kind, "activation": layer.activation, "reads": layer.reads, "arrays": names}
        layers.append(plain)
    structure = {
        "inputs": network.inputs,
        "layers": layers,
        "outputs": network.outputs,
        "bounds": network.bounds,
        "state_size": network.state_size,
        "digest": network.digest,
    }
    whole = {"version": VERSION, **manifest, "network": structure}
    files[MANIFEST] = json.dumps(whole, separators=(",", ":")).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in {MANIFEST: files.pop(MANIFEST), **files, SUMS: sums.encode()}.items():
            # A fixed date: the same policy gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)


def read_archive(path: Path) -> tuple[dict[str, Any], Network, dict[str, bytes]]:
    """What `write_archive` wrote, and all its files; `ConfigError` where it is damaged or newer than this
    program."""
    files = _read(path)
    manifest = json.loads(files[MANIFEST])
    if manifest["version"] > VERSION:
        raise ConfigError(
            f"{path} has format version {manifest['version']}, this program reads up to {VERSION}: "
            "install a newer one, or export the policy with this one."
        )
    plain = manifest["network"]
    layers = []
    for layer in plain["layers"]:
        arrays = {name: _array(path, files, file) for name, file in layer["arrays"].items()}
        reads = None if layer["reads"] is None else tuple(layer["reads"])
        layers.append(Layer(layer["kind"], arrays, layer["activation"], reads))
    bounds = None if plain["bounds"] is None else (plain["bounds"][0], plain["bounds"][1])
    network = Network(plain["inputs"], tuple(layers), tuple(plain["outputs"]), bounds)
    return manifest, network, files


def _read(path: Path) -> dict[str, bytes]:
    """The files of a bundle, each checked against its sum."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        sums = dict(line.split("  ", 1)[::-1] for line in files.pop(SUMS).decode().splitlines())
    except Exception as error:  # a damaged zip raises a dozen kinds
        raise ConfigError(f"{path} is not a whole bundle ({error}); copy or export it anew.") from error
    if MANIFEST not in files or files.keys() != sums.keys():
        raise ConfigError(f"{path} is not a whole bundle: files are missing; copy or export it anew.")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != sums[name]:
            raise ConfigError(f"{path} is damaged: {name} does not fit its checksum; copy or export it anew.")
    return files


def _features(config: EnvConfig) -> list[list[Any]]:
    return [[f.name, f.low, f.high, f.meaning] for f in observation_features(config)]


def _changed(made: EnvConfig, manifest: dict[str, Any]) -> str:
    """What differs between what the configuration means here and what it meant when the file was written."""
    now, then = _features(made), manifest["features"]
    names = [a[0] for a, b in zip(now, then, strict=False) if a != b]
    if len(now) != len(then):
        names.append(f"{len(then)} features then, {len(now)} now")
    return ", ".join(names + differences(manifest["config"], made.to_dict())) or "another schema"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _array(path: Path, files: dict[str, bytes], name: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(files[name]), allow_pickle=False)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: {name} is missing or no array of numbers; export the policy anew."
        ) from error
