"""Sequence to sequence is the equations of the paper, its source read backwards; and a language model without one."""

import numpy as np
import pytest
import torch

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains.seq2seq import Seq2Seq
from chainrule.data import Dataset
from chainrule.engine import encoder_of, program_of
from chainrule.errors import ChainruleError
from chainrule.model import CARRIED
from chainrule.verbs.walk import encodings
from contracts import (
    check_engine,
    check_gradients,
    check_sourced_items,
    check_sourced_ragged,
    check_sourced_reach,
    check_walk,
    events,
    randomised,
    sources,
)

EVENT = (9,)


def small(source=4, **more):
    """A chain in float64 with random weights."""
    return randomised(Seq2Seq(symbols=3, **{**Seq2Seq.SIZES["tiny"], "source": source, **more}), EVENT)


def read_on(stack, state, vector):
    """The state [(c, h), ...] of each layer after one more vector (Graves 2013, equations 7 to 11, no peepholes)."""
    after = []
    for (c, h), (w_x, w_h, b_x, b_h) in zip(state, stack.all_weights, strict=True):
        i, f, g, o = (w_x @ vector + w_h @ h + b_x + b_h).reshape(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        vector = h
        after.append((c, h))
    return after


def equations(chain, target, source):
    """The logits (T, K) of Sutskever et al. 2014, equation 1, by a plain loop over symbols; lists of numbers."""
    state = [(torch.zeros(chain.width, dtype=torch.float64),) * 2] * chain.writer.num_layers
    for symbol in reversed(source):
        state = read_on(chain.reader, state, chain.sources.weight[symbol])
    logits, before = [], chain.symbols
    for symbol in target:
        state = read_on(chain.writer, state, chain.embed.weight[before])
        logits.append(chain.out.weight @ state[-1][1] + chain.out.bias)
        before = symbol
    return torch.stack(logits)


@pytest.mark.parametrize("layers", [1, 2, 4])
@torch.no_grad()
def test_logits_are_those_of_the_equations(layers):
    chain = small(layers=layers)
    x, context = events(chain, EVENT, 8), sources(chain, 8)
    for target, source, found in zip(x, context, chain.logits(x, context), strict=True):
        wanted = equations(chain, target.tolist(), source[source >= 0].tolist())
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_state_after_an_empty_source_is_that_before_any_symbol():
    chain = small()
    for context in (torch.zeros(2, 0, dtype=torch.long), torch.full((2, 3), -1)):
        assert torch.equal(chain.encode(context), chain.rest(2))
        assert not encodings(chain, context, 4).any()


@torch.no_grad()
def test_what_fills_a_source_up_leaves_no_bit(monkeypatch):
    """Whatever symbol stands beyond the end: it is read before the last one, and forgotten."""
    chain, context, x = small(), sources(small(), 7), events(small(), EVENT, 7)
    state, logits, encoded, places = chain.encode(context), chain.logits(x, context), [], Seq2Seq._places
    for symbol in range(chain.source):

        def filled(self, context, symbol=symbol):
            symbols, begins, full = places(self, context)
            return symbols.masked_fill(context < 0, symbol), begins, full

        monkeypatch.setattr(Seq2Seq, "_places", filled)
        assert torch.equal(chain.encode(context), state)
        assert torch.equal(chain.logits(x, context), logits)
        encoded.append(encodings(chain, context, 4))
    assert all((found == encoded[0]).all() for found in encoded)


@torch.no_grad()
def test_the_encoding_is_the_state_at_the_first_place_and_nothing_beyond():
    chain, context = small(), sources(small(), 7)
    found = encodings(chain, context, 4)
    assert found.shape == (7, 4, chain.features) == (7, 4, 2 * 2 * chain.width)
    wanted = chain.encode(context).permute(2, 0, 1, 3).flatten(1)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-9, atol=1e-12)
    assert not found[:, 1:].any()


@torch.no_grad()
def test_a_source_is_read_backwards():
    """The first symbol of a source is the last one that is read: then the state still forgets all else."""
    chain = small(layers=1)
    w = chain.width
    chain.reader.bias_ih_l0[w : 2 * w] = -1e9  # σ(f) = 0: the cells keep nothing
    chain.reader.weight_hh_l0.zero_()
    context = torch.tensor([[0, 1, 2], [0, 3, 3], [1, 1, 2]])
    one, same, other = chain.encode(context)[0, 0]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("width", [1, 17])
