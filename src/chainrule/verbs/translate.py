"""Translations: texts y of p(y | source), drawn, greedy or by beam search, many sources side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule.data import padded
from chainrule.engine import program_of
from chainrule.engine.strict import GROUP, Strict, in_threads
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.beam import Ends, Found, check_width, ends_of, in_lanes, search
from chainrule.verbs.beam import beam as beam_search
from chainrule.verbs.walk import check_filter, chooser, encodings, single, stream, uniform_stream, walk

TOGETHER = 8  # sources that beam search encodes side by side


def translate(
    chain: Chain,
    sources: Sequence[Any],
    *,
    end: Ends,
    length: int | None = None,
    beam: int = 0,
    normalise: float = 0.0,
    prefix: Iterable[int] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    first: int = 0,
    tick: Callable[[int], object] | None = None,
) -> list[np.ndarray]:
    """A text of p(text | source) for each source: the most probable symbol each time, or drawn, or by beam search.

    Sources of similar length are translated side by side. What comes of one does not depend on the others, bit for
    bit, nor on the number of threads.

    Args:
        sources: integer arrays (S_i,), in the symbols that the chain was fitted on: whole lines, with their ends.
        end: the symbol, or the symbols, that end a translation.
        length: how many symbols may follow the prefix; by default twice those of the source, and 50.
        beam: so many beginnings at a time, see `chainrule.beam`; 0: none, and temperature and what follows count.
        normalise: alpha of the beam search.
        prefix: what every translation begins with.
        temperature, top_p, top_k: as for `chainrule.sample`; 0 takes the most probable symbol.
        seed, first: source i is translated with the random numbers (seed, first + i).
        tick: called with the number of sources done.

    Returns:
        Integer arrays in the order of the sources, with the prefix and the symbol that ends them; one that did not
        end within `length` has none.

    Example:
        >>> from chainrule.chains.bytenet import ByteNet
        >>> chain = ByteNet(symbols=5, source=4, **ByteNet.SIZES["tiny"])
        >>> alone = translate(chain, [[1, 2, 3]], end=0)
        >>> both = translate(chain, [[1, 2, 3], [3]], end=0)
        >>> len(both), bool((alone[0] == both[0]).all())
        (2, True)
    """
    if beam:
        found = searched(
            chain, sources, end=end, width=beam, length=length, normalise=normalise, prefix=prefix, tick=tick
        )
        return [texts[0][0] for texts in found]
    check_filter(temperature, top_p, top_k)
    ends, start = ends_of(end, chain.symbols), np.fromiter(prefix, np.int64)
    program = program_of(chain) if single(chain) else None

    def part(some: list[int]) -> list[np.ndarray]:
        limits = [len(start) + limit_of(sources[i], length) for i in some]
        streams = [uniform_stream(seed, first + i, max(limits)) for i in some]
        settings = np.array(streams), temperature, top_p, top_k
        context = side_by_side([sources[i] for i in some])
        return drawn(chain, program, context, start, ends, limits, *settings)

    return in_groups(chain, sources, part, GROUP, tick)


def searched(
    chain: Chain,
    sources: Sequence[Any],
    *,
    end: Ends,
    width: int,
    length: int | None = None,
    normalise: float = 0.0,
    prefix: Iterable[int] = (),
    count: int = 1,
    tick: Callable[[int], object] | None = None,
) -> list[list[Found]]:
    """What `chainrule.beam` gives for each source: up to `width` (symbols, nats), the best first.

    Arguments as of `translate`; the sources are shared out among threads.
    """
    check_width(width, count)
    start, strict = np.fromiter(prefix, np.int64), single(chain)
    ends_of(end, chain.symbols)
    program = program_of(chain, np.float32 if strict else np.float64)

    def part(some: list[int]) -> list[list[Found]]:
        limits, found = [limit_of(sources[i], length) for i in some], []
        context = side_by_side([sources[i] for i in some])
        if program is None:
            given: dict[str, Any] = {"end": end, "prefix": start, "normalise": normalise, "count": count}
            return [
                beam_search(chain, n, width, row[None], **given)
                for n, row in zip(limits, context, strict=True)
            ]
        encoding = encodings(chain, context, len(start) + max(limits))
        for row, limit in zip(encoding, limits, strict=True):
            event = (len(start) + limit,)
            lanes = in_lanes(program, event, width, None, row[None, : event[0]], strict)
            found.append(search(lanes, start, limit, width, end, normalise, count))
        return found

    return in_groups(chain, sources, part, TOGETHER, tick)


def stream_translation(
    chain: Chain,
    source: Any,
    *,
    end: Ends,
    length: int | None = None,
    prefix: Iterable[int] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """One translation as it is drawn: yields its next symbols (n,), the prefix first, and stops when it ends.

    Together they are `translate(chain, [source], ...)[0]`, symbol for symbol. Arguments as there.

    Example:
        >>> from chainrule.chains.bytenet import ByteNet
        >>> chain = ByteNet(symbols=5, source=4, **ByteNet.SIZES["tiny"])
        >>> text = np.concatenate(list(stream_translation(chain, [1, 2, 3], end=0)))
        >>> bool((text == translate(chain, [[1, 2, 3]], end=0, temperature=1.0)[0]).all())
        True
    """
    check_translates(chain, source)
    ends, start = ends_of(end, chain.symbols), np.fromiter(prefix, np.int64)
    x = np.concatenate([start, np.zeros(limit_of(source, length), np.int64)])
    settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    at = 0
    for symbols in stream(chain, x, np.arange(len(x)) < len(start), side_by_side([source]), **settings):
        stops = np.flatnonzero(ends[symbols] & (at + np.arange(len(symbols)) >= len(start)))
        at += len(symbols)
        yield symbols[: stops[0] + 1] if len(stops) else symbols
        if len(stops):
            return


def drawn(
    chain: Chain,
    program: Any,
    context: Tensor,
    prefix: np.ndarray,
    ends: np.ndarray,
    limits: Sequence[int],
    uniforms: np.ndarray,
    temperature: float,
    top_p: float,
    top_k: int,
) -> list[np.ndarray]:
    """Translations of sources (B, S) side by side, each to its end or its limit; then nobody goes on."""
    longest = max(limits)
    known, x = np.arange(longest) < len(prefix), np.zeros((len(limits), longest), np.int64)
    x[:, known] = prefix
    stops = np.array(limits)  # the symbols that each has, as far as is known
    at = 0
    for symbols in stretches(chain, program, context, x, known, uniforms, temperature, top_p, top_k):
        x[:, at : at + symbols.shape[1]] = symbols
        stop = ends[symbols] & ~known[at : at + symbols.shape[1]]
        ended = np.where(stop.any(1), at + 1 + stop.argmax(1), longest)
        stops, at = np.minimum(stops, ended), at + symbols.shape[1]
        if (stops <= at).all():
            break
    return [row[:stop].copy() for row, stop in zip(x, stops, strict=True)]


def stretches(
    chain: Chain, program: Any, context: Tensor, x, known, uniforms, temperature, top_p, top_k
) -> Iterator[np.ndarray]:
    """What `known` (N,) leaves open of texts x (B, N), as it is drawn: the next symbols (B, n)."""
    if program is None:
        choose = chooser(x, known, uniforms, temperature, top_p, top_k)
        for _, symbols in walk(chain, choose, x.shape[1:], len(x), context):
            yield symbols.numpy()[:, None]
        return
    run = Strict(program, x.shape[1:], len(x), None, encodings(chain, context, x.shape[1]))
    yield from run.stream(x, known, uniforms, temperature, top_p, top_k)


def in_groups(
    chain: Chain,
    sources: Sequence[Any],
    part: Callable[[list[int]], list[Any]],
    most: int,
    tick: Callable[[int], object] | None,
) -> list[Any]:
    """part(numbers of sources) for groups of similar length, by threads, in the order of the sources."""
    check_translates(chain, *sources)
    chain.eval()
    threads = max(1, min(torch.get_num_threads(), len(sources)))
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    each = max(1, min(most, -(-len(order) // threads)))
    groups = [order[a:b] for a, b in pairwise([*range(0, len(order), each), len(order)])]
    found: list[Any] = [None] * len(order)
    done = 0
    for group, results in zip(groups, in_threads(part, groups, threads), strict=True):
        for i, result in zip(group, results, strict=True):
            found[i] = result
        done += len(group)
        if tick is not None:
            tick(done)
    return found


def limit_of(source: Any, length: int | None) -> int:
    """How many symbols a translation may have."""
    if length is not None and length < 0:
        raise ChainruleError(
            f"the length is {length}: take the number of symbols that a translation may have"
        )
    return 2 * len(source) + 50 if length is None else length


def side_by_side(sources: Sequence[Any]) -> Tensor:
    """Sources (S_i,) as (B, the longest) int64, -1 beyond their ends."""
    return torch.from_numpy(padded(sources))


def check_translates(chain: Chain, *sources: Any) -> None:
    """One clear line for a chain that is conditioned on no source, or for a source that is none of its own."""
    if not chain.source:
        raise ChainruleError(
            "the model has learned no translations: fit one on parallel text, then it takes a source"
        )
    for i, source in enumerate(sources):
        low, high = (int(f(source, initial=0)) for f in (np.min, np.max))
        if low < 0 or high >= chain.source:
            raise ChainruleError(
                f"source {i + 1} has symbols {low} to {high}, the model knows 0 to {chain.source - 1}"
            )
