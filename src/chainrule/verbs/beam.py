"""Beam search: the most probable texts of a chain, several beginnings side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from chainrule.engine import program_of
from chainrule.engine.device import Device
from chainrule.engine.strict import Strict, log_softmax
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.walk import check_classes, event_of, single, tell_slow, told

Ends = int | Collection[int] | None
Found = tuple[np.ndarray, float]  # a text (T,) and its nats


def beam(
    chain: Chain,
    length: int,
    width: int,
    context: Tensor | None = None,
    *,
    end: Ends = None,
    prefix: Iterable[int] = (),
    normalise: float = 0.0,
    count: int = 1,
    tick: Callable[[int], object] | None = None,
) -> list[Found]:
    """The most probable texts that begin with `prefix`, found among the `width` most probable beginnings at each step.

    Of all continuations of the open beginnings by one symbol the `width` most probable ones are looked at: those of
    them that end are set aside; and the `width` most probable ones that do not end go on. It is over when no open
    beginning can become more probable than the best that has ended (a text never becomes more probable by going on); or
    than the `count` best, where so many are wanted.
    Log-likelihoods are added up as they are, and only what has ended is accepted, as Kalchbrenner et al. 2016
    translate (section 6). As wide as there are texts it finds the most probable one; of width 1 it is greedy.

    The logarithms are the engine's: the result is the same on every machine. Of equal beginnings the first ones stay,
    in the order of their beginnings and then of their symbols.

    Args:
        length: how many symbols may follow the prefix.
        width: beginnings at a time.
        context: (1,) the class, or (1, S) the source, of a chain that has one.
        end: the symbol, or the symbols, that end a text. None: all texts have this length.
        normalise: alpha: texts that have ended are compared by nats / (their symbols)^alpha; 0 compares their nats.
        count: how many of the texts have to be among the most probable ones, see above.
        tick: called with the number of symbols done.

    Returns:
        Up to `width` (symbols, nats), the best first: the prefix and what follows, with the symbol that ends it; ln p
        of what follows. When nothing has ended within `length`, the most probable ones that are open.

    Example:
        >>> from chainrule.chains.uniform import Uniform
        >>> [(text.tolist(), round(nats, 4)) for text, nats in beam(Uniform(symbols=4), 3, 2, end=1, prefix=[2])]
        [([2, 1], -1.3863)]
    """
    start = np.fromiter(prefix, np.int64)
    check_width(width, count)
    event = event_of(chain, (len(start) + length,))
    check_classes(chain, 1, context)
    check_order(chain, event)
    chain.eval()
    with torch.inference_mode():
        lanes = branches(chain, event, width, context)
        return search(lanes, start, length, width, end, normalise, count, tick)


def search(
    lanes: Branches,
    prefix: np.ndarray,
    length: int,
    width: int,
    end: Ends = None,
    normalise: float = 0.0,
    count: int = 1,
    tick: Callable[[int], object] | None = None,
) -> list[Found]:
    """`beam` in `width` lanes that nothing was told."""
    texts, nats = prefix[None], np.zeros(1)
    ended: list[tuple[float, Found]] = []  # the best first
    for symbol in prefix:
        lanes.logits()
        lanes.tell(np.full(width, symbol))
    for t in range(1, length + 1):
        following = nats[:, None] + log_softmax(lanes.logits()[: len(nats)])  # (open, K)
        symbols = following.shape[1]
        ends = ends_of(end, symbols)
        for i in best(following, width):
            if ends[i % symbols]:
                found = np.append(texts[i // symbols], i % symbols), float(following.flat[i])
                ended.append((found[1] / t**normalise, found))
        ended.sort(key=lambda one: -one[0])
        following[:, ends] = -np.inf
        chosen = best(following, width)
        nats = following.flat[chosen]
        texts = np.column_stack([texts[chosen // symbols], chosen % symbols])
        if tick is not None:
            tick(t)
        if over(nats, ended, length, normalise, count):
            break
        if t < length:
            lanes.reorder(filled(chosen // symbols, np.arange(width)))
            lanes.tell(filled(chosen % symbols, np.zeros(width, np.int64)))
    if ended:
        return [found for _, found in ended[:width]]
    return [(text, float(n)) for text, n in zip(texts, nats, strict=True)]


def filled(found: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """What was found, and then what a longer array has: lanes that nobody needs yet."""
    return np.concatenate([found, rest[len(found) :]])


def best(nats: np.ndarray, most: int) -> np.ndarray:
    """The places of the `most` largest of nats, the largest first and of equal ones the first; none of −inf.

    >>> best(np.array([[1.0, 3.0], [-np.inf, 3.0]]), 3)
    array([1, 3, 0])
    """
    flat = nats.ravel()
    least = np.partition(flat, -most)[-most] if most < flat.size else -np.inf
    found = np.flatnonzero((flat >= least) & (flat > -np.inf))
    return found[np.argsort(-flat[found], kind="stable")][:most]


def ends_of(end: Ends, count: int) -> np.ndarray:
    """Which of so many symbols end a text, (K,) bool."""
    symbols = [] if end is None else [end] if isinstance(end, int | np.integer) else list(end)
    for symbol in symbols:
        if not 0 <= symbol < count:
            raise ChainruleError(f"a text is to end with symbol {symbol}, the model knows 0 to {count - 1}")
    found = np.zeros(count, bool)
    found[symbols] = True
    return found


def over(
    nats: np.ndarray, ended: list[tuple[float, Found]], length: int, normalise: float, count: int
) -> bool:
    """Whether no open beginning can become one of the `count` best that have ended: at best, it costs no more."""
    if not len(nats):
        return True
    return len(ended) >= count and float(nats[0]) / length**normalise <= ended[count - 1][0]


# ---- lanes that branch -------------------------------------------------------------------------------------


class Branches(Protocol):
    """Lanes that are told symbols, of which any can go on as what another was."""

    def logits(self) -> np.ndarray: ...
    def tell(self, symbols: np.ndarray) -> None: ...
    def reorder(self, parents: np.ndarray) -> None: ...


class Programs:
    """The step program of a chain, in one of the engine's executors."""

    def __init__(self, run: Strict | Device):
        self.run = run

    def logits(self) -> np.ndarray:
        return np.asarray(self.run.logits())

    def tell(self, symbols: np.ndarray) -> None:
        self.run.tell(torch.from_numpy(symbols))

    def reorder(self, parents: np.ndarray) -> None:
        self.run.reorder(parents)


