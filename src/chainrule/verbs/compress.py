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
    MODEL,
    STORED,
    Archive,
    Header,
    Item,
    Progress,
    Writer,
    atomic,
    digest,
    packed,
    squeeze,
)
from chainrule.data import BYTES, Alphabet, Dataset, unit_of
from chainrule.data.alphabets import Tokens
from chainrule.engine.strict import in_threads
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.coders import CODER, Coder, coder_of
from chainrule.verbs.lanes import Lanes, Meter, lanes_of
from chainrule.verbs.score import check_fits
from chainrule.verbs.sounds import Sounds
from chainrule.verbs.sources import Events, Source
from chainrule.verbs.unpack import decoded, decompress, extract, verify

__all__ = ["Report", "compress", "decompress", "extract", "verify"]

LANE = 8192  # symbols: a text is cut into pieces of at least this length, which are coded side by side
LINES = 64  # most lanes of a block of texts or sounds
# Samples: the same of sounds, by the symbols of a sample. A model of 8 bits sees some thousands of samples back; what
# models of 16 bits learn as they go they still learn after tens of thousands, and lanes hardly speed them up.
SOUND_LANE = {1: 1 << 16, 2: 1 << 18}
SOUND_BLOCK = 1 << 17  # samples that short sounds fill a block with: what one costs to get back
FILES = 1 << 16  # bytes: small files that are kept whole share a block


