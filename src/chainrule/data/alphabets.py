"""What the symbols of a text spell: bytes, or tokens of several bytes. The one place where either becomes the other.

Any bytes come back from their symbols exactly. `chainrule.data.tokens` learns, reads and writes alphabets.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from chainrule.errors import ChainruleError

MOST = 1 << 16  # symbols of an alphabet: what the entropy coder takes, and two bytes a symbol hold
LONGEST = (1 << 16) - 1  # bytes that a symbol may spell
TABLE = 1 << 24  # bytes of all of them together
PART = 1 << 16  # bytes encoded at a time, about

# Where a text may be cut: GPT-2 puts no visible character and the space or line break after it into one token.
CUT = re.compile(rb"[!-~](?=[ \n])")
STRAY = re.compile("([\udc80-\udcff]+)")  # bytes that are no UTF-8, as Python's "surrogateescape" has them


@dataclass(frozen=True)
class Bytes:
    """A symbol is a byte."""

    symbols = 256
    unit = "byte"

    def encode(self, text: bytes) -> np.ndarray:
        """Bytes as symbols (T,)."""
        return np.frombuffer(text, np.uint8)

    def decode(self, symbols: Any) -> bytes:
        """The bytes that symbols (T,) spell."""
        return np.asarray(symbols).astype(np.uint8, copy=False).tobytes()

    def sizes(self, symbols: Any) -> np.ndarray:
        """How many bytes each of symbols (T,) spells."""
        return np.ones(len(symbols), np.int64)

    def size(self, symbols: Any) -> int:
        """How many bytes symbols (T,) spell together."""
        return len(symbols)

    def shared(self, symbols: Any, values: np.ndarray) -> np.ndarray:
        """Values (T,) of symbols as those of their bytes."""
        return values


@dataclass(frozen=True)
class Tokens:
    """Byte-pair tokens (Sennrich et al. 2016) over the 256 bytes, as GPT-2 has them (Radford et al. 2019, section 2.2).

    A text is divided into words, each with the space before it, by a fixed rule; then pairs of neighbours become one
    symbol, in the order of `merges`. Bytes that are no UTF-8 stay single.

    Attributes:
        pieces: what each symbol spells, (K,).
        merges: pairs of symbols, the first to merge first. Without them (as an archive has it) texts are only decoded.
        added: symbols that are looked for in a text before anything else, such as GPT-2's end of text.
    """

    pieces: tuple[bytes, ...]
    merges: tuple[tuple[int, int], ...] = ()
    added: tuple[int, ...] = ()

    unit = "token"

    @property
    def symbols(self) -> int:
        """K."""
        return len(self.pieces)

    def encode(self, text: bytes) -> np.ndarray:
        """Bytes as symbols (T,) uint16: of a text in UTF-8 those that GPT-2's way of cutting gives.

        Raises:
            ChainruleError: the package `tokenizers` is not installed.
        """
        return np.concatenate([np.zeros(0, np.uint16), *map(self._encode, self._parts(text))])

    def decode(self, symbols: Any) -> bytes:
        """The bytes that symbols (T,) spell."""
        some = (np.asarray(symbols[i : i + PART]).tolist() for i in range(0, len(symbols), PART))
        return b"".join(b"".join(map(self.pieces.__getitem__, part)) for part in some)

    def sizes(self, symbols: Any) -> np.ndarray:
        """How many bytes each of symbols (T,) spells."""
        return self._sizes[np.asarray(symbols, np.int64)]

    def size(self, symbols: Any) -> int:
        """How many bytes symbols (T,) spell together."""
        return sum(int(self.sizes(symbols[i : i + PART]).sum()) for i in range(0, len(symbols), PART))

    def shared(self, symbols: Any, values: np.ndarray) -> np.ndarray:
        """Values (T,) of symbols, each divided evenly among the bytes that it spells.

        >>> Tokens((b"a", b"the ")).shared([0, 1], np.array([3.0, 2.0])).tolist()
        [3.0, 0.5, 0.5, 0.5, 0.5]
        """
        sizes = self.sizes(symbols)
        return np.repeat(values / np.maximum(sizes, 1), sizes)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(piece) for piece in self.pieces], np.int64)

    @cached_property
    def _tokenizer(self) -> Any:
        from chainrule.data.tokens import rust

        return rust(self)

    @cached_property
    def _single(self) -> dict[str, int]:
        """The symbols of stray bytes, as characters."""
        return {
            bytes([b]).decode("utf-8", "surrogateescape"): self.pieces.index(bytes([b]))
            for b in range(128, 256)
        }

    def _parts(self, text: bytes) -> Iterator[str]:
        """A text in parts that no token spans: a long one at once would take much memory."""
        return parts(text, whole=any(CUT.search(self.pieces[i]) for i in self.added))

    def _encode(self, part: str) -> np.ndarray:
        known = STRAY.split(part)  # characters, stray bytes, characters, ...
        encoded = self._tokenizer.encode_batch_fast(known[::2], add_special_tokens=False)
        pairs = zip(encoded, [*known[1::2], ""], strict=True)
        ids = (i for one, strays in pairs for i in (*one.ids, *map(self._single.__getitem__, strays)))
        symbols = np.fromiter(ids, np.uint16)
        if self.decode(symbols) != part.encode("utf-8", "surrogateescape"):
            raise ChainruleError("the tokens of a text spell another text: please report this alphabet")
        return symbols

    def padded(self, symbols: int) -> Tokens:
        """The same for a model with more symbols: the others spell nothing."""
        if symbols < self.symbols:
            raise ChainruleError(
                f"the alphabet has {self.symbols:,} symbols, the model {symbols:,}: it is another's"
            )
        return Tokens((*self.pieces, *[b""] * (symbols - self.symbols)), self.merges, self.added)

    def table(self) -> bytes:
        """What each symbol spells, as bytes: K (4 bytes, little-endian), the K lengths (2 each), the pieces."""
        lengths = struct.pack(f"<I{self.symbols}H", self.symbols, *map(len, self.pieces))
        return lengths + b"".join(self.pieces)


Alphabet = Bytes | Tokens
BYTES = Bytes()


def from_table(table: bytes, origin: str) -> Tokens:
    """The alphabet of a `table`, which only decodes.

    Raises:
        ChainruleError: the bytes are no such table.
    """
    if len(table) < 4 or len(table) > TABLE:
        raise ChainruleError(f"{origin} is damaged: its table of tokens has {len(table)} bytes")
    (count,) = struct.unpack_from("<I", table)
    begin = 4 + 2 * count
    lengths = struct.unpack_from(f"<{count}H", table, 4) if 1 <= count <= MOST and begin <= len(table) else ()
    if begin + sum(lengths) != len(table) or not lengths:
        raise ChainruleError(
            f"{origin} is damaged: its table of tokens does not hold the {count} that it claims"
        )
    ends = np.cumsum([begin, *lengths]).tolist()
    return Tokens(tuple(table[a:b] for a, b in pairwise(ends)))


def parts(text: bytes, whole: bool = False) -> Iterator[str]:
    """A text in parts that GPT-2 cuts as if they were together; bytes that are no UTF-8 as lone surrogates."""
    begin = 0
    while begin < len(text):
        found = None if whole else CUT.search(text, begin + PART)
        end = found.end() if found else len(text)
        yield text[begin:end].decode("utf-8", "surrogateescape")
        begin = end


def check_pieces(pieces: Sequence[bytes], origin: str) -> None:
    """One clear line for what cannot be an alphabet."""
    if not 256 <= len(pieces) <= MOST:
        raise ChainruleError(f"{origin} has {len(pieces):,} symbols, an alphabet has 256 to {MOST:,}")
    if max(map(len, pieces)) > LONGEST or sum(map(len, pieces)) > TABLE // 2:
        raise ChainruleError(
            f"{origin} has tokens of too many bytes: one takes up to {LONGEST:,}, all {TABLE // 2:,}"
        )
    if missing := {bytes([b]) for b in range(256)} - set(pieces):
        raise ChainruleError(
            f"{origin} has no token for the byte {min(missing).hex()}: texts could not come back exactly"
        )
