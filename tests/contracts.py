"""What every chain must satisfy, stated once: functions that raise AssertionError, for any chain.

`test_chains.py` runs all of them over all chains of the table, `test_broken.py` runs each of them on chains
with a defect that it must catch. Everything is in float64 where nothing else is said, on events so small that
sums over *all* K^N events are exact.

    B batch, N symbols of an event, K number of symbols
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random

import numpy as np
import torch
from scipy import stats

from chainrule import complete, sample, store, stream, walk
from chainrule.engine import program_of
from chainrule.engine.device import Device
from chainrule.engine.strict import Strict
from chainrule.model import visit_order
from chainrule.train import Plan, Training
from chainrule.verbs.walk import encodings, told

RARE = 1e-4  # a chi-square test with a fixed seed fails below this
DRAWS = 4000


def randomised(chain, event, spread=1.5, seed=0):
    """The chain in float64 with random weights: nothing starts at zero, so nothing is hidden.

    They are made smaller until the logits have a standard deviation of at most `spread`, so nothing is
    saturated either; the logarithms of masses far from a mean stay large whatever the weights, so not without end.
    """
    generator = torch.Generator().manual_seed(seed)
    chain = chain.double().eval()
    x, context = events(chain, event, 8), mixed(chain, 8)
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        for _ in range(40):
            if chain.logits(x, context).std() <= spread:
                break
            for p in chain.parameters():
                p.mul_(0.9)
    return chain


def all_events(event, symbols):
    """Every event there is, (K^N, *event), in the order of the numbers that they spell."""
    listed = list(itertools.product(range(symbols), repeat=math.prod(event)))
    return torch.tensor(listed, dtype=torch.long).reshape(len(listed), *event)


def events(chain, event, n, seed=0):
    """`n` random events."""
    return torch.randint(chain.symbols, (n, *event), generator=torch.Generator().manual_seed(seed))


def contexts(chain, n):
    """What to condition `n` items on: nothing, or each class in turn, or sources, the last of them empty."""
    if chain.source:
        return [source.expand(n, -1) for source in sources(chain, 4)[[0, 2, 3]]]
    if chain.frames:
        return [frame[None].expand(n, -1, -1) for frame in frames(chain, 2)]
    return [torch.full((n,), c) for c in range(chain.classes)] if chain.classes else [None]


def frames(chain, n, count=12, seed=0):
    """Frames (n, count, numbers) for `n` items."""
    return torch.randn(
        n, count, chain.frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def mixed(chain, n):
    """Classes 0, 1, ... in turn for `n` items, or as many sources, or None."""
    if chain.frames:
        return frames(chain, n)
    if chain.source:
        return sources(chain, n)
    return torch.arange(n) % chain.classes if chain.classes else None


def sources(chain, n, longest=6, seed=0):
    """Random sources (n, longest), -1 beyond the ends: the first is whole, four and more have all kinds of lengths."""
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(chain.source, (n, longest), generator=generator)
    lengths = longest - 2 * torch.arange(n) % (longest + 1)  # 6, 4, 2, 0, 5, 3, 1, 6, ...
    return symbols.where(torch.arange(longest) < lengths[:, None], -1)


def repeated(context, n):
    """What one item is conditioned on, for `n` items."""
    return None if context is None else context.expand(n, *context.shape[1:])


def conditionals(chain, x, context=None):
    """log p(x_i | before) of every symbol value, (B, N, K), by numpy from `logits` alone."""
    with torch.no_grad():
        logits = chain.logits(x, context).reshape(len(x), -1, chain.symbols).double().numpy()
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def joint(chain, event, context=None, change=lambda log_p: log_p):
    """(all events, their probabilities by enumeration), each conditional changed by `change`."""
    x = all_events(event, chain.symbols)
    log_p = change(conditionals(chain, x, repeated(context, len(x))))
    taken = np.take_along_axis(log_p, x.reshape(len(x), -1, 1).numpy(), -1)[..., 0]
    return x, np.exp(taken.sum(1))


def numbers(x, symbols):
    """The place of each event (n, *event) in `all_events`."""
    flat = np.asarray(x).reshape(len(x), -1)
    return flat @ (symbols ** np.arange(flat.shape[1])[::-1])


def follows(found, probabilities):
    """Chi-square: the events `found` (n,), by number, were drawn from `probabilities` (K^N,)."""
    assert abs(probabilities.sum() - 1) < 1e-9
    assert (probabilities[np.unique(found)] > 0).all(), "an impossible event was drawn"
    expected = len(found) * probabilities
    counts = np.bincount(found, minlength=len(expected)).astype(float)
    rest = expected < 5  # chi-square needs a handful expected in each cell: the rare ones share one
    counts = np.append(counts[~rest], counts[rest].sum())
    expected = np.append(expected[~rest], expected[rest].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(expected) == 1:
        return
    p = stats.chisquare(counts, expected).pvalue
    assert p > RARE, f"p-value {p:.1e}: the samples do not follow p"


# ---- probability ------------------------------------------------------------------------------------------


def check_sums_to_one(chain, event, tolerance=1e-9):
    """Σ p(x) over all K^N events = 1 for every class; `log_prob`, `log_probs`, `loss` are what logits say."""
    x = all_events(event, chain.symbols)
    for context in contexts(chain, len(x)):
        with torch.no_grad():
            nats, each, loss = chain.log_prob(x, context), chain.log_probs(x, context), chain.loss(x, context)
        assert nats.shape == (len(x),)
        assert nats.dtype == each.dtype == torch.float64, "nats are counted in double precision"
        assert each.shape == x.shape
        total = float(nats.exp().sum())
        assert abs(total - 1) <= tolerance, f"the probabilities of all events add up to {total!r}"
        log_p = conditionals(chain, x, context)
        taken = np.take_along_axis(log_p, x.reshape(len(x), -1, 1).numpy(), -1)[..., 0]
        np.testing.assert_allclose(each.flatten(1).numpy(), taken, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(nats.numpy(), taken.sum(1), rtol=1e-9, atol=1e-9)
        first = float(loss.flatten()[0])  # auxiliary losses may follow
        np.testing.assert_allclose(first, -taken.mean(), rtol=1e-6)  # a uniform loss is float32


def check_extremes(chain, event, factor=1e4, sample=sample):
    """Weights of ten thousand times the size: still Σp = 1, no leak, no NaN, possible samples."""
    chain = copy.deepcopy(chain)
    with torch.no_grad():
        for p in chain.parameters():
            p.mul_(factor)
    check_sums_to_one(chain, event)
    check_causality(chain, event, None)  # a mask of −10,000 is beaten by scores like these
    drawn = torch.from_numpy(sample(chain, 20, event, mixed(chain, 20)))
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < chain.symbols
    with torch.no_grad():
        assert chain.log_prob(drawn, mixed(chain, 20)).isfinite().all(), "a sample has probability 0"


def check_smallest(chain, event, sample=sample):
    """An event of no symbols is drawn and has probability 1; one of one symbol is as good as any other.

    A chain over events of one fixed shape has no empty ones; of one symbol it is built anew.
    """
    if chain.event is None:
        empty = (0, *event[1:])
        drawn = torch.from_numpy(sample(chain, 3, empty, mixed(chain, 3)))
        assert drawn.shape == (3, *empty)
        with torch.no_grad():
            assert chain.log_prob(drawn, mixed(chain, 3)).tolist() == [0, 0, 0]
    assert sample(chain, 0, event, mixed(chain, 0)).shape == (0, *event)
    one = (*([1] * (len(event) - 1)), event[-1]) if len(event) == 3 else (1,) * len(event)
    if chain.event is not None:
        chain = randomised(type(chain)(**{**chain.args, "event": one}), one)
    check_sums_to_one(chain, one)
    check_walk(chain, one)


def check_symbol_types(chain, event):
    """A symbol is a number, whatever type of integers it comes in: bytes from 128 on do not wrap around."""
    x = events(chain, event, 6)
    x[:3] = chain.symbols - 1 - x[:3] % max(1, chain.symbols // 4)  # many in the upper quarter
    with torch.no_grad():
        expected = [
            chain.loss(x, mixed(chain, 6)),
            chain.logits(x, mixed(chain, 6)),
            chain.log_prob(x, mixed(chain, 6)),
        ]
        for kind in (torch.uint8, torch.int32) if chain.symbols <= 256 else (torch.int32,):
            y = x.to(kind)
            found = [
                chain.loss(y, mixed(chain, 6)),
                chain.logits(y, mixed(chain, 6)),
                chain.log_prob(y, mixed(chain, 6)),
            ]
            for name, a, b in zip(("loss", "logits", "log_prob"), expected, found, strict=True):
                assert torch.equal(a, b), f"{name} of {kind} symbols differs by {(a - b).abs().max():.3g}"


# ---- causality --------------------------------------------------------------------------------------------


def influence(chain, event, training=False, trials=6):
    """(N, N) bool: whether another symbol at position j changes a single bit of the conditional at i.

    Each trial has other events, and the weights in another order: a dead ReLU may hide something, not always.
    """
    size = math.prod(event)
    reached = np.zeros((size, size), bool)
    chain = copy.deepcopy(chain).train(training)
    for trial in range(trials):
        reorder_weights(chain, trial)
        x = events(chain, event, 1, seed=trial).reshape(1, size).repeat(size, 1)
        other = x.clone()  # row j differs at position j
        other.diagonal().add_(1 + trial % (chain.symbols - 1)).remainder_(chain.symbols)
        before, after = (both(chain, rows.reshape(size, *event), mixed(chain, size)) for rows in (x, other))
        reached |= (before != after).any(-1).numpy().T
    return reached


def reorder_weights(chain, seed):
    """Give each parameter its numbers in a random order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(p.reshape(-1)[torch.randperm(p.numel(), generator=generator)].reshape(p.shape))


