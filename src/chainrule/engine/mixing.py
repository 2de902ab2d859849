"""Context mixing: adaptive probabilities under contexts of several lengths, mixed for one binary decision at a time.

A symbol is a path of binary decisions, its bits from the highest on. At every node of that tree each context (the last
1, 2, 3, ... symbols; the word so far) has a probability that the next bit is 1, which moves towards the bits that come
(Cleary & Witten 1984 gave text compression these counts). Their log-odds are added up with weights that are learned
online by the gradient of the coding cost (Mahoney 2005, "Adaptive weighing of context models for lossless data
compression", sections 3-4), and the result is refined by what came of such sums before (Mahoney's APM, after the SEE of
Cleary & Teahan 1997 and Shkarin 2001).

Everything is whole numbers but the logarithms at the end, so the bits are the same everywhere; any content of the
memory is a valid state: nothing in it is a place. docs/step-programs.md is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import ChainruleError
from chainrule.jit import called, compiled, ieee, inlined

U = np.uint64
MOST_SYMBOLS, LEAST_BITS, MOST_BITS, MOST_ORDERS, LONGEST, MOST_WORDS = 256, 8, 28, 12, 32, 2
SCAN = 64  # symbols looked at for the last two words

# numbers of a plan, an array (13 + orders,) int64; places are those in the memory of a lane
SYMBOLS, DEPTH, BITS, ORDERS, WORDS, CONTEXTS, INPUTS, SLOTS, BY_ORDER, BY_NODE, REFINED, SIZE, ORDER = range(
    13
)

# A slot: 8 bits of check, 16 of probability, 6 of count.
MOST_COUNT, KEPT = 10, 2  # a slot that was counted more often is not given away at once
TOP = 3071  # log-odds are in units of 1/256, up to ±12
WEIGHT, RATE = 19661, 3  # a mixer begins with 0.3 for every input; its rate of learning
GRID, REFINEMENT = 16, 1300  # intervals of a refinement; its rate of learning, of 65536
STRETCHED = 10923  # times an odd of 0..6142, over 64: a place in 16 intervals of 65536 each
MASK32, MIX, SPREAD = U(0xFFFFFFFF), U(0x9E3779B1), U(0x85EBCA6B)
HALF, ONE16 = 32768, 65536

# The working room, flat (9 · 112,) int64: of each level what its contexts know, and what the mixer made of it; from ALL
# on what holds for all levels. (Places are unsigned, or every access would look for a negative one.)
WIDE, LEVEL = 16, 7 * 16
HASH, BASE = 0, 16
CHECK, SLOT, KNOWN, CHANCE, COUNT, INPUT, FACTS = range(0, LEVEL, WIDE)
FIRST, SECOND, MIXED, ONE, TWO, SHARE, ONCE, TWICE, FINAL = range(FACTS, FACTS + 9)
ALL = 8 * LEVEL


class Curves(NamedTuple):
    """The functions of a mixer as tables, made of correctly rounded operations alone.

    squash (6143,) int32: 65536 / (1 + e^(-x/256)) of x = -3071..3071, rounded; stretch (4096,) int16: its inverse at
    probabilities (i + ½) / 4096; pace (64,) int64: 65536 / (n + 1.1); logs (65536,): ln(p / 65536), float64 or rounded
    to float32.
    """

    squash: np.ndarray
    stretch: np.ndarray
    pace: np.ndarray
    logs: np.ndarray


@cache
def curves(dtype: Any = np.float32) -> Curves:
    """See `Curves`; dtype: of the logarithms."""
    powers = np.cumprod(np.full(TOP, 1.0039138893383475))  # e^(1/256), one product after another
    odds = np.concatenate([1 / powers[::-1], [1.0], powers])
    squash = np.floor(ONE16 * odds / (1 + odds) + 0.5).astype(np.int64).clip(1, ONE16 - 1)
    stretch = np.searchsorted(squash, 16 * np.arange(4096) + 8) - TOP
    pace = (ONE16 / (np.arange(64) + 1.1)).astype(np.int64)
    return Curves(squash.astype(np.int32), stretch.astype(np.int16), pace, logarithms().astype(dtype))


def logarithms() -> np.ndarray:
    """(65536,) float64: ln(p / 65536), by the series of artanh; the first entry is that of p = 1."""
    mantissa, exponent = np.frexp(np.maximum(np.arange(ONE16), 1) / ONE16)  # ½ to 1
    t = (mantissa - 1) / (mantissa + 1)
    series, power = np.zeros(ONE16), t
    for k in range(1, 40, 2):
        series, power = series + power / k, power * (t * t)
    return 2 * series + exponent * 0.6931471805599453


def check_contexts(symbols: int, bits: int, words: int, orders: Sequence[int]) -> None:
    """One clear line for a mixer that there cannot be."""
    for name, value, low, high in (
        ("symbols", symbols, 1, MOST_SYMBOLS),
        ("bits", bits, LEAST_BITS, MOST_BITS),
        ("words", words, 0, MOST_WORDS),
        ("the number of orders", len(orders), 2, MOST_ORDERS),
    ):
        if not low <= value <= high:
            raise ChainruleError(f"{name} is {value}: take {low} to {high}")
    if any(type(order) is not int for order in orders):
        raise ChainruleError("the orders are not whole numbers")
    rising = all(a < b for a, b in zip([0, *orders[:-1]], orders, strict=True))
    if not rising or orders[-1] > LONGEST:
        raise ChainruleError(f"the orders are {list(orders)}: take rising ones from 1 to {LONGEST}")


def plan_of(symbols: int, bits: int, words: int, orders: Sequence[int]) -> np.ndarray:
    """The plan (13 + orders,) int64 of a mixer: what it is, and where everything lies in the memory of a lane."""
    check_contexts(symbols, bits, words, orders)
    depth = (symbols - 1).bit_length()
    contexts = 1 + len(orders) + words
    inputs = contexts + 1
    slots = 1 << depth  # before them those of the shortest context, a slot a node
    by_order = slots + (1 << bits)
    by_node = by_order + contexts * 9 * inputs
    refined = by_node + (inputs << depth)
    size = refined + 2 * ((GRID + 1) << (bits - 6))
    size += -size % 16  # the memories of all lanes begin where a line of the processor's cache does
    facts = [symbols, depth, bits, len(orders), words, contexts, inputs]
    return np.array([*facts, slots, by_order, by_node, refined, size, *orders], np.int64)


def memories(primed: np.ndarray, lanes: int) -> np.ndarray:
    """The memory of so many lanes (lanes · size,) int32, one after another, each a copy of `primed` (size,)."""
    room = np.empty(lanes * len(primed) + 16, np.int32)
    first = -room.ctypes.data % 64 // 4
    room[first : first + lanes * len(primed)].reshape(lanes, len(primed))[:] = primed
    return room[first : first + lanes * len(primed)]


def working_room() -> np.ndarray:
    """Room for what is computed on the way."""
    return np.zeros(ALL + LEVEL, np.int64)


# ---------------------------------------------------------------------------------------------------- contexts


@inlined
def scrambled(h):
    """Another number of 32 bits."""
    h = (h * MIX) & MASK32
    return h ^ (h >> U(15))


@inlined
def is_letter(symbol):
    """Whether a byte belongs to a word: a letter of ASCII, or any byte from 128 on."""
    lower = symbol | 32
    return symbol >= 128 or (lower >= 97 and lower <= 122)


@called
def find_contexts(plan, symbols, lane, t, work):
    """work[ALL + HASH + j]: a number of 32 bits for each context of position t, from symbols[lane, :t]."""
    h, k = U(0), 1
    for back in range(1, plan[ORDER + plan[ORDERS] - 1] + 1):
        symbol = symbols[lane, t - back] + 1 if t >= back else 0
        h = scrambled(h + U(symbol) + U(1))
        if back == plan[ORDER + k - 1]:
            work[U(ALL + HASH + k)] = np.int64(scrambled(h + U(k)))
            k += 1
    last = U(symbols[lane, t - 1] + 1 if t else 0)
    place, end, h = t - 1, max(0, t - SCAN), U(0)
    for word in range(plan[WORDS]):
        while place >= end and is_letter(symbols[lane, place]):
            h = scrambled(h + U(symbols[lane, place] | 32) + U(1))
            place -= 1
        work[U(ALL + HASH + k + word)] = np.int64(scrambled(scrambled(h + last) + U(k + word)))
        while place >= end and not is_letter(symbols[lane, place]):
            place -= 1
        h = scrambled(h + U(1))


@inlined
def find_bases(plan, node, work):
    """work[ALL + BASE + j] for the next four levels of the tree, below `node`: where slots are, and 8 bits of check."""
    mask = (1 << plan[BITS]) - 1
    for j in range(1, plan[CONTEXTS]):
        h = ((U(work[U(ALL + HASH + j)]) + U(node)) * SPREAD) & MASK32
        h = scrambled(h ^ (h >> U(13)))
        work[U(ALL + BASE + j)] = (np.int64(h ^ (h >> U(17))) & mask) << 8 | np.int64(h >> U(24))


# ----------------------------------------------------------------------------------------------- a binary decision


@inlined
def recall(counts, at, plan, curves, work, node, level):
    """What every context knows of the next bit at a node; gives the longest of the orders that knows something."""
    here = level * LEVEL
    inner = (1 << (level & 3)) | (node & ((1 << (level & 3)) - 1))
    longest = 0
    for j in range(plan[CONTEXTS]):
        base = work[U(ALL + BASE + j)]
        slot = at + (plan[SLOTS] + ((base >> 8) ^ inner) if j else node)
        held = np.int64(counts[U(slot)])
        check = base & 255 if j else 0
        known = j == 0 or held >> 22 & 255 == check
        count = held & 63 if known else 0
        chance = held >> 6 & 65535 if count else HALF
        work[U(here + SLOT + j)], work[U(here + KNOWN + j)], work[U(here + CHECK + j)] = slot, known, check
        work[U(here + COUNT + j)], work[U(here + CHANCE + j)] = count, chance
        work[U(here + INPUT + j)] = np.int64(curves.stretch[U(chance >> 4)]) if count else 0
        longest = j if count and j <= plan[ORDERS] else longest
    work[U(here + INPUT + plan[CONTEXTS])] = 256
    return longest


@inlined
def mix(counts, plan, work, level, first, second):
    """The log-odds that the next bit is 1: the inputs under two sets of weights."""
    total, here = 0, level * LEVEL
    for i in range(plan[INPUTS]):
        weight = np.int64(counts[U(first + i)]) + np.int64(counts[U(second + i)])
        weight += WEIGHT if i < plan[CONTEXTS] else 0
        total += work[U(here + INPUT + i)] * weight
    return min(max(total >> 16, -TOP), TOP)


@inlined
def refinement(at, plan, work, which, node, odds):
    """(where, how far from there to the next of 65536) the refinement of log-odds stands under a context."""
    h = scrambled(U(work[U(ALL + HASH + which)]) + U(node) * SPREAD & MASK32)
    row = np.int64(h) & ((1 << (plan[BITS] - 6)) - 1)
    row += (which - 1) << (plan[BITS] - 6)
    along = (odds + TOP) * STRETCHED >> 6
    return at + plan[REFINED] + row * (GRID + 1) + (along >> 16), along & 65535


@inlined
def refined(counts, mixed, place, share):
    """The probability that was met at such log-odds, of 65536: interpolated changes of what was mixed."""
    change = np.int64(counts[U(place)]) * (ONE16 - share) + np.int64(counts[U(place + 1)]) * share
    return mixed + (change >> 16)


@inlined
def chance_of(counts, at, plan, curves, work, node, level):
    """The probability of a 1 at a node, 1..65535 of 65536; work[level] keeps how it came about."""
    longest, here = recall(counts, at, plan, curves, work, node, level), level * LEVEL
    if work[U(here + COUNT)] == 0:
        work[U(here + FINAL)] = HALF
        return np.int64(HALF)
    surely = min(work[U(here + COUNT + longest)], 8)
    first = at + plan[BY_ORDER] + (longest * 9 + surely) * plan[INPUTS]
    second = at + plan[BY_NODE] + node * plan[INPUTS]
    odds = mix(counts, plan, work, level, first, second)
    one, share = refinement(at, plan, work, 1, node, odds)
    two, _ = refinement(at, plan, work, 2, node, odds)
    mixed = np.int64(curves.squash[U(odds + TOP)])
    once, twice = refined(counts, mixed, one, share), refined(counts, mixed, two, share)
    chance = min(max((mixed + mixed + once + twice + 2) >> 2, 1), ONE16 - 1)
    (
        work[U(here + FIRST)],
        work[U(here + SECOND)],
        work[U(here + MIXED)],
        work[U(here + ONE)],
        work[U(here + TWO)],
    ) = first, second, mixed, one, two
    work[U(here + SHARE)], work[U(here + ONCE)], work[U(here + TWICE)], work[U(here + FINAL)] = (
        share,
        once,
        twice,
        chance,
    )
    return chance


# ------------------------------------------------------------------------------------------------------ learning


@inlined
def bounded(x):
    """Within ±2^24, so that sums of any state stay whole numbers of 64 bits and every state fits in 32."""
    return np.int32(min(max(x, -(1 << 24)), 1 << 24))


@inlined
def correct(counts, plan, work, level, bit):
    """Move the weights along the gradient of the cost of the bit, and refinements towards what came."""
    here = level * LEVEL
    error = ((bit << 16) - work[U(here + MIXED)]) * RATE
    for i in range(plan[INPUTS]):
        step = (work[U(here + INPUT + i)] * error + (1 << 18)) >> 19
        move(counts, work[U(here + FIRST)] + i, step)
        move(counts, work[U(here + SECOND)] + i, step)
    nearer = work[U(here + SHARE)] >> 15
    move(counts, work[U(here + ONE)] + nearer, (bit * (ONE16 - 1) - work[U(here + ONCE)]) * REFINEMENT >> 16)
    move(counts, work[U(here + TWO)] + nearer, (bit * (ONE16 - 1) - work[U(here + TWICE)]) * REFINEMENT >> 16)


@inlined
def move(counts, place, step):
    """Add to a number of the memory, within ±2^24: sums stay whole numbers whatever the memory held."""
    counts[U(place)] = np.int32(min(max(np.int64(counts[U(place)]) + step, -(1 << 24)), 1 << 24))


@inlined
def count(counts, plan, curves, work, level, bit):
    """Move the probability of every context towards the bit; a new context takes over a slot little used."""
    here = level * LEVEL
    for j in range(plan[CONTEXTS]):
        slot, n, chance = work[U(here + SLOT + j)], work[U(here + COUNT + j)], work[U(here + CHANCE + j)]
        held = np.int64(counts[U(slot)])
        if not work[U(here + KNOWN + j)] and (held & 63) > KEPT:
            counts[U(slot)] = np.int32(held - 1)
            continue
        chance += ((bit * (ONE16 - 1) - chance) * curves.pace[U(n)]) >> 16
        chance = min(max(chance, 16), ONE16 - 17)
        counts[U(slot)] = np.int32(work[U(here + CHECK + j)] << 22 | chance << 6 | min(n + 1, MOST_COUNT))


@inlined
def decides(plan, node, level):
    """Whether both bits are possible at a node: there are symbols on either side."""
    return ((2 * node + 1) << (plan[DEPTH] - 1 - level)) - (1 << plan[DEPTH]) < plan[SYMBOLS]


@called
def learn(counts, at, plan, curves, work, symbols, lane, t):
    """Take symbol t of a lane into the memory that begins at counts[at]; gives what it cost, in nats.

    What is learned at a node shows from the next symbol on.
    """
    find_contexts(plan, symbols, lane, t, work)
    path = np.int64(symbols[lane, t]) + (1 << plan[DEPTH])  # its bits from the second on
    depth, cost = plan[DEPTH], 0.0
    for level in range(depth):
        node, bit = path >> (depth - level), path >> (depth - 1 - level) & 1
        if level & 3 == 0:
            find_bases(plan, node, work)
        if decides(plan, node, level):
            chance = chance_of(counts, at, plan, curves, work, node, level)
            cost -= curves.logs[U(chance if bit else ONE16 - chance)]
    for level in range(depth):
        node, bit = path >> (depth - level), path >> (depth - 1 - level) & 1
        if decides(plan, node, level):
            if work[U(level * LEVEL + COUNT)]:
                correct(counts, plan, work, level, bit)
            count(counts, plan, curves, work, level, bit)
    return cost


# ---------------------------------------------------------------------------------------------------- predicting


@inlined
def branch(counts, at, plan, curves, work, node, level, seen, out, to):
    """Give both branches of a node their log-probabilities: out[to + the first symbol of each]."""
    below = plan[DEPTH] - 1 - level
    zero = (node << (below + 1)) - (1 << plan[DEPTH])
    chance = np.int64(HALF)
    if seen and counts[U(at + node)] & 63:
        chance = chance_of(counts, at, plan, curves, work, node, level)
    before = out[U(to + zero)]
    out[U(to + zero)] = before + curves.logs[U(ONE16 - chance)]
    out[U(to + zero + (1 << below))] = before + curves.logs[U(chance)]


@called
def predict(counts, at, plan, curves, work, symbols, lane, t, out, to):
    """out[to : to + K] = ln p of every symbol at position t, given symbols[lane, :t] that were learned."""
    find_contexts(plan, symbols, lane, t, work)
    out[to] = 0.0
    for top in range(0, plan[DEPTH], 4):  # by groups of four levels, which share their bases
        for head in range(1 << top, 2 << top):
            seen = counts[U(at + head)] & 63  # else nothing below was seen either
            if seen:
                find_bases(plan, head, work)
            for level in range(top, min(top + 4, plan[DEPTH])):
                for node in range(head << (level - top), (head + 1) << (level - top)):
                    if decides(plan, node, level):
                        branch(counts, at, plan, curves, work, node, level, seen, out, to)


@compiled
def learn_all(counts, plan, curves, work, symbols, begin, end, costs):
    """`learn` positions begin to end of the one lane there is; costs (end - begin,): of each, in nats."""
    for t in range(begin, end):
        costs[t - begin] = learn(counts, 0, plan, curves, work, symbols, 0, t)


@compiled
def walk_along(counts, plan, curves, work, symbols, known, begin, end, out):
    """out (lanes, end - begin, K), flat: ln p at positions begin to end; `known` symbols are learned already."""
    size, count = plan[SIZE], plan[SYMBOLS]
    for lane in range(len(symbols)):
        for t in range(begin, end):
            for before in range(known if t == begin else t - 1, t):
                learn(counts, lane * size, plan, curves, work, symbols, lane, before)
            to = (lane * (end - begin) + t - begin) * count
            predict(counts, lane * size, plan, curves, work, symbols, lane, t, out, to)


class Mixer:
    """Some lanes, each with a memory of its own that learns from what the lane has seen.

    Args:
        plan: see `plan_of`.
        counts: the memories (lanes · size,) int32, zeros where nothing was learned. They are changed in place.
        symbols: (lanes, N) int32, which the caller may fill as they become known.

    Example:
        >>> plan = plan_of(4, bits=8, words=0, orders=(1, 2))
        >>> mixer = Mixer(plan, np.zeros(plan[SIZE], np.int32), np.zeros((1, 2), np.int32))
        >>> np.exp(mixer.logits(0, 2)).round(2)  # after a 0 another one is likelier
        array([[[0.25, 0.25, 0.25, 0.25],
                [0.51, 0.2 , 0.14, 0.14]]], dtype=float32)
    """

    def __init__(self, plan: np.ndarray, counts: np.ndarray, symbols: np.ndarray):
        self.plan, self.counts, self.symbols, self.known = plan, counts, symbols, 0
        self.work = working_room()

    def logits(self, begin: int, end: int, dtype: Any = np.float32) -> np.ndarray:
        """ln p (lanes, end - begin, K) of positions begin to end, which come after all that was asked for."""
        out = np.empty((len(self.symbols), end - begin, int(self.plan[SYMBOLS])), dtype)
        tables = self.counts, self.plan, curves(dtype), self.work, self.symbols
        with ieee():
            walk_along(*tables, self.known, begin, end, out.reshape(-1))
        self.known = end - 1
        return out

    def learn(self, begin: int, end: int) -> np.ndarray:
        """Take in positions begin to end of the only lane; gives −ln p (end - begin,) float64 of each."""
        costs = np.empty(end - begin)
        with ieee():
            learn_all(self.counts, self.plan, curves(np.float64), self.work, self.symbols, begin, end, costs)
        return costs
