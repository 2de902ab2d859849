"""What both sides of the container know: its constants, its records, how bytes are packed and hashed."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from chainrule.errors import ChainruleError

MAGIC = b"\x89ChR\r\n\x1a\n"  # as PNG does: 8-bit transfer, both line ends and DOS's end of file show damage
END = b"\x89ChE"
VERSION = 1
TOKENS = 1  # a flag: the model codes texts as tokens, whose table follows it
PREFIX = struct.Struct("<8sHHII")  # magic, version, flags, bytes of the header, CRC-32 of these and it
FOOTER = struct.Struct("<QQIIQI4s")  # index: bytes, unpacked, CRC-32; header CRC-32; all bytes; CRC-32; end

MODEL, LZMA, STORED = "model", "lzma", "stored"  # how the bytes of a block came to be
SYMBOLS, FILE = "symbols", "file"  # what an item is: an event, or a file that is kept whole
KINDS = ("image", "text", "array")
LAYOUTS = ("files", "array")
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")

MAX_HEADER = 1 << 20
MAX_BLOCK = 1 << 28  # symbols: what a block may ask of memory
EXPANSION = 1 << 12  # symbols a byte of a block may stand for; zeros are appended to a better block
INDEX_RATIO, INDEX_SLACK = 64, 1 << 16  # the index may unpack to 64 times its bytes and 64 KiB
MAX_TABLE = 1 << 24  # bytes of the table of tokens; it may unpack as the index may
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
        tokens_sha256: of the table that says what each token spells; "" where the model codes symbols as they are.
            With it raw blocks hold texts as bytes.
        tokens_bytes, tokens_size, tokens_crc32: of the table, packed, and its length unpacked; 0 bytes when it is kept
            elsewhere, with the model.
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
    tokens_sha256: str = ""
    tokens_bytes: int = 0
    tokens_size: int = 0
    tokens_crc32: int = 0

    @property
    def width(self) -> int:
        """Bytes of a symbol in a raw block."""
        return 1 if self.tokens_sha256 or self.symbols <= 256 else 2

    @property
    def flags(self) -> int:
        """What a reader must understand."""
        return TOKENS if self.tokens_sha256 else 0

    def facts(self) -> dict[str, Any]:
        """The fields as they stand in the file."""
        names = field_names(self.flags)
        return {name: getattr(self, name) for name in names}


def field_names(flags: int) -> list[str]:
    """The fields of a header with these flags."""
    names = [field.name for field in fields(Header)]
    return names if flags & TOKENS else [name for name in names if not name.startswith("tokens_")]


@dataclass(frozen=True)
class Item:
    """One event, or one file that is kept whole (then its shape is (bytes,)), or one text of (bytes,) in tokens."""

    name: str
    shape: tuple[int, ...]
    form: str = SYMBOLS
    context: int | None = None
    tokens: int | None = None  # of a text that a model codes as tokens

    @property
    def size(self) -> int:
        """Symbols."""
        return math.prod(self.shape)

    @property
    def coded(self) -> tuple[int, ...]:
        """The shape that a model codes."""
        return self.shape if self.tokens is None else (self.tokens,)

    @property
    def steps(self) -> int:
        """What a model codes: symbols, or tokens."""
        return math.prod(self.coded)


@dataclass(frozen=True)
class Block:
    """The unit of random access and of damage. `sha256` is that of what it decodes to: see `digest`."""

    coding: str
    items: tuple[Item, ...]
    offset: int
    bytes: int
    crc32: int
    sha256: str


def item_bytes(item: Item, header: Header) -> int:
    """Bytes of an item in a raw block."""
    return item.size * (1 if item.form == FILE else header.width)


def digest(header: Header, items: Sequence[Item], parts: Sequence[bytes]) -> str:
    """SHA-256 of what a block gives back.

    It is over a line with what the header says of all items, then of each item a line that says what it is,
    and the bytes of its symbols.
    """
    total = hashlib.sha256(to_json([header.kind, header.symbols, header.layout, header.dtype]) + b"\n")
    for item, part in zip(items, parts, strict=True):
        total.update(to_json([item.name, item.shape, item.form, item.context]) + b"\n")
        total.update(part)
    return total.hexdigest()


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def squeeze(raw: bytes) -> bytes:
    """LZMA2 without a container: the index and the raw blocks have their own checksums."""
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=filters(len(raw)))


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


def filters(size: int) -> list[dict[str, Any]]:
    """LZMA2 for so many bytes. Both sides know them, so no file can ask for a larger window."""
    low, high = DICTIONARY
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": max(low, min(size, high))}]
