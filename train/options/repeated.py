"""An option of several values that is given several times has the values of all: `--set a=1 --set b=2`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def gather(words: list[str], options: Any) -> list[str]:
    """The words of a command line with the values of such an option behind its first place."""
    names = [named(word) for word in words]
    twice = {name for name in names if name and names.count(name) > 1}
    if not twice:
        return words
    several = twice & of_several(options)
    before: list[str] = []
    values: dict[str, list[str]] = {}
    at = before
    for word, name in zip(words, names, strict=True):
        if name in several:
            if name not in values:
                before.append(name)
            at = values.setdefault(name, [])
            at += [word.partition("=")[2]] if "=" in word else []
        else:
            at = before if is_option(word) else at
            at.append(word)
    return [part for word in before for part in (word, *values.get(word, ()))]


def named(word: str) -> str:
    """The option that a word names, as `--net-arch`; nothing where it is a value."""
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") and len(word) > 2 else ""


def is_option(word: str) -> bool:
    """Whether a word is no value; negative numbers are values."""
    return word.startswith("-") and word[1:2].strip(".0123456789") != ""


def of_several(options: Any) -> set[str]:
    """The options that take any number of values."""
    import tyro

    parser = tyro.extras.get_parser(options)
    return {name for one in actions(parser) if one.nargs in ("*", "+") for name in one.option_strings}


def actions(parser: Any) -> Iterator[Any]:
    """The arguments of a parser, those of its subcommands too."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                yield from actions(below)