class Copies:
    """`chain.start` and `chain.step` with a state a lane: a copy of it is a branch point. As slow as that sounds."""

    def __init__(self, chain: Chain, event: tuple[int, ...], lanes: int, context: Tensor | None):
        state = chain.start(1, event, context)
        self.chain, self.states = chain, [copy.deepcopy(state) for _ in range(lanes)]
        self.symbols: list[Tensor | None] = [None] * lanes

    def logits(self) -> np.ndarray:
        both = [self.chain.step(*lane) for lane in zip(self.states, self.symbols, strict=True)]
        self.states = [state for _, state in both]
        return torch.cat([logits for logits, _ in both]).numpy()

    def tell(self, symbols: np.ndarray) -> None:
        self.symbols = list(torch.from_numpy(symbols).split(1))

    def reorder(self, parents: np.ndarray) -> None:
        self.states = [copy.deepcopy(self.states[i]) for i in parents]
        self.symbols = [self.symbols[i] for i in parents]


def branches(chain: Chain, event: tuple[int, ...], lanes: int, context: Tensor | None) -> Branches:
    """Lanes of one context: in the strict engine; in float64 in tensors; without a program states that are copied."""
    strict = single(chain)
    program = program_of(chain, np.float32 if strict else np.float64)
    if program is None:
        tell_slow(type(chain).__name__)
        return Copies(chain, event, lanes, context)
    return in_lanes(program, event, lanes, *told(chain, event, context), strict)


def in_lanes(program: Any, event: tuple[int, ...], lanes: int, classes, features, strict: bool) -> Branches:
    """Lanes of a program, which all have the one class or the features (1, pixels, n) that are given."""
    classes, features = (None if x is None else np.repeat(x, lanes, 0) for x in (classes, features))
    if strict:
        return Programs(Strict(program, event, lanes, classes, features, lanes))
    return Programs(Device(program, event, lanes, classes, features, dtype=torch.float64))


def check_width(width: int, count: int = 1) -> None:
    """One clear line for a beam that is no beam, or that cannot hold so many texts."""
    if width < 1:
        raise ChainruleError(f"the beam is {width} wide: take 1 (the most probable symbol each time) or more")
    if not 1 <= count <= width:
        raise ChainruleError(f"{count} texts are wanted of a beam of {width}: take 1 to {width}")


def check_order(chain: Chain, event: tuple[int, ...]) -> None:
    """One clear line for a chain that does not begin at the first symbol."""
    if (np.diff(chain.order(event)) <= 0).any():
        raise ChainruleError(
            "beam search is for texts, and this model does not predict them from left to right"
        )
