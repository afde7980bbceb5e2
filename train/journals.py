"""Commands about the journals of desks: `neuralmm halt` and `neuralmm replay-journal`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from mmenv.checks import ConfigError, require
from mmenv.data.tape import Tape
from mmenv.live.compare import backtest
from mmenv.live.halt import WORDS, leave_word
from mmenv.live.rerun import check, setup_of, to_tape
from mmenv.venue.settings import ENGINES
from train.live import JOURNALS, choose


@dataclass(frozen=True)
class Halt:
    """Stop all desks of a folder: they cancel everything and quote no more until cleared."""

    journals: Path = JOURNALS
    """Folder of their journals."""
    flatten: bool = False
    """Then work out of the position, with reducing orders at the touch."""
    reduce: bool = False
    """Do not halt, but only reduce the position."""
    resume: bool = False
    """Take back what these have said; what the desks found out by themselves stays."""
    clear: bool = False
    """Take back whatever waits for the operator by now, limits of loss included."""
    reason: str = "neuralmm halt"
    """Reason to write down."""

    def run(self) -> Path:
        """Leave the word; desks read it within a tenth of a second, and when they start."""
        words = [word for word in WORDS if word != "halt" and getattr(self, word)] or ["halt"]
        if len(words) > 1:
            raise ConfigError("choose one of --flatten, --reduce, --resume and --clear.")
        require(self.journals.is_dir(), "Halt", "journals", str(self.journals), "a folder of journals")
        return leave_word(self.journals, words[0], self.reason)


def halt() -> None:
    """Command line of `neuralmm halt`."""
    print(f"{tyro.cli(Halt).run()} written")


@dataclass(frozen=True)
class ReplayJournal:
    """Play a journal again and compare every byte; a paper session's also through the backtester."""

    journal: tyro.conf.Positional[Path]
    """The file."""
    policy: str | None = None
    """The policy it was made with; without it the recorded actions are taken."""
    parameters: dict[str, float] = field(default_factory=dict)
    """Parameters of a policy by name."""
    backtest: bool = True
    """Also replay its market through hftbacktest and through our matcher, and compare every decision."""

    def run(self, console: Console) -> None:
        """Print what agreed. Raises `Mismatch` naming the first difference."""
        setup = setup_of(self.journal)
        risk = setup.config.risk
        player = None
        if self.policy is not None:
            chosen = choose(self.policy, self.parameters, setup.market, risk.position_limit, risk.order_lots)
            if chosen.name != setup.policy:
                raise ConfigError(f"{self.journal} was made with {setup.policy}, not {chosen.name}.")
            player = chosen.player()
        session, frames = check(self.journal, player)
        console.print(
            f"{self.journal}: {frames} frames agree byte for byte, "
            f"{session.decision['number'] + 1} decisions, {session.fills} fills, "
            f"position {session.working.position}, profit {session.wealth:+.4f}"
        )
        if self.backtest and setup.mode == "paper" and not setup.position:
            with tempfile.TemporaryDirectory() as folder:
                tape = to_tape(self.journal, Path(folder))
                for engine in ENGINES:
                    console.print(self._compare(tape, engine))

    def _compare(self, tape: Tape, engine: str) -> str:
        try:
            found = backtest(self.journal, tape, engine)
        except ImportError as error:
            return f"backtest by {engine}: left out, for {error}"
        why = f"; {found.why}" if found.why else ""
        return (
            f"backtest by {engine}: {found.compared} decisions agree byte for byte in event, "
            f"observation, reward and quotes, {found.fills} with fills{why}"
        )


def replay_journal() -> None:
    """Command line of `neuralmm replay-journal`."""
    tyro.cli(ReplayJournal).run(Console())
