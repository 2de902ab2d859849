"""Lossless compression: the walk along a chain, with an entropy coder that is told the symbols.

`compress` writes an archive; `decompress` gives its items back, `extract` writes them as files, `verify`
checks (see `chainrule.verbs.unpack`). docs/archive-format.md says what an archive looks like and gives back.
"""

from __future__ import annotations

import lzma
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.archive import (
    DTYPES,
    FILE,
    LZMA,
    MAX_BLOCK,
    MODEL,
    STORED,
    Archive,
    Header,
    Item,
    Progress,
    Writer,
    atomic,
    digest,
    flaw,
    squeeze,
)
from chainrule.data import Dataset
from chainrule.data.images import FORMATS, read_image
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.blocks import (
    ARITHMETIC,
    CODER,
    Lanes,
    Meter,
    arithmetic,
    encode,
    environment,
    lanes_of,
    settled,
    symbol_type,
)
from chainrule.verbs.score import check_fits
from chainrule.verbs.unpack import decoded, decompress, extract, verify

__all__ = ["Report", "compress", "decompress", "extract", "verify"]

LANE = 8192  # symbols: a text is cut into pieces of at least this length, which are coded side by side
LANES, TEXT_LANES = 128, 64  # most lanes of a block
FILES = 1 << 16  # bytes: small files that are kept whole share a block
LOGITS = 1 << 24  # numbers: what the logits of a block of fixed shape may take, 64 MB as float32
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Report:
    """What compressing came to.

    Attributes:
        items, symbols: of the data set.
        raw_bytes: the symbols at one byte each, two above 256 levels.
        archive_bytes: the file; model_bytes: of which the embedded model; payload_bytes: of which all blocks.
        bits_per_dim: bits a symbol without the model; with_model: with it.
        blocks: how many blocks the model coded, and how many are packed or stored without it.
        files: items of which the source file was kept whole.
        ideal_bits: −log₂ p of everything that the model coded, from `log_probs`, exact.
        coded_bits: what that took in its blocks.
        xz_bytes: xz (preset 6) of all raw symbols in one stream: the alternative without a model.
        break_even: items from which on the archive with its model is smaller than xz, or None.
        seconds: of the whole work.
    """

    items: int
    symbols: int
    raw_bytes: int
    archive_bytes: int
    model_bytes: int
    payload_bytes: int
    bits_per_dim: float
    with_model: float
    blocks: dict[str, int]
    files: int
    ideal_bits: float
    coded_bits: int
    xz_bytes: int
    break_even: int | None
    seconds: float


