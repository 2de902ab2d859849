"""Integer frequencies <-> bits: one range coder, and the way from logits to the integers that it codes with.

Encoder and decoder must agree on every frequency to the last count, or every later symbol is lost. So the
way from logits to frequencies uses only operations that IEEE 754 rounds correctly (add, multiply, divide,
floor, round) and sums that are exact in any order: equal logits give equal frequencies on every machine.

The functions in the middle are compiled: `chainrule.engine` calls them for every symbol.
"""

from __future__ import annotations

import numpy as np

from chainrule.errors import ChainruleError
from chainrule.jit import bits_of_double, compiled, double_of_bits, inlined

PRECISION = 24  # the frequencies of a distribution add up to 2^24
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
E8, E7, E6, E5, E4, E3, E2, E1, E0 = EXP2
LOG2_E = 1.4426950408889634
SCALE = 2.0**32  # weights are integers up to 2^32: 2^16 of them add up to 2^48, exactly, in any order
LOWEST = -32.0  # exp(-32) is 2^-46: its weight is 0
ROUND = 1.5 * 2.0**52  # adding and subtracting it rounds a double below 2^51 to an integer, ties to even
ROUND_BITS = np.int64(np.float64(ROUND).view(np.int64))


@inlined
def largest(logits):
    """(the largest logit, the first place where it stands), (NaN, 0) when any is NaN or all are -inf."""
    top, sound = logits[0], True
    for k in range(len(logits)):
        z = logits[k]
        sound &= z == z
        top = z if z > top else top
    if not sound or top - top != 0:
        return np.float64(np.nan), 0
    best = 0
    while logits[best] != top:
        best += 1
    return np.float64(top), best


@inlined
def weigh(logits, top, rate, weights):
    """weights (K,) = ⌊2³² e^z⌋ of z = max((logit - top) · rate, -32), integers in float64; gives their sum."""
    for k in range(len(logits)):
        z = (np.float64(logits[k]) - top) * rate
        y = (z if z > LOWEST else LOWEST) * LOG2_E
        shifted = y + ROUND
        r = y - (shifted - ROUND)
        p = ((((E8 * r + E7) * r + E6) * r + E5) * r + E4) * r
        p = (((p + E3) * r + E2) * r + E1) * r + E0
        power = double_of_bits((bits_of_double(shifted) - ROUND_BITS + np.int64(1023)) << np.int64(52))
        weights[k] = np.floor(p * power * SCALE)
    return exact_sum(weights[: len(logits)])


@inlined
def exact_sum(integers):
    """Their sum: integers in float64 add up exactly in any order, so four sums run side by side."""
    a = b = c = d = 0.0
    whole = len(integers) // 4 * 4
    for k in range(0, whole, 4):
        a += integers[k]
        b += integers[k + 1]
        c += integers[k + 2]
        d += integers[k + 3]
    for k in range(whole, len(integers)):
        a += integers[k]
    return (a + b) + (c + d)


@inlined
def tabulate(logits, weights, table):
    """table (K,) int32 = the frequencies of softmax(logits), see `frequencies`.

    Gives (the sum of the weights, the largest logit), (0, 0) when the logits are no numbers.
    """
    top, best = largest(logits)
    if top != top:
        return 0.0, 0.0
    count, total = len(logits), weigh(logits, top, 1.0, weights)
    factor = np.float64(TOTAL - count) / total
    used = np.int32(0)
    for k in range(count):
        table[k] = np.int32(weights[k] * factor) + np.int32(1)
        used += table[k]
    table[best] += np.int32(TOTAL) - used
    return total, top


# The range coder: see docs/archive-format.md. Its state is an array (4,) uint64:
LOW, RANGE, POINT, PLACE = range(4)  # encoder: PLACE words are written; decoder: PLACE words are read
WORD, ALL = np.uint64(32), np.uint64(0xFFFFFFFFFFFFFFFF)
SHIFT, LEAST, ONE, FULL = np.uint64(PRECISION), np.uint64(1 << 32), np.uint64(1), np.uint64(0xFFFFFFFF)


@inlined
def put(state, words, below, frequency):
    """Append a symbol that has `frequency` of 2^24, those before it together `below`; words (n,) uint32."""
    share = state[RANGE] >> SHIFT
    low = state[LOW] + share * np.uint64(below)
    if low < state[LOW]:  # carry into the words written already
        place = state[PLACE] - ONE
        while words[place] == FULL:
            words[place] = np.uint32(0)
            place -= ONE
        words[place] += np.uint32(1)
    state[LOW], state[RANGE] = low, share * np.uint64(frequency)
    if state[RANGE] < LEAST:
        words[state[PLACE]] = np.uint32(low >> WORD)
        state[PLACE] += ONE
        state[LOW], state[RANGE] = low << WORD, state[RANGE] << WORD


