"""One loop: sampling, completing and coding are the same walk along a chain; they differ in who chooses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from chainrule.engine import encoder_of, program_of
from chainrule.engine.device import Device
from chainrule.engine.strict import Strict, in_threads
from chainrule.errors import ChainruleError
from chainrule.model import Chain, visit_order

ENCODED = 1 << 11  # places of sources that are encoded side by side: what they need stays in the cache

log = logging.getLogger("chainrule")
Choose = Callable[[int, Tensor], Tensor]


def walk(
    chain: Chain, choose: Choose, event: tuple[int, ...], batch: int, context: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Visit the positions of `batch` events in the chain's order.

    Yields (i, symbols (B,)) with symbols = choose(i, logits (B, K)), i the flat position in C order. It is a
    generator: progress bars, streaming and stopping early belong to the caller. The chain is put into
    evaluation mode: what is walked is p(x), without dropout.
    """
    check_classes(chain, batch, context)
    chain.eval()
    stepper = start(chain, event, batch, context)
    for position in visit_order(chain, event).tolist():
        with torch.inference_mode():
            symbol = choose(position, stepper.logits())
            stepper.tell(symbol)
        yield position, symbol


class Stepper(Protocol):
    """Gives the logits (B, K) of one position after the other, and is told what was chosen."""

    def logits(self) -> Tensor: ...
    def tell(self, symbols: Tensor) -> None: ...


class Programmed:
    """The step program of a chain, in one of the engine's executors."""

    def __init__(self, run: Strict | Device):
        self.run = run

    def logits(self) -> Tensor:
        return torch.as_tensor(self.run.logits())

    def tell(self, symbols: Tensor) -> None:
        self.run.tell(symbols)


class Stepped:
    """`chain.start` and `chain.step`: the way of a chain without a program."""

    def __init__(self, chain: Chain, event: tuple[int, ...], batch: int, context: Tensor | None):
        self.chain, self.state = chain, chain.start(batch, event, context)
        self.symbol: Tensor | None = None

    def logits(self) -> Tensor:
        logits, self.state = self.chain.step(self.state, self.symbol)
        return logits

    def tell(self, symbols: Tensor) -> None:
        self.symbol = symbols


def start(chain: Chain, event: tuple[int, ...], batch: int, context: Tensor | None = None) -> Stepper:
    """What walks along `chain`: the strict engine; in float64 tensors; without a program the chain's own steps."""
    if single(chain):
        program = program_of(chain)
        if program is not None:
            return Programmed(Strict(program, event, batch, *told(chain, event, context)))
    elif (program := program_of(chain, np.float64)) is not None:
        classes, features = told(chain, event, context)
        return Programmed(Device(program, event, batch, classes, features, dtype=torch.float64))
    tell_slow(type(chain).__name__)
    return Stepped(chain, event, batch, context)