def both(chain, x, context):
    """Logits (B, N, K), with the same dropout each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return chain.logits(x, context).reshape(len(x), -1, chain.symbols)


def everything_before(chain, event):
    """(N, N) bool: position i may depend on all positions of lower rank."""
    rank = chain.order(event)
    return rank[None, :] < rank[:, None]


def check_causality(chain, event, reach=everything_before, training=False):
    """Conditional i depends on symbol j exactly where `reach(chain, event)` (N, N) says so.

    With reach=None only leaks are looked for: dropout may hide an influence, and must not add one.
    """
    found, allowed = influence(chain, event, training), everything_before(chain, event)
    wanted = reach(chain, event) if reach is not None else found & allowed
    assert not (wanted & ~allowed).any(), "the expectation itself is not causal"
    mode = "in training" if training else "in use"
    for what, wrong in {
        "leaks into": found & ~allowed,
        "must reach, and does not,": wanted & ~found,
        "reaches, and should not,": found & ~wanted,
    }.items():
        i, j = (np.unravel_index(k, event) for k in np.nonzero(wrong))
        pairs = [
            (tuple(map(int, a)), tuple(map(int, b)))
            for a, b in zip(zip(*j, strict=True), zip(*i, strict=True), strict=True)
        ]
        assert not pairs, (
            f"{mode}: symbol {pairs[0][0]} {what} the conditional {pairs[0][1]}, and {len(pairs) - 1} more"
        )


def check_items_are_independent(chain, event, training=False):
    """An item's conditionals do not depend on the other items of its batch, in training neither."""
    chain = copy.deepcopy(chain).train(training)
    x = events(chain, event, 4)
    other = torch.cat([x[:1], events(chain, event, 3, seed=1)])
    first, second = (both(chain, batch, mixed(chain, 4))[0] for batch in (x, other))
    assert torch.equal(first, second), "an item changes when others in its batch do"


