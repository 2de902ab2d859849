"""Deep autoencoders: unrolled machines are the network before it is fine-tuned, and what fine-tuning makes of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.func import functional_call

from chainrule.codes.deep_autoencoder import DeepAutoencoder, Machines, as_tanh, hidden_means, unroll
from chainrule.codes.pca import PCA
from chainrule.errors import ChainruleError
from chainrule.layers.boltzmann import Boltzmann
from chainrule.layers.coder import ACTIVATIONS, Coder, Denoiser, Span, dense, downwards, upwards, way_back
from chainrule.layers.corruption import Masking
from chainrule.layers.units import Bernoulli, Gaussian
from chainrule.stages import Stage, Stages
from chainrule.train import Plan

WIDTHS = (7, 5, 4, 3)
NAMES = "encoder", "encoder_bias", "decoder", "decoder_bias"
both_outputs = pytest.mark.parametrize("output", [Bernoulli(), Gaussian()], ids=["bernoulli", "gaussian"])
both_units = pytest.mark.parametrize("units", ["sigmoid", "tanh"])


def rows(n=60, d=7, seed=0):
    return np.random.default_rng(seed).random((n, d)) @ np.random.default_rng(1).random((d, d))


def stack(output, widths=WIDTHS):
    """Machines in double precision with weights and biases that are not small; real units at the top."""
    g, found = torch.Generator().manual_seed(0), []
    for i, (d, K) in enumerate(pairwise(widths)):
        w, b, c = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((d, K), (d,), (K,)))
        visible = Bernoulli() if i else output
        hidden = Gaussian() if i == len(widths) - 2 else Bernoulli()
        machine = Boltzmann(w, visible, hidden, b).requires_grad_(False)
        machine.hidden_bias.copy_(c)
        found.append(machine)
    return found


def up_and_down(machines, v):
    """(codes, reconstructions): v through the mean units of all machines, and back through those below them."""
    for machine in machines:
        v = machine.hidden.mean(v @ machine.weights + machine.hidden_bias)
    codes = v
    for machine in reversed(machines):
        v = machine.visible.mean(v @ machine.weights.T + machine.visible_bias)
    return codes, v


def network(output, units, widths=WIDTHS):
    """A network in double precision whose input has a mean that is far from 0."""
    x = rows(d=widths[0]) + 3
    span = Span(x, *output.scaling(x))
    names = [*[units] * (len(widths) - 2), "linear"]
    return Denoiser(Coder(dense(widths), names, output, False, 5), span).double(), span.seen(x).double()


@both_units
@both_outputs
@pytest.mark.parametrize("widths", [WIDTHS, (7, 4, 2), (7, 3)], ids=str)
def test_the_unrolled_network_is_the_way_up_and_down_through_the_machines(output, units, widths):
    machines = stack(output, widths)
    model, seen = network(output, units, widths)
    unroll(model, machines)
    codes, back = up_and_down(machines, seen)
    h = model.coder.encode(seen - model.span.centre)
    torch.testing.assert_close(h.detach(), codes, rtol=1e-11, atol=1e-11)
    found = output.mean(model.coder.decode(h)).detach()
    torch.testing.assert_close(found, back, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(hidden_means(seen, machines), codes, rtol=1e-12, atol=1e-12)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_network_of_tanh_is_the_same_function_as_one_of_sigmoids(widths, seed):
    g, maps = torch.Generator().manual_seed(seed), dense(widths)
    weights, biases = (
        [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
        for shapes in ([m.up_shape for m in maps], [m.up_bias for m in maps])
    )
    x = torch.randn(4, widths[0], generator=g, dtype=torch.float64)
    sigmoids = upwards(x, maps, weights, biases, [*["sigmoid"] * (len(maps) - 1), "linear"])
    as_tanh(weights, biases)
    tanhs = upwards(x, maps, weights, biases, [*["tanh"] * (len(maps) - 1), "linear"])
    torch.testing.assert_close(tanhs, sigmoids, rtol=1e-12, atol=1e-12)


@both_units
@both_outputs
def test_fine_tuning_begins_with_the_machines_that_were_pretrained(output, units):
    x = rows()
    code = DeepAutoencoder((5, 4, 3), units, Machines(batch=20), output)
    learner = code.learner(x, Plan(steps=40))
    for _ in learner:
        pass
    assert [type(m) for m in learner.models] == [Boltzmann] * 3
    begun = learner.stages[-1].begin(Plan(steps=0), learner.models)
    (seen,) = begun.batch_at(0)
    with torch.no_grad():
        codes, back = up_and_down(learner.models, seen)
        h = begun.model.coder.encode(seen - begun.model.span.centre)
        torch.testing.assert_close(h, codes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.mean(begun.model.coder.decode(h)), back, rtol=1e-4, atol=1e-5)
    assert not torch.equal(begun.model.coder.encoder[0], learner.training.model.coder.encoder[0])
    code.learned(learner)
    assert code.n_steps_ == learner.step == 40
    h = learner.training.model.encode(seen).numpy()
    np.testing.assert_allclose(code.transform(x), h, rtol=1e-4, atol=1e-4)


def test_each_machine_learns_from_the_mean_hidden_units_of_those_below():
    x = rows()
    code = DeepAutoencoder((5, 4, 3), "sigmoid", Machines(batch=20))
    learner = code.learner(x, Plan(steps=40))
    for _ in learner:
        pass
    v = (x - code.shift_) / code.scale_
    for i, machine in enumerate(learner.models):
        begun = learner.stages[i].begin(Plan(steps=0), learner.models[:i])
        np.testing.assert_allclose(begun.batch_at.x, v, atol=1e-6)
        assert isinstance(machine.visible, Bernoulli)
        assert isinstance(machine.hidden, Gaussian if i == 2 else Bernoulli)
        v = (
            torch.sigmoid(torch.from_numpy(v).float() @ machine.weights + machine.hidden_bias)
            .detach()
            .numpy()
        )


def test_machines_stay_as_they_were_while_the_network_is_fine_tuned():
    learner = DeepAutoencoder((5, 3), "tanh", Machines(batch=20)).learner(rows(), Plan(steps=40))
    kept = None
    for state in learner:
        if kept is None and state.stage == 3:
            kept = [{k: v.clone() for k, v in m.state_dict().items()} for m in state.models]
    for before, machine in zip(kept, learner.models, strict=True):
        assert all(torch.equal(v, before[k]) for k, v in machine.state_dict().items())


@both_outputs
@pytest.mark.parametrize("units", ACTIVATIONS)
def test_gradients_reach_every_parameter_and_are_the_slopes_of_the_loss(units, output):
    model, seen = network(output, units)
    coder, seen = model.coder, seen[:4]
    for i, bias in enumerate((*coder.encoder_bias, *coder.decoder_bias)):
        bias.data += torch.linspace(0.1, 0.4, len(bias)) * (-1) ** i
    names = [name for name, _ in coder.named_parameters()]

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.coder = coder

        def forward(self, x):
            return output.loss(coder.decode(coder.encode(x - model.span.centre)), x)

    def loss(*values):
        named = {f"coder.{k}": v for k, v in zip(names, values, strict=True)}
        return functional_call(Whole(), named, (seen,))

    values = tuple(p.detach().clone().requires_grad_() for p in coder.parameters())
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-7)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss(*values), values))


# ---- on digits -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """(1,400 digits to learn from, 397 that are held out), rows of 0..1."""
    x = (load_digits().data / 16).astype(np.float32)
    x = x[np.random.default_rng(0).permutation(len(x))]
    return x[:1400], x[1400:]


def error(code, x):
    return float(np.square(code.inverse_transform(code.transform(x)) - x).sum(1).mean())


@pytest.mark.parametrize("pretraining", [Machines(0.3), None], ids=["pretrained", "direct"])
def test_it_reconstructs_new_digits_better_than_pca_of_as_many_numbers(digits, pretraining):
    learn, held = digits
    units = "tanh" if pretraining else "gelu"
    code = DeepAutoencoder((128, 64, 4), units, pretraining, weight_decay=0.01, learning_rate=0.01)
    learner = code.learner(learn, Plan(steps=1600 if pretraining else 600))
    for _ in learner:
        pass
    code.learned(learner)
    assert error(code, held) < 0.85 * error(PCA(4).fit(learn), held)


def test_one_batch_can_be_overfitted():
    x = np.random.default_rng(0).integers(0, 2, size=(6, 10)).astype(float)
    code = DeepAutoencoder((32, 16, 8), learning_rate=0.01, weight_decay=0.0)
    learner = code.learner(x, Plan(steps=400))
    for _ in learner:
        pass
    code.learned(learner)
    np.testing.assert_allclose(code.inverse_transform(code.transform(x)), x, atol=0.1)


@both_units
def test_single_precision_agrees_with_double_and_the_formula_with_both(units):
    x = rows()
    code = DeepAutoencoder((5, 3), units, Machines(), epochs=5, batch=20).fit(x)
    g, maps = ACTIVATIONS[units].g, dense([7, 5, 3])
    seen = torch.from_numpy((x - code.shift_) / code.scale_)
    arrays = [[torch.from_numpy(a).double() for a in getattr(code, f"{name}_")] for name in NAMES]
    first = g(seen @ arrays[0][0] + arrays[1][0])
    codes = (first @ arrays[0][1] + arrays[1][1]).numpy()
    np.testing.assert_allclose(code.transform(x), codes, rtol=1e-9, atol=1e-9)
    a = downwards(torch.from_numpy(codes), maps, *arrays[2:], way_back([units, "linear"]))
    expected = torch.sigmoid(a).numpy() * code.scale_ + code.shift_
    np.testing.assert_allclose(code.inverse_transform(codes), expected, rtol=1e-9)
    single = code.transform(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, codes, atol=1e-5 * max(1, np.abs(codes).max()))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    x = rows(150)
    args = {
        "units": "tanh",
        "pretraining": Machines(batch=20),
        "corruption": Masking(),
        "batch": 50,
        "epochs": 8,
    }
    one, same, other = (DeepAutoencoder((5, 3), random_state=s, **args).fit(x).arrays() for s in (0, 0, 1))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    for name in ("encoder_.0", "encoder_.1", "decoder_.0", "decoder_.1"):
        assert (one[name] != other[name]).all()


# ---- budgets -------------------------------------------------------------------------------------------------


def stages_of(shares, plan):
    return Stages([Stage(share, lambda plan, models: None) for share in shares], plan)


shares = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7)


@given(shares, st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_steps_of_all_stages_sum_to_the_whole_and_each_has_its_share(shares, steps):
    stages, before = stages_of(shares, Plan(steps=steps)), 0
    for i, share in enumerate(shares):
        own = stages.budget(i, (before, 0.0))
        assert own.minutes is None
        assert own.steps >= 0
        assert abs(own.steps - steps * share / sum(shares)) <= 1 + 1e-6
        before += own.steps
    assert before == steps


@given(shares, st.just(0.0) | st.floats(1e-3, 1e4))
@settings(max_examples=200, deadline=None)
def test_the_minutes_of_all_stages_sum_to_the_whole_and_each_has_its_share(shares, minutes):
    stages, seconds = stages_of(shares, Plan(minutes=minutes)), 0.0
    for i, share in enumerate(shares):
        own = stages.budget(i, (0, seconds))
        assert own.steps is None
        assert own.minutes == pytest.approx(minutes * share / sum(shares), rel=1e-6, abs=1e-9 * minutes)
        seconds += 60 * own.minutes
    assert seconds == pytest.approx(60 * minutes)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 30)), min_size=2, max_size=6), st.floats(1, 100))
@settings(max_examples=100, deadline=None)
def test_what_a_stage_takes_too_long_is_missing_to_the_next_and_not_added(spent, minutes):
    shares, seconds, late = [share for share, _ in spent], 0.0, [0.0]
    stages = stages_of(shares, Plan(minutes=minutes))
    for i, (_, more) in enumerate(spent):
        own = stages.budget(i, (0, seconds))
        assert own.minutes >= 0
        end = 60 * minutes * sum(shares[: i + 1]) / sum(shares)
        assert max(seconds, end) == pytest.approx(seconds + 60 * own.minutes)
        seconds += 60 * own.minutes + more
        late.append(more)
    assert seconds <= 60 * minutes + sum(late) + 1e-6


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 40])
def test_pretraining_has_its_share_of_the_steps(steps):
    code = DeepAutoencoder((5, 4, 3), "tanh", Machines(share=0.3, batch=20))
    learner = code.learner(rows(), Plan(steps=steps))
    before = 0
    for state in learner:
        before += state.stage < 4
    assert learner.step == steps
    assert learner.stage == 4
    assert before == round(0.3 * steps)
    assert code.learned(learner).n_steps_ == steps
    assert code.transform(rows()).shape == (60, 3)


def test_epochs_are_all_of_the_training():
    x = rows()
    assert DeepAutoencoder((5, 3), "tanh", Machines(), epochs=7, batch=25).fit(x).n_steps_ == 7 * 3


# ---- awkward data --------------------------------------------------------------------------------------------


@both_outputs
@pytest.mark.parametrize("pretraining", [Machines(), None], ids=["pretrained", "direct"])
@pytest.mark.parametrize(
    "x",
    [np.full((30, 5), 7.1), np.zeros((30, 5)), np.ones((1, 5)), np.eye(2)[[0] * 40 + [1]] * 1e6, rows(20, 1)],
    ids=["constant", "zero", "one", "outlier", "narrow"],
)
def test_nothing_becomes_nan(x, pretraining, output):
    code = DeepAutoencoder((6, 3), "tanh", pretraining, output)
    learner = code.learner(x, Plan(steps=20))
    assert np.isfinite([state.loss for state in learner]).all()
    code.learned(learner)
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    assert np.isfinite(code.inverse_transform(code.transform(x))).all()


REFUSED = [
    (
        {"units": "relu", "pretraining": Machines()},
        "units is 'relu': hidden units of pretrained machines are binary",
    ),
    (
        {"pretraining": Machines(share=0.0), "units": "tanh"},
        "share is 0.0: take a part of the budget between 0 and 1",
    ),
    ({"pretraining": Machines(share=1.0), "units": "tanh"}, "share is 1.0"),
    ({"pretraining": Machines(gibbs=0), "units": "tanh"}, "gibbs is 0: take 1 or more"),
    ({"pretraining": Machines(rate=-1.0), "units": "tanh"}, "rate is -1.0: take 0 or more"),
    ({"pretraining": Masking()}, "pretraining is Masking.*: take one of Machines"),
    (
        {"layers": (3,), "units": "tanh", "pretraining": Machines(), "output": Gaussian()},
        "one layer of linear units under Gaussian output is PCA: there is nothing to pretrain",
    ),
    ({"layers": ()}, r"layers is \(\): take the width of every layer"),
    ({"epochs": 0}, "epochs is 0: take 1 or more"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(args, message):
    with pytest.raises(ChainruleError, match=message) as refused:
        DeepAutoencoder(**{"layers": (4, 3), **args}).fit(rows(20))
    assert len(str(refused.value).splitlines()) == 1