@dataclass(frozen=True)
class Report:
    """What compressing came to.

    Attributes:
        items, symbols: of the data set; of texts in tokens their bytes, of sounds their samples, of all channels.
        raw_bytes: the symbols at one byte each, two above 256 levels; of files of sound all their bytes.
        archive_bytes: the file; model_bytes: of which the embedded model, with the table of its tokens; payload_bytes:
            of which all blocks.
        bits_per_dim: bits a symbol without the model; with_model: with it. Of sounds without the files that were kept
            whole.
        blocks: how many blocks the model coded, and how many are packed or stored without it.
        files: items of which the source file was kept whole.
        ideal_bits: −log₂ p of everything that the model coded, exact in the arithmetic that coded it.
        coded_bits: what that took in its blocks.
        context_rule: on what each symbol was conditioned; of texts that are cut into lanes not what a score is.
        xz_bytes: xz (preset 6) of all raw symbols in one stream: the alternative without a model.
        break_even: items from which on the archive with its model is smaller than xz, or None.
        seconds: of the whole work.
        unit: of the two: "bits/dim", of texts "bits/byte", of sounds "bits/sample".
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
    unit: str


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
    source = source_of(data, header, originals)
    with atomic(path, force) as file:
        items = source.items(coder.classes)
        blocks = Blocks(coder, source, threads, progress)
        items = source.keep_smaller(items, blocks.ideal)
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
    if data.sound is not None and chain.symbols != data.levels:
        raise ChainruleError(
            f"a byte of sound has {data.levels} levels, the model {chain.symbols}: fit one to sound"
        )
    for shape in data.buckets:
        if chain.event is not None and shape != tuple(chain.event):
            raise ChainruleError(f"an item has shape {shape}, the model takes {tuple(chain.event)}")


def source_of(data: Dataset, header: Header, originals: Mapping[str, Path]) -> Source:
    """Where the items come from."""
    return Events(data, header, originals) if data.sound is None else Sounds(data, header)


def layout(data: Dataset) -> str:
    """Whether one array comes back or a file an item: what is numbered and of one shape was an array."""
    if data.sound is not None:
        return "files"
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

    sound = data.sound
    line = sound is not None or any(len(shape) == 1 for shape in data.buckets)
    cut = line and coder.event is None and not coder.adapts
    lane, lanes = LANE if sound is None else SOUND_LANE[data.per_sample], LINES
    if not cut:
        lane, lanes = 0, coder.most_lanes(max(1, *map(math.prod, data.buckets)))
    told: dict[str, Any] = {} if sound is None else {"sound_rate": sound.rate, "sound_coding": sound.coding}
    return Header(
        kind=data.kind,
        symbols=coder.symbols,
        layout=layout,
        dtype=dtype_of(data),
        source=data.source.encode("utf-8", "replace").decode(),
        block_items=block_items or lanes,
        lane=lane,
        model_sha256=coder.identity(),
        model_bytes=len(model),
        model_crc32=zlib.crc32(model),
        environment=coder.environment,
        arithmetic=coder.arithmetic,
        coder=CODER,
        writer=f"chainrule {__version__}",
        **facts_of(data.alphabet, table),
        **told,
    )


def dtype_of(data: Dataset) -> str:
    """The type in which an array comes back: the one that it had; texts and sounds are bytes."""
    if data.alphabet is not BYTES or data.sound is not None:
        return "|u1"
    dtype = (data.x if isinstance(data.x, np.ndarray) else np.asarray(data.x[0])).dtype
    name = dtype.newbyteorder("<").str
    if name not in DTYPES:
        raise ChainruleError(
            f"the symbols are {dtype}, only whole numbers can be compressed: round them first"
        )
    return name


def groups(items: list[Item], todo: Sequence[int], header: Header) -> Iterator[list[int]]:
    """The items of each block: of one shape, or texts or sounds by falling length, as many as lanes allow; or files."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i in todo:
        line = items[i].part is not None or (len(items[i].shape) == 1 and header.lane > 0)
        key = (FILE,) if items[i].form == FILE else ("line",) if line else items[i].shape
        kinds.setdefault(key, []).append(i)
    for key, members in kinds.items():
        if key == ("line",):
            members.sort(key=lambda i: -length_of(items[i]))
        if key == (FILE,):
            yield from filled(members, [items[i].size for i in members], FILES)
        elif items[members[0]].part is not None:
            least = -(-SOUND_BLOCK // header.block_items)
            yield from filled(members, [max(least, items[i].shape[0]) for i in members], SOUND_BLOCK)
        else:
            yield from filled(members, [lanes_of(items[i], header) for i in members], header.block_items)


def length_of(item: Item) -> int:
    """How long a text or a whole recording is: pieces of one follow each other."""
    return item.steps if item.part is None else item.part.total


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
    """What was written: blocks and bytes by coding, bytes of files kept whole, ideal bits of what the model coded."""

    blocks: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    ideal: float = 0.0


@dataclass(frozen=True)
class Packed:
    """A block that can be written: which items it has, how, its bytes, hash, and −log₂ p of what the model coded.

    `ends`: how many of the bytes hold what stands around samples.
    """

    index: list[int]
    coding: str
    payload: bytes
    sha256: str
    ideal: float = 0.0
    ends: int = 0


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
        blocks = groups(items, range(len(items)), self.source.header)
        for some in in_threads(partial(self.pack, items, meter), blocks, self.threads):
            for block in some:
                members = [items[i] for i in block.index]
                size = writer.add(block.coding, block.payload, members, block.sha256, block.ends)
                tally.blocks[block.coding] += 1
                tally.bytes[block.coding] += size
                tally.whole += size if members[0].form == FILE else 0
                tally.ideal += block.ideal
        return tally

    def pack(self, items: list[Item], meter: Meter, index: list[int]) -> list[Packed]:
        """A block; of sounds two, when the model makes some of its items longer than they are."""
        if items[index[0]].form == FILE:
            meter.add(sum(items[i].size for i in index))
            return [self.best(items, index)]
        stream, bits = self.code(items, meter, index)
        longer = [i for i, n in zip(index, bits, strict=True) if items[i].part and n >= 8 * items[i].size > 0]
        if not longer or len(longer) == len(index):
            return [self.best(items, index, stream, bits)]
        rest = [i for i in index if i not in set(longer)]
        return [*self.pack(items, Meter(None, "", 0), rest), self.best(items, longer)]

    def best(
        self, items: list[Item], index: list[int], stream: bytes | None = None, bits: np.ndarray | None = None
    ) -> Packed:
        """A block as what the model made of it, or without that, whichever is shorter."""
        members = [items[i] for i in index]
        parts = [self.source.raw(i, items[i]) for i in index]
        coding, payload = without_model(b"".join(parts), len(members))
        sha256 = digest(self.source.header, members, parts)
        if stream is not None and bits is not None:
            ends = packed(b"".join(self.source.ends(i, items[i]) for i in index))
            if len(ends) + len(stream) < len(payload):
                return Packed(index, MODEL, ends + stream, sha256, float(bits.sum()), len(ends))
        return Packed(index, coding, payload, sha256)


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
    whole, what = chain.context_rule(), "samples" if header.sound_coding else "symbols"
    return f"lanes of at least {header.lane:,} {what}, each from the beginning ({whole})" if cut else whole


def account(
    source: Source, items: list[Item], tally: Tally, total: int, fixed: int, rule: str, seconds: float
) -> Report:
    """The sums for the report."""
    packer, raw_bytes, xz_bytes = lzma.LZMACompressor(preset=6), 0, 0
    for i in range(len(items)):
        raw = source.plain(i)
        raw_bytes += len(raw)
        xz_bytes += len(packer.compress(raw))
    xz_bytes += len(packer.flush())
    header = source.header
    model = header.model_bytes + header.tokens_bytes
    symbols, rest = raw_bytes // header.width, total - model
    each = rest
    if header.kind == "sound":
        symbols = sum(item.shape[0] for item in items if item.form != FILE)
        each = rest - tally.whole
    count = sum(item.first for item in items)
    gain = (xz_bytes - (rest - fixed)) / count  # bytes an item
    return Report(
        items=count,
        symbols=symbols,
        raw_bytes=raw_bytes,
        archive_bytes=total,
        model_bytes=model,
        payload_bytes=tally.bytes.total(),
        bits_per_dim=8 * each / max(1, symbols),
        with_model=8 * (each + model) / max(1, symbols),
        blocks={coding: tally.blocks[coding] for coding in (MODEL, LZMA, STORED)},
        files=sum(item.form == FILE and item.first for item in items),
        ideal_bits=tally.ideal,
        coded_bits=8 * tally.bytes[MODEL],
        context_rule=rule,
        xz_bytes=xz_bytes,
        break_even=math.ceil((model + fixed) / gain) if gain > 0 else None,
        seconds=seconds,
        unit=unit_of(header.kind),
    )