def check_classes(chain, event):
    """Every conditional depends on the class, each item on its own."""
    if not chain.classes:
        return
    x = events(chain, event, 8)
    logits = [both(chain, x, context) for context in contexts(chain, 8)]  # (8, N, K) of every class
    for a, b in itertools.combinations(range(chain.classes), 2):
        assert (logits[a] != logits[b]).any(-1).any(0).all(), f"classes {a} and {b} share a conditional"
    turns = mixed(chain, 8)
    own = np.stack([logits[c][i].numpy() for i, c in enumerate(turns)])
    np.testing.assert_allclose(both(chain, x, turns).numpy(), own, rtol=1e-9, atol=1e-12)


def check_padding(chain, event):
    """What lies outside is not mistaken for any level: nothing before, and all `level` before, differ."""
    for level in range(chain.symbols):
        x = torch.full((1, *event), level)
        logits = both(chain, x, mixed(chain, 1))[0].reshape(
            -1, event[-1] if len(event) == 3 else 1, chain.symbols
        )
        assert (logits[0] != logits[-1]).any(-1).all(), f"level {level} looks like the outside of the event"


# ---- a source ---------------------------------------------------------------------------------------------


def all_of_the_source(chain, event, size):
    """(N, S) bool: every conditional may depend on every symbol of a source."""
    return np.ones((math.prod(event), size), bool)


