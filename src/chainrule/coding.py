"""Integer frequencies <-> bits: one range coder, and the way from logits to the integers that it codes with.

Encoder and decoder must agree on every frequency to the last count, or every later symbol is lost. So the
way from logits to frequencies uses only operations that IEEE 754 rounds correctly (add, multiply, divide,
floor, round) and sums that are exact in any order: equal logits give equal frequencies on every machine.
"""

from __future__ import annotations

import constriction
import numpy as np

from chainrule.errors import ChainruleError

PRECISION = (
    24  # the frequencies of a distribution add up to 2^24: what constriction's Python coder works with
)
TOTAL = 1 << PRECISION
MAX_SYMBOLS = 1 << 16  # a frequency of at least 1 for each takes at most 2^16 / 2^24 = 0.4 % of the total

# 2^r = Σ (r ln 2)^k / k!, as literals: log() differs between C libraries. |r| <= 1/2 leaves 2e-10 after r^8.
EXP2 = (
    1.3215486790144307e-06,
    1.5252733804059841e-05,
    1.5403530393381608e-04,
    1.3333558146428443e-03,
    9.618129107628477e-03,
    5.550410866482158e-02,
    2.402265069591007e-01,
    6.931471805599453e-01,
    1.0,
)
LOG2_E = 1.4426950408889634
SCALE = 2.0**32  # weights are integers up to 2^32: 2^16 of them add up to 2^48, exactly, in any order
LOWEST = -32.0  # exp(-32) is 2^-46: its weight is 0


def frequencies(logits: np.ndarray) -> np.ndarray:
    """Integer frequencies (B, K) uint32 of softmax(logits), for logits (B, K): each >= 1, together 2^24.

    Symbol k gets 1 + floor(p_k (2^24 - K)), and the most probable symbol what is left over.

    Raises:
        ChainruleError: a row has NaN or +inf, or nothing but -inf, or there are more than 65,536 symbols.

    Example:
        >>> frequencies(np.array([[0.0, -np.inf], [1e30, 1e30]]))
        array([[16777215,        1],
               [ 8388608,  8388608]], dtype=uint32)
    """
    logits = np.asarray(logits, dtype=np.float64)
    count = logits.shape[1]
    if not 1 <= count <= MAX_SYMBOLS:
        raise ChainruleError(f"a distribution over {count} symbols cannot be coded: 1 to {MAX_SYMBOLS} can")
    top = logits.max(1, keepdims=True)
    if not np.isfinite(top).all():
        raise ChainruleError(
            f"the model's largest logit is {top[~np.isfinite(top)][0]}: no symbol can be coded"
        )
    with np.errstate(over="ignore"):  # -1e308 - 1e308 is -inf, as it should be
        below = np.maximum(logits - top, LOWEST)
    weights = np.floor(exp(below) * SCALE)
    weights *= (TOTAL - count) / weights.sum(1, keepdims=True)
    table = np.floor(weights, out=weights).astype(np.uint32) + np.uint32(1)
    rows = np.arange(len(table))
    table[rows, logits.argmax(1)] += (TOTAL - table.sum(1, dtype=np.uint64)).astype(np.uint32)
    return table


def exp(z: np.ndarray) -> np.ndarray:
    """e^z for -700 < z <= 0 to 1e-9, the same bits everywhere: numpy's own differs between processors."""
    y = z * LOG2_E
    n = np.rint(y)
    y -= n
    result = np.full_like(y, EXP2[0])
    for coefficient in EXP2[1:]:
        result *= y
        result += coefficient
    return np.ldexp(result, n.astype(np.int32))


class Encoder:
    """Symbols -> bytes.

    Example:
        >>> table = frequencies(np.zeros((3, 256)))
        >>> encoder = Encoder()
        >>> encoder.put(table, np.array([7, 0, 255]))
        >>> Decoder(encoder.bytes()).get(table)
        array([  7,   0, 255])
    """

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, table: np.ndarray, symbols: np.ndarray) -> None:
        """Append symbols (B,) coded with the frequencies (B, K), one row a symbol."""
        if table.shape[1] > 1 and len(table):
            self._coder.encode(np.ascontiguousarray(symbols, np.int32), FAMILY, weights_of(table))

    def bytes(self) -> bytes:
        """The stream so far: big-endian words of 32 bits, so that it reads as one long binary fraction."""
        return self._coder.get_compressed().astype(">u4").tobytes()


class Decoder:
    """Bytes -> symbols. It never knows that its bytes are damaged: checksums are the container's affair."""

    def __init__(self, stream: bytes) -> None:
        padded = stream + bytes(-len(stream) % 4)
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def get(self, table: np.ndarray) -> np.ndarray:
        """The next symbols (B,) int64, coded with the frequencies (B, K)."""
        if table.shape[1] == 1 or not len(table):
            return np.zeros(len(table), np.int64)
        try:
            return self._coder.decode(FAMILY, weights_of(table)).astype(np.int64)
        except AssertionError:
            raise ChainruleError("the coded stream is damaged: no symbol has this code") from None


# Without `perfect`, constriction makes frequencies of weights w: 1 + floor(w_k (2^24 - K) / Σw), by way of
# cumulative sums. We hand it w = frequency - 1, whose sum is 2^24 - K: the factor is exactly 1, every sum is
# an integer below 2^24, so float32 holds it, and what reaches the coder is our frequency. The tests decode
# its streams by hand.
FAMILY = constriction.stream.model.Categorical(perfect=False)


def weights_of(table: np.ndarray) -> np.ndarray:
    """In C order: constriction takes a matrix in Fortran order for its transpose, without a word."""
    return (table - np.uint32(1)).astype(np.float32, order="C")
