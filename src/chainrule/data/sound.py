"""Sound as symbols: 16 bits a sample as two bytes, or 8 bits on a scale that follows the ear (mu-law)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chainrule.errors import ChainruleError

MU = 255
SILENCE = 128  # its code in mu-law, and in 8 bits
CODINGS = ("mu-law", "8 bit", "16 bit")
BLOCK = 2**20  # samples that are looked up together: an index takes eight bytes of each
FASTEST = 768_000  # samples a second


@dataclass(frozen=True)
class Sound:
    """What the symbols of a sound stand for.

    Attributes:
        rate: samples a second.
        coding: "16 bit": high and low byte of sample + 32,768, events (T, 2); "mu-law": codes (T,), see `mu_law`;
            "8 bit": sample / 256 + 128, as files of 8 bits have them, (T,); in between the nearest, halves
            to the even one.
    """

    rate: int
    coding: str

    def __post_init__(self) -> None:
        if type(self.rate) is not int or not 0 < self.rate <= FASTEST:
            raise ChainruleError(f"a sound of {self.rate!r} samples a second: take 1 to {FASTEST:,}")
        if self.coding not in CODINGS:
            raise ChainruleError(f"a sound is coded as {', '.join(CODINGS)}, not as {self.coding!r}")

    @property
    def bits(self) -> int:
        """Of a sample."""
        return 16 if self.coding == "16 bit" else 8

    def shape(self, length: int) -> tuple[int, ...]:
        """Of an event of so many samples.

        >>> Sound(8000, "mu-law").shape(5), Sound(8000, "16 bit").shape(5)
        ((5,), (5, 2))
        """
        return (length, 2) if self.bits == 16 else (length,)

    def symbols(self, samples: np.ndarray) -> np.ndarray:
        """Samples (T,) int16 -> symbols (T,) or (T, 2) uint8.

        >>> Sound(8000, "16 bit").symbols(np.array([0, -1, 256])).tolist()
        [[128, 0], [127, 255], [129, 0]]
        """
        shifted = (
            np.asarray(samples).astype(np.uint16) ^ 32768
        )  # sample + 32,768, in two bytes: an hour has 10^8
        if self.coding == "16 bit":
            return shifted.astype(">u2").view(np.uint8).reshape(*shifted.shape, 2)
        table = LEVEL_OF if self.coding == "8 bit" else CODE_OF
        return np.concatenate([table[shifted[i : i + BLOCK]] for i in range(0, max(1, len(shifted)), BLOCK)])

    def samples(self, symbols: np.ndarray) -> np.ndarray:
        """Symbols as from `symbols` -> samples (T,) int16: the same of 16 bits, else the nearest there is.

        >>> Sound(8000, "mu-law").samples(np.array([128, 255, 1])).tolist()
        [0, 32767, -32767]
        """
        symbols = np.asarray(symbols).astype(np.int32)
        if self.coding == "16 bit":
            return (symbols[..., 0] * 256 + symbols[..., 1] - 32768).astype(np.int16)
        if self.coding == "8 bit":
            return ((symbols - 128) * 256).astype(np.int16)
        return SAMPLE_OF[symbols]


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples from -32,768 to 32,767 -> codes 1..255: 128 + round(127 f), silence is 128 (van den Oord et al. 2016).

        f(s) = sign(s) ln(1 + 255 |s| / 32768) / ln 256

    >>> mu_law(np.array([-32768, 0, 1, 1000])).tolist()
    [1, 128, 128, 178]
    """
    s = np.asarray(samples, np.float64)
    f = np.sign(s) * np.log1p(MU * np.abs(s) / 32768) / math.log(1 + MU)
    return (SILENCE + np.rint(127 * f)).astype(np.uint8)


def from_mu_law(codes: np.ndarray) -> np.ndarray:
    """Codes 0..255 -> samples: the middle of what `mu_law` gives that code; code 0, which it never gives, is as 1.

    >>> bool((mu_law(from_mu_law(np.arange(1, 256))) == np.arange(1, 256)).all())
    True
    """
    f = (np.asarray(codes, np.float64).clip(1) - SILENCE) / 127
    s = np.sign(f) * np.expm1(np.abs(f) * math.log(1 + MU)) / MU * 32768
    return np.rint(s).clip(-32767, 32767).astype(np.int16)


CODE_OF = mu_law(np.arange(-32768, 32768))  # by sample + 32,768
LEVEL_OF = (SILENCE + np.rint(np.arange(-32768, 32768) / 256)).clip(0, 255).astype(np.uint8)  # so, too
SAMPLE_OF = from_mu_law(np.arange(256))
