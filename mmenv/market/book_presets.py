"""Presets of market `book`: calibrations by name, as `presets/book.toml` has them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError

ENVIRONMENT = "environment"
"""Table of a preset with what is not the market's: settings of the environment, its defaults there."""

LIKE = "like"
"""Names the preset that another one differs from in what it says."""

FILE = Path(__file__).with_name("presets") / "book.toml"


def read_presets(file: Path) -> dict[str, dict[str, Any]]:
    """Parameters by preset: the tables of a TOML file, each laid over its table `common`.

    One that says `like` of another is laid over that one, its `environment` over the other's.

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
    found: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        like = table.pop(LIKE, None)
        if like is not None and like not in found:
            raise ConfigError(f"{file}: {name}.{LIKE} = {like!r} is not possible: name a preset above it.")
        base = found[like] if like is not None else common
        environment = {**base.get(ENVIRONMENT, {}), **table.pop(ENVIRONMENT, {})}
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in {**base, **table}.items()}
        found[name] = given | ({ENVIRONMENT: environment} if environment else {})
    return found


PRESETS = read_presets(FILE)
