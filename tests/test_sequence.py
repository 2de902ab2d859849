"""LSTMs along a sequence are the equations of their papers, however they are cut, mixed or differentiated."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.mlstm import MultiplicativeLSTM
from chainrule.layers import carried, sequence
from contracts import randomised

NAMES = ["char-lstm", "mlstm"]
TIME, BATCH, SYMBOLS = 11, 3, 5


def small(name, classes=2, **settings):
    """A chain in float64 with random weights."""
    cls = store.resolve(name, CHAINS)
    return randomised(cls(SYMBOLS, width=7, embed=3, classes=classes, **settings), (TIME,))


def drawn(classes=2, length=TIME):
    """Events (B, T) and a class for each."""
    g = torch.Generator().manual_seed(4)
    x = torch.randint(SYMBOLS, (BATCH, length), generator=g)
    return x, torch.arange(BATCH) % classes if classes else None


def column_by_column(normed):
    """The matrix g v / ‖v‖ of a `Normalised`."""
    columns = zip(normed.v.T, normed.g[0], strict=True)
    return torch.stack([g * v / v.square().sum().sqrt() for v, g in columns], 1)


def equations(chain, x, context):
    """The logits (B, T, K) of Krause et al. 2016 by a plain loop over the symbols of one event after another."""
    w_x, w_mx, w_m, w_mh = (column_by_column(n) for n in (chain.x, chain.mx, chain.m, chain.mh))
    found = torch.zeros(*x.shape, chain.symbols, dtype=torch.float64)
    for b in range(len(x)):
        h = c = torch.zeros(chain.width, dtype=torch.float64)
        before = chain.symbols
        for t in range(x.shape[1]):
            z = chain.embed.weight[before]
            if context is not None:
                z = z + chain.condition.weight[context[b]]
            m = (z @ w_mx) * (h @ w_mh)
            i, f, g, o = (z @ w_x + m @ w_m + chain.bias).reshape(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found[b, t] = chain.out.weight @ h + chain.out.bias
            before = int(x[b, t])
    return found


@pytest.mark.parametrize("classes", [0, 2])
@torch.no_grad()
def test_the_multiplicative_lstm_is_that_of_the_equations(classes):
    chain, (x, context) = small("mlstm", classes), drawn(classes)
    np.testing.assert_allclose(chain.logits(x, context), equations(chain, x, context), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("embed", [3, 0])
@torch.no_grad()
def test_the_character_lstm_is_that_of_pytorch(classes, embed):
    chain, (x, context) = (
        randomised(CharLSTM(SYMBOLS, 7, 2, classes=classes, embed=embed), (TIME,)),
        drawn(classes),
    )
    before = carried.before_each(x, SYMBOLS)
    z = chain.embed(before) if embed else F.one_hot(before, SYMBOLS + 1).double()
    z = z if context is None else z + chain.condition(context)[:, None]
    wanted = chain.out(chain.lstm(z)[0])
    np.testing.assert_allclose(chain.logits(x, context), wanted, rtol=1e-10, atol=1e-10)


def test_the_multiplicative_lstm_at_paper_size_has_4096_units():
    """Radford et al. 2017 and their released weights: 64-d vectors, weight norm on four matrices, none at the end."""
    with torch.device("meta"):
        chain = store.build("mlstm", {"symbols": 256, **MultiplicativeLSTM.SIZES["paper"]}, CHAINS)
    h, d, k = 4096, 64, 256
    matrices, lengths, bias = (d + h) * 4 * h + (d + h) * h, 2 * (4 * h) + 2 * h, 4 * h
    nothing_yet = d  # a vector more: theirs begins every text with a line break
    total = sum(p.numel() for p in chain.parameters())
    assert total == k * d + matrices + lengths + bias + k * (h + 1) + nothing_yet


# ---- states -----------------------------------------------------------------------------------------------


def stream(classes=2, length=TIME):
    """Symbols, what came before each (events begin inside the rows), and a class for each symbol."""
    x, _ = drawn(classes, length)
    before = carried.before_each(x, -1)
    before[1, 5] = before[2, 3] = before[2, 8] = -1
    return x, before, torch.arange(BATCH * length).reshape(BATCH, length) % classes if classes else None


def pieces(x, before):
    """The events of a stream: (row, first, end) of each."""
    for row in range(len(x)):
        cuts = [*np.nonzero(before[row].numpy() < 0)[0].tolist(), x.shape[1]]
        yield from ((row, a, b) for a, b in pairwise(cuts))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_loss_of_a_stream_is_that_of_its_events(name):
    chain, (x, before, _) = small(name, classes=0), stream(0)
    nats = sum(float(-chain.log_prob(x[row : row + 1, a:b])) for row, a, b in pieces(x, before))
    loss, _ = chain.loss_from(chain.rest(BATCH), x, before)
    np.testing.assert_allclose(float(loss) * x.numel(), nats, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [1, 4, 5])
@torch.no_grad()
def test_a_stream_goes_on_where_it_was_cut(name, cut):
    chain, (x, before, context) = small(name), stream()
    whole, end = chain.loss_from(chain.rest(BATCH), x, before, context)
    first, state = chain.loss_from(chain.rest(BATCH), x[:, :cut], before[:, :cut], context[:, :cut])
    second, last = chain.loss_from(state, x[:, cut:], before[:, cut:], context[:, cut:])
    assert float(abs(state).max()) > 0
    np.testing.assert_allclose(cut * first + (TIME - cut) * second, TIME * whole, rtol=1e-12)
    np.testing.assert_allclose(last, end, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_long_text_is_scored_in_bounded_pieces(name, monkeypatch):
    chain, (x, context) = small(name), drawn(length=103)
    whole, sizes, run = chain.log_probs(x, context), [], type(chain)._run

    def watched(self, inputs, *more, **named):
        sizes.append(inputs.numel())
        return run(self, inputs, *more, **named)

    monkeypatch.setattr(carried, "CHUNK", 10)
    monkeypatch.setattr(type(chain), "_run", watched)
    np.testing.assert_allclose(chain.log_probs(x, context), whole, rtol=1e-12)
    assert max(sizes) <= 10
    assert sum(sizes) == x.numel()


# ---- gradients --------------------------------------------------------------------------------------------


def recorded(inputs, factors, weight, mix, state, kept, index, mask):
    """The recurrence as PyTorch's autograd differentiates it."""
    c, h = state
    hidden = []
    for t in range(len(kept)):
        c, h = c * kept[t], h * kept[t] * mask
        if mix is not None:
            h = (factors[t] if index is None else factors[index[t]]) * (h @ mix)
        i, f, g, o = ((inputs[t] if index is None else inputs[index[t]]) + h @ weight).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.stack(hidden), torch.stack([c, h])


