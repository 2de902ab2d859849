"""The kinds of damage that benchmarks/damage.py does to archives."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from chainrule import engine, store
from chainrule.archive import END, FOOTER, MAGIC, MODEL, PREFIX, SOUND, TOKENS, VERSION, expand, squeeze
from chainrule.models import TABLE, parse_model


@dataclass(frozen=True)
class Truth:
    """What an archive gives back: its items with their symbols and classes, and its files."""

    items: tuple[Any, ...]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Base:
    """An archive that is right; `run` holds the model when the archive does not."""

    name: str
    data: bytes
    run: Path | None
    truth: Truth


@dataclass(frozen=True)
class Case:
    """A damaged archive.

    Attributes:
        what: the fields that were changed, as REASONS names them; none when they never can be harmless.
        run: where the model is, when the archive does not hold it.
        sealed: its checksums were put right again.
    """

    base: Base
    data: bytes
    what: tuple[str, ...]
    run: Path | None
    sealed: bool


# ---- where chance comes from --------------------------------------------------------------------------------


class Draw(ABC):
    """Where a case gets its random numbers; the kinds of damage do not know from whom."""

    @abstractmethod
    def below(self, n: int) -> int:
        """A whole number from 0 to n − 1."""

    @abstractmethod
    def bytes(self, n: int) -> bytes:
        """n bytes."""

    def pick(self, values: Sequence[Any]) -> Any:
        return values[self.below(len(values))]

    def once_in(self, n: int) -> bool:
        return self.below(n) == n - 1


class FromNumpy(Draw):
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def below(self, n: int) -> int:
        return int(self._rng.integers(n, dtype=np.uint64))

    def bytes(self, n: int) -> bytes:
        return self._rng.bytes(n)


class FromHypothesis(Draw):
    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def below(self, n: int) -> int:
        return self._data.draw(st.integers(0, n - 1))

    def bytes(self, n: int) -> bytes:
        return self._data.draw(st.binary(min_size=n, max_size=n))


# ---- taking apart and putting together ----------------------------------------------------------------------


@dataclass
class Parts:
    """An archive in its parts. `joined` makes every length and checksum right around them."""

    header: dict[str, Any]
    model: bytes
    table: bytes  # of tokens
    payloads: list[bytes]
    index: dict[str, Any]

    @classmethod
    def of(cls, data: bytes) -> Parts:
        size = PREFIX.unpack(data[: PREFIX.size])[3]
        packed, raw = FOOTER.unpack(data[-FOOTER.size :])[:2]
        end = len(data) - FOOTER.size - packed
        index = data[end : end + packed]
        table = json.loads(index if packed == raw else expand(index, raw))
        header = json.loads(data[PREFIX.size : PREFIX.size + size])
        first = PREFIX.size + size
        middle = first + header["model_bytes"]
        start = middle + header.get("tokens_bytes", 0)
        model, tokens = data[first:middle], data[middle:start]
        payloads = []
        for entry in table["blocks"]:
            payloads.append(data[start : start + entry["bytes"]])
            start += entry["bytes"]
        return cls(header, model, tokens, payloads, table)

    @property
    def flags(self) -> int:
        """What a reader must understand."""
        sound = SOUND if self.header.get("sound_coding") else 0
        return sound | (TOKENS if self.header.get("tokens_sha256") else 0)

    def measured(self) -> Parts:
        """Lengths and checksums of model and blocks as they now are."""
        self.header.update(model_bytes=len(self.model), model_crc32=zlib.crc32(self.model))
        if self.flags & TOKENS:
            self.header.update(tokens_bytes=len(self.table), tokens_crc32=zlib.crc32(self.table))
        for entry, payload in zip(self.index["blocks"], self.payloads, strict=True):
            entry.update(bytes=len(payload), crc32=zlib.crc32(payload))
        return self

    def joined(
        self,
        *,
        version: int = VERSION,
        flags: int | None = None,
        text: bytes | None = None,
        raw: bytes | None = None,
        packed: bytes | None = None,
        footer: dict[str, int] | None = None,
    ) -> bytes:
        """The archive; header (`text`), index (`raw`, or `packed`) or numbers of the footer may be others."""
        text = plain(self.header) if text is None else text
        raw = plain(self.index) if raw is None else raw
        packed = squeeze(raw) if packed is None else packed
        start = PREFIX.pack(MAGIC, version, self.flags if flags is None else flags, len(text), 0)[:-4]
        crc = zlib.crc32(start + text)
        body = (
            start + struct.pack("<I", crc) + text + self.model + self.table + b"".join(self.payloads) + packed
        )
        numbers = {"packed": len(packed), "raw": len(raw), "crc": zlib.crc32(packed), "header": crc}
        numbers |= {"total": len(body) + FOOTER.size} | (footer or {})
        end = FOOTER.pack(*numbers.values(), 0, END)[:-8]
        return body + end + struct.pack("<I", zlib.crc32(end)) + END


def plain(value: Any) -> bytes:
    """JSON as the archive writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def edges(base: Base) -> list[int]:
    """Where the parts of an archive begin, and its end."""
    parts = Parts.of(base.data)
    sizes = [8, PREFIX.size - 8, len(plain(parts.header)), len(parts.model), len(parts.table)]
    sizes += map(len, parts.payloads)
    end = len(base.data) - FOOTER.size
    return [0, *np.cumsum(sizes).tolist(), end, len(base.data)]


