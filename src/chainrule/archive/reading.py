"""Reading an archive: what it is at once, its blocks when they are asked for."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from chainrule.archive.format import (
    END,
    FOOTER,
    INDEX_RATIO,
    INDEX_SLACK,
    MAGIC,
    MAX_HEADER,
    MODEL,
    PREFIX,
    SOUND,
    STORED,
    TOKENS,
    VERSION,
    Item,
    Progress,
    digest,
    expand,
    item_bytes,
    unpacked,
)
from chainrule.archive.parsing import parse_header, parse_index, unpack_index
from chainrule.errors import ChainruleError


class Archive:
    """An archive open for reading: `header`, `blocks` and `items` are known, blocks are read when asked for.

    Raises:
        ChainruleError: it is no archive, needs a newer version, or is damaged; the line says where.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise ChainruleError(f"{path} is not a file: give the archive itself")
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            self._open()
        except BaseException as error:
            self._file.close()
            if isinstance(error, ChainruleError):
                raise ChainruleError(f"{path} {error}") from error
            raise

    def _open(self) -> None:
        self.bytes = os.fstat(self._file.fileno()).st_size
        text, flags, header_crc = self._read_header()
        self.header = parse_header(text, flags)
        self._model_offset = PREFIX.size + len(text)
        self._table_offset = self._model_offset + self.header.model_bytes
        packed, raw, crc, header_crc_again = self._read_footer()
        if header_crc != header_crc_again:
            raise ChainruleError("has beginning and end from two archives: take it again")
        index_offset = self.bytes - FOOTER.size - packed
        index = unpack_index(self._take(index_offset, packed, crc, "its index"), raw)
        start = self._table_offset + self.header.tokens_bytes
        self.blocks = parse_index(index, self.header, start, index_offset)
        self.items = [item for block in self.blocks for item in block.items]

    def _read_header(self) -> tuple[bytes, int, int]:
        prefix = self._file.read(PREFIX.size)
        if prefix[: len(MAGIC)] != MAGIC:
            raise ChainruleError("is not a chainrule archive: it begins otherwise")
        if self.bytes < PREFIX.size + FOOTER.size:
            raise ChainruleError(f"is cut off: {self.bytes} bytes are too few for an archive")
        _, version, flags, size, crc = PREFIX.unpack(prefix)
        if size > min(MAX_HEADER, self.bytes - PREFIX.size - FOOTER.size):
            raise ChainruleError(f"is cut off or damaged: its header claims {size} of {self.bytes} bytes")
        text = self._file.read(size)
        if zlib.crc32(text, zlib.crc32(prefix[:-4])) != crc:
            raise ChainruleError("is damaged: the checksum of its header is wrong; take it again")
        if version != VERSION:
            raise ChainruleError(f"has format version {version}, this program reads {VERSION}: update it")
        if flags & ~(TOKENS | SOUND):
            raise ChainruleError(f"uses unsupported features (flags {flags:#06x}): update chainrule")
        return text, flags, crc

    def _read_footer(self) -> tuple[int, int, int, int]:
        self._file.seek(self.bytes - FOOTER.size)
        footer = self._file.read(FOOTER.size)
        packed, raw, index_crc, header_crc, total, crc, end = FOOTER.unpack(footer)
        if end != END or zlib.crc32(footer[:-8]) != crc:
            raise ChainruleError("is cut off, damaged at its end, or followed by other bytes: take it again")
        if total != self.bytes:
            raise ChainruleError(f"has {self.bytes} bytes, {total} were written: take it again")
        room = self.bytes - FOOTER.size - self._table_offset - self.header.tokens_bytes
        if packed > room or raw > INDEX_RATIO * packed + INDEX_SLACK:
            raise ChainruleError(f"is damaged: its index claims {packed} bytes, {raw} unpacked")
        return packed, raw, index_crc, header_crc

    def _take(self, offset: int, size: int, crc: int, what: str) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size or zlib.crc32(data) != crc:
            raise ChainruleError(f"is damaged: the checksum of {what} is wrong; take it again")
        return data

    def model(self) -> bytes | None:
        """The embedded model, or None."""
        if not self.header.model_bytes:
            return None
        return self._checked(
            self._model_offset, self.header.model_bytes, self.header.model_crc32, "its model"
        )

    def table(self) -> bytes | None:
        """The embedded table of tokens, or None."""
        header = self.header
        if not header.tokens_bytes:
            return None
        packed = self._checked(
            self._table_offset, header.tokens_bytes, header.tokens_crc32, "its table of tokens"
        )
        try:
            raw = packed if len(packed) == header.tokens_size else expand(packed, header.tokens_size)
        except ChainruleError as error:
            raise ChainruleError(f"{self.path} is damaged: its table of tokens {error}") from error
        if hashlib.sha256(raw).hexdigest() != header.tokens_sha256:
            raise ChainruleError(f"{self.path} is damaged: its table of tokens is not what was written")
        return raw

    def payload(self, number: int) -> bytes:
        """The bytes of block `number`, checked."""
        block = self.blocks[number]
        what = f"block {number + 1} of {len(self.blocks)} ({block.items[0].name} ...)"
        return self._checked(block.offset, block.bytes, block.crc32, what)

    def raw(self, number: int, payload: bytes | None = None) -> list[bytes]:
        """What a block that no model coded holds: the bytes of each of its items."""
        block = self.blocks[number]
        payload = self.payload(number) if payload is None else payload
        sizes = [item_bytes(item, self.header) for item in block.items]
        try:
            data = payload if block.coding == STORED else expand(payload, sum(sizes))
        except ChainruleError as error:
            raise ChainruleError(f"{self.path} is damaged: block {number + 1} {error}") from error
        parts = cut(data, sizes)
        if digest(self.header, block.items, parts) != block.sha256:
            raise ChainruleError(f"{self.path} is damaged: block {number + 1} is not what was written")
        return parts

    def ends(self, number: int, payload: bytes) -> tuple[list[bytes], bytes]:
        """The heads and tails in a block that a model coded, one after another for each item; and the stream behind."""
        block, path = self.blocks[number], self.path
        sizes = [size for item in block.items for size in (item.head, item.tail)]
        try:
            data = unpacked(payload[: block.ends], sum(sizes))
        except ChainruleError as error:
            raise ChainruleError(
                f"{path} is damaged: in block {number + 1} what is beside the samples {error}"
            ) from error
        return cut(data, sizes), payload[block.ends :]

    def _checked(self, offset: int, size: int, crc: int, what: str) -> bytes:
        try:
            return self._take(offset, size, crc, what)
        except ChainruleError as error:
            raise ChainruleError(f"{self.path} {error}") from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Pieces of these sizes."""
    return [data[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def inspect(path: str | Path) -> dict[str, Any]:
    """What header and index say, for people and for JSON; no block is read."""
    with Archive(path) as archive:
        header = archive.header.facts()
        sizes = [sum(item.size for item in block.items) for block in archive.blocks]
        return {
            "path": str(path),
            "version": VERSION,
            "bytes": archive.bytes,
            "payload_bytes": sum(block.bytes for block in archive.blocks),
            "symbols_total": sum(sizes),
            **header,
            "embedded": header["model_bytes"] > 0,
            "blocks": dict(Counter(block.coding for block in archive.blocks)),
            "items": sum(item.first for item in archive.items),
            "entries": [
                entry(item, i) for i, block in enumerate(archive.blocks) for item in block.items if item.first
            ],
        }


def entry(item: Item, block: int) -> dict[str, Any]:
    """What `inspect` says of an item, which begins in this block."""
    shape = list(item.shape if item.part is None else (item.part.total, *item.shape[1:]))
    found = {"name": item.name, "shape": shape, "form": item.form, "class": item.context, "block": block}
    found |= {} if item.tokens is None else {"tokens": item.tokens}
    return found | ({} if item.part is None else {"channels": item.part.channels or None})


def verify(path: str | Path, progress: Progress | None = None) -> int:
    """Check every checksum, of the model and of every block; give the number of blocks."""
    with Archive(path) as archive:
        archive.model(), archive.table()
        for number, block in enumerate(archive.blocks):
            archive.payload(number) if block.coding == MODEL else archive.raw(number)
            if progress is not None:
                progress("verify", number + 1, len(archive.blocks), 0.0)
        return len(archive.blocks)
