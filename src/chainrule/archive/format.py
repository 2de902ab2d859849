"""What both sides of the container know: its constants, its records, how bytes are packed and hashed."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from chainrule.errors import ChainruleError

MAGIC = b"\x89ChR\r\n\x1a\n"  # as PNG does: 8-bit transfer, both line ends and DOS's end of file show damage
END = b"\x89ChE"
VERSION = 1
TOKENS = 1  # a flag: the model codes texts as tokens, whose table follows it
SOUND = 2  # a flag: the items are recordings, or pieces of such
PREFIX = struct.Struct("<8sHHII")  # magic, version, flags, bytes of the header, CRC-32 of these and it
FOOTER = struct.Struct("<QQIIQI4s")  # index: bytes, unpacked, CRC-32; header CRC-32; all bytes; CRC-32; end

MODEL, LZMA, STORED = "model", "lzma", "stored"  # how the bytes of a block came to be
SYMBOLS, FILE = "symbols", "file"  # what an item is: an event, or a file that is kept whole
KINDS = ("image", "text", "array", "sound")
CODINGS = ("mu-law", "8 bit", "16 bit")  # of the samples of sound
FASTEST = 768_000  # samples a second
LAYOUTS = ("files", "array")
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")

MAX_HEADER = 1 << 20
MAX_BLOCK = 1 << 28  # symbols: what a block may ask of memory
EXPANSION = 1 << 12  # symbols a byte of a block may stand for; zeros are appended to a better block
INDEX_RATIO, INDEX_SLACK = 64, 1 << 16  # the index may unpack to 64 times its bytes and 64 KiB
MAX_ENDS = 1 << 25  # bytes before and after the samples of a file
MAX_TABLE = 1 << 24  # bytes of the table of tokens; it may unpack as the index may
DICTIONARY = 1 << 12, 1 << 23  # bytes: the window of LZMA2 is the unpacked size, within these bounds

# What goes on, how much of it is done, of how much, and the estimated seconds that are left.
Progress = Callable[[str, int, int, float], object]


@dataclass(frozen=True)
class Header:
    """What stands at the beginning and holds for the whole archive.

    Attributes:
        kind: "image" | "text" | "array" | "sound", of the data set.
        symbols: K of the model: a symbol of a raw block takes one byte up to 256, two above.
        layout: "files": one file comes back for each item; "array": one .npy with all of them.
        dtype: the type of that array.
        source: what was compressed, for messages.
        block_items: the most lanes of a block.
        lane: the least length of the lanes that a text is cut into, or a sound, in samples; 0 when it is not cut.
        model_sha256: the identity of the model, by the caller's rule.
        model_bytes, model_crc32: of the embedded model; 0 bytes when it is kept elsewhere.
        environment: what the results of floating-point arithmetic depend on, for arithmetic "native".
        arithmetic, coder: identifiers of what turned symbols into bytes.
        writer: the program and its version.
        tokens_sha256: of the table that says what each token spells; "" where the model codes symbols as they are.
            With it raw blocks hold texts as bytes.
        tokens_bytes, tokens_size, tokens_crc32: of the table, packed, and its length unpacked; 0 bytes when it is kept
            elsewhere, with the model.
        sound_rate, sound_coding: of a sound samples a second, and what its symbols stand for: "mu-law" and "8 bit" have
            one a sample, "16 bit" two, its high and its low byte; "" of what is no sound.
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
    sound_rate: int = 0
    sound_coding: str = ""

    @property
    def per_sample(self) -> int:
        """Symbols that are never cut apart: 2 of a sound of 16 bits, else 1."""
        return 2 if self.sound_coding == "16 bit" else 1

    @property
    def width(self) -> int:
        """Bytes of a symbol in a raw block."""
        return 1 if self.tokens_sha256 or self.symbols <= 256 else 2

    @property
    def flags(self) -> int:
        """What a reader must understand."""
        return (TOKENS if self.tokens_sha256 else 0) | (SOUND if self.sound_coding else 0)

    def facts(self) -> dict[str, Any]:
        """The fields as they stand in the file."""
        names = field_names(self.flags)
        return {name: getattr(self, name) for name in names}


