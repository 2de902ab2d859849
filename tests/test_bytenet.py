"""ByteNet is the formula of its paper, by a loop over positions and taps; and what its kernels saw is carried on."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains.bytenet import ByteNet
from chainrule.data import Dataset
from chainrule.errors import ChainruleError
from chainrule.train import Plan, Training
from contracts import events, randomised, sources

EVENT = (11,)
UNITS = pytest.mark.parametrize("units", ["relu", "multiplicative"])


def small(**more):
    """A chain in float64 with random weights."""
    return randomised(ByteNet(symbols=4, **{**ByteNet.SIZES["tiny"], **more}), EVENT)


# ---- the formula, position by position ---------------------------------------------------------------------------


def normed(v, norm):
    """The numbers of one position: less their mean, by their spread."""
    v = v - v.mean()
    return v / (v.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def line(v, layer):
    return layer.weight @ v + layer.bias


def unit(gates, v):
    """Kalchbrenner et al. 2016, "Video Pixel Networks", section 4.1."""
    i, f, o, g = gates.reshape(4, -1)
    return torch.sigmoid(i) * torch.tanh(torch.sigmoid(f) * v + torch.sigmoid(o) * torch.tanh(g))


def block_of(block, column, multiplicative):
    """What a block makes of columns, a list of (2 d,): taps outside are zeros."""
    seen = [normed(line(normed(h, block.norms[0]).relu(), block.narrow), block.norms[1]) for h in column]
    seen = seen if multiplicative else [v.relu() for v in seen]
    after = []
    for t, h in enumerate(column):
        taps = [seen[t + a] if 0 <= t + a < len(seen) else torch.zeros_like(seen[0]) for a in block.conv.at]
        found = line(torch.cat(taps), block.conv.linear)
        if multiplicative:
            w = normed(unit(found, seen[t]), block.norms[2])
            found = unit(line(w, block.mix), w)
        else:
            found = normed(found, block.norms[2]).relu()
        after.append(h + line(found, block.wide))
    return after


def encoded(chain, source, multiplicative):
    """The columns of the encoding of one source, a list of symbols."""
    places = math.ceil(len(source) * chain.stretch)
    symbols = source + [chain.source] * (places - len(source))
    column = [chain.sources.weight[s] for s in symbols]
    for block in chain.encoder_blocks:
        column = block_of(block, column, multiplicative)
    return [normed(h, chain.encoded) for h in column]


def logits_of(chain, target, source=None, multiplicative=False):
    """The logits (T, K) of one target, a list of symbols."""
    column = [chain.embed.weight[s] for s in [chain.symbols, *target[:-1]]]
    if source is not None:
        for t, e in enumerate(encoded(chain, source, multiplicative)[: len(column)]):
            column[t] = column[t] + chain.join.weight @ e
    for block in chain.decoder:
        column = block_of(block, column, multiplicative)
    return torch.stack(
        [line(line(normed(h, chain.norm).relu(), chain.last).relu(), chain.out) for h in column]
    )


@UNITS
@torch.no_grad()
def test_logits_are_those_of_the_formula(units):
    chain, many = small(units=units), units == "multiplicative"
    x = events(chain, EVENT, 3)
    for target, found in zip(x, chain.logits(x), strict=True):
        np.testing.assert_allclose(
            found, logits_of(chain, target.tolist(), None, many), rtol=1e-10, atol=1e-10
        )
    chain = small(units=units, source=5, kernel=3)
    context = sources(chain, 3)
    for target, source, found in zip(x, context, chain.logits(x, context), strict=True):
        wanted = logits_of(chain, target.tolist(), source[source >= 0].tolist(), many)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_target_may_outgrow_its_source():
    """Dynamic unfolding (section 3.2): the beginning does not change, and what follows has zeros for an encoding."""
    chain, source = small(source=4), torch.tensor([[3, 1]])
    x = events(chain, (40,), 1)
    np.testing.assert_allclose(chain.logits(x, source)[:, :9], chain.logits(x[:, :9], source), rtol=1e-12)
    assert chain.encode(source).shape[1] == math.ceil(2 * chain.stretch)


@pytest.mark.parametrize(
    ("length", "stretch", "places"), [(5, 1.2, 6), (10, 1.2, 12), (1, 0.3, 1), (3, 2.5, 8)]
)
def test_an_encoding_has_a_place_for_each_expected_symbol(length, stretch, places):
    chain = small(source=4, stretch=stretch)
    assert chain.encode(torch.ones(1, length, dtype=torch.long)).shape[1] == places


# ---- a language model of texts of any length -----------------------------------------------------------------------


@UNITS
@torch.no_grad()
def test_a_score_does_not_depend_on_how_a_text_is_cut(units):
    chain = small(units=units)
    x = events(chain, (60,), 2)
    whole, _ = chain._run(torch.cat([torch.full((2, 1), 4), x[:, :-1]], 1), None, None)
    for size in (1, 5, 7, 60):
        parts = torch.cat(list(chain.stretches(x, None, size)), 1)
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-10)


@UNITS
@torch.no_grad()
def test_where_a_text_begins_nothing_is_seen_of_the_last_one(units):
    """A stream of several texts, cut anywhere, has the loss of each text by itself."""
    chain = small(units=units)
    texts = [events(chain, (n,), 1, seed=n)[0] for n in (3, 1, 17, 9, 2, 8)]
    x = torch.cat(texts)
    before = torch.cat([torch.cat([torch.tensor([-1]), text[:-1]]) for text in texts])
    alone = -torch.cat([chain.log_probs(text[None])[0] for text in texts]).mean()
    for size in (1, 4, 13, len(x)):
        state, total = chain.rest(1), 0.0
        for part, what in zip(x.split(size), before.split(size), strict=True):
            loss, state = chain.loss_from(state, part[None], what[None])
            total += float(loss) * len(part)
        assert total / len(x) == pytest.approx(float(alone), rel=1e-6)


def test_a_mixed_training_learns():
    """In the short type of processors that have it, elsewhere in single precision: the loss falls."""
    torch.manual_seed(0)
    chain = ByteNet(symbols=4, source=4, **ByteNet.SIZES["tiny"])
    x, context = events(chain, EVENT, 8), sources(chain, 8)
    plan = Plan(minutes=10, lr=0.02, warmup=5, bfloat16=True, muon=True, compile=False)
    losses = [training.loss for training in islice(Training(chain, lambda step: (x, context), plan), 60)]
    assert losses[-1] < 0.5 * losses[0]


# ---- the constructor -------------------------------------------------------------------------------------------


def test_paper_has_thirty_blocks_either_way_and_sees_373_symbols():
    with torch.device("meta"):
        chain = ByteNet(256, **ByteNet.SIZES["paper"])
        both = ByteNet(256, source=256, **{**ByteNet.SIZES["paper"], "width": 800, "units": "relu"})
    assert (len(chain.decoder), len(chain.encoder_blocks), chain.reach) == (30, 0, 373)
    assert (len(both.decoder), len(both.encoder_blocks), both.embed.weight.shape[1]) == (30, 30, 1600)
    assert all(block.conv.linear.weight.shape == (4 * 512, 3 * 512) for block in chain.decoder)


def test_data_say_whether_there_is_a_source():
    x = np.zeros((2, 3), np.uint8)
    assert ByteNet.configure(Dataset(x, 9, "text")) == {"symbols": 9, "classes": 0}
    paired = Dataset(x, 9, "text", sources=[np.zeros(1, np.uint8)] * 2)
    assert ByteNet.configure(paired) == {"symbols": 9, "source": 9, "dropout": 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": "gelu"}, "units is 'gelu': choose from relu, multiplicative"),
        ({"dilations": []}, "dilations is []: take a list of numbers"),
        ({"dilations": [1, 2.5]}, "dilations is [1, 2.5]: take a list of numbers"),
        ({"dilations": [2, 0]}, "dilations is 0: take 1 or more"),
        ({"source": 4, "classes": 2}, "source is 4, classes 2: "),
        ({"source": -1}, "source is -1"),
        ({"source": 4, "kernel": 2}, "a kernel of 2 has no centre"),
        ({"stretch": 0.0, "source": 4}, "stretch is 0.0: take more than 0"),
        ({"stretch": math.inf, "source": 4}, "stretch is inf"),
        ({"width": 0}, "width is 0: take 1 or more"),
    ],
)
def test_networks_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(ChainruleError) as error:
        ByteNet(4, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "the model needs a source text for each item, (B, S): nothing was given"),
        (torch.zeros(2, dtype=torch.long), "an array of shape (2,) was given"),
        (torch.full((2, 3), 4), "the sources have symbols 4 to 4, the model knows 0 to 3"),
        (torch.full((2, 3), -2), "the sources have symbols -2 to -2"),
    ],
)
def test_sources_that_cannot_be_are_refused_in_one_line(context, message):
    chain = store.build("bytenet", {**ByteNet.SIZES["tiny"], "symbols": 4, "source": 4}, CHAINS)
    with pytest.raises(ChainruleError) as error:
        chain.logits(torch.zeros(2, 5, dtype=torch.long), context)
    assert message in str(error.value)
