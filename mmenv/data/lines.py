"""Whole lines of files one after another, plain or compressed: gzip, zstd, lz4, zip, tar, xz, bzip2.

A pickled copy of `Lines` keeps its place: it continues with the next line.
"""

from __future__ import annotations

import bz2
import copy
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from mmenv.data.rows import CaptureError

BLOCK_BYTES: Final = 1 << 18
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ZIP_MAGIC: Final = b"PK\x03\x04"
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
BZIP2_MAGIC: Final = b"BZh"
LZ4_MAGIC: Final = b"\x04\x22\x4d\x18"
TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def read_blocks(path: Path, skip: int = 0) -> Iterator[tuple[bytes, int]]:
    """Uncompressed bytes of a plain or compressed file after the first `skip`, and bytes read so far.

    Of a zip or tar archive with several files in it, these one after another.

    Raises `CaptureError` where there is no such file, and EOFError where a compressed one ends early or is
    damaged; what came before has been given then.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(6)
            raw.seek(0)
            if any(path.name.endswith(suffix) for suffix in TAR_SUFFIXES):
                blocks = _tar_blocks(raw)
            elif magic.startswith(ZSTD_MAGIC):
                blocks = _arrow_blocks(raw, "zstd")
            elif magic.startswith(LZ4_MAGIC):
                blocks = _arrow_blocks(raw, "lz4")
            elif magic.startswith(GZIP_MAGIC):
                blocks = _gzip_blocks(raw)
            elif magic.startswith(ZIP_MAGIC):
                blocks = _zip_blocks(raw)
            elif magic.startswith(XZ_MAGIC):
                blocks = _opened_blocks(lzma.LZMAFile(raw))  # noqa: SIM115, closed there
            elif magic.startswith(BZIP2_MAGIC):
                blocks = _opened_blocks(bz2.BZ2File(raw))
            else:
                raw.seek(skip)
                skip = 0
                blocks = iter(lambda: raw.read(BLOCK_BYTES), b"")
            for block in blocks:
                if len(block) > skip:
                    yield block[skip:] if skip else block, raw.tell()
                skip = max(skip - len(block), 0)
    except FileNotFoundError:
        raise CaptureError(f"{path}: no such file; check its name") from None
    except IsADirectoryError:
        raise CaptureError(f"{path} is a folder; name the files in it") from None
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, OSError) as error:
        raise EOFError(str(error)) from None


def begins_with(path: Path, magic: bytes) -> bool:
    """Whether the file's uncompressed bytes begin so. Raises `CaptureError` if there is no file."""
    try:
        return next(read_blocks(path), (b"", 0))[0].startswith(magic)
    except EOFError:
        return False


def _gzip_blocks(raw: Any) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    while block := raw.read(BLOCK_BYTES):
        while block:
            if member.eof:
                # A file may be several gzip members one after another.
                member = zlib.decompressobj(wbits=31)
            yield member.decompress(block)
            block = member.unused_data
    if not member.eof:
        raise EOFError("the gzip stream has no end")


def _zip_blocks(raw: Any) -> Iterator[bytes]:
    with zipfile.ZipFile(raw) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                yield from _opened_blocks(archive.open(name))


def _tar_blocks(raw: Any) -> Iterator[bytes]:
    with tarfile.open(fileobj=raw, mode="r|*") as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                yield from _opened_blocks(file)


def _opened_blocks(file: Any) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(BLOCK_BYTES), b"")


def _arrow_blocks(raw: Any, codec: str) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.PythonFile(raw), codec) as stream:
        yield from iter(lambda: stream.read(BLOCK_BYTES), b"")


def line_ends(text: bytes) -> int:
    """How many there are; numpy counts them five times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("\n")))


class FilesInTurn:
    """Files read one after another, in time order; a pickled copy keeps its place.

    `file` is the number of the first one in its importer's `names`.
    """

    def __init__(self, paths: Sequence[Path], file: int = 0) -> None:
        self.paths, self.first_file = tuple(paths), file
        self.at = 0
        self.done = 0
        """Bytes read."""
        self._sizes = [path.stat().st_size if path.exists() else 0 for path in self.paths]
        self._open: Iterator[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    @property
    def files(self) -> FilesInTurn:
        """Itself."""
        return self

    def only(self, at: int) -> Self:
        """A copy that reads the file of this number alone, from its beginning or from where this one is."""
        one = copy.copy(self)
        one.paths = self.paths[: at + 1]
        if at > self.at:
            one.at = at
            one._restart()
        return one

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes)

    @property
    def path(self) -> Path:
        """The file being read."""
        return self.paths[self.at]

    def _count(self, position: int) -> None:
        """So many bytes of the file being read are done."""
        self.done = sum(self._sizes[: self.at]) + position

    def _go_on(self) -> None:
        """The file being read has ended."""
        self.at, self._open = self.at + 1, None
        self._restart()
        self._count(0)

    def _restart(self) -> None:
        """A file begins."""


@dataclass
class Block:
    """Whole lines of one file; `line` is the number of the first one, from 1."""

    file: int
    line: int
    text: bytes


Translate = Callable[[bytes], bytes]


class Lines(FilesInTurn):
    """Whole lines of files one after another, a block at a time.

    `translate` gives other lines for the lines of a block, as many.
    """

    def __init__(self, paths: Sequence[Path], file: int = 0, translate: Translate | None = None) -> None:
        super().__init__(paths, file)
        self._translate = translate
        self.offset = 0  # uncompressed bytes of the file given out
        self.line = 1
        self.error = ""
        self._held = b""  # the beginning of the next line

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_held": b""}

    def _restart(self) -> None:
        self.offset, self.line = 0, 1

    def pull(self, least: int = 1) -> Block | None:
        """The next block, of at least `least` bytes where the file has them; None after the last file.

        `error` says why the file of this block, its last one, ended early, or is empty.
        """
        self.error = ""
        while self.at < len(self.paths):
            if self._open is None:
                self._open = read_blocks(self.path, self.offset)
            text, ended = self._gather(least)
            # Half a line is given only where a whole file ends in it.
            cut = len(text) if ended and not self.error else text.rfind(b"\n") + 1
            start = len(BYTE_ORDER_MARK) if self.line == 1 and text.startswith(BYTE_ORDER_MARK) else 0
            block = Block(self.first_file + self.at, self.line, text[start:cut])
            self._held = b"" if ended else text[cut:]
            self.offset += cut
            self.line += line_ends(block.text)
            if self._translate is not None:
                block.text = self._translate(block.text)
            if ended:
                self._go_on()
            if block.text or self.error:
                return block
        return None

    def _gather(self, least: int) -> tuple[bytes, bool]:
        """Bytes with at least one line end, and whether the file has ended."""
        assert self._open is not None
        parts, size, whole = [self._held], len(self._held), False
        self._held = b""
        try:
            while size < least or not whole:
                found = next(self._open, None)
                if found is None:
                    return b"".join(parts), True
                part, position = found
                self._count(position)
                parts.append(part)
                size += len(part)
                whole = whole or b"\n" in part
        except EOFError as error:
            self.error = f"the file ends early ({error}); what came before is kept"
            return b"".join(parts), True
        return b"".join(parts), False
