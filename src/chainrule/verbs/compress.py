"""Lossless compression: the walk along a chain, with an entropy coder that is told the symbols.

`compress` writes an archive; `decompress` gives its items back, `extract` writes them as files, `verify`
checks (see `chainrule.verbs.unpack`). docs/archive-format.md says what an archive looks like and gives back.
"""

from __future__ import annotations

import hashlib
import lzma
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from chainrule.data import BYTES, Alphabet, Dataset
from chainrule.data.alphabets import Tokens
from chainrule.data.images import FORMATS, read_image
from chainrule.engine.strict import in_threads
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.coders import CODER, Coder, coder_of
from chainrule.verbs.lanes import Lanes, Meter, coded_type, lanes_of
from chainrule.verbs.score import check_fits
from chainrule.verbs.unpack import decoded, decompress, extract, verify

__all__ = ["Report", "compress", "decompress", "extract", "verify"]

LANE = 8192  # symbols: a text is cut into pieces of at least this length, which are coded side by side
TEXT_LANES = 64  # most lanes of a block of texts
FILES = 1 << 16  # bytes: small files that are kept whole share a block
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Report:
    """What compressing came to.

    Attributes:
        items, symbols: of the data set; of texts in tokens their bytes.
        raw_bytes: the symbols at one byte each, two above 256 levels.
        archive_bytes: the file; model_bytes: of which the embedded model, with the table of its tokens; payload_bytes:
            of which all blocks.
        bits_per_dim: bits a symbol without the model; with_model: with it.
        blocks: how many blocks the model coded, and how many are packed or stored without it.
        files: items of which the source file was kept whole.
        ideal_bits: −log₂ p of everything that the model coded, exact in the arithmetic that coded it.
        coded_bits: what that took in its blocks.
        context_rule: on what each symbol was conditioned; of texts that are cut into lanes not what a score is.
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
    context_rule: str
    xz_bytes: int
    break_even: int | None
    seconds: float


def compress(
    chain: Chain,
    data: Dataset,
    path: str | Path,
    *,
    embed: bool = True,
    force: bool = False,
    originals: Mapping[str, Path] | None = None,
    block_items: int | None = None,
    verify: bool = True,
    threads: int | None = None,
    coder: Coder | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write every item of `data` to the archive `path`, coded with p(x) of `chain`.

    Args:
        embed: put the model into the archive; without it the archive needs the same chain to be decoded.
        force: replace an existing file.
        originals: the source file of an image by its name. It is kept whole when it is no larger than the
            coded pixels, or when a picture of the pixels would not show the same.
        block_items: most lanes of a block; by default a function of the data alone.
        verify: decode the written archive and compare, before it gets its name.
        threads: blocks coded at a time, PyTorch's number by default; the bytes do not depend on it.
        coder: another one than `coder_of(chain)`.
        progress: called with (what, symbols done, symbols in all, estimated seconds left).

    Raises:
        ChainruleError: the data do not fit the chain, or the archive cannot be written.

    Example:
        >>> from chainrule.chains.uniform import Uniform
        >>> data = Dataset(np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1), 256, "image", ("0", "1"))
        >>> path = getfixture("tmp_path") / "two.chain"
        >>> report = compress(Uniform(256), data, path)
        >>> [(name, x.shape) for name, x, _ in decompress(path)]
        [('0', (4, 4, 1)), ('1', (4, 4, 1))]
    """
    started = time.monotonic()
    check_data(chain, data)
    originals = originals if originals and data.kind == "image" else {}  # a text is its file
    coder, threads = coder or coder_of(chain), threads or torch.get_num_threads()
    model, table = (coder.model(), packed_table(data.alphabet)) if embed else (b"", b"")
    header = header_of(coder, data, model, table, block_items, "files" if originals else layout(data))
    source = Source(data, header, originals)
    with atomic(path, force) as file:
        items = source.items(coder.classes)
        blocks = Blocks(coder, source, threads, progress)
        items = source.keep_smaller(items, blocks.ideal(items)) if originals else items
        writer = Writer(file, header, model, table)
        tally = blocks.write(items, writer)
        total = writer.finish()
        if verify:
            file.flush()
            check_written(file.name, coder, data.alphabet, threads, progress)
    rule = context_rule(chain, items, header)
    return account(source, items, tally, total, writer.fixed, rule, time.monotonic() - started)


def check_data(chain: Chain, data: Dataset) -> None:
    """One clear line when `data` cannot be compressed with `chain`."""
    if chain.source:
        raise ChainruleError(
            "the model is conditioned on source texts, and an archive has no place for these yet: compress with a "
            "model of the texts alone"
        )
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


