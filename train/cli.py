"""The `neuralmm` command: finds the subcommand, reads its options, runs it, and ends it in a sentence.

The options of a command stand apart from its work (`train.options`), and the work is imported once they are
read: `--help` and bad options are answered before torch is loaded.
"""

from __future__ import annotations

import codecs
import difflib
import errno
import importlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Command(NamedTuple):
    """A subcommand."""

    what: str
    run: str
    """ "module:function" that does the work, called with the options."""
    options: str = ""
    """ "module:name" of the type that says what may be given."""
    default: str = ""
    """ "module:function" from the words of the command line to the options before they are read."""
    reads: bool = False
    """It reads the words of the command line itself, and is called with them."""


GROUPS: dict[str, dict[str, Command]] = {
    "Train a policy": {
        "train": Command(
            "train the recurrent policy, then evaluate it",
            "train.ppo:main",
            "train.settings:Settings",
            "train.settings:defaults",
        ),
        "study": Command(
            "train seeds of several configurations and compare them",
            "train.experiments.study:main",
            "train.options.experiments:Study",
        ),
        "study tape": Command(
            "calibrate to a tape, train there, play the rest of the tape",
            "train.experiments.tape:main",
            "train.options.experiments:TapeStudy",
        ),
        "sweep": Command(
            "search settings and rewards; pruning by paired evaluation",
            "train.experiments.sweep:main",
            "train.options.experiments:Sweep",
        ),
        "population": Command(
            "train on families of markets, keep the best by held-out ones",
            "train.experiments.population:main",
            "train.options.experiments:Population",
        ),
        "signals": Command(
            "train, evaluate or list the networks beside the policy",
            "train.signals.signals:main",
            "train.signals.settings:Chosen",
        ),
    },
    "Judge it": {
        "evaluate": Command(
            "any policy beside the optimum and the baselines",
            "train.evaluate:main",
            "train.options.evaluate:Evaluate",
        ),
        "backtest": Command(
            "policies over recorded or simulated markets; a tear sheet",
            "train.backtest:main",
            "train.options.backtest:Backtest",
        ),
        "members": Command(
            "what models earn on members of a family of markets",
            "train.experiments.members:main",
            "train.options.experiments:Members",
        ),
        "solve": Command(
            "exact optima, or what is known of the value of book",
            "train.solve:main",
            "train.options.solve:Solve",
        ),
        "score": Command(
            "percent of the optimum on a frozen task, for the leaderboard",
            "train.score:main",
            "train.options.zoo:Score",
        ),
        "replicate": Command(
            "the tables of a paper, computed here beside its own figures",
            "train.replicate:main",
            "train.options.replicate:Replicate",
        ),
        "reproduce": Command(
            "run again what made a result, and compare",
            "train.reproduce:main",
            "train.options.reproduce:Reproduce",
        ),
    },
    "Use your own data": {
        "import": Command(
            "recorded market data into a store",
            "mmenv.data.importer:main",
            "mmenv.data.importer:Import",
            reads=True,
        ),
        "store": Command(
            "what is in a store, and whether it is sound",
            "mmenv.data.store:main",
            "mmenv.data.store:Store",
        ),
        "record": Command(
            "live market data into a store",
            "mmenv.live.recorder:main",
            "mmenv.live.recorder:Record",
            reads=True,
        ),
        "facts": Command(
            "stylised facts of markets and tapes",
            "mmenv.measure.facts_page:main",
            "mmenv.measure.options:Facts",
        ),
        "calibrate": Command(
            "measure a market and write it down as presets",
            "mmenv.measure.calibrate_page:main",
            "mmenv.measure.options:Calibrate",
        ),
    },
    "Trade": {
        "export": Command(
            "a trained model as one file that runs without torch",
            "train.export:main",
            "train.options.bundles:Export",
        ),
        "verify": Command(
            "prove that an exported policy does what the trained one did",
            "train.verify:main",
            "train.options.bundles:Verify",
        ),
        "paper": Command(
            "trade on paper: live data, fills from our own matcher",
            "train.live:paper",
            "train.options.desks:Paper",
        ),
        "live": Command(
            "trade with real orders; off unless key, flag, limits are given",
            "train.live:live",
            "train.options.desks:Real",
        ),
        "halt": Command("stop live desks", "train.journals:halt", "train.options.desks:Halt"),
        "replay-journal": Command(
            "play a session again and compare every byte",
            "train.journals:replay_journal",
            "train.options.desks:ReplayJournal",
        ),
    },
    "Play trained policies": {
        "zoo list": Command(
            "frozen tasks, and the trained policy of each", "train.zoo:main_list", "train.options.zoo:ZooList"
        ),
        "zoo play": Command(
            "a trained policy plays: a table and two pictures",
            "train.zoo:main_play",
            "train.options.zoo:ZooPlay",
        ),
        "zoo evaluate": Command(
            "score the trained policies", "train.zoo:main_evaluate", "train.options.zoo:ZooEvaluate"
        ),
        "zoo export": Command(
            "a trained policy as a file", "train.zoo:main_export", "train.options.zoo:ZooExport"
        ),
        "zoo leaderboard": Command(
            "a page made from entries of scores", "train.score:leaderboard", "train.options.zoo:Leaderboard"
        ),
    },
    "Look around": {
        "list": Command(
            "markets, policies, venues, ... by name", "train.look:list_names", "train.look:Names"
        ),
        "doctor": Command(
            "what is installed here, and what is missing for which command",
            "train.doctor:main",
            "train.doctor:Doctor",
        ),
        "warm": Command(
            "compile what the first commands would stop to compile",
            "train.warm:main",
            "train.warm:Warm",
        ),
        "bench": Command(
            "time the environment beside its peers",
            "mmenv.measure.speed:main",
            "mmenv.measure.speed:Bench",
        ),
        "completion": Command(
            "a script by which the shell completes all this",
            "train.completion:main",
            "train.completion:Shell",
        ),
    },
}

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

