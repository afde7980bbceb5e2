"""`neuralmm list`: what there is by name, of each kind of plug-in."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

Kind = Literal["all", "markets", "policies", "venues", "importers", "actions", "features", "rewards"]
REGISTRIES = {
    "markets": "mmenv.market.base:MARKETS",
    "policies": "policies.base:POLICIES",
    "venues": "mmenv.live.venues.base:VENUES",
    "importers": "mmenv.data.formats.base:IMPORTERS",
    "actions": "mmenv.actions.base:REGISTRY",
    "features": "mmenv.features.base:GROUPS",
    "rewards": "mmenv.rewards.base:REGISTRY",
}


@dataclass(frozen=True)
class Names:
    """List what there is by name, with a line on each: built in, or offered by an installed package."""

    kind: Annotated[tyro.conf.Positional[Kind], tyro.conf.arg(help="Of this kind alone; by default all.")] = (
        "all"
    )


def list_names(options: Names) -> None:
    """Run the command."""
    console = Console()
    for kind in get_args(Kind)[1:] if options.kind == "all" else [options.kind]:
        table = Table(title=kind, title_justify="left", show_header=False, box=None)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, what in names(kind):
            table.add_row(name, what.replace("[", "\\["))
        console.print(table)


def names(kind: Kind) -> list[tuple[str, str]]:
    """Names of a kind, each with the first line of its docstring; of `book` its presets too."""
    from train.cli import find

    registry = find(REGISTRIES[kind])
    if kind == "features":
        return [(name, about_group(group)) for name, group in registry.items()]
    found: list[tuple[str, str]] = registry.table()
    if kind == "markets":
        found += [(f"book:{preset}", "A preset of book: docs/markets.md.") for preset in find(PRESETS)]
    return found


def about_group(group: Any) -> str:
    """The first sentence of the file of a feature group, without the name that it begins with."""
    text = (getattr(inspect.getmodule(group.observe.function), "__doc__", None) or "").partition("\n\n")[0]
    what = " ".join(text.partition(": ")[2].split()) or " ".join(text.split())
    return what[:1].upper() + what[1:]


PRESETS = "mmenv.market.book_presets:PRESETS"