def check_sourced_reach(chain, event, reach=all_of_the_source, training=False, size=6, trials=6):
    """Conditional i depends on symbol j of a source exactly where `reach(chain, event, size)` (N, S) says so.

    Where it depends on the last one, no symbol there is like the end of the source.
    """
    wanted, chain = reach(chain, event, size), copy.deepcopy(chain).train(training)
    found, ended = np.zeros(wanted.shape, bool), np.zeros((len(wanted), chain.source), bool)
    for trial in range(trials):
        reorder_weights(chain, trial)
        rows = size + chain.source  # with another symbol at each place, and every last symbol taken away
        x = events(chain, event, 1, seed=trial).expand(rows, *event)
        source = sources(chain, 1, size, seed=trial).repeat(rows, 1)
        source[size:, -1] = torch.arange(chain.source)
        other = source.clone()
        other[:size].diagonal().add_(1 + trial % (chain.source - 1)).remainder_(chain.source)
        other[size:, -1] = -1
        changed = (both(chain, x, source) != both(chain, x, other)).any(-1).numpy().T  # (N, rows)
        found |= changed[:, :size]
        ended |= changed[:, size:]
    assert not (found & ~wanted).any(), "a symbol of the source reaches what it should not"
    assert not (wanted & ~found).any(), "a symbol of the source must reach a conditional, and does not"
    assert ended[wanted[:, -1]].all(), "the end of a source looks like a symbol"


def check_sourced_items(chain, event, training=False):
    """No bit of an item's conditionals depends on the sources and the targets beside it; it depends on its own."""
    chain = copy.deepcopy(chain).train(training)
    x, context = events(chain, event, 8), sources(chain, 8)
    other = sources(chain, 8, seed=1)
    alone = both(chain, x, context)
    for i in range(8):
        y, beside = events(chain, event, 8, seed=2), other.roll(1, 0)
        y[i], beside[i] = x[i], context[i]
        assert torch.equal(both(chain, y, beside)[i], alone[i]), "an item changes when others in its batch do"
        beside[i] = other[i]
        same = torch.equal(both(chain, y, beside)[i], alone[i])
        assert same == torch.equal(other[i], context[i]), "an item is not conditioned on its own source"


def check_sourced_ragged(chain, event, training=False):
    """Sources and targets of several lengths, filled up with -1: all is as if each came alone.

    Conditionals, nats (0 beyond the end of a target), the loss, which is their mean, and its gradient.
    """
    chain = copy.deepcopy(chain).train(training)
    (size,) = event
    x, context = events(chain, event, 6), sources(chain, 6)
    lengths = [size, 1, *(2 + i * 3 % (size - 2) for i in range(4))]
    for target, length in zip(x, lengths, strict=True):
        target[length:] = -1
    wider = torch.nn.functional.pad(context, (0, 3), value=-1)
    logits, each = both(chain, x, context), chain.log_probs(x, context).detach()
    assert not each[x < 0].any(), "what stands beyond the end of a target costs something"
    close(chain.log_prob(x, context).detach(), each.sum(1))
    close(both(chain, x, wider)[x >= 0], logits[x >= 0])
    alone = [
        (x[i : i + 1, :n], context[i : i + 1, : int((context[i] >= 0).sum())]) for i, n in enumerate(lengths)
    ]
    for i, (n, one) in enumerate(zip(lengths, alone, strict=True)):
        close(logits[i, :n], both(chain, *one)[0])
        close(each[i, :n], chain.log_probs(*one)[0].detach())
    loss, slope = sloped(chain, [(x, context)])
    close(loss, -each.sum() / sum(lengths))
    close(slope, sloped(chain, alone)[1])
    for filled in (x.clamp(min=0), torch.where(x < 0, chain.symbols - 1, x)):
        assert torch.equal(both(chain, filled, context)[x >= 0], logits[x >= 0]), (
            "what fills a target up is seen"
        )


def sloped(chain, batches):
    """The mean loss of all symbols of `batches`, and its gradient by all parameters as one vector."""
    counts = [int((x >= 0).sum()) for x, _ in batches]
    losses = [n * chain.loss(*batch) for n, batch in zip(counts, batches, strict=True)]
    loss = sum(losses) / sum(counts)
    slopes = torch.autograd.grad(loss, list(chain.parameters()))
    return loss.detach(), torch.cat([slope.flatten() for slope in slopes])


def close(found, wanted):
    np.testing.assert_allclose(
        found.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11, err_msg="together is not one by one"
    )


def check_sourced_once(chain, event):
    """A source is encoded once for a walk; in single precision with the same bits in any batch, filled up or not."""
    single, calls = copy.deepcopy(chain).float().eval(), []
    context, length = sources(single, 7), math.prod(event)
    together = encodings(single, context, length)
    assert together.shape == (7, length, single.features)
    for i, source in enumerate(context):
        found = encodings(single, source[None, : int((source >= 0).sum())], length)[0]
        assert (found == together[i]).all(), "other bits in another batch"
    plain = single.told
    single.told = lambda context: calls.append(context) or plain(context)
    steps(single, events(single, event, 7), context)
    assert len(calls) == 1, f"the sources are read {len(calls)} times on a walk"


