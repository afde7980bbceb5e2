"""Files of networks: a zip of JSON, `.npy` arrays and checksums, without pickle, so that it cannot run code.

`policy.mmz` (a policy, `policies.bundle`) and `signal.mms` (a signal, `policies.signals`) are such files.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.files import replacing
from policies.network.layers import Layer, Network

VERSION = 2
"""The newest version of the file format that is known here; a reader refuses what is newer than itself.
Version 2 may hold signals; what holds none is written as version 1."""
MANIFEST, SUMS = "bundle.json", "SHA256SUMS"


def write_archive(
    path: str | Path, manifest: Mapping[str, Any], network: Network, extra: Mapping[str, bytes] | None = None
) -> None:
    """Write what `archive_bytes` makes, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(archive_bytes(manifest, network, extra))


def archive_bytes(
    manifest: Mapping[str, Any], network: Network, extra: Mapping[str, bytes] | None = None
) -> bytes:
    """A network, what `manifest` says of it (JSON types) and `extra` files as one archive.

    It is of format version 1 where the manifest names none. The same content gives the same bytes.
    """
    files: dict[str, bytes] = dict(extra or {})
    layers = []
    for i, layer in enumerate(network.layers):
        names = {}
        for name, array in layer.arrays.items():
            names[name] = f"weights/{i}.{name}.npy"
            files[names[name]] = npy_bytes(array)
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
    whole = {"version": 1, **manifest, "network": structure}
    files[MANIFEST] = json.dumps(whole, separators=(",", ":")).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    whole_file = io.BytesIO()
    with zipfile.ZipFile(whole_file, "w") as archive:
        for name, data in {MANIFEST: files.pop(MANIFEST), **files, SUMS: sums.encode()}.items():
            # A fixed date: the same policy gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)
    return whole_file.getvalue()


def read_archive(path: Path) -> tuple[dict[str, Any], Network, dict[str, bytes]]:
    """The manifest of an archive, its network, and all its files. `path` may lead into another archive:
    "policy.mmz/signals/a.mms".

    Raises `FileNotFoundError` where there is none, `ConfigError` where it is damaged or newer than this
    program.
    """
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
        arrays = {name: npy_array(path, files, file) for name, file in layer["arrays"].items()}
        reads = None if layer["reads"] is None else tuple(layer["reads"])
        layers.append(Layer(layer["kind"], arrays, layer["activation"], reads))
    bounds = None if plain["bounds"] is None else (plain["bounds"][0], plain["bounds"][1])
    network = Network(plain["inputs"], tuple(layers), tuple(plain["outputs"]), bounds)
    return manifest, network, files


def _read(path: Path) -> dict[str, bytes]:
    """The files of a bundle, each checked against its sum."""
    holder = next((parent for parent in path.parents if parent.is_file()), None)
    if holder is None:
        data = path.read_bytes()
    else:
        inner = path.relative_to(holder).as_posix()
        found = _read(holder)
        if inner not in found:
            raise FileNotFoundError(f"{holder} holds no {inner}; copy or export it anew.")
        data = found[inner]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
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


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def npy_array(path: Path, files: dict[str, bytes], name: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(files[name]), allow_pickle=False)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: {name} is missing or no array of numbers; export the policy anew."
        ) from error
