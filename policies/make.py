"""A policy from what a user writes: a registered name, "module:name", or the file of a bundle."""

from __future__ import annotations

import inspect
from typing import Any

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from policies.base import POLICIES, Policy, check_policy, is_ready
from policies.bundle import SUFFIX, load


def make_policy(name: str, config: EnvConfig, **parameters: Any) -> Policy:
    """The policy `name` for environments of `config`.

    Parameters
    ----------
    name
        A registered policy, such as "glft", also with parameters, "glft:gamma=0.1"; "module:name" of a class,
        function or ready object; or a bundle, "path/to/policy.mmz". A bundle may come from another market, if
        all else that it reads and decides is the same.
    parameters
        What the policy is called with besides the configuration.

    Raises
    ------
    ConfigError
        For an unknown name, wrong parameters, or a policy that has not the shape of one.
    """
    if name.endswith(SUFFIX):
        return load(name, config, other_market=True).policy(**parameters)
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


def known_policies() -> str:
    """The registered policies with what they do, for the help of commands."""
    return "Policies by name:\n" + "\n".join(f"  {name}: {what}" for name, what in POLICIES.table())


def _called(name: str, factory: Any, config: EnvConfig, parameters: dict[str, Any]) -> Any:
    """What the factory makes; raises `ConfigError` where it takes other parameters than these."""
    signature = inspect.signature(factory)
    try:
        signature.bind(config, **parameters)
    except TypeError as error:
        takes = ", ".join(str(p.replace(annotation=p.empty)) for p in [*signature.parameters.values()][1:])
        raise ConfigError(f"policy {name!r}: {error}; it takes {takes or 'no parameters'}.") from error
    return factory(config, **parameters)
