"""WaveNet is the formula of its paper, by a loop over samples and taps; also of 16 bits, with frames, in streams."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains.wavenet import WaveNet
from chainrule.data import Dataset, Sound
from chainrule.data.batches import streams
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.layers.adaptive import SMALL, at_rest, predictions
from chainrule.layers.samples import CODES, bins
from chainrule.layers.waves import GatedLayer
from contracts import (
    check_causality,
    check_engine,
    check_exchange,
    check_items_are_independent,
    check_walk,
    events,
    frames,
    randomised,
)

EVENT = (11,)
BITS = pytest.mark.parametrize("channels", [1, 2], ids=["8 bits", "16 bits"])


def small(event=EVENT, **more):
    """A chain in float64 with random weights."""
    return randomised(WaveNet(symbols=4, **{**WaveNet.SIZES["tiny"], **more}), event)


def shape(channels, length=11):
    """An event of so many samples."""
    return (length,) if channels == 1 else (length, channels)


# ---- the formula, sample by sample -------------------------------------------------------------------------------


def logits_of(chain, x, c=None):
    """The logits (T, K) of one sound of 8 bits, a list of symbols: equations 2 and 5 and figure 4 of the paper."""
    k, nothing, tables = chain.first.kernel, chain.symbols, chain.first.rows.weight.split(chain.symbols + 1)
    past = [nothing] * k + x[:-1]
    h = [sum(tables[i][past[t + i]] for i in range(k)) for t in range(len(x))]
    skips = [chain.begin.clone() for _ in x]
    for layer in chain.layers:
        z = []
        for t in range(len(x)):
            taps = [h[t + a] if t + a >= 0 else torch.zeros(chain.width) for a in layer.at]
            u = torch.cat([*taps, *([] if c is None else [c])])
            f, g = (layer.gates.weight @ u + layer.gates.bias).chunk(2)
            z.append(layer.add.weight @ (torch.tanh(f) * torch.sigmoid(g)))
        h = [v + a[: chain.width] for v, a in zip(h, z, strict=True)]
        skips = [s + a[chain.width :] for s, a in zip(skips, z, strict=True)]
    v = [torch.relu(chain.last.weight @ torch.relu(s) + chain.last.bias) for s in skips]
    return torch.stack([chain.head.out.weight @ a + chain.head.out.bias for a in v])


@pytest.mark.parametrize("kernel", [2, 3])
@torch.no_grad()
def test_logits_are_those_of_the_formula(kernel):
    chain = small(kernel=kernel, stacks=2)
    for x, found in zip(events(chain, EVENT, 3), chain.logits(events(chain, EVENT, 3)), strict=True):
        np.testing.assert_allclose(found, logits_of(chain, x.tolist()), rtol=1e-10, atol=1e-10)
    chain = small(kernel=kernel, classes=3)
    found = chain.logits(events(chain, EVENT, 3), torch.tensor([2, 0, 1]))
    for x, row, c in zip(events(chain, EVENT, 3), found, [2, 0, 1], strict=True):
        wanted = logits_of(chain, x.tolist(), chain.condition.weight[c])
        np.testing.assert_allclose(row, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "wanted"), [("laptop", 1025), ("paper", 3071)])
def test_the_receptive_field_is_one_and_a_sum_over_all_convolutions(size, wanted):
    with torch.device("meta"):
        chain = WaveNet(**WaveNet.SIZES[size])
    dilations = WaveNet(**WaveNet.SIZES["tiny"]).args["dilations"] and range(10)
    first = chain.args["kernel"] - 1
    stacks = chain.args["stacks"]
    assert (
        chain.reach
        == 1 + first + stacks * sum((chain.args["kernel"] - 1) * 2**i for i in dilations)
        == wanted
    )


@torch.no_grad()
def test_a_receptive_field_is_what_a_change_reaches():
    chain = small(event=(60,), stacks=2, dilations=[1, 2, 4, 8])
    x = events(chain, (60,), 1)
    changed = x.clone()
    changed[0, 10] = (x[0, 10] + 1) % 4
    moved = np.flatnonzero((chain.logits(x) != chain.logits(changed)).any(-1)[0])
    assert (moved.min(), moved.max()) == (11, 10 + chain.reach)


# ---- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation", "condition"), [(2, 2, 2), (3, 1, 0), (2, 9, 0)])
def test_the_gradient_of_a_layer_is_right(kernel, dilation, condition):
    """Also where recordings begin inside a row, and where a dilation is longer than the row."""
    torch.manual_seed(0)
    layer = GatedLayer(3, 2, kernel, dilation, condition, 3).double()
    hs = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, 7, condition, dtype=torch.float64, requires_grad=True) if condition else None
    before = torch.randn(2, layer.past, 3, dtype=torch.float64)
    texts = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0] * 7])
    names, weights = zip(*layer.named_parameters(), strict=True)

    def through(hs, *weights):
        return functional_call(layer, dict(zip(names, weights, strict=True)), (hs, before, texts, c))[0]

    assert gradcheck(through, (hs, *weights))


# ---- sixteen bits ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_two_bytes_share_one_distribution_of_samples():
    """p(high) p(low | high) is a mixture of logistics over all K² levels, cut off at its ends."""
    chain = small(shape(2), channels=2)
    chain.head.out.weight[-1], chain.head.out.bias[-1] = 0, -100  # no byte stays as it was
    every = torch.tensor([[a, b] for a in range(4) for b in range(4)])
    x = events(chain, (3, 2), 1).expand(16, -1, -1).clone()
    x[:, 2] = every
    p = chain.log_probs(x)[:, 2].sum(-1).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    v, z, _ = next(chain._parts(x[:1], None, 3))
    weights, mean, scale = (a[0, 2].numpy() for a in chain.head._mixture(v, z)[:3])
    edges = np.arange(17) * (2 / (4 * 3)) - 1 - 1 / 3
    below = 1 / (1 + np.exp(-(edges[:, None] - mean) / np.exp(scale)))  # of each edge under each logistic
    masses = np.diff(below, axis=0) @ (np.exp(weights) / np.exp(weights).sum())
    np.testing.assert_allclose(p, masses / masses.sum(), rtol=1e-9)


def filtered(d, taps, rate):
    """p, e, r, ln r at each position of one sequence: normalised least mean squares, step by step."""
    w, h, p, rows = np.zeros(taps), np.zeros(taps), 0.0, []
    for t, number in enumerate(d):
        e = number - p if t else 0.0
        w = w + rate * e / (SMALL + h @ h) * h
        h = np.concatenate([[number if t else 0.0], h[:-1]])
        p, r = w @ h, 1 / math.sqrt(SMALL + h @ h / taps)
        rows.append([p, e, r, math.log(r)])
    return np.array(rows)


@pytest.mark.parametrize("taps", [1, 5])
def test_filters_learn_as_their_formula_says_however_a_sequence_is_cut(taps):
    d = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 20)))
    begins = torch.zeros(2, 20, dtype=torch.bool)
    begins[:, 0] = begins[1, 7] = True
    rows = d.numpy()
    wanted = [
        filtered(rows[0], taps, 0.3),
        np.concatenate([filtered(rows[1, :7], taps, 0.3), filtered(rows[1, 7:], taps, 0.3)]),
    ]
    for size in (20, 6, 1):
        state, told = at_rest(d, taps), []
        for part, new in zip(d.split(size, 1), begins.split(size, 1), strict=True):
            found, state = predictions(part, new, state, 0.3)
            told.append(found)
        np.testing.assert_allclose(torch.cat(told, 1), np.array(wanted), rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_a_low_byte_that_never_changes_costs_nothing():
    """However wide the mixture is, p(low | high) is that of staying when the network says so."""
    chain = small(shape(2), channels=2)
    chain.head.out.weight[-1], chain.head.out.bias[-1] = 0, 100
    x = events(chain, (9, 2), 2)
    x[..., 1] = 2
    assert float(chain.log_probs(x)[:, 1:, 1].min()) > -1e-3
    assert float(chain.log_probs(x)[:, 1:, 0].max()) < -1e-3


def test_a_filter_learns_a_sine():
    d = torch.sin(torch.arange(2000, dtype=torch.float64) * 0.3)[None]
    begins = torch.zeros(1, 2000, dtype=torch.bool)
    begins[:, 0] = True
    told, _ = predictions(d, begins, at_rest(d, 8), 0.2)
    assert float(told[0, -200:, 1].abs().max()) < 1e-6


def test_codes_of_numbers_are_those_of_mu_law():
    from chainrule.data.sound import mu_law

    samples = np.arange(-32768, 32768)
    found = bins(torch.from_numpy(samples / 32768))
    assert (found.numpy() == mu_law(samples).astype(int) - 1).all()
    assert (found.min(), found.max()) == (0, CODES - 1)


# ---- conditioning ------------------------------------------------------------------------------------------------


@BITS
def test_frames_condition_every_sample_in_both_executors(channels):
    event = shape(channels, 9)
    chain = small(event, channels=channels, frames=3, hop=4)
    check_causality(chain, event, None, training=False)
    check_items_are_independent(chain, event, training=False)
    check_walk(chain, event)
    check_engine(chain, event)
    check_exchange(chain, event)


@torch.no_grad()
def test_a_frame_reaches_its_own_samples_and_those_beside_it():
    chain = small((40,), frames=3, hop=4)
    context = frames(chain, 1)[:, :10]
    changed = context.clone()
    changed[0, 5] += 1
    c, other = chain._conditions(context, 40), chain._conditions(changed, 40)
    assert set(np.flatnonzero((c != other).any(-1)[0])) == set(range(16, 28))


@torch.no_grad()
def test_frames_are_raised_by_lines_at_first():
    chain = WaveNet(4, frames=1, hop=5, condition=1, **WaveNet.SIZES["tiny"]).double()
    chain.raise_.mix.weight.fill_(1.0)
    found = chain._conditions(torch.tensor([[[0.0], [1.0], [3.0], [3.0]]], dtype=torch.float64), 20)[0, :, 0]
    np.testing.assert_allclose(found[2:18], np.interp(np.arange(2, 18), [2, 7, 12, 17], [0, 1, 3, 3]))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "frames (B, frames, 3), none were given"),
        (torch.zeros(1, 5, 2), "(1, 5, 2) were given"),
        (torch.zeros(1, 2, 3), "2 frames of 4 samples are given for 11 samples"),
    ],
)
def test_frames_that_do_not_fit_are_refused_in_one_line(context, message):
    with pytest.raises(ChainruleError) as error:
        small(frames=3, hop=4).logits(torch.zeros(1, 11, dtype=torch.long), context)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- streams of sound --------------------------------------------------------------------------------------------


def recordings(channels, framed):
    """A data set of three short sounds."""
    rng = np.random.default_rng(0)
    sound = Sound(4000, "16 bit" if channels == 2 else "mu-law")
    x = [rng.integers(0, 4, shape(channels, n)).astype(np.uint8) for n in (50, 33, 90)]
    hop = 40
    sources = [rng.normal(size=(-(-len(one) // hop), 3)).astype(np.float32) for one in x] if framed else None
    return Dataset(x, 4, "sound", sources=sources, sound=sound)


@pytest.mark.parametrize("framed", [False, True], ids=["alone", "with frames"])
@BITS
@torch.no_grad()
def test_streams_cut_sounds_between_samples_and_know_their_frames(channels, framed):
    data = recordings(channels, framed)
    chain = small(shape(channels), channels=channels, **({"frames": 3, "hop": 40} if framed else {}))
    x, before, rows = (
        None if a is None else torch.from_numpy(a) for a in streams(data, 2, 0, 0, 80, channels)
    )
    assert x.shape == (2, *shape(channels, 80))
    assert (rows is not None) == framed
    loss, _ = chain.loss_from(chain.rest(2), x, before, rows.double() if framed else None)
    begins = before.reshape(2, 80, -1)[..., 0] < 0
    total = 0.0
    for i in range(2):  # each stretch of one sound, by itself from its own frames
        cuts = [*np.flatnonzero(begins[i]), 80]
        for a, b in itertools.pairwise(cuts):
            context = None
            if framed:
                first = rows[i, a, -1]  # a stream may begin inside a frame: then its phase is not 0
                if first:
                    pytest.fail("the test wants streams that begin with a sound") if a else None
                    continue
                context = rows[i, a:b:40, 3:6].double()[None]
                ahead = rows[i, b - 1, 6:9].double()[
                    None, None
                ]  # what the last sample sees of the frame after it
                context = torch.cat([context, ahead], 1)
            total -= float(chain.log_prob(x[i : i + 1, a:b], context))
    if not framed:
        assert float(loss) == pytest.approx(total / x.numel(), rel=1e-9)


# ---- the constructor ---------------------------------------------------------------------------------------------


def test_data_say_what_a_sample_is():
    x = np.zeros((2, 30, 2), np.uint8)
    loud = Dataset(x, 256, "sound", sound=Sound(8000, "16 bit"))
    assert WaveNet.configure(loud) == {"symbols": 256, "classes": 0, "channels": 2}
    framed = Dataset(
        x, 256, "sound", sound=Sound(8000, "16 bit"), sources=[np.zeros((1, 23), np.float32)] * 2
    )
    assert WaveNet.configure(framed) == {"symbols": 256, "classes": 0, "channels": 2, "frames": 23, "hop": 80}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 3}, "a sample of 3 symbols: take 1 (8 bits), or 2 (16 bits)"),
        ({"dilations": []}, "dilations is []: take a list of numbers"),
        ({"dilations": [2, 0]}, "dilations is 0: take 1 or more"),
        ({"filters": []}, "filters is []: take a list of numbers of taps"),
        ({"filters": [0]}, "filters is 0: take 1 or more"),
        ({"classes": 2, "frames": 3}, "2 classes and frames of 3 numbers: take one of the two"),
        ({"width": 0}, "width is 0: take 1 or more"),
    ],
)
def test_networks_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(ChainruleError) as error:
        WaveNet(4, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_odd_number_of_bytes_is_no_sound():
    chain = store.build("wavenet", {**WaveNet.SIZES["tiny"], "symbols": 4, "channels": 2}, CHAINS)
    with pytest.raises(ChainruleError, match="an event has 5 symbols, the model takes samples of 2"):
        chain.logits(torch.zeros(1, 5, dtype=torch.long))


def test_public_size_has_a_step_of_the_published_cost():
    """30 layers of 64: what is timed beside public models has as many multiply-adds a sample as these have weights."""
    program = program_of(WaveNet(width=64, skip=64, stacks=3))
    each = 64 * 2 * 128 + 64 * 128
    assert sum(program.multiply_adds().values()) == 30 * each + 64 * 64 + 64 * 256