HELP = ("-h", "--help", "help")

HELP_OF_ONE = "`neuralmm COMMAND --help` shows its options."

GOES_ON = ("study", "study tape", "sweep", "population", "backtest", "import")
"""Commands that keep what they have done: given again, they go on where they were stopped."""


PLAIN = "neuralmm-plain"
"""How what a terminal or file cannot show is written there: the minus signs of our tables as hyphens."""


def plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks, as the error handler `PLAIN`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join("-" if each == "\N{MINUS SIGN}" else "?" for each in lacking), error.end


codecs.register_error(PLAIN, plain)


def main() -> None:
    """Run the subcommand that the command line names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=PLAIN)
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: Sequence[str]) -> None:
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    name = " ".join(words[:length]) or "--help"
    if name in HELP:
        asked = [word for word in words if word not in HELP]
        if asked:
            _run([*asked, "--help"])
        else:
            print(help_text())
        return
    if name == "--version":
        from importlib.metadata import version

        print(f"neuralmm {version('neuralmm')}")
        return
    if name not in COMMANDS:
        _help_below(words)
        return
    # "module:name" is looked for in the current folder too, but last: a train.py there is not ours.
    sys.path.append("")
    try:
        _perform(name, COMMANDS[name], list(words[length:]))
    except KeyboardInterrupt as stop:
        kept = "The same command goes on where it stopped" if name in GOES_ON else "Nothing is half-written"
        again = str(stop) or f"{kept}: {shlex.join(['neuralmm', *words])}"
        print(f"\nneuralmm {name}: stopped. {again}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:
        # What we say of bad input is a sentence; anything else keeps its traceback.
        ours = type(error).__module__.partition(".")[0] in ("mmenv", "policies", "train")
        if os.environ.get("NEURALMM_TRACEBACK") or not (
            ours or isinstance(error, (ValueError, OSError, ImportError))
        ):
            raise
        sys.exit(f"neuralmm {name}: {sentence(error)}")


def _help_below(words: Sequence[str]) -> None:
    """List the commands that begin with the first of these words, or end: there is no such command."""
    name, *rest = words
    below = {whole: command for whole, command in COMMANDS.items() if whole.startswith(f"{name} ")}
    if below and (not rest or rest[0] in HELP):
        print("\n".join([f"usage: neuralmm {name} COMMAND [OPTIONS]", "", *_lines(below), "", HELP_OF_ONE]))
        return
    if below:
        names = ", ".join(whole.partition(" ")[2] for whole in below)
        sys.exit(f"neuralmm {name} has no command {rest[0]!r}. There are {names}.")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    sys.exit(f"neuralmm has no command {name!r}.{hint} `neuralmm --help` lists them.")


def _perform(name: str, command: Command, words: list[str]) -> None:
    sys.argv = [f"neuralmm {name}", *words]
    if command.reads:
        find(command.run)(words)
        return
    import tyro

    from mmenv.progress import ticking
    from train.options.numbers import check_numbers
    from train.options.repeated import gather
    from train.short import shorten

    more = {"default": find(command.default)(words)} if command.default else {}
    kind = find(command.options)
    options = tyro.cli(kind, args=gather(words, kind), prog=f"neuralmm {name}", **more)
    check_numbers(options)
    with ticking("Loading"):
        work = find(command.run)
    work(shorten(options))


def find(path: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def help_text() -> str:
    """The commands, by what one wants to do."""
    lines = ["usage: neuralmm COMMAND [OPTIONS]"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *_lines(commands)]
    return "\n".join([*lines, "", HELP_OF_ONE])


def _lines(commands: dict[str, Command]) -> list[str]:
    return [f"  {name:<15} {command.what}" for name, command in commands.items()]


def sentence(error: Exception) -> str:
    """What to tell the user of an error."""
    if isinstance(error, ImportError) and error.name:
        return f"{missing(error.name)}" if str(error).startswith(("No module", "import of")) else str(error)
    if (
        isinstance(error, OSError)
        and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        and error.filename
    ):
        return f"{error.filename}: you have no right to write or read here; name another folder."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {str(error.strerror).lower()}."
    return str(error)


def missing(module: str) -> str:
    """The sentence about a package that is not installed, with the extra that brings it."""
    from train.doctor import extra_of

    package = module.partition(".")[0]
    extra = extra_of(package)
    what = f"'neuralmm[{extra}]'" if extra else package
    return f"{package} is not installed: pip install {what}"


if __name__ == "__main__":
    main()
