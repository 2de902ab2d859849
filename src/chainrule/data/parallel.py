"""Parallel text -> `Dataset`: lines, each conditioned on another one, its source, as a translation is.

Two files whose lines belong together one by one, or one table of two columns with a tab between them and no quoting.
Either may be packed (.gz, .xz). Lines end at b"\\n" and nowhere else; of b"\\r\\n" the b"\\r" is dropped, which
`Dataset.reduced` says. What a line holds are bytes, UTF-8 or not. A text, target or source, is its line and exactly one
b"\\n" at its end, whether or not the file ends with one. A pair of which one side is empty is skipped, and listed in
`Dataset.skipped`; names are the numbers of lines, from "1" on.
"""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from chainrule.data.dataset import Dataset, gather
from chainrule.data.files import MAX_FOLDER, UNPACKING, with_levels
from chainrule.data.reading import file_size, printable, reading
from chainrule.errors import ChainruleError

UNPACKED = 1 << 28  # bytes that a packed file may hold: a small hostile one could hold any number
PART = 1 << 20  # bytes unpacked at a time
LINES = 1 << 23  # of a file: each is an array of its own
LONGEST = 1 << 16  # bytes of a line without its end

Sources = int | str | os.PathLike[str]
Pair = tuple[bytes, bytes]  # target, source


@dataclass(frozen=True)
class Lines:
    """The lines of a file without their ends, and of how many the end was b"\\r\\n"."""

    name: str
    lines: list[bytes]
    returns: int = 0

    @property
    def reduced(self) -> list[tuple[str, str]]:
        """What to say about carriage returns: [(name, what)] or nothing."""
        many = f"{self.returns:,} line{'s' * (self.returns > 1)}"
        return [(self.name, f"a carriage return at the end of {many}")] if self.returns else []


def load_parallel(path: Path, sources: Sources, levels: int | None = None) -> Dataset:
    """Pairs: the rows of a table, whose column of sources is `sources`, 1 or 2; or lines of `path` and of `sources`.

    Args:
        levels: all bytes must lie below it; 256 by default.

    Raises:
        ChainruleError: a file cannot be read, the lines do not pair up, or no pair is left.

    >>> table = getfixture("tmp_path") / "pairs.tsv"
    >>> _ = table.write_bytes(b"a dog\\tein Hund\\na cat\\teine Katze")
    >>> data = load_parallel(table, sources=1)
    >>> [(x.tobytes(), s.tobytes()) for x, s in zip(data.x, data.sources)]
    [(b'ein Hund\\n', b'a dog\\n'), (b'eine Katze\\n', b'a cat\\n')]
    """
    name = printable(str(path))
    if isinstance(sources, int):
        if sources not in (1, 2) or isinstance(sources, bool):
            raise ChainruleError(
                f"a table of pairs has 2 columns, and {sources} is asked for as that of the sources: take 1 or 2"
            )
        table = read_lines(path, name)
        sides, reduced = (f"column {3 - sources}", f"column {sources}"), table.reduced
        pairs = columns(table, sources)
    else:
        given = Path(os.fsdecode(sources))
        targets, others = read_lines(path, name), read_lines(given, printable(str(given)))
        sides, reduced = (name, others.name), [*targets.reduced, *others.reduced]
        pairs = aligned(targets, others)
    return with_levels(dataset_of(pairs, sides, name, reduced), levels or 256)


def aligned(targets: Lines, sources: Lines) -> list[Pair]:
    """The lines of two files, pair by pair.

    >>> aligned(Lines("de", [b"Hund"]), Lines("en", [b"dog"]))
    [(b'Hund', b'dog')]
    """
    if len(targets.lines) != len(sources.lines):
        raise ChainruleError(
            f"{targets.name} has {len(targets.lines):,} lines, {sources.name} has {len(sources.lines):,}: a pair is a "
            "line of each, so make them equally long"
        )
    return list(zip(targets.lines, sources.lines, strict=True))


def columns(table: Lines, source: int) -> list[Pair]:
    """The rows of a table of two columns, of which the 1st or 2nd is the `source`.

    >>> columns(Lines("pairs.tsv", [b"dog\\tHund"]), source=1)
    [(b'Hund', b'dog')]
    """
    pairs = []
    for number, row in enumerate(table.lines, 1):
        sides = row.split(b"\t")
        if len(sides) != 2:
            raise ChainruleError(
                f"line {number:,} of {table.name} has {len(sides) - 1:,} tabs: a pair is two texts with 1 tab between"
            )
        pairs.append((sides[2 - source], sides[source - 1]))
    return pairs


