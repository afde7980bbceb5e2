"""The `neuralmm` command: each subcommand is a module of its own, imported when it is called."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "train": ("train.ppo", "train the recurrent policy, then evaluate it"),
    "evaluate": ("train.evaluate", "print the table of a trained model and the baselines"),
    "backtest": ("train.backtest", "play policies over recorded or simulated markets; a tear sheet"),
    "export": ("train.export", "write a trained model as one file that runs without torch"),
    "verify": ("train.verify", "prove that an exported policy does what the trained one did"),
    "reproduce": ("train.reproduce", "run again what made a result, and compare"),
    "members": ("train.experiments.members", "print what models earn on members of a family of markets"),
    "solve": (
        "train.solve",
        "print the exact optima of the solvable markets, or what is known of the value of book",
    ),
    "calibrate": ("mmenv.measure.calibrate_page", "measure a market and write it down as presets"),
    "sweep": ("train.experiments.sweep", "search settings and rewards; pruning by paired evaluation"),
    "study": ("train.experiments.study", "train seeds of several configurations and compare them"),
    "population": (
        "train.experiments.population",
        "train on families of markets, keep the best by held-out ones",
    ),
    "signals": ("train.signals.signals", "train, evaluate or list the networks beside the policy"),
    "facts": ("mmenv.measure.facts_page", "check a market or tape against the stylised facts"),
    "bench": ("mmenv.measure.speed", "time the environment beside its peers"),
    "paper": ("train.live:paper", "trade on paper: live data, fills from our own matcher"),
    "live": ("train.live:live", "trade with real orders; off unless key, flag and limits are given"),
    "halt": ("train.journals:halt", "stop live desks: cancel everything"),
    "replay-journal": ("train.journals:replay_journal", "play a session again and compare every byte"),
    "record": ("mmenv.live.recorder", "record live market data into a store"),
    "import": ("mmenv.data.importer", "read recorded market data into a store"),
}


def main() -> None:
    """Run the subcommand that the command line names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {command:<14} {what}" for command, (_, what) in COMMANDS.items())
        print(f"usage: neuralmm COMMAND [OPTIONS]\n\n{lines}\n\n`neuralmm COMMAND --help` shows its options.")
        return
    if name not in COMMANDS:
        sys.exit(f"neuralmm has no command {name!r}. Allowed: {', '.join(COMMANDS)}.")
    sys.argv = [f"neuralmm {name}", *sys.argv[2:]]
    sys.path.insert(0, "")  # as `python -m` does: "module:name" is looked for in the current folder too
    try:
        module, _, function = COMMANDS[name][0].partition(":")
        getattr(importlib.import_module(module), function or "main")()
    except (ValueError, FileNotFoundError) as error:
        # Bad input is a sentence; anything else keeps its traceback.
        sys.exit(f"neuralmm {name}: {error}")


if __name__ == "__main__":
    main()
