"""A policy from what a user writes: a registered name, "module:name", a bundle, or a saved model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError, check_keys
from mmenv.config import EnvConfig
from policies.base import POLICIES, Policy, check_policy, is_ready
from policies.bundle import SUFFIX, load
from policies.sb3 import OTHER_FRAMEWORK, load_model, model_file


def make_policy(name: str, config: EnvConfig, **parameters: Any) -> Policy:
    """The policy `name` for environments of `config`.

    Parameters
    ----------
    name
        A registered policy, such as "glft", also with parameters, "glft:gamma=0.1"; "module:name" of a class,
        function or ready object; a bundle, "path/to/policy.mmz", which may come from another market if all
        else that it reads and decides is the same; or a model of Stable-Baselines3, a zip or the folder of
        its run (`policies.sb3`).
    parameters
        What the policy is called with besides the configuration.

    Raises
    ------
    ConfigError
        For an unknown name, wrong parameters, or a policy that has not the shape of one.
    """
    if name.endswith(SUFFIX):
        return load(name, config, other_market=True).policy(**parameters)
    file = model_file(name)
    if file is not None:
        if parameters:
            raise ConfigError(f"model {name!r} takes no {', '.join(parameters)}: leave it out.")
        return load_model(file).policy(config)
    if Path(name).is_file() and ":" not in name:
        raise ConfigError(
            f"policy = {name!r} is not possible: it is a file of no known kind. {OTHER_FRAMEWORK}"
        )
    family, given = split_parameters(name)
    plugin: Any = POLICIES.find(family)
    if is_ready(plugin):
        policy, given = plugin, {**given, **parameters}
        if given:
            raise ConfigError(f"policy {name!r} is ready made and takes no {', '.join(given)}: leave it out.")
    else:
        policy = _called(family, plugin, config, {**given, **parameters})
    check_policy(family, policy, config)
    return policy


def split_parameters(text: str) -> tuple[str, dict[str, float]]:
    """A policy's name and its parameters, of a text such as "glft:gamma=0.1"."""
    family, _, rest = text.partition(":")
    return (family, dict(read_parameters(rest))) if rest and family in POLICIES else (text, {})


def read_parameters(text: str) -> tuple[tuple[str, float], ...]:
    """The pairs of "name=number,name=number"."""
    pairs = []
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        try:
            pairs.append((name.strip(), float(value)))
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"policy parameter {part!r} is not possible: write name=number.")
    return tuple(pairs)


def _called(name: str, factory: Any, config: EnvConfig, parameters: dict[str, Any]) -> Any:
    """What the factory makes; raises `ConfigError` where it takes other parameters than these."""
    signature = inspect.signature(factory)
    taken = [*signature.parameters.values()][1:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        check_keys(f"policy {name!r}", parameters, [parameter.name for parameter in taken])
    given = (config,) if signature.parameters else ()  # a class without __init__ takes nothing
    try:
        signature.bind(*given, **parameters)
    except TypeError as error:
        takes = ", ".join(str(p.replace(annotation=p.empty)) for p in taken)
        raise ConfigError(f"policy {name!r}: {error}; it takes {takes or 'no parameters'}.") from error
    return factory(*given, **parameters)