def told(
    chain: Chain, event: tuple[int, ...], context: Tensor | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the step program of a chain is given of a context: (classes, features)."""
    if chain.features:
        assert context is not None
        return None, encodings(chain, context, math.prod(event) // chain.channels)
    return None if context is None else context.numpy(), None


def encodings(chain: Any, context: Tensor, length: int) -> np.ndarray:
    """What a chain makes of sources (B, S) or frames, at `length` pixels of its step program: (B, length, features).

    In the engine's arithmetic where the chain is in single precision: the same bits on every machine, whatever other
    sources are encoded beside one.
    """
    with torch.no_grad():
        rows = chain.told(context).numpy()
    strict = single(chain)
    program = encoder_of(chain, rows.shape[-1], np.float32 if strict else np.float64)
    found = np.zeros((len(rows), length, chain.features), rows.dtype)
    size, places = max(1, ENCODED // rows.shape[1]), rows.shape[1]
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        run: Any = (
            Strict(program, (places,), len(part), None, part)
            if strict
            else Device(program, (places,), len(part), None, part, dtype=torch.float64)
        )
        for t in range(min(places, length)):
            found[first : first + size, t] = run.logits()
            run.tell(np.zeros(len(part), np.int64))
    return found


@cache
def tell_slow(name: str) -> None:
    """Tell the log, once for each class."""
    log.warning(
        f"{name} states no step program: every symbol may take a full pass, and archives are this machine's"
    )


def single(chain: Chain) -> bool:
    """Whether the chain computes in single precision, as the strict engine does."""
    numbers = (t for t in [*chain.parameters(), *chain.buffers()] if t.is_floating_point())
    return all(t.dtype == torch.float32 for t in numbers)


def sample(
    chain: Chain,
    n: int = 16,
    event: tuple[int, ...] | None = None,
    context: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    first: int = 0,
    tick: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Draw `n` events (n, *event), exact samples of p(x) at temperature 1.

    Args:
        event: the shape to draw when the chain has no fixed one.
        context: (n,) classes.
        temperature: logits are divided by it; 0 takes the most probable symbol.
        top_p: keep the smallest set of symbols whose probability reaches it (at least one).
        top_k: keep the most probable symbols only, so many; `top_p` is then a share of what they have. 0: all.
        seed, first: item i of the result is drawn with the random numbers (seed, first + i), whatever n is.
        tick: called with the number of symbols done, for progress bars.
    """
    shape = event_of(chain, event)
    nothing = np.zeros((n, *shape), dtype=np.int64), np.zeros(shape, dtype=bool)
    return fill(chain, *nothing, context, temperature, top_p, top_k, seed, first, tick)


def complete(
    chain: Chain,
    x: np.ndarray,
    known: np.ndarray,
    n: int = 4,
    context: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    tick: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Draw `n` completions (n, *event) of one event `x` of which `known` (bool, same shape) is given.

    A symbol is drawn given the symbols *before* it, known or drawn. When everything known comes first in
    the chain's order this is the exact conditional distribution; for other masks it is causal filling, not
    the posterior given what is known later.
    """
    copies = copies_of(chain, x, known, n)
    return fill(chain, copies, known, context, temperature, top_p, top_k, seed, 0, tick)


def stream(
    chain: Chain,
    x: np.ndarray,
    known: np.ndarray,
    context: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """One completion as it is drawn: yields its next symbols (n,), in the order in which the chain predicts them.

    Together they are `complete(chain, x, known, 1, ...)[0]`, symbol for symbol. Arguments as there. What is not asked
    for is not drawn, so a caller may stop whenever it likes.

    Example:
        >>> from chainrule.chains.char_lstm import CharLSTM
        >>> chain = CharLSTM(symbols=5, **CharLSTM.SIZES["tiny"])
        >>> x, known = np.array([1, 2, 3, 0, 0, 0]), np.arange(6) < 3
        >>> text = np.concatenate(list(stream(chain, x, known)))
        >>> bool((text == complete(chain, x, known, 1)[0]).all())
        True
    """
    copies = copies_of(chain, x, known, 1)
    check_filter(temperature, top_p, top_k)
    check_classes(chain, 1, context)
    chain.eval()
    flat, given = copies.reshape(1, -1), known.reshape(-1)
    uniforms = uniform_stream(seed, 0, known.size)[None]
    program = program_of(chain) if single(chain) else None
    if program is None or not flat.size:
        choose = chooser(flat, given, uniforms, temperature, top_p, top_k)
        for _, symbol in walk(chain, choose, x.shape, 1, context):
            yield symbol.numpy()
        return
    run = Strict(program, x.shape, 1, *told(chain, x.shape, context))
    for symbols in run.stream(flat, given, uniforms, temperature, top_p, top_k):
        yield symbols[0].astype(np.int64)


def copies_of(chain: Chain, x: np.ndarray, known: np.ndarray, n: int) -> np.ndarray:
    """(n, *event) of an event whose symbols, where they are known, the chain knows too."""
    if known.shape != x.shape:
        raise ChainruleError(f"the mask has shape {known.shape}, the event {x.shape}: they must be equal")
    event_of(chain, x.shape)
    given = x[known]
    if given.size and not 0 <= int(given.min()) <= int(given.max()) < chain.symbols:
        found = f"{int(given.min())} to {int(given.max())}"
        raise ChainruleError(f"the event has symbols {found}, the model knows 0 to {chain.symbols - 1}")
    return np.repeat(x[None].astype(np.int64), n, axis=0)


def fill(chain, x, known, context, temperature, top_p, top_k, seed, first, tick) -> np.ndarray:
    """Walk along (n, *event) events: given where `known` (*event), drawn elsewhere."""
    check_filter(temperature, top_p, top_k)
    check_classes(chain, len(x), context)
    chain.eval()
    flat, given = x.reshape(len(x), known.size), known.reshape(-1)
    uniforms = uniform_streams(seed, range(first, first + len(x)), known.size)
    program = program_of(chain) if single(chain) else None
    settings = temperature, top_p, top_k, tick
    if program is None or not flat.size:
        return fill_step_by_step(chain, x, flat, given, uniforms, context, *settings)

    def part(lanes: slice) -> np.ndarray:
        own = told(chain, x.shape[1:], None if context is None else context[lanes])
        run = Strict(program, x.shape[1:], lanes.stop - lanes.start, *own)
        listen = tell if lanes.start == 0 else None
        return run.fill(flat[lanes], given, uniforms[lanes], temperature, top_p, top_k, listen)

    done = 0

    def tell(symbols: int) -> None:
        nonlocal done
        done += symbols // slices[0].stop
        if tick is not None:
            tick(done)

    threads = min(torch.get_num_threads(), len(x))
    edges = [len(x) * i // threads for i in range(threads + 1)]
    slices = [slice(a, b) for a, b in pairwise(edges)]
    return np.concatenate(list(in_threads(part, slices, threads))).astype(np.int64).reshape(x.shape)


def fill_step_by_step(
    chain, x, flat, given, uniforms, context, temperature, top_p, top_k, tick
) -> np.ndarray:
    """As `fill`, for a chain without a program."""

    choose = chooser(flat, given, uniforms, temperature, top_p, top_k)
    for done, (i, symbols) in enumerate(walk(chain, choose, x.shape[1:], len(x), context)):
        flat[:, i] = symbols.numpy()
        if tick is not None:
            tick(done + 1)
    return flat.reshape(x.shape)


def chooser(flat, given, uniforms, temperature, top_p, top_k) -> Choose:
    """Chooses what stands in `flat` (B, N) where it is `given` (N,), and draws the rest."""

    def choose(i: int, logits: Tensor) -> Tensor:
        if given[i]:
            return torch.from_numpy(flat[:, i])
        return draw(logits, torch.from_numpy(uniforms[:, i]), temperature, top_p, top_k)

    return choose


def check_filter(temperature: float, top_p: float, top_k: int = 0) -> None:
    """One clear line for a temperature or a nucleus that there cannot be."""
    if top_k < 0:
        raise ChainruleError(f"top_k is {top_k}: take the number of symbols to keep, or 0 for all")
    if not 0 <= temperature < math.inf:
        raise ChainruleError(f"the temperature is {temperature}: take 0 (the most probable symbol) or more")
    if not 0 <= top_p <= 1:
        raise ChainruleError(f"top_p is {top_p}: take a share between 0 and 1 (1 keeps every symbol)")


def check_classes(chain: Chain, batch: int, context: Tensor | None) -> None:
    """One clear line when `batch` items cannot be conditioned on `context`."""
    if chain.features and (context is None or len(context) != batch):
        found, what = (
            "none" if context is None else f"{len(context)}",
            "a source text" if chain.source else "frames",
        )
        raise ChainruleError(f"the model needs {what} for each of {batch} items, {found} were given")
    if not chain.classes:
        return
    if context is None or len(context) != batch:
        found = "none" if context is None else f"{len(context)}"
        raise ChainruleError(f"the model needs a class for each of {batch} items, {found} were given")
    if batch and not 0 <= int(context.min()) <= int(context.max()) < chain.classes:
        found = f"{int(context.min())} to {int(context.max())}"
        raise ChainruleError(f"the classes given are {found}, the model knows 0 to {chain.classes - 1}")


def draw(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> Tensor:
    """Symbols (B,) of softmax(logits / temperature) (B, K) by inverting the distribution at `uniform` (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    top = logits.amax(-1, keepdim=True).double()
    if not top.isfinite().all():
        raise ChainruleError("the model gives logits that are not numbers: did training diverge? Lower --lr")
    probs = torch.softmax((logits.double() - top) / temperature, -1)
    if top_p < 1 or top_k:
        probs = nucleus(probs, top_p, top_k)
    below = probs.cumsum(-1)
    return (below < (uniform * below[:, -1])[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)


def nucleus(probs: Tensor, top_p: float, top_k: int = 0) -> Tensor:
    """Zero all but the most probable symbols: at most `top_k`, and of these those that reach the share `top_p`.

    At least one stays; of equal ones the first do.

    >>> nucleus(torch.tensor([[0.2, 0.5, 0.2, 0.1]]), top_p=1.0, top_k=2)
    tensor([[0.2000, 0.5000, 0.0000, 0.0000]])
    """
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[..., top_k:] = 0
    before = ordered.cumsum(-1) - ordered
    kept = (before < top_p * ordered.sum(-1, keepdim=True)) | (before == 0)
    return torch.zeros_like(probs).scatter(-1, index, torch.where(kept, ordered, 0))


def uniform_stream(seed: int, item: int, length: int) -> np.ndarray:
    """`length` numbers in (0, 1] that belong to (seed, item) alone."""
    return uniform_streams(seed, [item], length)[0]


def uniform_streams(seed: int, items: Sequence[int], length: int) -> np.ndarray:
    """(len(items), length): the `uniform_stream` of each item.

    One generator is given one key after another. NumPy asks the system for entropy whenever it makes one, key or not,
    which takes several times as long as the numbers of a short event.

    >>> bool((uniform_streams(5, [3, 8], 4)[1] == uniform_stream(5, 8, 4)).all())
    True
    """
    if not 0 <= seed < 2**64:
        raise ChainruleError(f"the seed is {seed}: take one from 0 to 2^64 - 1")
    source = np.random.Philox(key=np.array([seed, 0], np.uint64))
    generator, fresh = np.random.Generator(source), source.state
    drawn = np.empty((len(items), length))
    for row, item in zip(drawn, items, strict=True):
        fresh["state"]["key"][1] = item
        source.state = fresh
        generator.random(out=row)
    return 1.0 - drawn


def event_of(chain: Chain, event: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape to walk: the chain's own, or the one asked for."""
    if chain.event is not None and event is not None and tuple(event) != tuple(chain.event):
        raise ChainruleError(f"the model's events have shape {chain.event}, not {tuple(event)}")
    shape = chain.event if chain.event is not None else event
    if shape is None:
        raise ChainruleError("this model takes events of any shape: say which with event=(...)")
    if min(shape, default=0) < 0:
        raise ChainruleError(f"an event cannot have shape {shape}")
    return tuple(shape)
