"""Presets of market `book`: calibrations by name, as `presets/book.toml` has them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError

ENVIRONMENT = "environment"
"""Table of a preset with what is not the market's: settings of the environment, its defaults there."""

FILE = Path(__file__).with_name("presets") / "book.toml"


def read_presets(file: Path) -> dict[str, dict[str, Any]]:
    """Parameters by preset: the tables of a TOML file, each laid over its table `common`.

    Raises `ConfigError` for a file that cannot be read.
    """
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} is not readable ({error}): give a TOML file with a table a preset."
        ) from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{file}: {name} = {table!r} is not possible: it must be a table of parameters."
            )
    common = tables.pop("common", {})
    return {
        name: {key: tuple(v) if isinstance(v, list) else v for key, v in {**common, **table}.items()}
        for name, table in tables.items()
    }


PRESETS = read_presets(FILE)
