"""`neuralmm completion`: a script by which bash, zsh or fish complete commands, options and names.

eval "$(neuralmm completion bash)"      # in ~/.bashrc
eval "$(neuralmm completion zsh)"       # in ~/.zshrc
neuralmm completion fish | source       # in ~/.config/fish/config.fish
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from train.cli import COMMANDS, find
from train.options.repeated import actions


@dataclass(frozen=True)
class Shell:
    """Print a script that makes the shell complete `neuralmm`: eval "$(neuralmm completion bash)"."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]


def main(options: Shell) -> None:
    """Run the command."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell]())


def words() -> dict[str, tuple[list[str], list[str]]]:
    """By first word of a command, options and what may stand in their place: second words, names."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        options, names = found.setdefault(first, ({"--help"}, []))
        names += filter(None, [second])
        if command.options:
            for action in actions(tyro.extras.get_parser(find(command.options))):
                options.update(text for text in action.option_strings if text.startswith("--"))
                if not action.option_strings and action.choices is not None:
                    names += [str(choice) for choice in action.choices if str(choice) != "None"]
    return {first: (sorted(options), names) for first, (options, names) in found.items()}


def about(first: str) -> str:
    """What the command does, or the second words of those that begin with `first`."""
    if first in COMMANDS:
        return COMMANDS[first].what
    return ", ".join(name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{first} "))


def bash() -> str:
    """The script for bash."""
    known = words()
    cases = "\n".join(
        f'    {name}) words="{" ".join(names)}"; options="{" ".join(options)}" ;;'
        for name, (options, names) in known.items()
    )
    return f"""_neuralmm() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words="" options=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current")) ;;
  esac
}}
complete -o filenames -F _neuralmm neuralmm"""


def zsh() -> str:
    """The script for zsh, which can read that of bash."""
    return f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{bash()}"


def fish() -> str:
    """The script for fish."""
    known = words()
    lines = [
        f"complete -c neuralmm -n __fish_use_subcommand -f -a {name} -d '{about(name)}'" for name in known
    ]
    for name, (options, names) in known.items():
        seen = f"complete -c neuralmm -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} -l {option[2:]}" for option in options]
        lines += [f"{seen} -a {word}" for word in names]
    return "\n".join(lines)
