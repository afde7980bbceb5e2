"""Plug-ins by name: one shape for all kinds (markets, feature groups, actions, reward terms, venues, ...).

A plug-in is found under the name it was registered with, in a file of the kind's own folder; as
"module:name", anywhere in Python's path; or as an entry point that an installed package offers in the kind's
group:

    [project.entry-points."neuralmm.markets"]
    coin-toss = "my_package.coin_toss:CoinToss"
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoints, entry_points
from typing import Any, Generic, TypeVar

from mmenv.checks import ConfigError

T = TypeVar("T")


class PluginError(ConfigError):
    """A plug-in that cannot be used: the message names its kind, its name and what to change."""


class Registry(Mapping[str, T], Generic[T]):
    """The plug-ins of one kind, by name, in the order in which they were registered.

    Parameters
    ----------
    kind
        What one of them is called in messages, such as "market".
    folder
        Package whose modules register what is built in; they are imported when a name is first asked for.
        None where nothing is built in.
    check
        Raises `PluginError` for an object that is not of the kind's shape.
    group
        Of the entry points; by default "neuralmm.", then the plural of `kind`.
    """

    def __init__(
        self,
        kind: str,
        folder: str | None,
        check: Callable[[str, Any], None] | None = None,
        group: str | None = None,
    ) -> None:
        self.kind, self.group = kind, group or f"neuralmm.{kind.replace(' ', '_')}s"
        self._folder, self._check = folder, check
        self._found: dict[str, T] = {}
        self._complete = False

    @property
    def registered(self) -> dict[str, T]:
        """What is built in, and what else was registered until now; none that was only offered."""
        return dict(self._built_in())

    def register(self, name: str, plugin: T) -> T:
        """Make `plugin` known as `name`. Raises `PluginError` where another one has the name."""
        if self._check is not None:
            self._check(name, plugin)
        there = self._found.get(name)
        if there is not None and _origin(there) != _origin(plugin):
            raise self._twice(name, _origin(there), _origin(plugin))
        self._found[name] = plugin
        return plugin

    def find(self, name: object, field: str | None = None) -> T:
        """The plug-in called `name`, or at "module:name".

        Raises `PluginError`, which says that `field` is wrong (the kind, where it is None), for a name that
        nobody registered, with the nearest one, and for a plug-in that cannot be imported.
        """
        field = field or self.kind
        offered = [entry for entry in _offers(self.group) if entry.name == name]
        if isinstance(name, str) and name in self._built_in():
            plugin = self._found[name]
            for entry in offered:
                if _package(entry.value) != _package(_origin(plugin)):
                    raise self._twice(name, _origin(plugin), entry.value)
            return plugin
        if isinstance(name, str) and ":" in name:
            return self._at(name)
        if len(offered) > 1:
            raise self._twice(str(name), offered[0].value, offered[1].value)
        if offered:
            entry = offered[0]
            plugin = self.load(f"{self.kind} {name!r} of {entry.value}", entry.load)
            return self._found.get(entry.name) or self.register(entry.name, plugin)
        near = difflib.get_close_matches(str(name), list(self), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"{field} = {name!r} is not known.{hint} Allowed: {', '.join(sorted(self))}.")

    def load(self, what: str, load: Callable[[], Any]) -> Any:
        """The result of `load()`; raises `PluginError`, which begins with `what`, where that raises."""
        try:
            return load()
        except ConfigError:
            raise
        except Exception as error:
            raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}.") from error

    def table(self) -> list[tuple[str, str]]:
        """The names, each with the first line of its docstring, for help and documentation."""
        docs = ((name, inspect.getdoc(plugin) or "") for name, plugin in self.items())
        return [(name, doc.partition("\n")[0]) for name, doc in docs]

    def __getitem__(self, name: str) -> T:
        try:
            return self.find(name)
        except PluginError as error:
            raise KeyError(str(error)) from error

    def __contains__(self, name: object) -> bool:
        # A name that is offered is known even where it cannot be imported: `find` then says why.
        return name in self._names() or super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self._built_in(), *(entry.name for entry in _offers(self.group))]))

    def _built_in(self) -> dict[str, T]:
        if not self._complete:
            self._complete = True
            for module in _modules(self._folder) if self._folder else ():
                importlib.import_module(module)
        return self._found

    def _at(self, path: str) -> T:
        """The plug-in at "module:name", which may also have registered itself under `name`."""
        module_name, _, name = path.rpartition(":")
        module = self.load(f"{self.kind} {path!r}", lambda: importlib.import_module(module_name))
        plugin: Any = module
        for part in name.split("."):
            plugin = getattr(plugin, part, None)
        if plugin is None and name in self._found:
            return self._found[name]
        if plugin is None:
            raise PluginError(f"{self.kind} = {path!r} is not known: {module_name} has no {name!r}.")
        if self._check is not None:
            self._check(path, plugin)
        return plugin

    def _twice(self, name: str, first: str, second: str) -> PluginError:
        plural = self.group.rpartition(".")[2].replace("_", " ")
        return PluginError(
            f"two {plural} are named {name!r}, one in {first} and one in {second}: rename one of them."
        )


def _modules(folder: str) -> Iterator[str]:
    package = importlib.import_module(folder)
    return (module.name for module in pkgutil.iter_modules(package.__path__, f"{folder}."))


@functools.cache
def _offers(group: str) -> EntryPoints:
    """What installed packages offer in a group; looked up once, for it takes some 20 milliseconds."""
    return entry_points(group=group)


def _package(path: str) -> str:
    return path.partition(":")[0].partition(".")[0]


def _origin(plugin: object) -> str:
    """Where a plug-in was made: module and name of a class or function, else its `origin` or its class's."""
    origin = getattr(plugin, "origin", None)
    if isinstance(origin, str):
        return origin
    owner = plugin if hasattr(plugin, "__qualname__") else type(plugin)
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', '?')}"