def compress(
    chain: Chain,
    data: Dataset,
    path: str | Path,
    *,
    embed: bytes | None,
    model_sha: str,
    force: bool = False,
    originals: Mapping[str, Path] | None = None,
    block_items: int | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Write every item of `data` to the archive `path`, coded with p(x) of `chain`.

    Args:
        embed: the model as bytes to put into the archive, or None to refer to it.
        model_sha: the identity of the model, 64 hexadecimal digits: `load_chain` is given it when decoding.
        force: replace an existing file.
        originals: the source file of an image by its name. It is kept whole when it is no larger than the
            coded pixels, or when a picture of the pixels would not show the same.
        block_items: most lanes of a block; by default a function of the data alone.
        verify: decode the written archive and compare, before it gets its name.
        progress: called with (what, symbols done, symbols in all, estimated seconds left).

    Raises:
        ChainruleError: the data do not fit the chain, or the archive cannot be written.

    Example:
        >>> from chainrule.chains.uniform import Uniform
        >>> data = Dataset(np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1), 256, "image", ("0", "1"))
        >>> path = getfixture("tmp_path") / "two.chain"
        >>> report = compress(Uniform(256), data, path, embed=None, model_sha="0" * 64)
        >>> [(name, x.shape) for name, x, _ in decompress(path, lambda model, sha: Uniform(256))]
        [('0', (4, 4, 1)), ('1', (4, 4, 1))]
    """
    started = time.monotonic()
    check_data(chain, data)
    originals = originals if originals and data.kind == "image" else {}  # a text is its file
    header = header_of(
        chain, data, embed or b"", model_sha, block_items, "files" if originals else layout(data)
    )
    source, ready = Source(data, header, originals), settled(chain)
    with atomic(path, force) as file:
        with arithmetic(header):
            items = source.items(chain.classes)
            ideal = ideal_bits(ready, source, items, progress)
            items = source.keep_smaller(items, ideal)
            writer = Writer(file, header, embed or b"")
            tally = write_blocks(ready, source, items, ideal, writer, progress)
            total = writer.finish()
        if verify:
            file.flush()
            check_written(file.name, ready, progress)
    return account(source, items, tally, total, writer.fixed, time.monotonic() - started)


def check_data(chain: Chain, data: Dataset) -> None:
    """One clear line when `data` cannot be compressed with `chain`."""
    if data.binarise:
        raise ChainruleError(
            "these data are binarised afresh each time they are drawn: compress a fixed split"
        )
    if not len(data):
        raise ChainruleError("the data set is empty: there is nothing to compress")
    check_fits(chain, data)
    for shape in data.buckets:
        if chain.event is not None and shape != tuple(chain.event):
            raise ChainruleError(f"an item has shape {shape}, the model takes {tuple(chain.event)}")


def layout(data: Dataset) -> str:
    """Whether one array comes back or a file an item: what is numbered and of one shape was an array."""
    numbered = all(name.isdecimal() for name in data.names)
    return "array" if data.kind != "text" and data.event is not None and numbered else "files"


def header_of(
    chain: Chain, data: Dataset, embed: bytes, model_sha: str, block_items: int | None, layout: str
) -> Header:
    """What holds for the whole archive. How it is cut into blocks and lanes follows from the data alone."""
    from chainrule import __version__

    cut = chain.event is None and any(len(shape) == 1 for shape in data.buckets)
    largest = max(1, *map(math.prod, data.buckets))
    lanes = TEXT_LANES if cut else max(1, min(LANES, LOGITS // (largest * chain.symbols)))
    return Header(
        kind=data.kind,
        symbols=chain.symbols,
        layout=layout,
        dtype=dtype_of(data),
        source=data.source.encode("utf-8", "replace").decode(),
        block_items=block_items or lanes,
        lane=LANE if cut else 0,
        model_sha256=model_sha,
        model_bytes=len(embed),
        model_crc32=zlib.crc32(embed),
        environment=environment(),
        arithmetic=ARITHMETIC,
        coder=CODER,
        writer=f"chainrule {__version__}",
    )


def dtype_of(data: Dataset) -> str:
    """The type in which an array comes back: the one that it had."""
    dtype = (data.x if isinstance(data.x, np.ndarray) else np.asarray(data.x[0])).dtype
    name = dtype.newbyteorder("<").str
    if name not in DTYPES:
        raise ChainruleError(
            f"the symbols are {dtype}, only whole numbers can be compressed: round them first"
        )
    return name


@dataclass(frozen=True)
class Source:
    """Where the bytes of the items come from: the events of a data set, and files that are kept whole."""

    data: Dataset
    header: Header
    originals: Mapping[str, Path]

    def items(self, classes: int) -> list[Item]:
        """Every event as an item; a picture whose pixels are not the whole truth as a file."""
        items: list[Item] = []
        taken: set[str] = set()
        for i in range(len(self.data)):
            event = np.asarray(self.data.x[i])
            name = self.data.names[i] if len(self.data.names) else str(i)
            if reason := flaw(name, taken):
                raise ChainruleError(f"the name {name!r} cannot be kept: {reason}; rename it")
            if event.size > MAX_BLOCK:
                raise ChainruleError(
                    f"{name} has {event.size} symbols, at most {MAX_BLOCK} can be kept: cut it"
                )
            context = int(self.data.context[i]) if classes and self.data.context is not None else None
            item = Item(name, event.shape, context=context)
            whole = name in self.originals and not shows_the_same(self.originals[name], event)
            items.append(self.as_file(item) if whole else item)
        return items

    def as_file(self, item: Item) -> Item:
        """The item as its source file."""
        return Item(item.name, (self.size(item),), FILE, item.context)

    def size(self, item: Item) -> int:
        """Bytes of the source file."""
        path = self.originals[item.name]
        try:
            return path.stat().st_size
        except OSError as error:
            raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error

    def original(self, item: Item) -> bytes:
        """The source file."""
        path = self.originals[item.name]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error

    def keep_smaller(self, items: list[Item], ideal: np.ndarray) -> list[Item]:
        """Keep a source file whole when it is no larger than its coded pixels will be."""

        def smaller(item: Item, bits: float) -> bool:
            if item.form == FILE or item.name not in self.originals:
                return False
            return 8 * self.size(item) <= bits

        return [
            self.as_file(item) if smaller(item, bits) else item
            for item, bits in zip(items, ideal, strict=True)
        ]

    def symbols(self, i: int) -> np.ndarray:
        """The symbols of event i as they stand in a raw block: one or two bytes each, in C order."""
        event = np.asarray(self.data.x[i])
        low, high = (int(event.min()), int(event.max())) if event.size else (0, 0)
        if low < 0 or high >= self.header.symbols:
            most = self.header.symbols - 1
            raise ChainruleError(f"item {i} has symbols from {low} to {high}, the model knows 0 to {most}")
        return event.astype(symbol_type(self.header), order="C")


def shows_the_same(path: Path, event: np.ndarray) -> bool:
    """Whether a PNG of the event shows what the file does: upright, without alpha, 8 bits, one frame."""
    from PIL import Image

    try:
        pixels, beyond = read_image(path, path.name)
        with Image.open(path, formats=list(FORMATS)) as image:
            upright = image.getexif().get(ORIENTATION, 1) in (0, 1)
    except Exception:  # whatever such a file makes a parser raise: its bytes are kept
        return False
    return not beyond and upright and pixels.shape[:2] == event.shape[:2] and bool((pixels == event).all())


def ideal_bits(chain: Chain, source: Source, items: list[Item], progress: Progress | None) -> np.ndarray:
    """−log₂ p (N,) of the items that the model may code, cut into the lanes in which it will."""
    bits = np.zeros(len(items))
    todo = [i for i, item in enumerate(items) if item.form != FILE]
    meter = Meter(progress, "score", sum(items[i].size for i in todo))
    for index in groups(items, todo, source.header):
        lanes = Lanes([items[i] for i in index], source.header)
        if lanes.steps:
            x = lanes.gather([source.symbols(i) for i in index])
            log_p = chain.log_probs(lanes.shaped(x), lanes.context(chain)).reshape(x.shape).numpy()
            if np.isnan(log_p).any():
                raise ChainruleError(
                    f"the model gives {items[index[0]].name} the probability NaN: fit it anew"
                )
            inside = np.arange(lanes.steps) < lanes.length[:, None]
            bits[index] = np.bincount(lanes.owner, -np.where(inside, log_p, 0).sum(1), len(index)) / math.log(
                2
            )
        meter.add(sum(items[i].size for i in index))
    return bits


def groups(items: list[Item], todo: Sequence[int], header: Header) -> Iterator[list[int]]:
    """The items of each block: of one shape, or texts by falling length, as many as lanes allow; or files."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i in todo:
        text = len(items[i].shape) == 1 and header.lane > 0
        key = (FILE,) if items[i].form == FILE else ("text",) if text else items[i].shape
        kinds.setdefault(key, []).append(i)
    for key, members in kinds.items():
        if key == ("text",):
            members.sort(key=lambda i: -items[i].size)
        if key == (FILE,):
            yield from filled(members, [items[i].size for i in members], FILES)
        else:
            yield from filled(members, [lanes_of(items[i], header) for i in members], header.block_items)


