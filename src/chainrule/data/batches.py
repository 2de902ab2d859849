"""Drawing events by counters: what a training step sees is a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from chainrule.data.dataset import Dataset, Rows, gather, symbol_type
from chainrule.data.vocoder import hop_of
from chainrule.errors import ChainruleError

# Every use of random numbers has its own streams, so that the order of epoch 3 shares nothing with the
# binarisation of step 3.
BINARISE, SHUFFLE, WINDOWS, STREAMS = 0, 1, 2, 3
POOL = 50  # batches of pairs that are drawn together, and divided by length
BEFORE = 64  # symbols that a passage is given to know where it stands


def draw(dataset: Dataset, index: np.ndarray, seed: int = 0, step: int = 0) -> np.ndarray:
    """The events at `index` (B,), which share one shape: (B, *event), uint8, or int64 above 256 levels.

    With `dataset.binarise` an intensity x becomes 1 with probability x/255, else 0, by the random numbers
    of (seed, step) alone; otherwise these are ignored.

    >>> gray = Dataset(x=np.array([[0, 255, 0]]), levels=2, kind="array", binarise=True)
    >>> draw(gray, np.array([0]), seed=1).tolist()
    [[0, 1, 0]]
    """
    x = (
        dataset.x[index]
        if isinstance(dataset.x, np.ndarray | Rows)
        else np.stack([dataset.x[i] for i in index])
    )
    if dataset.binarise:
        x = stream(BINARISE, seed, step).random(x.shape) * 255 < x
    return np.ascontiguousarray(x, dtype=symbol_type(dataset.levels))


def batches(
    dataset: Dataset, size: int, seed: int, step: int, window: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The batch of training step `step`: symbols (B, *event) as from `draw`, and classes (B,) or None.

    An epoch is `steps_per_epoch` steps, and sees every event exactly once. Events of one shape are permuted
    and cut into batches of `size`, the last of which may be shorter; the batches of all shapes come in
    permuted order.

    With `window` T (events of one axis only) every row is instead a stretch of T symbols within an event,
    and every place in every event is equally likely. When the batch's first draw lies in an event shorter
    than T, its rows are as long as that event.
    """
    check_rows(size, window)
    if window is None:
        index = chosen(dataset, size, seed, step)
        x = draw(dataset, index, seed, step)
    else:
        index, places, length = windows(dataset, size, seed, step, window)
        rows = [dataset.x[i][t : t + length] for i, t in zip(index, places, strict=True)]
        x = np.stack(rows).astype(symbol_type(dataset.levels))
    return x, None if dataset.context is None else dataset.context[index]


