"""Exact scores: how many bits a model needs for every item."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chainrule.data import BYTES, Dataset, padded, unit_of
from chainrule.errors import ChainruleError
from chainrule.model import Chain

LOGITS_AT_ONCE = 1 << 24  # numbers held at a time while scoring
ITEMS_AT_ONCE = 64

Hear = Callable[[int, np.ndarray], object]


@dataclass(frozen=True)
class Scores:
    """The exact negative log-likelihood of every item.

    Attributes:
        nats: (N,) −log p(x) in nats.
        symbols: (N,) what bits are counted by (`Dataset.dims`): symbols, channels included; of a text its bytes, of a
            sound its samples, also where these are two symbols each.
        names: N names.
        tokens: of texts in tokens how many each item has, (N,). The score is exact for these tokens, so an upper bound
            for the text: others spell the same bytes.
        unit: "bits/dim", of texts "bits/byte", of sounds "bits/sample".
    """

    nats: np.ndarray
    symbols: np.ndarray
    names: Sequence[str]
    tokens: np.ndarray | None = None
    unit: str = "bits/dim"

    @property
    def bits_per_dim(self) -> float:
        """In `unit`, over all items together: Σ bits / Σ symbols."""
        total = int(self.symbols.sum())
        return float(self.nats.sum() / math.log(2) / total) if total else 0.0

    @property
    def nats_per_item(self) -> float:
        """The mean over items of −log p(x), in nats."""
        return float(self.nats.mean()) if len(self.nats) else 0.0

    def each(self) -> np.ndarray:
        """(N,) in `unit`, of every item; 0 for an empty one."""
        return self.nats / math.log(2) / np.maximum(self.symbols, 1)


def score(
    chain: Chain, data: Dataset, tick: Callable[[int], object] | None = None, hear: Hear | None = None
) -> Scores:
    """Score every item of `data` once, exactly, the last short batch included.

    Args:
        tick: called with the number of items done.
        hear: called with the index of each item and what its symbols cost: −log p in nats (*event), float64, which
            add up to the item's score. Items come in batches, not in their order.

    Raises:
        ChainruleError: the data have more levels than the model, other shapes, or lack the classes or sources it needs.

    Example:
        >>> from chainrule.chains.uniform import Uniform
        >>> data = Dataset(np.zeros((3, 8, 8, 1), np.uint8), levels=256, kind="image")
        >>> score(Uniform(256), data).bits_per_dim
        8.0
    """
    check_fits(chain, data)
    nats, done = np.zeros(len(data)), 0
    chain.eval()
    for index in together(chain, data):
        events = [np.asarray(data.x[i]) for i in index]
        x = torch.from_numpy(padded(events) if chain.source else np.stack(events).astype(np.int64))
        with torch.inference_mode():
            context = context_of(chain, data, index)
            if hear is None:
                nats[index] = -chain.log_prob(x, context).numpy()
            else:
                each = chain.log_probs(x, context)
                nats[index] = -each.flatten(1).sum(1).numpy()
                for i, event, item in zip(index.tolist(), events, -each.numpy(), strict=True):
                    hear(i, item[: len(event)])
        done += len(index)
        if tick is not None:
            tick(done)
    names = list(data.names) or [str(i) for i in range(len(data))]
    tokens = None if data.alphabet is BYTES else data.lengths()
    return Scores(nats, data.dims(), names, tokens, unit_of(data.kind))


def check_fits(chain: Chain, data: Dataset) -> None:
    """One clear line when `data` cannot be scored with `chain`."""
    check_symbols(chain, data)
    if data.binarise:
        raise ChainruleError(
            "these data are binarised afresh each time they are drawn: score a fixed split instead"
        )


def check_symbols(chain: Chain, data: Dataset) -> None:
    """One clear line when `data` are of another kind than `chain` takes, or have more levels or classes."""
    if chain.KINDS and data.kind not in chain.KINDS:
        raise ChainruleError(
            f"{data.source or 'this'} is {data.kind}, the model takes {' and '.join(chain.KINDS)}: give it such data"
        )
    if data.kind == "text" and data.alphabet is BYTES and chain.symbols > BYTES.symbols:
        raise ChainruleError(
            f"the model has {chain.symbols:,} symbols, {data.source or 'the text'} is read as bytes: give load the "
            "alphabet of the model's run"
        )
    if data.levels > chain.symbols:
        raise ChainruleError(
            f"the data have {data.levels} levels, the model has {chain.symbols}: was it fitted on other data?"
        )
    check_sources(chain, data)
    if chain.classes and data.context is None:
        raise ChainruleError(f"the model is conditioned on {chain.classes} classes, the data have none")
    if chain.classes and len(data) and int(data.context.max()) >= chain.classes:  # type: ignore[union-attr]
        raise ChainruleError(f"the data have {len(data.classes)} classes, the model has {chain.classes}")


def check_sources(chain: Chain, data: Dataset) -> None:
    """One clear line when `chain` is conditioned on a source text, and `data` have none that it knows."""
    if chain.source and data.sources is None:
        raise ChainruleError(
            f"the model is conditioned on source texts, {data.source or 'the data'} has none: say with --source where "
            "they are"
        )
    if chain.frames and (data.sources is None or data.sources[0].shape[1:] != (chain.frames,)):
        raise ChainruleError(
            f"the model is conditioned on frames of {chain.frames} numbers, {data.source or 'the data'} has none: load "
            "with frames=True gives them to sounds"
        )
    if chain.source and data.levels > chain.source:
        raise ChainruleError(
            f"the sources have {data.levels} levels, the model knows {chain.source}: was it fitted on other data?"
        )


def context_of(chain: Chain, data: Dataset, index) -> torch.Tensor | None:
    """What the items at `index` are conditioned on: sources (B, S), −1 beyond their ends; frames; classes; or None."""
    if chain.source:
        return torch.from_numpy(padded([data.sources[i] for i in index]))  # type: ignore[index]
    if chain.frames:
        return torch.from_numpy(np.stack([data.sources[i] for i in index]))  # type: ignore[index]
    return torch.from_numpy(np.asarray(data.context)[index].astype(np.int64)) if chain.classes else None


def together(chain: Chain, data: Dataset) -> Iterator[np.ndarray]:
    """Yield arrays of indices of the items that are scored at once."""
    return same_length(data, chain.symbols) if chain.source else same_shape(data, chain.symbols)


def same_length(data: Dataset, symbols: int) -> Iterator[np.ndarray]:
    """Yield indices of texts with sources, whose longer sides are about equally long; the longest first."""
    longer = np.maximum(data.lengths(), [len(source) for source in data.sources or ()])
    order, start = np.argsort(-longer, kind="stable"), 0
    while start < len(order):
        batch = max(1, min(ITEMS_AT_ONCE, LOGITS_AT_ONCE // max(1, int(longer[order[start]]) * symbols)))
        yield order[start : start + batch]
        start += batch


def same_shape(data: Dataset, symbols: int) -> Iterator[np.ndarray]:
    """Yield arrays of indices whose items share a shape and together fit into memory."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(data)):
        shapes.setdefault(np.shape(data.x[i]), []).append(i)
    for shape, index in shapes.items():
        batch = max(1, min(ITEMS_AT_ONCE, LOGITS_AT_ONCE // max(1, math.prod(shape) * symbols)))
        for start in range(0, len(index), batch):
            yield np.array(index[start : start + batch])