# ---- the walk ---------------------------------------------------------------------------------------------


def steps(chain, x, context):
    """The logits (B, N, K) that a walk along the events x meets."""
    event, flat, met = (
        x.shape[1:],
        x.reshape(len(x), -1),
        np.full((*x.reshape(len(x), -1).shape, chain.symbols), np.nan),
    )

    def given(i, logits):
        met[:, i] = logits.numpy()
        return flat[:, i]

    visited = [i for i, _ in walk(chain, given, event, len(x), context)]
    assert sorted(visited) == list(range(flat.shape[1])), "the walk does not visit every position once"
    ranks = chain.order(event)[visited]
    assert (np.diff(ranks) >= 0).all(), "the walk does not follow the order of the chain"
    return met


def agree(stepped, chain, x, context):
    parallel = both(chain, x, context).numpy()
    np.testing.assert_allclose(
        stepped, parallel, rtol=1e-9, atol=1e-9, err_msg="walk and parallel logits differ"
    )


def check_walk(chain, event):
    """The walk meets the parallel logits at every step: at two batch sizes, twice in a row, at a branch."""
    chain = copy.deepcopy(chain).eval()
    for batch in (1, 1, 3):
        x, context = events(chain, event, batch, seed=batch), mixed(chain, batch)
        agree(steps(chain, x, context), chain, x, context)
    check_branches(chain, event)


