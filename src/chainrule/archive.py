"""The container format: blocks, checksums, versions. docs/archive-format.md is its specification.

It knows no model and no entropy coder: a block is bytes with a checksum, an item a name with a shape.
Whatever is read is taken for hostile: every length is checked against the file's before memory is taken.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
import re
import secrets
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from chainrule.errors import ChainruleError

MAGIC = b"\x89ChR\r\n\x1a\n"  # as PNG does: 8-bit transfer, both line ends and DOS's end of file show damage
END = b"\x89ChE"
VERSION = 1
PREFIX = struct.Struct("<8sHHII")  # magic, version, flags, bytes of the header, CRC-32 of these and it
FOOTER = struct.Struct("<QQIIQI4s")  # index: bytes, unpacked, CRC-32; header CRC-32; all bytes; CRC-32; end

MODEL, LZMA, STORED = "model", "lzma", "stored"  # how the bytes of a block came to be
SYMBOLS, FILE = "symbols", "file"  # what an item is: an event, or a file that is kept whole
KINDS = ("image", "text", "array")
LAYOUTS = ("files", "array")
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")

MAX_HEADER = 1 << 20
MAX_BLOCK = 1 << 28  # symbols: what a block may ask of memory
EXPANSION = 1 << 16  # symbols a byte of a block may stand for; zeros are appended to a better block
INDEX_RATIO, INDEX_SLACK = 64, 1 << 16  # the index may unpack to 64 times its bytes and 64 KiB
DICTIONARY = 1 << 12, 1 << 23  # bytes: the window of LZMA2 is the unpacked size, within these bounds

# What goes on, how much of it is done, of how much, and the estimated seconds that are left.
Progress = Callable[[str, int, int, float], object]


@dataclass(frozen=True)
class Header:
    """What stands at the beginning and holds for the whole archive.

    Attributes:
        kind: "image" | "text" | "array", of the data set.
        symbols: K of the model: a symbol of a raw block takes one byte up to 256, two above.
        layout: "files": one file comes back for each item; "array": one .npy with all of them.
        dtype: the type of that array.
        source: what was compressed, for messages.
        block_items: the most lanes of a block.
        lane: the least length of the pieces that a text is cut into, 0 when it is not cut.
        model_sha256: the identity of the model, by the caller's rule.
        model_bytes, model_crc32: of the embedded model; 0 bytes when it is kept elsewhere.
        environment: what the results of floating-point arithmetic depend on, for arithmetic "native".
        arithmetic, coder: identifiers of what turned symbols into bytes.
        writer: the program and its version.
    """

    kind: str
    symbols: int
    layout: str
    dtype: str
    source: str
    block_items: int
    lane: int
    model_sha256: str
    model_bytes: int
    model_crc32: int
    environment: dict[str, str | int]
    arithmetic: str
    coder: str
    writer: str

    @property
    def width(self) -> int:
        """Bytes of a symbol in a raw block."""
        return 1 if self.symbols <= 256 else 2


@dataclass(frozen=True)
class Item:
    """One event, or one file that is kept whole (then its shape is (bytes,))."""

    name: str
    shape: tuple[int, ...]
    form: str = SYMBOLS
    context: int | None = None

    @property
    def size(self) -> int:
        """Symbols."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """The unit of random access and of damage. `sha256` is that of what it decodes to: see `digest`."""

    coding: str
    items: tuple[Item, ...]
    offset: int
    bytes: int
    crc32: int
    sha256: str


# ---------------------------------------------------------------------------------------------------- writing


class Writer:
    """Writes an archive from front to back into an open file."""

    def __init__(self, file: BinaryIO, header: Header, model: bytes = b"") -> None:
        self._file, self._size = file, 0
        self._blocks: list[Block] = []
        self._taken: set[str] = set()
        text = to_json(asdict(header))
        if len(text) > MAX_HEADER:
            raise ChainruleError(f"the header would take {len(text)} bytes, {MAX_HEADER} are allowed")
        start = PREFIX.pack(MAGIC, VERSION, 0, len(text), 0)[:-4]
        self._header_crc = zlib.crc32(text, zlib.crc32(start))
        self.fixed = PREFIX.size + len(text) + FOOTER.size  # bytes, however many items there are
        self._write(start + struct.pack("<I", self._header_crc) + text + model)

    def add(self, coding: str, payload: bytes, items: Sequence[Item], sha256: str) -> int:
        """Append a block; give the bytes that it takes."""
        size = sum(item.size for item in items)
        if size > MAX_BLOCK:
            raise ChainruleError(f"{items[0].name} has {size} symbols, a block can hold {MAX_BLOCK}: cut it")
        for item in items:
            if reason := flaw(item.name, self._taken):
                raise ChainruleError(f"the name {item.name!r} cannot be kept: {reason}; rename it")
        if coding != STORED:
            payload = payload.ljust(max(len(items), -(-size // EXPANSION)), b"\0")
        block = Block(coding, tuple(items), self._size, len(payload), zlib.crc32(payload), sha256)
        self._blocks.append(block)
        self._write(payload)
        return block.bytes

    def finish(self) -> int:
        """Write index and footer; give the bytes of the whole archive."""
        raw = to_json(index_of(self._blocks))
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


def index_of(blocks: Sequence[Block]) -> dict[str, Any]:
    """The index as JSON: a table of the blocks, and what is known of the items in columns."""
    items = [item for block in blocks for item in block.items]
    names: Any = [item.name for item in items]
    if names == [str(i) for i in range(len(names))]:
        names = len(names)
    contexts = [item.context for item in items]
    return {
        "blocks": [
            {"coding": b.coding, "items": len(b.items)}
            | {"bytes": b.bytes, "crc32": b.crc32, "sha256": b.sha256}
            for b in blocks
        ],
        "names": names,
        "shapes": to_runs(list(item.shape) for item in items),
        "forms": to_runs(item.form for item in items),
        "contexts": None if all(c is None for c in contexts) else contexts,
    }


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


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def squeeze(raw: bytes) -> bytes:
    """LZMA2 without a container: the index and the raw blocks have their own checksums."""
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=filters(len(raw)))


def filters(size: int) -> list[dict[str, Any]]:
    """LZMA2 for so many bytes. Both sides know them, so no file can ask for a larger window."""
    low, high = DICTIONARY
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": max(low, min(size, high))}]


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


# ---------------------------------------------------------------------------------------------------- reading


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
        text, header_crc = self._read_header()
        self.header = parse_header(text)
        self._model_offset = PREFIX.size + len(text)
        packed, raw, crc, header_crc_again = self._read_footer()
        if header_crc != header_crc_again:
            raise ChainruleError("has beginning and end from two archives: take it again")
        index_offset = self.bytes - FOOTER.size - packed
        index = unpack_index(self._take(index_offset, packed, crc, "its index"), raw)
        start = self._model_offset + self.header.model_bytes
        self.blocks = parse_index(index, self.header, start, index_offset)
        self.items = [item for block in self.blocks for item in block.items]

    def _read_header(self) -> tuple[bytes, int]:
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
        if flags:
            raise ChainruleError(f"uses unsupported features (flags {flags:#06x}): update chainrule")
        return text, crc

    def _read_footer(self) -> tuple[int, int, int, int]:
        self._file.seek(self.bytes - FOOTER.size)
        footer = self._file.read(FOOTER.size)
        packed, raw, index_crc, header_crc, total, crc, end = FOOTER.unpack(footer)
        if end != END or zlib.crc32(footer[:-8]) != crc:
            raise ChainruleError("is cut off, damaged at its end, or followed by other bytes: take it again")
        if total != self.bytes:
            raise ChainruleError(f"has {self.bytes} bytes, {total} were written: take it again")
        room = self.bytes - FOOTER.size - self._model_offset - self.header.model_bytes
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

    def payload(self, number: int) -> bytes:
        """The bytes of block `number`, checked."""
        block = self.blocks[number]
        what = f"block {number + 1} of {len(self.blocks)} ({block.items[0].name} ...)"
        return self._checked(block.offset, block.bytes, block.crc32, what)

    def raw(self, number: int) -> list[bytes]:
        """What a block that no model coded holds: the bytes of each of its items."""
        block, payload = self.blocks[number], self.payload(number)
        sizes = [item_bytes(item, self.header) for item in block.items]
        try:
            data = payload if block.coding == STORED else expand(payload, sum(sizes))
        except ChainruleError as error:
            raise ChainruleError(f"{self.path} is damaged: block {number + 1} {error}") from error
        ends = list(accumulate(sizes))
        parts = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        if digest(block.items, parts) != block.sha256:
            raise ChainruleError(f"{self.path} is damaged: block {number + 1} is not what was written")
        return parts

    def _checked(self, offset: int, size: int, crc: int, what: str) -> bytes:
        try:
            return self._take(offset, size, crc, what)
        except ChainruleError as error:
            raise ChainruleError(f"{self.path} {error}") from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def inspect(path: str | Path) -> dict[str, Any]:
    """What header and index say, for people and for JSON; no block is read."""
    with Archive(path) as archive:
        header = asdict(archive.header)
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
            "items": len(archive.items),
            "entries": [
                {"name": x.name, "shape": list(x.shape), "form": x.form, "class": x.context, "block": i}
                for i, block in enumerate(archive.blocks)
                for x in block.items
            ],
        }


def verify(path: str | Path, progress: Progress | None = None) -> int:
    """Check every checksum, of the model and of every block; give the number of blocks."""
    with Archive(path) as archive:
        archive.model()
        for number, block in enumerate(archive.blocks):
            archive.payload(number) if block.coding == MODEL else archive.raw(number)
            if progress is not None:
                progress("verify", number + 1, len(archive.blocks), 0.0)
        return len(archive.blocks)


def expand(packed: bytes, size: int) -> bytes:
    """Undo `squeeze`; anything but exactly `size` bytes is an error. No more than that is unpacked."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters(size))
    try:
        raw = decoder.decompress(packed, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ChainruleError(f"does not unpack: {error}") from error
    if len(raw) != size or not decoder.eof or decoder.unused_data.strip(b"\0"):
        raise ChainruleError(f"does not unpack to the {size} bytes that it promises")
    return raw


def digest(items: Sequence[Item], parts: Sequence[bytes]) -> str:
    """SHA-256 of the items of a block: of each a line that says what it is, and the bytes of its symbols."""
    total = hashlib.sha256()
    for item, part in zip(items, parts, strict=True):
        total.update(to_json([item.name, item.shape, item.form, item.context]) + b"\n")
        total.update(part)
    return total.hexdigest()


def item_bytes(item: Item, header: Header) -> int:
    """Bytes of an item in a raw block."""
    return item.size * (1 if item.form == FILE else header.width)


# ---------------------------------------------------------------------------------------------------- parsing


def unpack_index(packed: bytes, size: int) -> Any:
    """The index as JSON; it is stored as it is when both lengths are equal."""
    try:
        raw = packed if len(packed) == size else expand(packed, size)
    except ChainruleError as error:
        raise ChainruleError(f"is damaged: its index {error}") from error
    return strict_json(raw, "index")


def strict_json(text: bytes, what: str) -> Any:
    """JSON of strings, whole numbers, lists and objects; no other numbers, no key twice."""

    def refuse(found: str) -> None:
        raise ValueError(f"the number {found[:20]} is not allowed")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        return json.loads(text.decode(), parse_float=refuse, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ChainruleError(f"is damaged: its {what} cannot be read: {str(error)[:80]}") from error


def parse_header(text: bytes) -> Header:
    """Check every field, so that nothing behind needs to."""
    found = strict_json(text, "header")
    names = [field.name for field in fields(Header)]
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        raise ChainruleError(f"is damaged: its header must have the fields {', '.join(names)}")
    for key in ("arithmetic", "coder", "writer", "source"):
        want(isinstance(found[key], str), key)
    want(found["kind"] in KINDS, "kind")
    want(found["layout"] in LAYOUTS, "layout")
    want(found["dtype"] in DTYPES, "dtype")
    whole(found["symbols"], 1, 1 << 16, "symbols")
    whole(found["block_items"], 1, 1 << 16, "block_items")
    whole(found["lane"], 0, MAX_BLOCK, "lane")
    whole(found["model_bytes"], 0, 1 << 62, "model_bytes")
    whole(found["model_crc32"], 0, 0xFFFFFFFF, "model_crc32")
    sha256_hex(found["model_sha256"])
    environment = found["environment"]
    want(isinstance(environment, dict), "environment")
    want(
        all(isinstance(v, str | int) and not isinstance(v, bool) for v in environment.values()), "environment"
    )
    return Header(**found)


def parse_index(index: Any, header: Header, start: int, end: int) -> list[Block]:
    """Check the index: the blocks must fill the file from `start` to `end` without a gap."""
    columns = ("blocks", "names", "shapes", "forms", "contexts")
    want(isinstance(index, dict) and sorted(index) == sorted(columns), "index")
    table = index["blocks"]
    want(isinstance(table, list), "blocks")
    for entry in table:
        want(
            isinstance(entry, dict) and sorted(entry) == ["bytes", "coding", "crc32", "items", "sha256"],
            "block",
        )
        whole(entry["bytes"], 0, end - start, "bytes")
        whole(entry["items"], 1, entry["bytes"], "items")  # so an archive has no more items than bytes
        whole(entry["crc32"], 0, 0xFFFFFFFF, "crc32")
        sha256_hex(entry["sha256"])
        want(entry["coding"] in (MODEL, LZMA, STORED), "coding")
    used = sum(entry["bytes"] for entry in table)
    if start + used != end:
        raise ChainruleError(f"is damaged: its blocks take {used} bytes, {end - start} are there")
    items = iter(parse_items(index, sum(entry["items"] for entry in table)))
    blocks, offset = [], start
    for entry in table:
        mine = tuple(next(items) for _ in range(entry["items"]))
        blocks.append(Block(entry["coding"], mine, offset, entry["bytes"], entry["crc32"], entry["sha256"]))
        check_block(blocks[-1], header, len(blocks))
        offset += entry["bytes"]
    return blocks


def parse_items(index: dict[str, Any], count: int) -> list[Item]:
    """The columns of the index as items."""
    names, contexts = index["names"], index["contexts"]
    if isinstance(names, int):
        want(names == count and not isinstance(names, bool), "names")
        names = [str(i) for i in range(count)]
    want(isinstance(names, list) and len(names) == count, "names")
    taken: set[str] = set()
    for name in names:
        want(isinstance(name, str), "names")
        if reason := flaw(name, taken):
            raise ChainruleError(f"has an item named {name[:80]!r}, which is refused: {reason}")
    contexts = [None] * count if contexts is None else contexts
    want(isinstance(contexts, list) and len(contexts) == count, "contexts")
    for context in contexts:
        if context is not None:
            whole(context, 0, 1 << 31, "contexts")
    shapes = [tuple(shape) for shape in from_runs(index["shapes"], count, check_shape, "shapes")]
    forms = from_runs(index["forms"], count, lambda f: want(f in (SYMBOLS, FILE), "forms"), "forms")
    return [Item(*columns) for columns in zip(names, shapes, forms, contexts, strict=True)]


def from_runs(runs: Any, count: int, check: Callable[[Any], object], what: str) -> list[Any]:
    """Undo `to_runs`: `count` values."""
    want(isinstance(runs, list), what)
    values: list[Any] = []
    for run in runs:
        want(isinstance(run, list) and len(run) == 2, what)
        whole(run[0], 1, count - len(values), what)
        check(run[1])
        values += [run[1]] * run[0]
    want(len(values) == count, what)
    return values


def check_shape(shape: Any) -> None:
    want(isinstance(shape, list) and len(shape) <= 8, "shapes")
    for side in shape:
        whole(side, 0, MAX_BLOCK, "shapes")
    whole(math.prod(shape), 0, MAX_BLOCK, "shapes")


def check_block(block: Block, header: Header, number: int) -> None:
    """What a block claims to hold must be possible for its bytes."""
    size = sum(item.size for item in block.items)
    if size > min(MAX_BLOCK, block.bytes * EXPANSION):
        raise ChainruleError(f"is damaged: block {number} claims {size} symbols in {block.bytes} bytes")
    if block.coding == STORED and block.bytes != sum(item_bytes(item, header) for item in block.items):
        raise ChainruleError(f"is damaged: block {number} stores {block.bytes} bytes, its items have others")
    shapes, forms = {item.shape for item in block.items}, {item.form for item in block.items}
    if block.coding == MODEL and (FILE in forms or (len(shapes) > 1 and any(len(s) != 1 for s in shapes))):
        raise ChainruleError(f"is damaged: block {number} mixes what cannot be coded together")
    if any(item.form == FILE and len(item.shape) != 1 for item in block.items):
        raise ChainruleError(f"is damaged: block {number} has a file whose shape is not its length")


def want(condition: bool, what: str) -> None:
    if not condition:
        raise ChainruleError(f"is damaged: its entry {what!r} makes no sense")


def whole(value: Any, low: int, high: int, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ChainruleError(f"is damaged: {what} must be a whole number from {low} to {high}")


def sha256_hex(value: Any) -> None:
    want(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None, "sha256")


RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{i}" for port in ("com", "lpt") for i in "123456789¹²³"}


def flaw(name: str, taken: set[str]) -> str:
    """Why an item cannot have this name beside those `taken`; nothing when it can, and then it is taken.

    A name must not lead out of the folder it is unpacked into, and must mean the same on every system.

    Example:
        >>> flaw("holiday/été 1.png", set())
        ''
        >>> flaw("../secret", set())
        "a part of it is '..'"
    """
    if name in taken:
        return "it stands twice"
    if not name or len(name) > 4096:
        return f"it has {len(name)} characters"
    if any(ord(c) < 32 or ord(c) == 127 or "\ud800" <= c <= "\udfff" for c in name):
        return "it has characters that cannot be written"
    if "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
        return "it has a backslash, a drive letter, or begins with a slash"
    taken.add(name)
    return next(filter(None, map(flaw_of_part, name.split("/"))), "")


def flaw_of_part(part: str) -> str:
    """What is wrong with one part of a path, or nothing."""
    if part in ("", ".", ".."):
        return f"a part of it is {part!r}"
    if len(part.encode()) > 255 or part[-1] in ". ":
        return "a part of it is too long, or ends with a dot or a space"
    if part.split(".")[0].rstrip().casefold() in RESERVED:
        return f"{part!r} is a device on Windows"
    return ""
