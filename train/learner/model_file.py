"""The zip of a saved model: written whole, and read where its classes have moved since."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import open_path

from mmenv.checks import ConfigError
from mmenv.files import replacing, unpickle


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