def field_names(flags: int) -> list[str]:
    """The fields of a header with these flags."""
    absent = [prefix for flag, prefix in ((TOKENS, "tokens_"), (SOUND, "sound_")) if not flags & flag]
    return [field.name for field in fields(Header) if not field.name.startswith(tuple(absent))]


@dataclass(frozen=True)
class Part:
    """Which piece of a recording an item is, and what the whole of it is.

    Attributes:
        begin, total: samples before the item, and of the whole; of a file that is kept whole, bytes.
        channels: of the file that the recording was; 0: it was no file, or one that is kept whole.
        head, tail: bytes of the file before its first sample, and after its last one. The first piece has the head, the
            last one the tail.
    """

    begin: int
    total: int
    channels: int = 0
    head: int = 0
    tail: int = 0


@dataclass(frozen=True)
class Item:
    """One event, or one file that is kept whole (then its shape is (bytes,)), or one text of (bytes,) in tokens.

    Of sounds one piece of a recording, (samples,) or (samples, 2), in which one channel follows the other. Only what is
    long has more than one.
    """

    name: str
    shape: tuple[int, ...]
    form: str = SYMBOLS
    context: int | None = None
    tokens: int | None = None  # of a text that a model codes as tokens
    part: Part | None = None  # of sounds

    @property
    def size(self) -> int:
        """Symbols."""
        return math.prod(self.shape)

    @property
    def first(self) -> bool:
        """Whether something begins here: all but the further pieces of a recording."""
        return self.part is None or self.part.begin == 0

    @property
    def head(self) -> int:
        """Bytes of its file that stand before its samples."""
        return self.part.head if self.part and self.first else 0

    @property
    def tail(self) -> int:
        """Bytes of its file that stand after its samples."""
        last = self.part and self.part.begin + self.shape[0] == self.part.total
        return self.part.tail if self.part and last else 0

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
    """The unit of random access and of damage. `sha256` is that of what it decodes to: see `digest`.

    `ends`: of a block that a model coded, the bytes at its beginning that hold heads and tails of files, packed.
    """

    coding: str
    items: tuple[Item, ...]
    offset: int
    bytes: int
    crc32: int
    sha256: str
    ends: int = 0


def item_bytes(item: Item, header: Header) -> int:
    """Bytes of an item in a raw block."""
    return item.head + item.size * (1 if item.form == FILE else header.width) + item.tail


def digest(header: Header, items: Sequence[Item], parts: Sequence[bytes]) -> str:
    """SHA-256 of what a block gives back.

    It is over a line with what the header says of all items, then of each item a line that says what it is,
    and its bytes in a raw block.
    """
    every = [header.kind, header.symbols, header.layout, header.dtype]
    every += [header.sound_rate, header.sound_coding] if header.flags & SOUND else []
    total = hashlib.sha256(to_json(every) + b"\n")
    for item, part in zip(items, parts, strict=True):
        line: list[Any] = [item.name, item.shape, item.form, item.context]
        line += [list(astuple(item.part))] if item.part else []
        total.update(to_json(line) + b"\n")
        total.update(part)
    return total.hexdigest()


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def squeeze(raw: bytes) -> bytes:
    """LZMA2 without a container: the index and the raw blocks have their own checksums."""
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=filters(len(raw)))


def packed(raw: bytes) -> bytes:
    """`raw` packed, or as it is where that is not shorter: both lengths are known to who reads it."""
    found = squeeze(raw)
    return found if len(found) < len(raw) else raw


def unpacked(data: bytes, size: int) -> bytes:
    """Undo `packed`."""
    return data if len(data) == size else expand(data, size)


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
