"""The zip of a saved model, written whole; pickles of earlier versions, whose classes have moved since."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import open_path

from mmenv.checks import ConfigError
from mmenv.files import replacing

MOVED = {
    "policies.recurrent": "policies.network.recurrent",
    "train.control_variate": "train.learner.control_variate",
    "train.parallel": "train.learner.parallel",
    "train.ppo:Falling": "train.run:LinearDecay",
}
"""Where modules, or single names of them, are that files of version 0.1.0 (commit 616e95f) name."""


def save_atomically(model: Any, path: Path) -> None:
    """Save an SB3 model so that `path` is never half-written."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        model.save(file)


def saved_objects(path: Any) -> dict[str, Any]:
    """The pickled attributes of the model in a file, for SB3's `custom_objects`.

    What cannot be unpickled is left to SB3, which has its own words for it; but a class of ours that is not
    here any more raises `ConfigError`.
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            stored = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError):
        return {}
    finally:
        if isinstance(path, (str, Path)):
            file.close()
    found = {}
    for name, item in stored.items():
        if isinstance(item, dict) and ":serialized:" in item:
            try:
                found[name] = unpickle(base64.b64decode(item[":serialized:"]))
            except ConfigError:
                raise
            except Exception:
                continue
    return found


def unpickle(data: bytes) -> Any:
    """What was pickled, by this version or by 0.1.0; raises `ConfigError` where it names what is not here.

    Like every pickle, read it only if you trust its origin.
    """
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        there = MOVED.get(f"{module}:{name}") or f"{MOVED.get(module, module)}:{name}"
        try:
            return super().find_class(*there.split(":"))
        except (ImportError, AttributeError) as error:
            if module.partition(".")[0] not in ("mmenv", "policies", "train"):
                raise
            raise ConfigError(
                f"the file names {module}.{name}, which this version does not have: read it with version "
                "0.1.0 (commit 616e95f), or make it anew."
            ) from error
