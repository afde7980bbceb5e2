"""API keys: from the environment or a private file, and from nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mmenv.checks import ConfigError

KEY, SECRET, PASSPHRASE = "NEURALMM_API_KEY", "NEURALMM_API_SECRET", "NEURALMM_API_PASSPHRASE"


def read_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Key, secret and, where there is one, passphrase, from the lines of `file` if given, otherwise from the
    environment.

    Raises `ConfigError` where one is missing or others than the owner can read the file; it never shows them.
    """
    if file is None:
        found = [environment.get(name, "") for name in (KEY, SECRET)]
        if PASSPHRASE in environment:
            found.append(environment[PASSPHRASE])
        where = f"the environment variables {KEY} and {SECRET}"
    else:
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            raise ConfigError(f"key file {file} does not exist.") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"key file {file} can be read by others; run `chmod 600 {file}`.")
        found = file.read_text().split()
        where = f"{file}, on lines of their own"
    if len(found) not in (2, 3) or not all(found):
        raise ConfigError(f"real orders need a key and its secret in {where}.")
    return tuple(found)
