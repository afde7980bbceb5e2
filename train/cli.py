"""The `neuralmm` command: each subcommand is a script that also runs as `python -m`."""

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
    "members": ("train.members", "print what models earn on members of a family of markets"),
    "solve": ("policies.optimal", "print the exact optima of the solvable markets"),
    "calibrate": ("mmenv.calibrate", "measure a market and write it down as presets"),
    "sweep": ("train.sweep", "search settings and rewards; pruning by paired evaluation"),
    "study": ("train.study", "train seeds of several configurations and compare them"),
    "population": ("train.population", "train on families of markets, keep the best by held-out ones"),
    "signals": ("train.signals", "train, evaluate or list the networks beside the policy"),
    "facts": ("mmenv.facts", "check a market or tape against the stylised facts"),
    "bench": ("mmenv.bench", "time the environment beside its peers"),
    "paper": ("train.live:paper", "trade on paper: live data, fills from our own matcher"),
    "live": ("train.live:live", "trade with real orders; off unless key, flag and limits are given"),
    "halt": ("train.live:halt", "stop live desks: cancel everything"),
    "replay-journal": ("train.live:replay_journal", "play a session again and compare every byte"),
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
    try:
        module, _, function = COMMANDS[name][0].partition(":")
        getattr(importlib.import_module(module), function or "main")()
    except (ValueError, FileNotFoundError) as error:
        # Bad input is a sentence; anything else keeps its traceback.
        sys.exit(f"neuralmm {name}: {error}")


if __name__ == "__main__":
    main()