@inlined
def get(state, words, table):
    """The next symbol, coded with the frequencies `table`; -1 when no symbol has this code."""
    if state[PLACE] > np.uint64(len(words) + 2):  # nothing was written that far
        return -1
    share = state[RANGE] >> SHIFT
    target = np.int64((state[POINT] - state[LOW]) // share)
    if target >= TOTAL:
        return -1
    symbol, below = 0, np.int64(0)
    while below + table[symbol] <= target:
        below += table[symbol]
        symbol += 1
    state[LOW] += share * np.uint64(below)
    state[RANGE] = share * np.uint64(table[symbol])
    if state[RANGE] < LEAST:
        state[LOW], state[RANGE] = state[LOW] << WORD, state[RANGE] << WORD
        word = np.uint64(words[state[PLACE]]) if state[PLACE] < np.uint64(len(words)) else np.uint64(0)
        state[POINT] = (state[POINT] << WORD) | word
        state[PLACE] += ONE
    return symbol


@inlined
def information(logit, top, total):
    """−log₂ p of a symbol, p = e^(logit - top) 2³² / total, to 1e-9 and the same bits everywhere."""
    bits = bits_of_double(total)
    mantissa = double_of_bits((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(1023 << 52))  # 1 to 2
    t = (mantissa - 1.0) / (mantissa + 1.0)  # log m = 2 artanh t, t up to 1/3
    series, power = 0.0, t
    for k in range(1, 20, 2):
        series += power / k
        power *= t * t
    exponent = np.float64((bits >> np.int64(52)) - np.int64(1023 + 32))
    return exponent + 2.0 * LOG2_E * series - (np.float64(logit) - np.float64(top)) * LOG2_E


@compiled
def tabulate_all(logits, weights, tables):
    """`tabulate` for every row; False when a row has no frequencies."""
    good = True
    for row in range(len(logits)):
        good &= tabulate(logits[row], weights, tables[row])[0] > 0
    return good


@compiled
def put_all(state, words, tables, symbols):
    for row in range(len(tables)):
        below = np.int64(0)
        for k in range(symbols[row]):
            below += tables[row, k]
        put(state, words, below, tables[row, symbols[row]])


@compiled
def get_all(state, words, tables, symbols):
    for row in range(len(tables)):
        symbols[row] = get(state, words, tables[row])
        if symbols[row] < 0:
            return False
    return True


def frequencies(logits: np.ndarray) -> np.ndarray:
    """Integer frequencies (B, K) int32 of softmax(logits), for logits (B, K): each >= 1, together 2^24.

    Symbol k gets 1 + ⌊p_k (2^24 - K)⌋, and the most probable symbol what is left over.

    Raises:
        ChainruleError: a row has NaN or +inf, or nothing but -inf, or there are more than 65,536 symbols.

    Example:
        >>> frequencies(np.array([[0.0, -np.inf], [1e30, 1e30]]))
        array([[16777215,        1],
               [ 8388608,  8388608]], dtype=int32)
    """
    logits = np.ascontiguousarray(logits, dtype=np.float64)
    check_count(logits.shape[1])
    tables = np.empty(logits.shape, np.int32)
    if not tabulate_all(logits, np.empty(logits.shape[1]), tables):
        top = logits.max(1)
        raise ChainruleError(
            f"the model's largest logit is {top[~np.isfinite(top)][0]}: no symbol can be coded"
        )
    return tables


def check_count(symbols: int) -> None:
    """One clear line for more symbols than can be coded."""
    if not 1 <= symbols <= MAX_SYMBOLS:
        raise ChainruleError(f"a distribution over {symbols} symbols cannot be coded: 1 to {MAX_SYMBOLS} can")


def new_encoder() -> np.ndarray:
    """The state of an encoder that has written nothing."""
    return np.array([0, ALL, 0, 0], np.uint64)


def new_decoder(words: np.ndarray) -> np.ndarray:
    """The state of a decoder at the beginning of its words (n,) uint32."""
    first, second = (int(words[i]) if i < len(words) else 0 for i in (0, 1))
    return np.array([0, ALL, first << 32 | second, 2], np.uint64)


def words_of(stream: bytes) -> np.ndarray:
    """Bytes as big-endian words of 32 bits, zeros after the end."""
    return np.frombuffer(stream + bytes(-len(stream) % 4), ">u4").astype(np.uint32)


def finished(state: np.ndarray, words: np.ndarray) -> bytes:
    """The stream: the words written, and as few bytes as say where in the last interval the point is.

    Words are big-endian, so the stream reads as one long binary fraction.
    """
    low, width, place = int(state[LOW]), int(state[RANGE]), int(state[PLACE])
    written = int.from_bytes(words[:place].astype(">u4").tobytes(), "big")
    whole = (written << 64) + low
    for count in range(9):  # bytes after the words
        unit = 1 << (64 - 8 * count)
        point = -(-whole // unit) * unit
        if point < whole + width:
            return (point >> (64 - 8 * count)).to_bytes(4 * place + count, "big")
    raise AssertionError("an interval of the coder is never empty")


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
        self._state, self._words = new_encoder(), np.zeros(64, np.uint32)

    def put(self, table: np.ndarray, symbols: np.ndarray) -> None:
        """Append symbols (B,) coded with the frequencies (B, K), one row a symbol."""
        if table.shape[1] == 1:
            return
        room = int(self._state[PLACE]) + len(table) + 1
        if room > len(self._words):
            self._words = np.concatenate([self._words, np.zeros(room, np.uint32)])
        put_all(
            self._state, self._words, np.ascontiguousarray(table, np.int32), np.asarray(symbols, np.int64)
        )

    def bytes(self) -> bytes:
        """The stream so far."""
        return finished(self._state, self._words)


class Decoder:
    """Bytes -> symbols. It never knows that its bytes are damaged: checksums are the container's affair."""

    def __init__(self, stream: bytes) -> None:
        self._words = words_of(stream)
        self._state = new_decoder(self._words)

    def get(self, table: np.ndarray) -> np.ndarray:
        """The next symbols (B,) int64, coded with the frequencies (B, K)."""
        symbols = np.zeros(len(table), np.int64)
        if table.shape[1] > 1:
            table = np.ascontiguousarray(table, np.int32)
            if not get_all(self._state, self._words, table, symbols):
                raise ChainruleError("the coded stream is damaged: no symbol has this code")
        return symbols