def filled(members: list[int], needed: list[int], room: int) -> Iterator[list[int]]:
    """Put members into blocks one after another, as many as there is room for.

    >>> list(filled([7, 8, 9], [2, 1, 3], room=3))
    [[7, 8], [9]]
    """
    block: list[int] = []
    used = 0
    for i, need in zip(members, needed, strict=True):
        if block and used + need > room:
            yield block
            block, used = [], 0
        block.append(i)
        used += need
    if block:
        yield block


@dataclass
class Tally:
    """What was written: blocks and bytes by coding, and the ideal bits of what the model coded."""

    blocks: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    ideal: float = 0.0


def write_blocks(chain, source, items, ideal, writer, progress) -> Tally:
    """Code every block and append it."""
    tally, meter = Tally(), Meter(progress, "compress", sum(item.size for item in items))
    for index in groups(items, range(len(items)), source.header):
        members = [items[i] for i in index]
        whole = members[0].form == FILE
        arrays = [] if whole else [source.symbols(i) for i in index]
        parts = [source.original(item) for item in members] if whole else [x.tobytes() for x in arrays]
        coding, payload = without_model(b"".join(parts), len(members))
        bits = float(ideal[index].sum())
        if not whole and bits < 8 * len(payload):  # otherwise coding would be lost time
            coded = encode(chain, Lanes(members, source.header), arrays, meter)
            if len(coded) < len(payload):
                coding, payload = MODEL, coded
                tally.ideal += bits
        tally.blocks[coding] += 1
        tally.bytes[coding] += writer.add(coding, payload, members, digest(source.header, members, parts))
        meter.at(sum(item.size for item in members))
    return tally


def without_model(raw: bytes, items: int) -> tuple[str, bytes]:
    """Packed or as it is, whichever is shorter; a block has at least a byte for each item."""
    packed = squeeze(raw)
    return (STORED, raw) if items <= len(raw) <= len(packed) else (LZMA, packed)


def check_written(path: str, chain: Chain, progress: Progress | None) -> None:
    """Decode all of an archive: every block is compared with the hash of what went in."""
    with Archive(path) as archive:
        for _ in decoded(archive, lambda model, sha: chain, None, progress, "verify"):
            pass


def account(
    source: Source, items: list[Item], tally: Tally, total: int, fixed: int, seconds: float
) -> Report:
    """The sums for the report."""
    packer, raw_bytes, xz_bytes = lzma.LZMACompressor(preset=6), 0, 0
    for i in range(len(items)):
        raw = source.symbols(i).tobytes()
        raw_bytes += len(raw)
        xz_bytes += len(packer.compress(raw))
    xz_bytes += len(packer.flush())
    header = source.header
    symbols, rest = raw_bytes // header.width, total - header.model_bytes
    gain = (xz_bytes - (rest - fixed)) / len(items)  # bytes an item
    return Report(
        items=len(items),
        symbols=symbols,
        raw_bytes=raw_bytes,
        archive_bytes=total,
        model_bytes=header.model_bytes,
        payload_bytes=tally.bytes.total(),
        bits_per_dim=8 * rest / max(1, symbols),
        with_model=8 * total / max(1, symbols),
        blocks={coding: tally.blocks[coding] for coding in (MODEL, LZMA, STORED)},
        files=sum(item.form == FILE for item in items),
        ideal_bits=tally.ideal,
        coded_bits=8 * tally.bytes[MODEL],
        xz_bytes=xz_bytes,
        break_even=math.ceil((header.model_bytes + fixed) / gain) if gain > 0 else None,
        seconds=seconds,
    )
