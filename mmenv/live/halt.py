"""The halt file: an operator's word in a folder of journals, which all desks of it heed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HALT_FILE: Final = "halt"
WORDS: Final = ("halt", "flatten", "reduce", "clear")


def leave_word(folder: Path, word: str, reason: str) -> Path:
    """Tell all desks of a folder one of WORDS; the file it is in."""
    file = folder / HALT_FILE
    temporary = file.with_name(".halt.tmp")
    temporary.write_text(f"{word} {reason}")
    temporary.replace(file)
    return file


class HaltFile:
    """The word that a desk has heard last."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / HALT_FILE
        self._heard = ""

    def news(self) -> tuple[str, str] | None:
        """A new word and its reason; None if there is none. What cannot be read is no reason to go on."""
        try:
            said = self._file.read_text()
        except FileNotFoundError:
            said = ""
        if said == self._heard:
            return None
        self._heard = said
        word, _, reason = said.partition(" ")
        known = word if word in WORDS else "halt"
        return (known, reason.strip() or f"file {self._file}") if said else None
