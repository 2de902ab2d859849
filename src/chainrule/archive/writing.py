"""Writing an archive from front to back, and any file so that it is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from chainrule.archive.format import (
    END,
    EXPANSION,
    FOOTER,
    INDEX_RATIO,
    INDEX_SLACK,
    MAGIC,
    MAX_BLOCK,
    MAX_HEADER,
    PREFIX,
    SOUND,
    STORED,
    VERSION,
    Block,
    Header,
    Item,
    squeeze,
    to_json,
)
from chainrule.archive.names import flaw
from chainrule.errors import ChainruleError


class Writer:
    """Writes an archive from front to back into an open file."""

    def __init__(self, file: BinaryIO, header: Header, model: bytes = b"", table: bytes = b"") -> None:
        self._file, self._size = file, 0
        self._blocks: list[Block] = []
        self._taken: set[str] = set()
        text = to_json(header.facts())
        if len(text) > MAX_HEADER:
            raise ChainruleError(f"the header would take {len(text)} bytes, {MAX_HEADER} are allowed")
        self._flags = header.flags
        start = PREFIX.pack(MAGIC, VERSION, header.flags, len(text), 0)[:-4]
        self._header_crc = zlib.crc32(text, zlib.crc32(start))
        self.fixed = PREFIX.size + len(text) + FOOTER.size  # bytes, however many items there are
        self._write(start + struct.pack("<I", self._header_crc) + text + model + table)

    def add(self, coding: str, payload: bytes, items: Sequence[Item], sha256: str, ends: int = 0) -> int:
        """Append a block; give the bytes that it takes.

        Args:
            ends: bytes at its beginning that hold heads and tails of files, packed; 0 unless a model coded the rest.
        """
        size = sum(item.head + item.size + item.tail for item in items)
        if size > MAX_BLOCK:
            raise ChainruleError(f"{items[0].name} has {size} symbols, a block can hold {MAX_BLOCK}: cut it")
        for item in (item for item in items if item.first):
            if reason := flaw(item.name, self._taken):
                raise ChainruleError(f"the name {item.name!r} cannot be kept: {reason}; rename it")
        if coding != STORED:
            payload = payload.ljust(max(len(items), -(-size // EXPANSION)), b"\0")
        block = Block(coding, tuple(items), self._size, len(payload), zlib.crc32(payload), sha256, ends)
        self._blocks.append(block)
        self._write(payload)
        return block.bytes

    def finish(self) -> int:
        """Write index and footer; give the bytes of the whole archive."""
        raw = to_json(index_of(self._blocks, self._flags))
        packed = squeeze(raw)
        if len(raw) > INDEX_RATIO * len(packed) + INDEX_SLACK:
            packed = raw
        total = self._size + len(packed) + FOOTER.size
        parts = (len(packed), len(raw), zlib.crc32(packed), self._header_crc, total)
        footer = FOOTER.pack(*parts, 0, END)[:-8]
        self._write(packed + footer + struct.pack("<I", zlib.crc32(footer)) + END)
        return self._size

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)


def index_of(blocks: Sequence[Block], flags: int) -> dict[str, Any]:
    """The index as JSON: a table of the blocks, and what is known of the items in columns."""
    items = [item for block in blocks for item in block.items]
    names: Any = [item.name if item.first else None for item in items]
    if names == [str(i) for i in range(len(names))]:
        names = len(names)
    contexts, tokens = [item.context for item in items], [item.tokens for item in items]
    return {
        "blocks": [
            {"coding": b.coding, "items": len(b.items)}
            | {"bytes": b.bytes, "crc32": b.crc32, "sha256": b.sha256}
            | ({"ends": b.ends} if flags & SOUND else {})
            for b in blocks
        ],
        "names": names,
        "shapes": to_runs(list(item.shape) for item in items),
        "forms": to_runs(item.form for item in items),
        "contexts": None if all(c is None for c in contexts) else contexts,
        **({"tokens": tokens} if any(n is not None for n in tokens) else {}),
        **({"ends": to_runs(ends_of(item) for item in items)} if flags & SOUND else {}),
    }


def ends_of(item: Item) -> list[int] | None:
    """What the index says stands around the samples of a file."""
    part = item.part
    return [part.channels, part.head, part.tail] if part is not None and part.channels else None


def to_runs(values: Iterable[Any]) -> list[list[Any]]:
    """Run lengths.

    >>> to_runs("aab")
    [[2, 'a'], [1, 'b']]
    """
    runs: list[list[Any]] = []
    for value in values:
        if runs and runs[-1][1] == value:
            runs[-1][0] += 1
        else:
            runs.append([1, value])
    return runs


@contextmanager
def atomic(path: str | Path, force: bool = False) -> Iterator[BinaryIO]:
    """A file that gets its name when all is written; until then, or when anything fails, there is none.

    Raises:
        ChainruleError: there is such a file and not `force`, or it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(4)}.tmp")
    check_free(path, force)
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_free(path, force)
        temporary.replace(path)
    except OSError as error:
        raise ChainruleError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise ChainruleError(f"{path} is a folder: choose another name")
    if not force and (path.exists() or path.is_symlink()):
        raise ChainruleError(f"{path} exists: choose another name, or --force to replace it")