@torch.inference_mode()
def check_branches(chain, event, batch=2):
    """A copy of the state is a branch point: two continuations, taken in turns, do not disturb each other."""
    size = math.prod(event)
    x, context = events(chain, event, batch), mixed(chain, batch)
    y, place = x.reshape(batch, size).clone(), visit_order(chain, event)
    half = place[size // 2 :]
    y[:, half] = (y[:, half] + 1) % chain.symbols  # the same beginning, another end
    y = y.reshape(x.shape)
    both_x, both_y = (both(chain, z, context) for z in (x, y))
    state, symbol, states = chain.start(batch, event, context), None, None
    for n, i in enumerate(place):
        if n <= size // 2:
            logits, state = chain.step(state, symbol)
            np.testing.assert_allclose(logits.numpy(), both_x[:, i].numpy(), rtol=1e-9, atol=1e-9)
            symbol = x.reshape(batch, size)[:, i]
        if n == size // 2:
            states = [copy.deepcopy(state), state]
        elif states:
            for b, (z, parallel) in enumerate([(x, both_x), (y, both_y)]):
                logits, states[b] = chain.step(states[b], z.reshape(batch, size)[:, place[n - 1]])
                np.testing.assert_allclose(
                    logits.numpy(),
                    parallel[:, i].numpy(),
                    rtol=1e-9,
                    atol=1e-9,
                    err_msg="a branch disturbs another",
                )


# ---- the step program -------------------------------------------------------------------------------------


def executed(run, x):
    """The logits (B, N, K) that an executor gives along the events x."""
    flat, met = x.reshape(len(x), -1).numpy(), []
    for t in range(flat.shape[1]):
        met.append(np.asarray(run.logits()).copy())
        run.tell(flat[:, t])
    return np.stack(met, 1)


def check_engine(chain, event):
    """The step program of a chain gives its parallel logits, in both executors, and its codes can be decoded.

    Device in float64: to 1e-9. Strict in float32: to what single precision allows, and with the same bits at
    two batch sizes, in any groups, and twice in a row. Streams of random events have the size that p says.
    """
    double = copy.deepcopy(chain).double().eval()
    for batch in (1, 3):
        x, context = events(chain, event, batch, seed=batch), mixed(chain, batch)
        agree(executed(device(double, event, batch, context), x), double, x, context)
    single = copy.deepcopy(chain).float().eval()
    x, context = events(chain, event, 5), mixed(chain, 5)
    parallel = both(single, x, context).numpy()
    found = executed(strict(single, event, 5, context), x)
    scale = max(1.0, abs(parallel).max())
    np.testing.assert_allclose(
        found, parallel, rtol=1e-4, atol=1e-5 * scale, err_msg="the program says otherwise"
    )
    for first, last, group in [(0, 5, None), (0, 5, 2), (2, 4, None), (4, 5, 1)]:
        part = None if context is None else context[first:last]
        again = executed(strict(single, event, last - first, part, group), x[first:last])
        assert (again == found[first:last]).all(), "other bits in another batch, or the second time"
    check_coding(single, event)


def check_exchange(chain, event, lanes=5):
    """Lanes that go on as others have the logits of a fresh run that was told the symbols of those, bit for bit."""
    single, context = copy.deepcopy(chain).float().eval(), mixed(chain, 1)
    context = None if context is None else context.expand(lanes, *context.shape[1:])
    x = events(chain, event, lanes).reshape(lanes, -1).numpy()
    run, rng, met = strict(single, event, lanes, context, lanes), np.random.default_rng(0), []
    for t in range(x.shape[1]):
        met.append(run.logits())
        parents = rng.integers(lanes, size=lanes)
        run.reorder(parents)
        met, x[:, :t] = [logits[parents] for logits in met], x[parents, :t]
        run.tell(x[:, t])
    again = executed(strict(single, event, lanes, context, lanes), torch.from_numpy(x))
    assert (np.stack(met, 1) == again).all(), "a lane that goes on as another has other bits"


def check_coding(chain, event, lanes=7):
    """decode(encode(x)) = x for random, constant and drawn events, in no more bytes than −log₂ p and a few."""
    context, size = mixed(chain, lanes), math.prod(event)
    drawn = torch.from_numpy(sample(chain, lanes, event, context))
    for x in (events(chain, event, lanes), torch.zeros(lanes, *event, dtype=torch.long), drawn):
        flat, active = x.reshape(lanes, size).numpy(), np.full(size, lanes)
        stream, bits = strict(chain, event, lanes, context).encode(flat, active)
        decoded = strict(chain, event, lanes, context, 2).decode(stream, active)
        assert (decoded == flat).all(), "what is decoded is not what was encoded"
        with torch.no_grad():
            ideal = -chain.double().log_prob(x, context).numpy() / math.log(2)
        chain.float()
        np.testing.assert_allclose(bits, ideal, rtol=1e-4, atol=1e-4 * size, err_msg="bits are not −log₂ p")
        assert 8 * len(stream) <= bits.sum() + 16 + 0.01 * lanes * size, "the stream is longer than −log₂ p"


def strict(chain, event, lanes, context, group=None):
    return Strict(program_of(chain), event, lanes, *told(chain, event, context), group=group)


def device(chain, event, lanes, context):
    return Device(
        program_of(chain, np.float64), event, lanes, *told(chain, event, context), dtype=torch.float64
    )


# ---- states -------------------------------------------------------------------------------------------------


def check_carried(chain, event):
    """Streams that are read window by window have the loss of their events, and no gradient flows into another window.

    Events begin at the first symbol of a row, in the middle of a window, and at the first of a later one.
    """
    chain, length = copy.deepcopy(chain).double().eval(), 3 * max(2, math.prod(event) // 2)
    of_sample = event[1:] if chain.channels > 1 and chain.AXES == "line" else ()
    x = events(chain, (length, *of_sample), 3)
    before = torch.cat([torch.full_like(x[:, :1], -1), x[:, :-1]], 1)
    before[1, length // 3 + 1] = before[2, 2 * length // 3] = before[2, 1] = -1
    context = None if mixed(chain, 3) is None else mixed(chain, 3)[:, None].expand(3, length)
    begins = before.reshape(3, length, -1)[..., 0].numpy() < 0
    cuts = [[0, *np.flatnonzero(row[1:]) + 1, length] for row in begins]
    with torch.no_grad():
        alone = [
            -chain.log_prob(x[i : i + 1, a:b], None if context is None else context[i, :1]).item()
            for i, row in enumerate(cuts)
            for a, b in itertools.pairwise(row)
        ]
    for window in (length, length // 3, 1):
        state, nats = chain.rest(3), 0.0
        for a in range(0, length, window):
            part = slice(a, a + window)
            loss, state = chain.loss_from(
                state, x[:, part], before[:, part], None if context is None else context[:, part]
            )
            assert state.grad_fn is None, "a gradient flows from window to window"
            nats += float(loss.detach()) * x[:, part].numel()
        np.testing.assert_allclose(nats, sum(alone), rtol=1e-9, err_msg="a stream is not its events")


# ---- samples and completions ------------------------------------------------------------------------------


def sharpened(temperature=1.0, top_p=1.0, top_k=None):
    """The conditionals (B, N, K) of sampling with a temperature and a nucleus, one distribution at a time.

    Events with the same beginning share their conditionals, which are changed once.
    """

    def one(log_p):
        p = np.exp(log_p / temperature)
        kept, order = np.zeros_like(p), np.argsort(-p)[:top_k]
        p /= p[order].sum()
        for n, k in enumerate(order):
            if n == 0 or p[order[:n]].sum() < top_p:
                kept[k] = p[k]
        with np.errstate(divide="ignore"):
            return np.log(kept / kept.sum())

    def change(log_p):
        different, place = np.unique(log_p.reshape(-1, log_p.shape[-1]), axis=0, return_inverse=True)
        return np.stack([one(row) for row in different])[place].reshape(log_p.shape)

    return change


def check_samples(chain, event, sample=sample):
    """Samples follow exp(log_prob), at any temperature and nucleus what it says; item i is its own."""
    classes = contexts(chain, 1)
    both = {"temperature": 2.0, "top_p": 0.8, "top_k": 2}
    for change in ({}, {"temperature": 0.5}, {"top_p": 0.6}, both):
        context = classes[len(change) % len(classes)]
        many = repeated(context, DRAWS)
        drawn = sample(chain, DRAWS, event, many, seed=len(change), **change)
        assert drawn.shape == (DRAWS, *event)
        filtered = sharpened(**change) if change else lambda log_p: log_p
        follows(numbers(drawn, chain.symbols), joint(chain, event, context, filtered)[1])
    check_greedy(chain, event, sample)
    check_seeds(chain, event, sample)


def check_greedy(chain, event, sample=sample):
    """Temperature 0 takes the most probable symbol; so does a nucleus that has room for one only."""
    context = mixed(chain, 32)
    greedy = sample(chain, 32, event, context, temperature=0)
    best = conditionals(chain, torch.from_numpy(greedy), context).argmax(-1)
    assert (best == greedy.reshape(32, -1)).all(), "temperature 0 is not the most probable symbol"
    for top_p in (0, 1e-12):
        narrow = sample(chain, 32, event, context, top_p=top_p)
        assert (narrow == greedy).all(), f"top_p={top_p} keeps more than one"


def check_seeds(chain, event, sample=sample):
    """Item i is the same in a batch of any size, another seed gives other samples, and no filter is on."""
    context = mixed(chain, 12)
    drawn = sample(chain, 12, event, context, seed=5)
    assert (sample(chain, 12, event, context, seed=5) == drawn).all(), "the same seed gives other samples"
    assert (sample(chain, 12, event, context, seed=5, temperature=1.0, top_p=1.0) == drawn).all()
    part = None if context is None else context[3:8]
    assert (sample(chain, 5, event, part, seed=5, first=3) == drawn[3:8]).all(), "item i depends on its batch"
    single = None if context is None else context[7:8]
    assert (sample(chain, 1, event, single, seed=5, first=7) == drawn[7:8]).all(), (
        "item i depends on its batch"
    )
    assert (sample(chain, 12, event, context, seed=6) != drawn).any(), "another seed gives the same samples"
    assert len(np.unique(drawn.reshape(12, -1), axis=0)) > 1, "all items are the same"


def check_complete(chain, event, complete=complete, sample=sample):
    """All known: x. Nothing known: a sample. A known beginning: the exact conditional p(rest | beginning).

    As a stream the same symbols come, in the order of the chain.
    """
    x = events(chain, event, 1, seed=3)[0].numpy()
    size, context = math.prod(event), mixed(chain, 5)
    everything, nothing = np.ones(event, bool), np.zeros(event, bool)
    assert (complete(chain, x, everything, 5, context) == x).all(), "what is known has changed"
    drawn = sample(chain, 5, event, context, seed=9)
    assert (complete(chain, x, nothing, 5, context, seed=9) == drawn).all(), "nothing known is not a sample"
    scattered = np.arange(size).reshape(event) % 2 == 0
    assert (complete(chain, x, scattered, 5, context)[:, scattered] == x[scattered]).all(), (
        "what is known has changed"
    )
    for one in contexts(chain, 1):
        (whole,) = complete(chain, x, scattered, 1, one, seed=4, temperature=0.7, top_p=0.9)
        parts = list(stream(chain, x, scattered, one, seed=4, temperature=0.7, top_p=0.9))
        in_order = whole.reshape(size)[visit_order(chain, event)]
        assert (np.concatenate(parts) == in_order).all(), "a stream is another completion"
        beginning = np.zeros(size, bool)
        beginning[visit_order(chain, event)[: size // 2]] = True
        possible, p = joint(chain, event, one)
        given = (possible.reshape(-1, size)[:, beginning].numpy() == x.reshape(size)[beginning]).all(1)
        p = np.where(given, p, 0) / p[given].sum()
        many = repeated(one, DRAWS)
        ends = complete(chain, x, beginning.reshape(event), DRAWS, many, seed=1)
        assert (ends.reshape(DRAWS, size)[:, beginning] == x.reshape(size)[beginning]).all(), (
            "what is known has changed"
        )
        follows(numbers(ends, chain.symbols), p)


# ---- weights, gradients, files, seeds ---------------------------------------------------------------------


def check_gradients(chain, event):
    """The loss has a gradient for every parameter, and it is the slope of the loss (central differences)."""
    chain = copy.deepcopy(chain).double().eval()
    x, context = events(chain, event, 8), mixed(chain, 8)
    chain.zero_grad()
    chain.loss(x, context).sum().backward()
    generator = torch.Generator().manual_seed(1)
    for name, p in chain.named_parameters():
        assert p.grad is not None, f"no gradient reaches {name}"
        assert p.grad.abs().max() > 0, f"the gradient of {name} is 0 everywhere"
        along = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        slope = float((p.grad * along).sum())
        up, down = (moved(chain, p, by * along, x, context) for by in (1e-6, -1e-6))
        measured = (up - down) / 2e-6
        assert math.isclose(slope, measured, rel_tol=1e-4, abs_tol=1e-7), f"{name}: {measured}, not {slope}"


def moved(chain, p, by, x, context):
    """The loss with parameter `p` moved by `by`."""
    kept = p.detach().clone()
    with torch.no_grad():
        p.add_(by)
        loss = float(chain.loss(x, context).sum())
        p.copy_(kept)
    return loss


def check_overfits(chain, event, steps=400, items=2):
    """Trained on one batch, the loss a symbol falls below a fifth of log K."""
    x, context = events(chain, event, items), mixed(chain, items)
    batch = (x,) if context is None else (x, context)
    training = Training(chain, lambda step: batch, Plan(steps=steps, lr=0.03, weight_decay=0.0))
    for state in training:
        if state.loss < 0.15 * math.log(chain.symbols):
            break
    chain.eval()
    with torch.no_grad():
        loss = float(chain.loss(*batch).flatten()[0])
    assert loss < 0.2 * math.log(chain.symbols), (
        f"{loss / math.log(chain.symbols):.2f} of log K after {steps} steps"
    )


def check_store(chain, event, table):
    """Rebuilt from its bytes a chain gives the same bits and has the same SHA-256; another has another."""
    data = store.dump(chain, table)
    assert data == store.dump(chain, table), "the same model is written in two ways"
    rebuilt, header = store.parse(data, table)
    assert json.loads(json.dumps(header["args"])) == json.loads(json.dumps(store.arguments(chain, table)))
    assert type(rebuilt) is type(chain)
    assert not rebuilt.training
    x, context = events(chain, event, 3), mixed(chain, 3)
    kept = copy.deepcopy(chain).eval()
    assert torch.equal(both(kept, x, context), both(rebuilt, x, context)), (
        "the rebuilt model gives other bits"
    )
    assert store.sha256(rebuilt, table) == store.sha256(chain, table), "the rebuilt model has another SHA-256"
    for name, p in rebuilt.named_parameters():
        before = p.detach().clone()
        with torch.no_grad():
            p[(-1,) * p.ndim] += 1
        assert store.sha256(rebuilt, table) != store.sha256(chain, table), (
            f"{name} does not count in the SHA-256"
        )
        with torch.no_grad():
            p.copy_(before)


def check_seed(name, args, table, event):
    """The same seed builds the same weights, another seed others; no other random numbers are touched."""
    with untouched_randomness():
        one, two, other = (store.build(name, args, table, seed=s) for s in (1, 1, 2))
        assert store.sha256(one, table) == store.sha256(two, table), "one seed, two models"
        if list(one.parameters()):
            assert store.sha256(one, table) != store.sha256(other, table), "two seeds, one model"
            x, context = events(one, event, 2), mixed(one, 2)
            batch = (x,) if context is None else (x, context)
            for _ in Training(one, lambda step: batch, Plan(steps=2)):
                pass
        sample(one, 2, event, mixed(one, 2))
        complete(one, np.zeros(event, np.int64), np.zeros(event, bool), 2, mixed(one, 2))


class untouched_randomness:
    """Within it nobody draws from, or seeds, the global random numbers of Python, numpy and torch."""

    def states(self):
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()

    def __enter__(self):
        self.before = self.states()

    def __exit__(self, kind, *_):
        assert kind is not None or self.states() == self.before, "the global random numbers have moved"