@pytest.mark.parametrize("multiplicative", [False, True])
@pytest.mark.parametrize("table", [False, True])
def test_the_gradient_that_is_written_out_is_that_of_autograd(multiplicative, table):
    g, h = torch.Generator().manual_seed(1), 4

    def random(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True)

    lead = (SYMBOLS,) if table else (TIME, BATCH)
    inputs, weight, state = random(*lead, 4 * h), random(h, 4 * h), random(2, BATCH, h)
    factors, mix = (random(*lead, h), random(h, h)) if multiplicative else (None, None)
    index = torch.randint(SYMBOLS, (TIME, BATCH), generator=g) if table else None
    kept = (torch.rand(TIME, BATCH, 1, generator=g) < 0.7).double()
    mask = 2 * (torch.rand(BATCH, h, generator=g) < 0.5).double()
    parts = (inputs, factors, weight, mix, state, kept, index, mask)
    learned = [p for p in parts if p is not None and p.requires_grad]
    weights = [
        random(TIME, BATCH, h).detach(),
        random(2, BATCH, h).detach(),
    ]  # of every number of the results
    found, wanted = (
        torch.autograd.grad(sum((w * r).sum() for w, r in zip(weights, run(*parts), strict=True)), learned)
        for run in (sequence.over_time, recorded)
    )
    for one, other in zip(found, wanted, strict=True):
        assert float(abs(other).max()) > 0
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_training_has_nearly_the_same_gradient_and_states_in_single_precision(name):
    chain = store.build(name, {"symbols": SYMBOLS, "width": 32, "embed": 16}, CHAINS)
    x, before, _ = stream(0, 40)
    gradients = []
    for mixed in (False, True):
        model = copy.deepcopy(chain)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, state = model.loss_from(model.rest(BATCH), x, before)
        loss.backward()
        assert loss.dtype == state.dtype == torch.float32
        gradients.append(nn.utils.parameters_to_vector([p.grad for p in model.parameters()]))
    exact, near = gradients
    assert 1e-6 < float((near - exact).norm() / exact.norm()) < 0.02


def test_a_masked_recurrence_is_that_of_other_weights():
    g = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    h, mask = 4, torch.tensor([[0.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    gates, factors, w, m, state = (
        random(*shape) for shape in ((5, 1, 4 * h), (5, 1, h), (h, 4 * h), (h, h), (2, 1, h))
    )
    found, _ = sequence.multiplicative_lstm(gates, factors, w, m, state, mask=mask)
    torch.testing.assert_close(found, sequence.multiplicative_lstm(gates, factors, w, mask.T * m, state)[0])
    found, _ = sequence.lstm(gates, w, state, mask=mask)
    torch.testing.assert_close(found, sequence.lstm(gates, mask.T * w, state)[0])


def test_dropout_of_the_recurrence_is_for_training_and_the_same_all_along_a_window(monkeypatch):
    chain, (x, context) = small("mlstm", recurrent_dropout=0.5), drawn()
    seen = []
    run = sequence.over_time
    monkeypatch.setattr(sequence, "over_time", lambda *parts: (seen.append(parts[-1]), run(*parts))[1])
    plain = chain.logits(x, context)
    assert torch.equal(plain, chain.logits(x, context))
    assert seen == [None, None]
    chain.train()
    assert not torch.equal(plain, chain.logits(x, context))
    assert seen[-1].shape == (BATCH, 7)
    assert set(seen[-1].unique().tolist()) == {0.0, 2.0}