def test_contracts_hold_for_other_layers(layers, width):
    chain = small(layers=layers, width=width)
    check_sourced_ragged(chain, EVENT)
    check_sourced_items(chain, EVENT, training=True)
    check_gradients(chain, EVENT)
    check_walk(chain, EVENT)
    check_engine(chain, EVENT)
    if width > 1:
        check_sourced_reach(chain, EVENT)


def test_dropout_is_for_training_and_reaches_the_reader_too():
    chain = small(layers=2, dropout=0.5)
    context = sources(chain, 3)
    assert torch.equal(chain.encode(context), chain.encode(context))
    chain.train()
    assert not torch.equal(chain.encode(context), chain.encode(context))


def test_a_mixed_training_has_nearly_the_same_gradient():
    chain = Seq2Seq(symbols=5, source=4, width=32, embed=16)
    x, context = events(chain, (20,), 6), sources(chain, 6)
    x[3, 11:] = -1
    gradients = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = chain.loss(x, context)
        assert loss.dtype == torch.float32
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*chain.parameters()])]))
    exact, near = gradients
    assert 1e-6 < float((near - exact).norm() / exact.norm()) < 0.02


# ---- sizes, data, programs --------------------------------------------------------------------------------------


def test_at_paper_size_it_has_384_million_parameters_of_which_64_are_recurrent():
    """Section 3.4: 4 layers of 1000 cells, 1000 numbers a word, 160,000 words of the source, 80,000 of the target."""
    with torch.device("meta"):
        chain = Seq2Seq(symbols=80_000, source=160_000, **Seq2Seq.SIZES["paper"])
    matrices = {name: p.numel() for name, p in chain.named_parameters() if p.ndim == 2}
    nothing_yet = 1000  # a vector more: in the paper the end of the source begins the target
    assert sum(matrices.values()) - nothing_yet == 384_000_000
    for stack in ("reader", "writer"):
        assert sum(n for name, n in matrices.items() if name.startswith(stack)) == 32_000_000


def test_data_say_what_it_is_conditioned_on():
    lines = [np.array([1, 0]), np.array([2, 2, 0])]
    pairs = Dataset(lines, levels=3, kind="text", sources=lines)
    assert Seq2Seq.configure(pairs) == {"symbols": 3, "source": 3, "dropout": 0.1}
    texts = Dataset(lines, levels=3, kind="text", context=np.array([0, 1]), classes=("a", "b"))
    assert Seq2Seq.configure(texts) == {"symbols": 3, "classes": 2}


def test_its_context_rule_names_the_source():
    assert small().context_rule() == f"{CARRIED}, and the source text"
    assert small(source=0).context_rule() == CARRIED


def test_without_a_source_it_is_a_character_lstm():
    chain = small(source=0, layers=2)
    args = {"width": chain.width, "layers": 2, "embed": chain.args["embed"]}
    other = store.build("char-lstm", {"symbols": 3, **args}, CHAINS).double()
    names = {"embed.weight": "embed.weight", "out.weight": "out.weight", "out.bias": "out.bias"}
    names |= {f"writer.{name}": f"lstm.{name}" for name, _ in chain.writer.named_parameters()}
    other.load_state_dict({names[name]: weights for name, weights in chain.state_dict().items()})
    x = events(chain, EVENT, 3)
    assert torch.equal(chain.logits(x), other.logits(x))
    assert str(program_of(chain)) == str(program_of(other))


def test_its_programs_read_once_and_then_only_add():
    """The program that writes knows no table of source symbols; the one that reads goes back, place by place."""
    chain = Seq2Seq(symbols=3, source=4, **Seq2Seq.SIZES["tiny"])
    reads, writes = encoder_of(chain, chain.args["embed"] + 2), program_of(chain)
    recurrent = 2 * chain.reader.num_layers
    assert [op.kind for op in reads.sections["back"]].count("cell") == chain.reader.num_layers
    assert not writes.sections["back"]
    assert [op.kind for op in writes.ops].count("add") == recurrent + 1
    held = {w.shape for w in writes.weights.values()}
    assert (4, chain.args["embed"]) not in held


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed": 0}, "embed is 0: take 1 or more"),
        ({"layers": 0}, "layers is 0: take 1 or more"),
        ({"source": -1}, "source is -1, classes 0"),
        ({"source": 2, "classes": 2}, "source is 2, classes 2: take 0 or more, and one of them"),
    ],
)
def test_models_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ChainruleError, match=message):
        Seq2Seq(**settings)
