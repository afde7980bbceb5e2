"""What a user gives to an environment, checked: its configuration, its reset options, an action."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmenv.checks import ConfigError, check_keys
from mmenv.config import DEFAULT_MARKET, EnvConfig, make_config
from mmenv.desk.family import member
from mmenv.market.base import Market
from mmenv.observation import action_entries

if TYPE_CHECKING:
    from mmenv.picture.render import Screen

RENDER_FPS = 30


class ActionError(ValueError):
    """An action the environment cannot take: the message names what is wrong and what is expected."""


def choose_config(
    market: str | Mapping[str, Any] | Market, config: EnvConfig | None, settings: Mapping[str, Any]
) -> EnvConfig:
    """`config`, or the configuration of `market` and `settings`; both at once is an error."""
    if "max_episode_steps" in settings:
        raise ConfigError("NeuralMM-v0 has no setting 'max_episode_steps': set `horizon`, which it observes.")
    if config is None:
        return make_config(market, **settings)
    if not isinstance(config, EnvConfig):
        raise ConfigError(f"config = {config!r} is not possible: give what make_config builds.")
    if settings or market != DEFAULT_MARKET:
        given = ", ".join(settings) or f"market = {market!r}"
        raise ConfigError(f"config is given, and so is {given}: put all of it into config, or leave it out.")
    return config


OPTIONS = ["position", "parameters"]


def start_positions(config: EnvConfig, options: Mapping[str, Any] | None, n: int) -> np.ndarray | None:
    """The positions that `options["position"]` asks for, int32 (n x assets,), or None where it says
    nothing."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(
            f"reset options = {options!r} is not possible: give a dict of {' and '.join(OPTIONS)}."
        )
    check_keys("reset options", options or {}, OPTIONS)
    if not options or "position" not in options:
        return None
    limit, assets = config.risk.position_limit, config.market.quoted
    positions = np.asarray(options["position"])
    shapes: tuple[tuple[int, ...], ...] = ((), (n,)) if assets == 1 else ((), (assets,), (n, assets))
    whole = np.issubdtype(positions.dtype, np.integer) and positions.shape in shapes
    if not whole or (np.abs(positions) > limit).any():
        each = f", one or one for each of {n} environments" if n > 1 else ""
        if assets > 1:
            each = f", one or one for each of {assets} assets" + (f" (of {n} environments)" if n > 1 else "")
        raise ConfigError(
            f"reset options: position = {options['position']!r} is not possible: "
            f"give whole lots from {-limit} to {limit}{each}."
        )
    shape = (n,) if assets == 1 else (n, assets)
    return np.broadcast_to(positions, shape).astype(np.int32).reshape(-1)


def start_parameters(config: EnvConfig, options: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The member of the family that `options["parameters"]` asks for, or None where it says nothing."""
    parameters = (options or {}).get("parameters")
    if parameters is None:
        return None
    if not config.randomise or not isinstance(parameters, Mapping):
        raise ConfigError(
            f"reset options: parameters = {parameters!r} is not possible: give a dict of parameters that the "
            "environment was made to `randomise`."
        )
    member(config, parameters)
    return dict(parameters)


def open_screen(render_mode: str | None, modes: list[str], config: EnvConfig, n: int) -> Screen | None:
    """What draws n environments in this mode; nothing is kept, or imported, for None."""
    if render_mode is None:
        return None
    if render_mode not in modes:
        raise ConfigError(
            f"render_mode = {render_mode!r} is not possible: it must be None or one of {', '.join(modes)}."
        )
    if config.market.quoted > 1:
        raise ConfigError(
            f"render_mode = {render_mode!r} is not possible: pictures show one quoted asset, and market "
            f"{config.market.name!r} has {config.market.quoted}; leave it out."
        )
    from mmenv.picture.render import Screen  # here, for matplotlib takes a second to import

    return Screen(render_mode, config, n, RENDER_FPS)


def as_action(config: EnvConfig, action: Any) -> np.ndarray:
    """An action that is not a plain array as float32 (A,); raises `ActionError` where it is none."""
    entries = action_entries(config)
    try:
        given = np.asarray(action)
    except (TypeError, ValueError):  # such as lists of different lengths
        given = np.asarray(None)
    if given.shape != (len(entries),) or given.dtype.kind not in "fiu":
        names = ", ".join(entry.name for entry in entries)
        raise ActionError(
            f"action = {shown(action)} is not possible: give {len(entries)} numbers, ({names})."
        )
    with np.errstate(over="ignore"):
        return given.astype(np.float32)


def shown(action: Any) -> str:
    return textwrap.shorten(repr(action), 100)