def packed_table(alphabet: Alphabet) -> bytes:
    """What the tokens spell, packed; nothing of bytes."""
    return squeeze(alphabet.table()) if isinstance(alphabet, Tokens) else b""


def facts_of(alphabet: Alphabet, table: bytes) -> dict[str, Any]:
    """What a header says about tokens; `table` is the packed one, or nothing when it is not embedded."""
    if not isinstance(alphabet, Tokens):
        return {}
    whole = alphabet.table()
    embedded = {"tokens_bytes": len(table), "tokens_size": len(whole), "tokens_crc32": zlib.crc32(table)}
    return {"tokens_sha256": hashlib.sha256(whole).hexdigest(), **(embedded if table else {})}


def header_of(
    coder: Coder, data: Dataset, model: bytes, table: bytes, block_items: int | None, layout: str
) -> Header:
    """What holds for the whole archive. How it is cut into blocks and lanes follows from data and model alone."""
    from chainrule import __version__

    cut = coder.event is None and not coder.adapts and any(len(shape) == 1 for shape in data.buckets)
    lanes = TEXT_LANES if cut else coder.most_lanes(max(1, *map(math.prod, data.buckets)))
    return Header(
        kind=data.kind,
        symbols=coder.symbols,
        layout=layout,
        dtype=dtype_of(data),
        source=data.source.encode("utf-8", "replace").decode(),
        block_items=block_items or lanes,
        lane=LANE if cut else 0,
        model_sha256=coder.identity(),
        model_bytes=len(model),
        model_crc32=zlib.crc32(model),
        environment=coder.environment,
        arithmetic=coder.arithmetic,
        coder=CODER,
        writer=f"chainrule {__version__}",
        **facts_of(data.alphabet, table),
    )


def dtype_of(data: Dataset) -> str:
    """The type in which an array comes back: the one that it had; texts are bytes."""
    if data.alphabet is not BYTES:
        return "|u1"
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
            context = int(self.data.context[i]) if classes and self.data.context is not None else None
            item = self.item(name, event, context)
            if item.size > MAX_BLOCK:
                raise ChainruleError(
                    f"{name} has {item.size} symbols, at most {MAX_BLOCK} can be kept: cut it"
                )
            whole = name in self.originals and not shows_the_same(self.originals[name], event)
            items.append(self.as_file(item) if whole else item)
        return items

    def item(self, name: str, event: np.ndarray, context: int | None) -> Item:
        """An event as an item; a text in tokens is as many bytes as they spell."""
        alphabet = self.data.alphabet
        if alphabet is BYTES:
            return Item(name, event.shape, context=context)
        return Item(name, (alphabet.size(event),), context=context, tokens=len(event))

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
        """The symbols of event i as they stand in a raw block: one or two bytes each, in C order; of texts bytes."""
        event = self.coded(i)
        return event if self.data.alphabet is BYTES else BYTES.encode(self.data.alphabet.decode(event))

    def coded(self, i: int) -> np.ndarray:
        """The symbols of event i as the model codes them."""
        event = np.asarray(self.data.x[i])
        low, high = (int(event.min()), int(event.max())) if event.size else (0, 0)
        if low < 0 or high >= self.header.symbols:
            most = self.header.symbols - 1
            raise ChainruleError(f"item {i} has symbols from {low} to {high}, the model knows 0 to {most}")
        return event.astype(coded_type(self.header), order="C")


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


