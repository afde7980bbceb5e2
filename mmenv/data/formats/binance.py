"""Raw Binance feed captures: USD-M and COIN-M futures and spot.

One line is the local time in nanoseconds, a blank and the exchange's JSON message (diff depth, book
ticker, trade or aggregated trade; REST depth snapshots in between). Messages of other kinds, and of other
symbols than the one chosen, are counted in the report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.data.formats.ahead import ready
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.formats.binance_decoder import PARTIAL, Decoder
from mmenv.data.formats.binance_scan import STATE, scan
from mmenv.data.lines import Block, Lines, Translate
from mmenv.data.problems import Report
from mmenv.data.rows import TRADE, CaptureError, joined
from mmenv.data.sequence import overlap
from mmenv.data.source import FEES_BP, SAFE, Source

BLOCK_BYTES: Final = 1 << 20
"""Text parsed at a time."""
SYMBOL: Final = re.compile(rb'"s": ?"([^"\\]+)"')
LOOK: Final = re.compile(rb'^\d+ \{.*("e": ?"(depthUpdate|bookTicker|aggTrade|trade)"|"lastUpdateId")', re.M)
MAX_KINDS: Final = 12
"""Kinds of messages that a file without a diff is said to hold."""


@register
class Binance(Importer):
    """Consecutive captures of one symbol, in arrival order."""

    name = "binance"
    description = "raw captures of Binance USD-M, COIN-M or spot, `<local ns> <JSON>` a line"
    notes = (
        "told apart by their content; the late REST snapshot is placed by `lastUpdateId`; `aggTrade` serves "
        "where there is no `trade`"
    )

    def __init__(
        self,
        source: Source,
        paths: Sequence[Path],
        options: ImportOptions,
        known: Sequence[str],
        translate: Translate | None = None,
    ) -> None:
        self.source, self.places = source, options.places
        self.names = [path.name for path in paths]
        self._lines = Lines(paths, 0, translate)
        self.size = self._lines.size
        self._decoder = Decoder(source, Report(), options.places, known if options.symbol else None)
        self._decoder.file = -1

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return LOOK.search(head) is not None

    @classmethod
    def open(
        cls, paths: Sequence[Path], options: ImportOptions, translate: Translate | None = None
    ) -> list[Binance]:
        found: dict[tuple[str, str], list[tuple[int, Path, Source]]] = {}
        known: set[str] = set()
        for path in paths:
            first_ns, sources = identify(path, options.symbol is not None, translate)
            known |= set(sources)
            for symbol, source in sources.items():
                if options.one_symbol in (None, symbol):
                    venue = options.venue or source.venue
                    file = first_ns, path, replace(source, venue=venue)
                    found.setdefault((venue, symbol), []).append(file)
        if not found:
            held = ", ".join(sorted(known))
            raise CaptureError(f"--symbol = {options.symbol!r} is not possible: the files hold {held}.")
        groups = [sorted(group, key=lambda file: file[0]) for group in found.values()]
        return [
            cls(group[0][2], [path for _, path, _ in group], options, sorted(known), translate)
            for group in groups
        ]

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        decoder = self._decoder
        decoder.report = report
        while (block := self._lines.pull(BLOCK_BYTES)) is not None:
            self.done = self._lines.done
            begins = block.file != decoder.file
            if begins:
                yield self._end_file()
                decoder.file = block.file
            yield joined([*self._block(block, begins), decoder.flush()])
            if self._lines.error:
                decoder.problem("truncated", self._lines.error)
        yield self._end_file()
        decoder.trade_ids.settle(report)

    def _end_file(self) -> NDArray[np.void]:
        """All rows of a chunk are of one file."""
        if self._decoder.file >= 0 and not self._decoder.started:
            self._decoder.start_without_snapshot()
        return self._decoder.flush()

    def _block(self, block: Block, begins: bool) -> Iterator[NDArray[np.void]]:
        """Rows of a block: compiled code takes what is in order, `Decoder.message` the lines it stops at."""
        decoder, text = self._decoder, np.frombuffer(block.text, np.uint8)
        symbol = np.frombuffer(self.source.symbol.encode(), np.uint8)
        at, next_line, compiled = 0, block.line, ready(scan, compile_scan)
        if begins and decoder.local_ns and _stamp(block.text) < decoder.local_ns:
            raise overlap(decoder.report, block.file)
        while at < len(text):
            if compiled and decoder.started and decoder.valid and not decoder.straddling:
                begin, state = at, decoder.get_state(next_line)
                at, messages, values = scan(text, at, symbol, state)
                if at > begin:
                    decoder.one_by_one = decoder.one_by_one or bool((messages["kind"] == TRADE).any())
                    yield decoder.flush()
                    next_line = decoder.set_state(state)
                    yield decoder.keep_possible(messages, values)
                    continue
            end = block.text.find(b"\n", at)
            line = block.text[at : end if end >= 0 else len(text)]
            at += len(line) + 1
            decoder.line, next_line = next_line, next_line + 1
            self._line(line)

    def _line(self, line: bytes) -> None:
        stamp, _, payload = line.partition(b" ")
        try:
            local_ns, message = int(stamp), orjson.loads(payload)
        except ValueError:
            self._decoder.problem("bad-line", "not '<local ns> <JSON object>'; skipped")
        else:
            self._decoder.message(local_ns, message)


def compile_scan() -> None:
    """Have `scan` compiled, or taken from the cache."""
    line = np.frombuffer(b"\n", np.uint8)
    scan(line, 0, line, np.zeros(1, STATE)[0])


def _stamp(text: bytes) -> int:
    stamp = text[:20].partition(b" ")[0]
    return int(stamp) if stamp.isdigit() else 0


def identify(
    path: Path, every: bool = False, translate: Translate | None = None
) -> tuple[int, dict[str, Source]]:
    """When a file starts, and the symbol that it is of: the first one with a depth diff, or `every` one.

    Raises `CaptureError` for a file that is unreadable or holds no Binance depth diff.
    """
    first_ns, sources = 0, dict[str, Source]()
    kinds = Counter[str]()
    lines = Lines([path], 0, translate)
    while (block := lines.pull()) is not None:
        for line in block.text.split(b"\n"):
            named = SYMBOL.search(line) if sources else None
            if named and named[1].decode() in sources:
                continue
            stamp, _, payload = line.partition(b" ")
            try:
                local_ns, message = int(stamp), orjson.loads(payload)
                data = message.get("data", message)
                kind = data.get("e")
            except (ValueError, AttributeError):
                continue
            first_ns = first_ns or local_ns
            if kind == "depthUpdate" and not PARTIAL.search(str(message.get("stream", ""))):
                source = _source(data, path)
                sources.setdefault(source.symbol, source)
                if not every:
                    return first_ns, sources
            kinds[str(kind or message.get("stream", "").partition("@")[2] or "unnamed")] += 1
        if lines.error and not sources:
            raise CaptureError(f"{path}: cannot be read: {lines.error}")
    if sources:
        return first_ns, sources
    held = f"; it holds {', '.join(sorted(kinds)[:MAX_KINDS])}" if kinds else ""
    raise CaptureError(
        f"{path}: no Binance depth diff found{held}; expected lines of '<local ns> <JSON message>' of a raw "
        "capture"
    )


def _source(diff: dict[str, Any], path: Path) -> Source:
    if not isinstance(diff.get("s"), str) or not SAFE.fullmatch(diff["s"]):
        raise CaptureError(f'{path.name}: a depth diff whose symbol, "s", is {diff.get("s")!r}')
    venue = "binance-coinm" if "ps" in diff else "binance-usdm" if "pu" in diff else "binance-spot"
    maker, taker = FEES_BP[venue]
    symbol = str(diff["s"])
    if venue != "binance-coinm":
        return Source(venue, symbol, maker_fee_bp=maker, taker_fee_bp=taker)
    # COIN-M contracts are worth 100 USD on BTC and 10 USD on everything else.
    return Source(venue, symbol, "inverse", "100" if symbol.startswith("BTC") else "10", maker, taker)