# ---- kinds of damage -----------------------------------------------------------------------


Kind = Callable[[Draw, Sequence[Base]], Case | None]  # None: nothing came of it
Lie = tuple[bytes, tuple[str, ...]]  # an archive whose checksums are right, the fields that were changed


def unsealed(change: Callable[[Draw, Base, Sequence[Base]], bytes]) -> Kind:
    """Damage to the bytes as they stand."""

    def kind(draw: Draw, all_: Sequence[Base]) -> Case | None:
        base = draw.pick(all_)
        data = change(draw, base, all_)
        return None if data in whole(all_) else Case(base, data, (), base.run, False)

    return kind


def sealed(change: Callable[[Draw, Parts, Base, Sequence[Base]], Lie | None]) -> Kind:
    """A lie: (the archive with right checksums, the field that was changed)."""

    def kind(draw: Draw, all_: Sequence[Base]) -> Case | None:
        base = draw.pick(all_)
        made = change(draw, Parts.of(base.data), base, all_)
        return None if made is None or made[0] in whole(all_) else Case(base, *made, base.run, True)

    return kind


def whole(all_: Sequence[Base]) -> set[bytes]:
    """What is not damaged, such as an archive of which the whole was put in the place of another."""
    return {base.data for base in all_}


def spot(draw: Draw, base: Base) -> int:
    """A place in an archive: anywhere, or in a part drawn before, so that small parts have their share."""
    if draw.once_in(2):
        return draw.below(len(base.data))
    starts = edges(base)
    parts = [(low, high) for low, high in pairwise(starts) if low < high]
    low, high = draw.pick(parts)
    return low + draw.below(high - low)


def flipped(draw: Draw, base: Base, _: Sequence[Base]) -> bytes:
    """1 to 16 bits."""
    data = bytearray(base.data)
    for _ in range(1 + draw.below(16)):
        data[spot(draw, base)] ^= 1 << draw.below(8)
    return bytes(data)


def truncated(draw: Draw, base: Base, _: Sequence[Base]) -> bytes:
    """The end missing, or the beginning."""
    at = spot(draw, base)
    return base.data[at:] if draw.once_in(4) else base.data[:at]


def spliced(draw: Draw, base: Base, all_: Sequence[Base]) -> bytes:
    """The beginning of one archive, the end of another, cut anywhere or where a part begins."""
    other = draw.pick(all_)
    if draw.once_in(2):
        return base.data[: draw.pick(edges(base))] + other.data[draw.pick(edges(other)) :]
    return base.data[: spot(draw, base)] + other.data[spot(draw, other) :]