def streams(
    dataset: Dataset, size: int, seed: int, step: int, window: int, each: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The batch of training step `step`, whose rows read on where those of the step before ended.

    The events, one after another in the order of the epoch and in a circle, are cut from a place drawn by (seed,
    epoch) into `size` streams of one length; a step takes the next `window` symbols of each. An epoch takes what
    fits into whole steps.

    With `each` 2 streams are cut between pairs of symbols, the two bytes of a sample of sound; `window` counts these.

    Returns:
        symbols (B, T); what came before each symbol (B, T) int64, −1 at the beginning of an event or of a stream;
        the class of each symbol (B, T), or what `frames_at` gives, or None. Of pairs the first two are (B, T, 2).

    >>> text = Dataset(x=np.arange(12)[None], levels=12, kind="text")
    >>> x, before, _ = streams(text, size=2, seed=0, step=1, window=3)  # the second of two steps
    >>> (x - before).tolist()
    [[1, 1, 1], [1, 1, 1]]
    """
    check_rows(size, window)
    lengths = dataset.lengths() // each
    total = int(lengths.sum())
    if dataset.binarise or not total:
        raise ChainruleError("streams are read from symbols that are there: take data that are not binarised")
    epoch, turn = divmod(step, max(1, total // (size * window)))
    order = shuffled(len(dataset), seed, epoch, 0)
    begin = stream(STREAMS, seed, epoch).integers(total) + np.arange(size) * total // size + turn * window
    places = (begin[:, None] + np.arange(-1, window)) % total  # (B, T + 1)
    ends = lengths[order].cumsum()
    nth = np.searchsorted(ends, places, side="right")
    event, place = order[nth], places - (ends - lengths[order])[nth]
    symbols = np.empty(places.shape + (each,) * (each > 1), np.int64)
    for i in np.unique(event):
        here = event == i
        symbols[here] = np.asarray(dataset.x[i]).reshape(-1, *symbols.shape[2:])[place[here]]
    begins = place[:, 1:] == 0
    begins[:, 0] |= turn == 0
    begins = begins if each == 1 else begins[..., None]
    x = symbols[:, 1:].astype(symbol_type(dataset.levels))
    classes = None if dataset.context is None else dataset.context[event[:, 1:]]
    if dataset.sound is not None and dataset.sources is not None:
        classes = frames_at(dataset, event[:, 1:], place[:, 1:])
    return x, np.where(begins, -1, symbols[:, :-1]), classes


def frames_at(dataset: Dataset, event: np.ndarray, place: np.ndarray) -> np.ndarray:
    """At places (B, T) of sounds with frames of n numbers: the frame before, its own, the next, and its phase.

    (B, T, 3 n + 1) float32; there is nothing, zeros, before the first frame and after the last.
    """
    assert dataset.sound is not None
    assert dataset.sources is not None
    hop, n = hop_of(dataset.sound.rate), dataset.sources[0].shape[1]
    found = np.empty((*event.shape, 3 * n + 1), np.float32)
    for i in np.unique(event):
        here = event == i
        padded = np.pad(dataset.sources[i], ((1, 1), (0, 0)))
        at = place[here, None] // hop + np.arange(3)
        found[here] = np.column_stack([padded[at].reshape(len(at), -1), place[here] % hop])
    return found


def pairs(dataset: Dataset, size: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch of training step `step` of texts with sources: both (B, longest) int64, −1 beyond a shorter one's end.

    An epoch is ceil(N / size) steps, and sees every pair exactly once. The pairs of some `POOL` batches are drawn at
    random and sorted by the longer of their sides, so that a batch has little to fill up; the batches of an epoch come
    in permuted order.

    Raises:
        ChainruleError: there are no sources, or the events are no texts.

    >>> two = [np.array([4, 5]), np.array([6])]
    >>> x, sources = pairs(Dataset(two, 7, "text", sources=[np.array([1]), np.array([2, 3])]), 2, seed=0, step=0)
    >>> sorted(zip(x.tolist(), sources.tolist()))
    [([4, 5], [1, -1]), ([6, -1], [2, 3])]
    """
    check_rows(size, None)
    check_pairs(dataset)
    index = of_a_length(dataset, size, seed, step)
    return padded([dataset.x[i] for i in index]), padded([dataset.sources[i] for i in index])  # type: ignore[index]


def of_a_length(dataset: Dataset, size: int, seed: int, step: int) -> np.ndarray:
    """Indices (B,) of the pairs of step `step`, whose longer sides are about equally long."""
    count = math.ceil(len(dataset) / size)
    epoch, turn = divmod(step, count)
    place = int(shuffled(count, seed, epoch, 1)[turn]) * size
    first = place - place % (POOL * size)
    pool = shuffled(len(dataset), seed, epoch, 0)[first : first + POOL * size]
    longer = [max(len(dataset.x[i]), len(dataset.sources[i])) for i in pool]  # type: ignore[index]
    return pool[np.argsort(longer, kind="stable")][place - first : place - first + size]


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Sequences of symbols (T,) side by side: (B, longest) int64, −1 beyond the end of a shorter one.

    >>> padded([np.array([7, 8]), np.array([9])]).tolist()
    [[7, 8], [9, -1]]
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    filled = np.full((len(rows), lengths.max(initial=0)), -1, np.int64)
    if len(rows):
        filled[np.arange(filled.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return filled


def check_pairs(dataset: Dataset) -> None:
    """One clear line for data that are no texts, each with a source."""
    what = dataset.source or "this"
    if dataset.sources is None:
        raise ChainruleError(f"{what} has no sources: pairs are drawn from texts that have, see `load`")
    if dataset.binarise or any(len(shape) != 1 for shape in dataset.buckets):
        raise ChainruleError(
            f"pairs are drawn from texts and other events of one axis, {what} is {dataset.kind}"
        )
    if len(dataset.sources) != len(dataset) or not len(dataset):
        raise ChainruleError(
            f"{what} has {len(dataset):,} texts and {len(dataset.sources):,} sources: each text needs its own"
        )


def steps_per_epoch(dataset: Dataset, size: int, window: int | None = None) -> int:
    """Steps that see every event once, or (windows) as many symbols as there are.

    >>> steps_per_epoch(Dataset(x=np.zeros((10, 4), np.uint8), levels=2, kind="array"), size=3)
    4
    """
    if window is not None:
        return math.ceil(dataset.symbols_total / (size * window))
    return sum(math.ceil(len(items) / size) for items in dataset.buckets.values())


def chosen(dataset: Dataset, size: int, seed: int, step: int) -> np.ndarray:
    """Indices (B,) of the events of step `step`, all of one shape."""
    buckets = list(dataset.buckets.values())
    counts = [math.ceil(len(items) / size) for items in buckets]
    epoch, turn = divmod(step, sum(counts))
    place = int(shuffled(sum(counts), seed, epoch, 0)[turn])  # counted over the batches of all shapes
    for b, (items, count) in enumerate(zip(buckets, counts, strict=True)):
        if place < count:
            return items[shuffled(len(items), seed, epoch, b + 1)[place * size : (place + 1) * size]]
        place -= count
    raise AssertionError("the place of a batch lies beyond all batches")


def windows(
    dataset: Dataset, size: int, seed: int, step: int, window: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Which events (B,), at which places (B,), and how many symbols from there."""
    if dataset.binarise or any(len(shape) != 1 for shape in dataset.buckets):
        raise ChainruleError("windows are cut from texts and other events of one axis: leave out `window`")
    lengths = dataset.lengths()
    rng = stream(WINDOWS, seed, step)
    first = np.searchsorted(lengths.cumsum(), rng.integers(lengths.sum()), side="right")
    length = min(window, int(lengths[first]))
    # the places where a stretch can begin, counted event after event
    starts = np.maximum(lengths - length + 1, 0).cumsum()
    at = rng.integers(starts[-1], size=size)
    index = np.searchsorted(starts, at, side="right")
    return index, at - np.where(index > 0, starts[index - 1], 0), length


def passages(dataset: Dataset, size: int) -> list[tuple[int, int]]:
    """(event, first symbol) of the passages of at most `size` symbols that, in order, are all of the data.

    >>> passages(Dataset(x=[np.zeros(5, np.uint8), np.zeros(2, np.uint8)], levels=2, kind="text"), size=3)
    [(0, 0), (0, 3), (1, 0)]
    """
    lengths = [np.asarray(x).size for x in dataset.x]
    return [(i, begin) for i, length in enumerate(lengths) for begin in range(0, length, size)]


def passage(dataset: Dataset, event: int, begin: int, size: int) -> tuple[np.ndarray, int]:
    """A passage with up to `BEFORE` symbols before it: (symbols (1, N) int64, where in them it begins)."""
    flat = np.asarray(dataset.x[event]).reshape(1, -1)
    first = max(0, begin - BEFORE)
    return flat[:, first : begin + size].astype(np.int64), begin - first


def check_rows(size: int, window: int | None) -> None:
    """One clear line for a batch or a window that there cannot be."""
    if size < 1 or (window is not None and window < 1):
        raise ChainruleError(f"a batch of {size} and a window of {window} are asked for: take 1 or more")


def train_holdout(dataset: Dataset, share: float = 0.1) -> tuple[Dataset, Dataset | None]:
    """Split off about `share` of a user's own data for checking: (training, held out).

    Every k-th event is held out, k = round(1 / share), beginning with the last of the first k. Of fewer than
    10 texts the last `share` of each is held out instead; of fewer than 10 other events none is (None), nor of fewer
    than 10 texts with sources: what is left of one would not be what its source says.

    >>> train, held = train_holdout(Dataset(x=np.arange(20)[:, None], levels=20, kind="array"))
    >>> held.x.ravel().tolist()
    [9, 19]
    """
    if not 0 < share <= 0.5:
        raise ChainruleError(f"a share of {share} cannot be held out: take more than 0, and at most 0.5")
    if len(dataset) >= 10:
        every = round(1 / share)
        held = np.arange(len(dataset)) % every == every - 1
        return dataset.select(~held), dataset.select(held)
    if dataset.sources is not None:
        return dataset, None
    cuts = [len(text) - int(len(text) * share) for text in dataset.x]
    if dataset.kind not in ("text", "sound") or any(
        cut == len(text) for cut, text in zip(cuts, dataset.x, strict=True)
    ):
        return dataset, None
    pairs = list(zip(dataset.x, cuts, strict=True))
    return (
        replace(dataset, x=gather([text[:cut] for text, cut in pairs])),
        replace(dataset, x=gather([text[cut:] for text, cut in pairs])),
    )


def rank_in_class(classes: np.ndarray) -> np.ndarray:
    """How many events of its own class come before each event, (N,).

    >>> rank_in_class(np.array([3, 0, 3, 3, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(classes, kind="stable")
    together = classes[order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(together, together)
    return rank


@lru_cache(maxsize=8)
def shuffled(n: int, seed: int, epoch: int, part: int) -> np.ndarray:
    """A permutation of 0..n-1; kept, because every step of an epoch asks for the same few."""
    order = stream(SHUFFLE, seed, epoch, part).permutation(n)
    order.flags.writeable = False
    return order


def stream(use: int, seed: int, number: int, part: int = 0) -> np.random.Generator:
    """Random numbers that belong to (seed, number) alone, one stream for every use and part."""
    if not 0 <= seed < 2**64:
        raise ChainruleError(f"the seed is {seed}: take one from 0 to 2^64 - 1")
    # Philox counts up the first word of its counter, and never reaches the last two.
    key, counter = np.array([seed, number], np.uint64), np.array([0, 0, part, use], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