def dataset_of(
    pairs: Sequence[Pair], sides: tuple[str, str], source: str, reduced: Sequence[tuple[str, str]] = ()
) -> Dataset:
    """Pairs as a `Dataset`, without those of which a side is empty. `sides` say where targets and sources stand."""
    kept = [i for i, pair in enumerate(pairs) if all(pair)]
    if not kept:
        raise ChainruleError(
            f"{source} holds no pair of texts: {len(pairs):,} lines, and none with both sides"
        )
    skipped = tuple(
        (f"line {i + 1}", f"is empty in {' and '.join(w for w, s in zip(sides, pair, strict=True) if not s)}")
        for i, pair in enumerate(pairs)
        if not all(pair)
    )
    targets, sources = texts([pairs[i][0] for i in kept]), texts([pairs[i][1] for i in kept])
    names = [str(i + 1) for i in kept]
    return Dataset(
        gather(targets), 256, "text", names, sources=sources,
        source=source, skipped=skipped, reduced=tuple(reduced),
    )  # fmt: skip


def texts(lines: Sequence[bytes]) -> list[np.ndarray]:
    """Lines as texts (T,) of bytes, each with its end."""
    flat = np.frombuffer(b"".join(line + b"\n" for line in lines), np.uint8).copy()
    ends = np.cumsum([0, *(len(line) + 1 for line in lines)]).tolist()
    return [flat[begin:end] for begin, end in pairwise(ends)]


# ---- files ---------------------------------------------------------------------------------------------------


def read_lines(path: Path, name: str) -> Lines:
    """The lines of a file, which may be packed."""
    return lines_of(read_whole(path, name), name)


def lines_of(text: bytes, name: str) -> Lines:
    """A text cut at every b"\\n"; the last line may lack it.

    >>> lines_of(b"one\\r\\ntwo\\x0b\\n\\nfour", "x.txt")
    Lines(name='x.txt', lines=[b'one', b'two\\x0b', b'', b'four'], returns=1)
    """
    count = text.count(b"\n")
    if count > LINES:
        raise ChainruleError(f"{name} has {count:,} lines, at most {LINES:,} are read: take a part of it")
    lines = text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    returns = sum(line.endswith(b"\r") for line in lines)
    lines = [line.removesuffix(b"\r") for line in lines] if returns else lines
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST:
            raise ChainruleError(
                f"line {number:,} of {name} has {len(line):,} bytes, a line at most {LONGEST:,}: divide it"
            )
    return Lines(name, lines, returns)


def read_whole(path: Path, name: str) -> bytes:
    """The bytes of a file; of one that ends in .gz or .xz what it holds, never more than `UNPACKED` and a part."""
    with reading(name):
        folder = path.is_dir()
    if folder:
        raise ChainruleError(f"{name} is a folder: pairs are read from two text files, or from one table")
    unpack = UNPACKERS.get(path.suffix.lower())
    most, size = UNPACKED if unpack else MAX_FOLDER, file_size(path, name)
    if size > most:
        raise ChainruleError(f"{name} has {size:,} bytes, at most {most:,} are read: take a part of it")
    with reading(name):
        text = unpack(path) if unpack else path.read_bytes()
    if len(text) > most:
        raise ChainruleError(
            f"{name} unpacks to more than {most:,} bytes: unpack it first, or take a part of it"
        )
    return text


def gunzip(path: Path) -> bytes:
    """What a .gz file holds, as far as it is wanted."""
    with gzip.open(path) as file:
        return b"".join(islice(iter(partial(file.read, PART), b""), UNPACKED // PART + 1))


def unxz(path: Path) -> bytes:
    """What an .xz file of one stream holds, as far as it is wanted."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACKING)
    text = unpacker.decompress(path.read_bytes(), UNPACKED + 1)
    if len(text) <= UNPACKED and (not unpacker.eof or unpacker.unused_data):
        raise EOFError("it does not end where its text does")
    return text


UNPACKERS: dict[str, Callable[[Path], bytes]] = {".gz": gunzip, ".xz": unxz}
