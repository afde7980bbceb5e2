"""Commands about the journals of desks: `neuralmm halt` and `neuralmm replay-journal`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from mmenv.checks import ConfigError, require
from mmenv.data.tape import Tape
from mmenv.live.compare import backtest
from mmenv.live.halt import WORDS, leave_word
from mmenv.live.rerun import check, setup_of, to_tape
from mmenv.venue.settings import ENGINES
from train.live import choose
from train.options.desks import Halt, ReplayJournal


def halt(options: Halt) -> None:
    """Run `neuralmm halt`."""
    print(f"{leave(options)} written")


def leave(options: Halt) -> Path:
    """Leave the word; desks read it within a tenth of a second, and when they start."""
    words = [word for word in WORDS if word != "halt" and getattr(options, word)] or ["halt"]
    if len(words) > 1:
        raise ConfigError("choose one of --flatten, --reduce, --resume and --clear.")
    require(options.journals.is_dir(), "Halt", "journals", str(options.journals), "a folder of journals")
    return leave_word(options.journals, words[0], options.reason)


def replay_journal(options: ReplayJournal) -> None:
    """Run `neuralmm replay-journal`."""
    play_again(options, Console())


def play_again(options: ReplayJournal, console: Console) -> None:
    """Print what agreed. Raises `Mismatch` naming the first difference."""
    setup = setup_of(options.journal)
    risk = setup.config.risk
    player = None
    if options.policy is not None:
        chosen = choose(
            options.policy, options.parameters, setup.market, risk.position_limit, risk.order_lots
        )
        if chosen.name != setup.policy:
            raise ConfigError(f"{options.journal} was made with {setup.policy}, not {chosen.name}.")
        player = chosen.player()
    session, frames = check(options.journal, player)
    console.print(
        f"{options.journal}: {frames} frames agree byte for byte, "
        f"{session.decision['number'] + 1} decisions, {session.fills} fills, "
        f"position {session.working.position}, profit {session.wealth:+.4f}"
    )
    if options.backtest and setup.mode == "paper" and not setup.position:
        with tempfile.TemporaryDirectory() as folder:
            tape = to_tape(options.journal, Path(folder))
            for engine in ENGINES:
                console.print(_compared(options.journal, tape, engine))


def _compared(journal: Path, tape: Tape, engine: str) -> str:
    try:
        found = backtest(journal, tape, engine)
    except ImportError as error:
        return f"backtest by {engine}: left out, for {error}"
    why = f"; {found.why}" if found.why else ""
    return (
        f"backtest by {engine}: {found.compared} decisions agree byte for byte in event, "
        f"observation, reward and quotes, {found.fills} with fills{why}"
    )