def inserted(draw: Draw, base: Base, _: Sequence[Base]) -> bytes:
    at, size = spot(draw, base), 1 + draw.below(64)
    return base.data[:at] + (bytes(size) if draw.once_in(3) else draw.bytes(size)) + base.data[at:]


def stretch(draw: Draw, base: Base) -> tuple[int, int]:
    """A range of bytes: short, or up to another place."""
    at = spot(draw, base)
    end = at + 1 + draw.below(64) if draw.once_in(2) else spot(draw, base) + 1
    return min(at, end - 1), min(max(at + 1, end), len(base.data))


def removed(draw: Draw, base: Base, _: Sequence[Base]) -> bytes:
    low, high = stretch(draw, base)
    return base.data[:low] + base.data[high:]


def duplicated(draw: Draw, base: Base, _: Sequence[Base]) -> bytes:
    low, high = stretch(draw, base)
    return base.data[:high] + base.data[low:]


def overwritten(draw: Draw, base: Base, all_: Sequence[Base]) -> bytes:
    """A range as zeros, as garbage, or as another archive has it."""
    low, high = stretch(draw, base)
    others = bytes(high - low), draw.bytes(16) * (high - low), draw.pick(all_).data[low:high]
    other = draw.pick(others)[: high - low].ljust(high - low, b"\0")
    return base.data[:low] + other + base.data[high:]