def groups(items: list[Item], todo: Sequence[int], header: Header) -> Iterator[list[int]]:
    """The items of each block: of one shape, or texts by falling length, as many as lanes allow; or files."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i in todo:
        text = len(items[i].shape) == 1 and header.lane > 0
        key = (FILE,) if items[i].form == FILE else ("text",) if text else items[i].shape
        kinds.setdefault(key, []).append(i)
    for key, members in kinds.items():
        if key == ("text",):
            members.sort(key=lambda i: -items[i].steps)
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


class Blocks:
    """Codes the blocks of an archive, several at a time; a block that was coded is not coded again."""

    def __init__(self, coder: Coder, source: Source, threads: int, progress: Progress | None):
        self.coder, self.source, self.progress = coder, source, progress
        self.threads = threads if coder.parallel else 1
        self.coded: dict[tuple[int, ...], tuple[bytes, np.ndarray]] = {}

    def ideal(self, items: list[Item]) -> np.ndarray:
        """−log₂ p (N,) of the items that the model may code, cut into the lanes in which it will."""
        bits = np.zeros(len(items))
        todo = [i for i, item in enumerate(items) if item.form != FILE]
        meter = Meter(self.progress, "score", sum(items[i].steps for i in todo))
        blocks = list(groups(items, todo, self.source.header))
        code = partial(self.code, items, meter)
        for index, found in zip(blocks, in_threads(code, blocks, self.threads), strict=True):
            self.coded[tuple(index)] = found
            bits[index] = found[1]
        return bits

    def code(self, items: list[Item], meter: Meter, index: list[int]) -> tuple[bytes, np.ndarray]:
        """(the stream, −log₂ p of each item) of a block."""
        size = sum(items[i].steps for i in index)
        if tuple(index) in self.coded:
            meter.add(size)
            return self.coded[tuple(index)]
        lanes = Lanes([items[i] for i in index], self.source.header)
        symbols = lanes.gather([self.source.coded(i) for i in index])
        stream, bits = self.coder.encode(lanes, symbols, meter.add) if lanes.steps else (b"", np.zeros(0))
        return stream, lanes.totals(bits)

    def write(self, items: list[Item], writer: Writer) -> Tally:
        """Code every block and append it: with the model where that is shorter."""
        meter, tally = Meter(self.progress, "compress", sum(item.steps for item in items)), Tally()
        blocks = list(groups(items, range(len(items)), self.source.header))
        pack = partial(self.pack, items, meter)
        for index, found in zip(blocks, in_threads(pack, blocks, self.threads), strict=True):
            coding, payload, sha256, ideal = found
            tally.blocks[coding] += 1
            tally.bytes[coding] += writer.add(coding, payload, [items[i] for i in index], sha256)
            tally.ideal += ideal
        return tally

    def pack(self, items: list[Item], meter: Meter, index: list[int]) -> tuple[str, bytes, str, float]:
        """(coding, bytes, hash, −log₂ p of what the model coded) of a block."""
        members, ideal = [items[i] for i in index], 0.0
        whole = members[0].form == FILE
        if whole:
            parts = [self.source.original(item) for item in members]
            meter.add(sum(item.size for item in members))
        else:
            parts = [self.source.symbols(i).tobytes() for i in index]
        coding, payload = without_model(b"".join(parts), len(members))
        if not whole:
            stream, bits = self.code(items, meter, index)
            if len(stream) < len(payload):
                coding, payload, ideal = MODEL, stream, float(bits.sum())
        return coding, payload, digest(self.source.header, members, parts), ideal


def without_model(raw: bytes, items: int) -> tuple[str, bytes]:
    """Packed or as it is, whichever is shorter; a block has at least a byte for each item."""
    packed = squeeze(raw)
    return (STORED, raw) if items <= len(raw) <= len(packed) else (LZMA, packed)


def check_written(
    path: str, coder: Coder, alphabet: Alphabet, threads: int, progress: Progress | None
) -> None:
    """Decode all of an archive: every block is compared with the hash of what went in."""
    with Archive(path) as archive:
        for _ in decoded(archive, lambda archive: coder, alphabet, None, threads, progress, "verify"):
            pass


def context_rule(chain: Chain, items: list[Item], header: Header) -> str:
    """On what a symbol is conditioned: what came before it in its lane."""
    cut = any(lanes_of(item, header) > 1 for item in items)
    whole = chain.context_rule()
    return f"lanes of at least {header.lane:,} symbols, each from the beginning ({whole})" if cut else whole


def account(
    source: Source, items: list[Item], tally: Tally, total: int, fixed: int, rule: str, seconds: float
) -> Report:
    """The sums for the report."""
    packer, raw_bytes, xz_bytes = lzma.LZMACompressor(preset=6), 0, 0
    for i in range(len(items)):
        raw = source.symbols(i).tobytes()
        raw_bytes += len(raw)
        xz_bytes += len(packer.compress(raw))
    xz_bytes += len(packer.flush())
    header = source.header
    model = header.model_bytes + header.tokens_bytes
    symbols, rest = raw_bytes // header.width, total - model
    gain = (xz_bytes - (rest - fixed)) / len(items)  # bytes an item
    return Report(
        items=len(items),
        symbols=symbols,
        raw_bytes=raw_bytes,
        archive_bytes=total,
        model_bytes=model,
        payload_bytes=tally.bytes.total(),
        bits_per_dim=8 * rest / max(1, symbols),
        with_model=8 * total / max(1, symbols),
        blocks={coding: tally.blocks[coding] for coding in (MODEL, LZMA, STORED)},
        files=sum(item.form == FILE for item in items),
        ideal_bits=tally.ideal,
        coded_bits=8 * tally.bytes[MODEL],
        context_rule=rule,
        xz_bytes=xz_bytes,
        break_even=math.ceil((model + fixed) / gain) if gain > 0 else None,
        seconds=seconds,
    )
