"""Header and index from JSON to records. Whatever they say is taken for hostile; nothing behind has to check."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from chainrule.archive.format import (
    CODINGS,
    DTYPES,
    EXPANSION,
    FASTEST,
    FILE,
    INDEX_RATIO,
    INDEX_SLACK,
    KINDS,
    LAYOUTS,
    LZMA,
    MAX_BLOCK,
    MAX_ENDS,
    MAX_TABLE,
    MODEL,
    SOUND,
    STORED,
    SYMBOLS,
    TOKENS,
    Block,
    Header,
    Item,
    Part,
    field_names,
    item_bytes,
    unpacked,
)
from chainrule.archive.names import flaw
from chainrule.errors import ChainruleError


def unpack_index(packed: bytes, size: int) -> Any:
    """The index as JSON; it is stored as it is when both lengths are equal."""
    try:
        raw = unpacked(packed, size)
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


def parse_header(text: bytes, flags: int = 0) -> Header:
    """Check every field, so that nothing behind needs to."""
    found = strict_json(text, "header")
    names = field_names(flags)
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
    if flags & TOKENS:
        check_table(found)
    want((found["kind"] == "sound") == bool(flags & SOUND), "kind")
    if flags & SOUND:
        check_sound(found)
    environment = found["environment"]
    want(isinstance(environment, dict), "environment")
    want(
        all(isinstance(v, str | int) and not isinstance(v, bool) for v in environment.values()), "environment"
    )
    return Header(**found)


def check_table(found: dict[str, Any]) -> None:
    """What a header says about its table of tokens."""
    sha256_hex(found["tokens_sha256"])
    want(found["kind"] == "text" and found["layout"] == "files", "kind")
    whole(found["tokens_bytes"], 0, MAX_TABLE, "tokens_bytes")
    most = INDEX_RATIO * found["tokens_bytes"] + INDEX_SLACK if found["tokens_bytes"] else 0
    whole(found["tokens_size"], 0, min(MAX_TABLE, most), "tokens_size")
    whole(found["tokens_crc32"], 0, 0xFFFFFFFF, "tokens_crc32")


def check_sound(found: dict[str, Any]) -> None:
    """What a header says about its sounds."""
    whole(found["sound_rate"], 1, FASTEST, "sound_rate")
    want(found["sound_coding"] in CODINGS, "sound_coding")
    want(found["symbols"] == 256, "symbols")
    want(found["layout"] == "files", "layout")
    want(found["dtype"] == "|u1", "dtype")


def parse_index(index: Any, header: Header, start: int, end: int) -> list[Block]:
    """Check the index: the blocks must fill the file from `start` to `end` without a gap."""
    columns = [
        "blocks",
        "names",
        "shapes",
        "forms",
        "contexts",
        *(["tokens"] if header.flags & TOKENS else []),
        *(["ends"] if header.flags & SOUND else []),
    ]
    keys = ["bytes", "coding", "crc32", "items", "sha256"] + (["ends"] if header.flags & SOUND else [])
    want(isinstance(index, dict) and sorted(index) == sorted(columns), "index")
    table = index["blocks"]
    want(isinstance(table, list), "blocks")
    for entry in table:
        want(isinstance(entry, dict) and sorted(entry) == sorted(keys), "block")
        whole(entry["bytes"], 0, end - start, "bytes")
        whole(entry.get("ends", 0), 0, entry["bytes"] if entry["coding"] == MODEL else 0, "ends")
        whole(entry["items"], 1, entry["bytes"], "items")  # so an archive has no more items than bytes
        whole(entry["crc32"], 0, 0xFFFFFFFF, "crc32")
        sha256_hex(entry["sha256"])
        want(entry["coding"] in (MODEL, LZMA, STORED), "coding")
    used = sum(entry["bytes"] for entry in table)
    if start + used != end:
        raise ChainruleError(f"is damaged: its blocks take {used} bytes, {end - start} are there")
    found = parse_items(index, sum(entry["items"] for entry in table))
    items = iter(as_recordings(found, index["ends"], header) if header.flags & SOUND else found)
    blocks, offset = [], start
    for entry in table:
        mine = tuple(next(items) for _ in range(entry["items"]))
        size, crc32, sha256 = entry["bytes"], entry["crc32"], entry["sha256"]
        blocks.append(Block(entry["coding"], mine, offset, size, crc32, sha256, entry.get("ends", 0)))
        check_block(blocks[-1], header, len(blocks))
        offset += entry["bytes"]
    return blocks


def parse_items(index: dict[str, Any], count: int) -> list[Item]:
    """The columns of the index as items; those that go on with the one before them have no name yet."""
    names, contexts = index["names"], index["contexts"]
    if isinstance(names, int):
        want(names == count and not isinstance(names, bool), "names")
        names = [str(i) for i in range(count)]
    want(isinstance(names, list) and len(names) == count, "names")
    taken: set[str] = set()
    for name in names:
        if name is None and "ends" in index:
            continue
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
    tokens = index.get("tokens", [None] * count)
    want(isinstance(tokens, list) and len(tokens) == count, "tokens")
    items = [Item(*columns) for columns in zip(names, shapes, forms, contexts, tokens, strict=True)]
    for item in items:
        if item.tokens is not None:  # a token spells at least a byte, so a text has no more of them
            whole(
                item.tokens, 0, item.size if len(item.shape) == 1 and item.form == SYMBOLS else -1, "tokens"
            )
    return items


def as_recordings(items: list[Item], runs: Any, header: Header) -> list[Item]:
    """Items of sounds: which of them are pieces of one recording, and what stands around their samples."""
    rank, found = header.per_sample, []
    ends = from_runs(runs, len(items), check_ends, "ends")
    begins = [i for i, item in enumerate(items) if item.name is not None]
    want(begins[:1] == [0][: len(items)], "names")
    for first, last in pairwise([*begins, len(items)]):
        pieces, (channels, head, tail) = items[first:last], ends[first] or (0, 0, 0)
        for item, around in zip(pieces, ends[first:last], strict=True):
            sample = () if rank == 1 or item.form == FILE else (rank,)
            want(len(item.shape) == 1 + len(sample) and item.shape[1:] == sample, "shapes")
            want((item.form, item.context) == (pieces[0].form, pieces[0].context), "names")
            want(around == ends[first] and item.shape[0] % max(1, channels) == 0, "ends")
            want(len(pieces) == 1 or item.shape[0] > 0, "shapes")
        want(channels == 0 or pieces[0].form == SYMBOLS, "ends")
        total, begin = sum(item.shape[0] for item in pieces), 0
        for item in pieces:
            part = Part(begin, total, channels, head, tail)
            found.append(replace(item, name=pieces[0].name, part=part))
            begin += item.shape[0]
    return found


def check_ends(ends: Any) -> None:
    """What stands around the samples of a file: its channels, bytes before, bytes after; or nothing."""
    if ends is None:
        return
    want(isinstance(ends, list) and len(ends) == 3, "ends")
    whole(ends[0], 1, 0xFFFF, "ends")
    for size in ends[1:]:
        whole(size, 0, MAX_ENDS, "ends")


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
    size = sum(item.head + item.size + item.tail for item in block.items)
    if size > min(MAX_BLOCK, block.bytes * EXPANSION):
        raise ChainruleError(f"is damaged: block {number} claims {size} symbols in {block.bytes} bytes")
    if block.coding == STORED and block.bytes != sum(item_bytes(item, header) for item in block.items):
        raise ChainruleError(f"is damaged: block {number} stores {block.bytes} bytes, its items have others")
    if block.coding == MODEL and len(block.items) > header.block_items:
        found, most = len(block.items), header.block_items
        raise ChainruleError(f"is damaged: block {number} has {found} items, {most} lanes at most")
    if block.coding == MODEL and header.flags & TOKENS and any(item.tokens is None for item in block.items):
        raise ChainruleError(f"is damaged: block {number} does not say how many tokens its items have")
    shapes, forms = {item.shape for item in block.items}, {item.form for item in block.items}
    alike = len(shapes) == 1 or header.flags & SOUND or all(len(shape) == 1 for shape in shapes)
    if block.coding == MODEL and (FILE in forms or not alike):
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