def prefix(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    """Another version, reserved flags."""
    version = VERSION if draw.once_in(2) else draw.below(1 << 16)
    flags = parts.flags if draw.once_in(3) else draw.pick((1 << draw.below(16), draw.below(1 << 16)))
    return parts.joined(version=version, flags=flags), ()


def footer(draw: Draw, parts: Parts, base: Base, _: Sequence[Base]) -> Lie:
    """Another number in the footer."""
    name, bits = draw.pick((("packed", 64), ("raw", 64), ("crc", 32), ("header", 32), ("total", 64)))
    near = draw.pick((len(base.data), 0, FOOTER.unpack(base.data[-FOOTER.size :])[1])) + draw.below(64)
    value = draw.pick((near, draw.below(1 << bits), 1 << draw.below(bits), (1 << bits) - 1 - draw.below(4)))
    return parts.joined(footer={name: value % (1 << bits)}), ()


def header_field(draw: Draw, parts: Parts, _: Base, all_: Sequence[Base]) -> Lie:
    """Another value in the header, perhaps that of another archive."""
    before = copy.deepcopy(parts.header)
    edited(draw, parts.header, Parts.of(draw.pick(all_).data).header)
    return parts.joined(), told("header", before, parts.header)


def index_field(draw: Draw, parts: Parts, _: Base, all_: Sequence[Base]) -> Lie:
    """Another value in the index, perhaps that of another archive."""
    before = copy.deepcopy(parts.index)
    edited(draw, parts.index, Parts.of(draw.pick(all_).data).index)
    return parts.joined(), told("index", before, parts.index)


def header_text(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    text = mangled(draw, plain(parts.header))
    return parts.joined(text=text), told("header", parts.header, read(text))


def index_text(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    raw = mangled(draw, plain(parts.index))
    return parts.joined(raw=raw), told("index", parts.index, read(raw))


def index_packed(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    return parts.joined(packed=mangled(draw, squeeze(plain(parts.index)))), ("index, written otherwise",)


def item(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie | None:
    """An item gets another name, shape, class, form or count, as somebody would do it who knows the format."""
    index = parts.index
    count = sum(entry["items"] for entry in index["blocks"])
    columns = {
        "names": list(map(str, range(count))) if isinstance(index["names"], int) else index["names"],
        "contexts": index["contexts"] or [None] * count,
        "shapes": [run[1] for run in index["shapes"] for _ in range(run[0])],
        "forms": [run[1] for run in index["forms"] for _ in range(run[0])],
        **({"tokens": index["tokens"]} if "tokens" in index else {}),
        **({"ends": [run[1] for run in index["ends"] for _ in range(run[0])]} if "ends" in index else {}),
    }
    column, i = draw.pick(list(columns)), draw.below(count)
    other, old = draw.below(count), columns[column][i]
    if draw.once_in(2):
        new = columns[column][other]
        columns[column][other] = old
    elif column == "shapes":
        side = draw.below(len(old) + 1)
        grown = [n << draw.below(24) if i == side else n for i, n in enumerate(old)]
        new = draw.pick((grown, old[::-1], [*old, 1], [int(np.prod(old))], [n + 1 for n in old]))
    elif column == "ends":
        near = [n + draw.below(3) - 1 for n in old or [1, 44, 0]]
        new = draw.pick((None, near, [near[0], near[2], near[1]], [1 << draw.below(40) for _ in near]))
    else:
        others = {"names": f"{old}{draw.below(10)}", "contexts": draw.below(9), "forms": "file"}
        new = others.get(column, draw.below(99))
    if new == old:
        return None
    columns[column][i] = new
    contexts = None if all(c is None for c in columns["contexts"]) else columns["contexts"]
    index.update(names=columns["names"], contexts=contexts)
    index.update(
        {key: [[1, value] for value in columns[key]] for key in ("shapes", "forms", "ends") if key in index}
    )
    return parts.joined(), ("index.tokens",) if column == "tokens" and not needed(parts) else ()


def payload(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    """Other bytes in a block: only the hash of what it decodes to can tell."""
    n = draw.below(len(parts.payloads))
    parts.payloads[n] = mangled(draw, parts.payloads[n])
    return parts.measured().joined(), ("payload",)


def monstrous(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie:
    """A block that claims to hold far more than it does, with bytes that would never end."""
    n, size = draw.below(len(parts.payloads)), 1 + draw.below(256)
    bomb = squeeze(bytes(1 << draw.below(22)))[:-1] + bytes(size)  # without the mark of its end
    parts.payloads[n] = draw.pick((bytes(size), draw.bytes(16) * (size // 16 + 1), bomb))
    entry, shapes = parts.index["blocks"][n], parts.index["shapes"]
    entry["coding"] = draw.pick((entry["coding"], MODEL))
    if draw.once_in(2):
        more = draw.below(len(parts.payloads[n]))
        entry["items"] += more
        shapes[-1][0] += more
        for column in ("forms", "ends"):
            if column in parts.index:
                parts.index[column][-1][0] += more
        parts.index.update(names=sum(run[0] for run in shapes), contexts=None)
    else:
        shape = draw.pick(shapes)[1] or [1]
        side = draw.below(len(shape))
        shape[side] = max(1, shape[side]) << draw.below(24)
    return parts.measured().joined(), ("payload",)


def exchanged(draw: Draw, parts: Parts, base: Base, all_: Sequence[Base]) -> Lie | None:
    """The bytes of a block from another block, of this archive or of another; with its hash or without."""
    other = Parts.of(draw.pick(all_).data)
    n, m = draw.below(len(parts.payloads)), draw.below(len(other.payloads))
    if parts.payloads[n] == other.payloads[m]:
        return None
    parts.payloads[n] = other.payloads[m]
    if draw.once_in(2):
        parts.index["blocks"][n].update({key: other.index["blocks"][m][key] for key in ("sha256", "coding")})
    return parts.measured().joined(), ("payload",)


def model(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie | None:
    """Other bytes in the embedded model, perhaps with its identity put right, too."""
    if not parts.model or not (needed(parts) or draw.once_in(8)):
        return None
    parts.model = mangled(draw, parts.model)
    return with_identity(draw, parts), ("model",)


def model_header(draw: Draw, parts: Parts, _: Base, all_: Sequence[Base]) -> Lie | None:
    """Another value in the JSON with which a safetensors file begins, or in the JSON inside."""
    found = tensors_header(parts.model)
    if found is None or not (needed(parts) or draw.once_in(8)):
        return None
    other = tensors_header(Parts.of(draw.pick(all_).data).model) or found
    inner = found.get("__metadata__", {})
    key = draw.pick([None, *inner])
    if key is None:
        edited(draw, found, other)
    elif isinstance(facts := read(inner[key].encode()), dict) and facts:
        edited(draw, facts, read(other.get("__metadata__", {}).get(key, "{}").encode()) or {})
        inner[key] = plain(facts).decode(errors="replace")
    else:
        inner[key] = mangled(draw, inner[key].encode()).decode(errors="replace")
    size = struct.unpack("<Q", parts.model[:8])[0]
    text = plain(found)
    text += b" " * (-len(text) % 8)
    parts.model = struct.pack("<Q", len(text)) + text + parts.model[8 + size :]
    return with_identity(draw, parts), ("model's header",)


def table(draw: Draw, parts: Parts, _: Base, __: Sequence[Base]) -> Lie | None:
    """Other tokens, or a table that claims others; its lengths and hash are right, or not."""
    if not parts.table:
        return None
    raw = expand(parts.table, parts.header["tokens_size"])
    lies = [
        mangled(draw, raw),
        struct.pack("<I", draw.below(1 << 17)) + raw[4:],
        raw + bytes(1 << draw.below(22)),
    ]
    raw = lies[draw.below(3)]
    parts.table = mangled(draw, squeeze(raw)) if draw.once_in(4) else squeeze(raw)
    parts.header["tokens_size"] = len(raw)
    if draw.once_in(2):
        parts.header["tokens_sha256"] = hashlib.sha256(raw).hexdigest()
    return parts.measured().joined(), ("table of tokens",)


def another_model(draw: Draw, parts: Parts, base: Base, all_: Sequence[Base]) -> Lie | None:
    """The model of another archive, embedded in place of this one's or as the identity of one elsewhere."""
    other = Parts.of(draw.pick(all_).data)
    if other.header["model_sha256"] == parts.header["model_sha256"]:
        return None
    if other.model or draw.once_in(2):
        parts.model = other.model
    if draw.once_in(2):
        parts.header["model_sha256"] = other.header["model_sha256"]
    return parts.measured().joined(), ("another model",)


def needed(parts: Parts) -> bool:
    """Whether a block was coded by the model."""
    return any(entry["coding"] == MODEL for entry in parts.index["blocks"])


def identity(model: bytes) -> str | None:
    """The `model_sha256` that a header needs for an embedded program or model, or None when it is neither."""
    for found in (
        lambda: engine.identity(engine.parse(model)),
        lambda: store.sha256(parse_model(model), TABLE),
    ):
        with contextlib.suppress(Exception):  # should it be no ChainruleError, the case itself will tell
            return found()
    return None


def with_identity(draw: Draw, parts: Parts) -> bytes:
    """Lengths and checksums made right, and in half of the cases the identity of the model."""
    if draw.once_in(2):
        parts.header["model_sha256"] = identity(parts.model) or parts.header["model_sha256"]
    return parts.measured().joined()


def tensors_header(model: bytes) -> dict[str, Any] | None:
    """The JSON at the beginning of a safetensors file; None when it is none."""
    size = int.from_bytes(model[:8], "little")
    found = read(model[8 : 8 + size]) if 0 < size <= len(model) - 8 else None
    return found if isinstance(found, dict) else None


def mangled(draw: Draw, data: bytes) -> bytes:
    """Some bytes of any kind damaged in some way."""
    at = draw.below(len(data) + 1)
    size = 1 + draw.below(8)
    way = draw.below(6)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[at + size :]
    if way == 2:
        return data[:at] + draw.pick((bytes(size), draw.bytes(size))) + data[at:]
    if way == 3:
        return data[: at + size] + data[at:]
    if way == 4:
        return data[:at] + draw.bytes(size) + data[at + size :]
    damaged = bytearray(data)
    for _ in range(size if data else 0):
        damaged[draw.below(len(data))] ^= 1 << draw.below(8)
    return bytes(damaged)


def edited(draw: Draw, tree: Any, other: Any) -> None:
    """One value anywhere in JSON is replaced, taken out, exchanged with a neighbour, or put in twice."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw.pick(keys)
        with contextlib.suppress(KeyError, IndexError, TypeError):
            other = other[key]
        if not (isinstance(tree[key], dict | list) and tree[key]) or draw.once_in(4):
            break
        tree = tree[key]
    way = draw.below(10)
    if way == 0:
        del tree[key]
    elif way == 1:
        neighbour = draw.pick(keys)
        tree[key], tree[neighbour] = tree[neighbour], tree[key]
    elif way == 2:
        tree.insert(key, copy.deepcopy(tree[key])) if isinstance(tree, list) else tree.update({f"{key}2": 1})
    elif way == 3:
        tree[key] = copy.deepcopy(other)
    else:
        tree[key] = new_value(draw, tree[key])


WORDS = (
    "image",
    "text",
    "array",
    "sound",
    "16 bit",
    "files",
    "|u1",
    "|i1",
    "<u2",
    "model",
    "lzma",
    "stored",
    "symbols",
    "file",
)


def new_value(draw: Draw, old: Any) -> Any:
    """A value near the old one, at an edge, or of another type."""
    if draw.once_in(5):
        return draw.pick((None, True, "", [], {}, 0, -1, 1.5, float("nan"), "x", [0], {"a": 1}))
    if isinstance(old, bool) or old is None:
        return draw.pick((0, 1, [0], "true"))
    if isinstance(old, float):
        return draw.pick((-old, 2 * old, 1, f"{old}"))
    if isinstance(old, int):
        near = draw.pick((old + 1, old - 1, 2 * old, old // 2, old ^ 1 << draw.below(32)))
        return draw.pick((near, 1 << draw.below(64), draw.below(1 << 16), draw.below(300)))
    if isinstance(old, str):
        near = mangled(draw, old.encode()).decode(errors="replace")
        return draw.pick((near, draw.pick(WORDS), f"{old}/../{old}", old * 99))
    if isinstance(old, list):
        return draw.pick((old[::-1], old[:-1], old + old, [old]))
    return draw.pick((list(old), {}, [old]))


def read(text: bytes) -> Any:
    """JSON, or None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def told(where: str, before: dict[str, Any], after: Any) -> tuple[str, ...]:
    """The fields that differ."""
    if not isinstance(after, dict) or before.keys() != after.keys():
        return ()
    changed = [key for key in before if plain(before[key]) != plain(after[key])]
    return tuple(f"{where}.{key}" for key in changed) or (f"{where}, written otherwise",)


# How many cases of a hundred are of a kind.
KINDS: dict[str, tuple[int, Kind]] = {
    "bits flipped": (10, unsealed(flipped)),
    "truncated": (7, unsealed(truncated)),
    "spliced": (6, unsealed(spliced)),
    "inserted": (4, unsealed(inserted)),
    "removed": (4, unsealed(removed)),
    "duplicated": (4, unsealed(duplicated)),
    "overwritten": (4, unsealed(overwritten)),
    "version and flags, sealed": (3, sealed(prefix)),
    "footer, sealed": (4, sealed(footer)),
    "header field, sealed": (9, sealed(header_field)),
    "header text, sealed": (3, sealed(header_text)),
    "index field, sealed": (10, sealed(index_field)),
    "index text, sealed": (3, sealed(index_text)),
    "index packed, sealed": (2, sealed(index_packed)),
    "item, sealed": (4, sealed(item)),
    "block bytes, sealed": (8, sealed(payload)),
    "monstrous block, sealed": (3, sealed(monstrous)),
    "block of another, sealed": (3, sealed(exchanged)),
    "model bytes, sealed": (4, sealed(model)),
    "model header, sealed": (3, sealed(model_header)),
    "model of another, sealed": (2, sealed(another_model)),
    "table of tokens, sealed": (3, sealed(table)),
}
