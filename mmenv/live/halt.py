"""The halt file: an operator's word in a folder of journals, which all desks of it heed, each once.

A word carries the time it was given. A desk's journal remembers the newest that it has heard, so a restart
hears none of them again, and a word that takes something back does so for what was there when it was given.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HALT_FILE: Final = "halt"
WORDS: Final = ("halt", "flatten", "reduce", "resume", "clear")
"""What an operator may say; see `mmenv.live.session.Session.operator` for what it does."""


@dataclass(frozen=True)
class Word:
    """One of WORDS, why, and when it was given in nanoseconds since 1970."""

    word: str
    reason: str
    said_ns: int


def leave_word(folder: Path, word: str, reason: str, said_ns: int | None = None) -> Path:
    """Tell all desks of a folder one of WORDS, at the present if not at `said_ns`; the file it is in."""
    file = folder / HALT_FILE
    temporary = file.with_name(".halt.tmp")
    last = _read(file)
    said_ns = time.time_ns() if said_ns is None else said_ns
    # Two words within one tick of the clock are two words.
    said_ns = max(said_ns, last.said_ns + 1 if last is not None else 0)
    temporary.write_text(f"{said_ns} {word} {reason}")
    temporary.replace(file)
    return file


class HaltFile:
    """The words that are left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / HALT_FILE

    def news(self, heard_ns: int) -> Word | None:
        """The word there, unless it was given no later than `heard_ns`; None if there is none."""
        word = _read(self._file)
        return word if word is not None and word.said_ns > heard_ns else None


def _read(file: Path) -> Word | None:
    """The word in a file. What cannot be read, or was written by hand, is no reason to go on: it is a halt if
    it does not begin with another word, given when the file was written."""
    try:
        text, written_ns = file.read_text(errors="replace"), file.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    if not text.strip():
        return None
    stamp, _, rest = text.partition(" ")
    said_ns, said = (int(stamp), rest) if stamp.isdecimal() else (written_ns, text)
    word, _, reason = said.strip().partition(" ")
    return Word(word if word in WORDS else "halt", reason.strip() or f"file {file}", said_ns)
