"""Predictive sparse decomposition: inference that never goes up, unit atoms, codes that are predicted."""

import json
from itertools import pairwise

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.codes.predictive import PredictiveSparseDecomposition, infer
from chainrule.errors import ChainruleError
from chainrule.layers.amortisation import objective
from chainrule.layers.atoms import random_atoms
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.train import Plan

exact_codes = CoordinateDescent()


def sparse_rows(n=500, d=10, atoms=16, seed=0):
    """Rows that are made of two of `atoms` unit atoms each, of both signs, and a little noise."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, atoms))
    for code in codes:
        code[rng.choice(atoms, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(1, 3, 2)
    return codes @ random_atoms(atoms, d, 7).numpy() + 0.02 * rng.normal(size=(n, d)) - 2.0


def decomposition(**args):
    return PredictiveSparseDecomposition(**{"n_components": 16, "batch": 64, "learning_rate": 0.01, **args})


def trained(code, x, steps):
    learner = code.learner(x, Plan(steps=steps))
    losses = [state.loss for state in learner]
    return code.learned(learner), losses


def problem(n, d, count, seed):
    rng = np.random.default_rng(seed)
    atoms = random_atoms(count, d, seed).double()
    return torch.from_numpy(3 * rng.normal(size=(n, d))), atoms, torch.from_numpy(rng.normal(size=(n, count)))


def energies(x, atoms, z, predicted, penalty, alpha):
    """½‖x − zD‖² + penalty ‖z‖₁ + ½α‖z − predicted‖² by numpy, (n,)."""
    x, atoms, z, predicted = (a.numpy() for a in (x, atoms, z, predicted))
    return objective(x, atoms, z, penalty) + alpha / 2 * ((z - predicted) ** 2).sum(1)


# ---- inference -----------------------------------------------------------------------------------------

shapes = given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))


@shapes
@settings(max_examples=25, deadline=None)
def test_inference_ends_where_the_optimality_conditions_hold(n, d, count, seed):
    x, atoms, predicted = problem(n, d, count, seed)
    penalty, alpha = 0.4, 0.7
    z = infer(x, atoms, predicted, penalty, alpha).numpy()
    gradient = (z @ atoms.numpy() - x.numpy()) @ atoms.numpy().T + alpha * (z - predicted.numpy())
    off = np.where(z == 0, np.abs(gradient) - penalty, np.abs(gradient + penalty * np.sign(z)))
    assert off.max() <= 0.01 * penalty * (1 + 1e-9)


@shapes
@settings(max_examples=25, deadline=None)
def test_inference_has_the_least_energy(n, d, count, seed):
    x, atoms, predicted = problem(n, d, count, seed)
    best = infer(x, atoms, predicted, 0.4, 0.7)
    least, rng = energies(x, atoms, best, predicted, 0.4, 0.7), np.random.default_rng(seed)
    for size in (0.03, 0.3, 3.0):
        other = best + size * torch.from_numpy(rng.normal(size=best.shape))
        assert (energies(x, atoms, other, predicted, 0.4, 0.7) > least).all()


# ---- training ------------------------------------------------------------------------------------------


def test_atoms_have_norm_1_after_every_step():
    for state in decomposition().learner(sparse_rows(), Plan(steps=20)):
        np.testing.assert_allclose(state.model.decoder.detach().norm(dim=1).numpy(), 1, atol=1e-6)


def test_gradients_reach_every_weight_and_are_those_of_the_energy_at_the_best_codes():
    learner = decomposition().learner(sparse_rows(), Plan(steps=2))
    model, (x,) = learner.model, learner.batch_at(0)
    model.loss(x).backward()
    predicted = model.predict(x).detach()
    best = infer(x, model.decoder.detach(), predicted, model.penalty, model.alpha)
    count = x.numel()
    of_atoms = -(best.T @ (x - best @ model.decoder.detach())) / count
    across = of_atoms - (of_atoms * model.decoder.detach()).sum(1, keepdim=True) * model.decoder.detach()
    np.testing.assert_allclose(model.decoder.grad.numpy(), across.detach().numpy(), atol=1e-5)
    slope = model.alpha * (predicted - best) / count
    of_gain = (slope * predicted / model.gain.detach()).sum(0)
    np.testing.assert_allclose(model.gain.grad.numpy(), of_gain.numpy(), atol=1e-5)
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_small_step_lowers_the_energy_of_its_batch():
    # Inference lowers it for fixed weights and a small step along the gradient lowers it for fixed codes.
    learner = decomposition(learning_rate=1e-4, batch=500).learner(sparse_rows(), Plan(steps=60))
    losses = [state.loss for state in learner]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_training_loss_falls_and_predictions_come_near_the_exact_codes():
    x = sparse_rows()
    before, _ = trained(decomposition(penalty=0.1), x, 1)
    code, losses = trained(decomposition(penalty=0.1), x, 300)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:5])
    off = [
        np.linalg.norm(c.transform(x) - c.exact_codes(x)) / np.linalg.norm(c.exact_codes(x).toarray())
        for c in (before, code)
    ]
    assert off[1] < 0.7 * off[0]
    report = code.report(x)
    assert 0 <= report.gap < 0.5 * before.report(x).gap
    assert report.penalty == 0.1
    errors = ((x - code.inverse_transform(code.transform(x))) ** 2).sum()
    np.testing.assert_allclose(report.explained, 1 - errors / (len(x) * x.var(0).sum()), rtol=1e-4)


def test_exact_codes_are_the_lasso_codes_on_its_dictionary():
    x = sparse_rows(60)
    code, _ = trained(decomposition(penalty=0.3), x, 30)
    z, atoms = code.exact_codes(x).toarray(), code.components_.astype(float)
    gradient = (z @ atoms - (x - code.mean_)) @ atoms.T
    off = np.where(z == 0, np.abs(gradient) - 0.3, np.abs(gradient + 0.3 * np.sign(z)))
    assert off.max() < 0.01
    given = []

    def solver(rows, atoms, penalty):
        given.append((rows.dtype, atoms.dtype, penalty))
        return exact_codes(rows, atoms, penalty)

    code.exact_codes(x.astype(np.float32), solver)
    assert given == [(np.float32, np.float32, 0.3)]


def test_a_transform_is_one_forward_pass():
    x = sparse_rows(50)
    code, _ = trained(decomposition(), x, 20)
    expected = code.gain_ * np.tanh((x - code.mean_) @ code.encoder_ + code.encoder_bias_)
    np.testing.assert_allclose(code.transform(x), expected, rtol=1e-9)
    np.testing.assert_allclose(code.transform(x.astype(np.float32)), expected, rtol=1e-3, atol=1e-3)


def test_one_batch_can_be_overfitted():
    x = np.random.default_rng(3).normal(size=(5, 10))
    code, losses = trained(decomposition(penalty=1e-4), x, 250)
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(code.inverse_transform(code.transform(x)), x, atol=0.15)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    x = sparse_rows(200)
    one, same, other = (trained(decomposition(random_state=s), x, 15)[0].arrays() for s in (0, 0, 1))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    assert (one["encoder_"] != other["encoder_"]).all()


def test_a_resumed_training_ends_with_the_same_bits():
    x, plan = sparse_rows(300), Plan(steps=12)
    whole = decomposition().learner(x, plan)
    states = []
    for state in whole:
        tensors, counters = state.arrays()
        data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
        states.append((safetensors.torch.load(data), json.loads(json.dumps(counters))))
    for k in (1, 5, 11):
        rest = decomposition(random_state=0).learner(x, plan)
        rest.restore(*states[k - 1])
        for _ in rest:
            pass
        for name, tensor in rest.arrays()[0].items():
            assert torch.equal(tensor, states[-1][0][name]), name


def test_fitting_data_in_other_units_gives_the_same_code_in_those_units():
    x, factor = sparse_rows(200), 64.0
    code, _ = trained(decomposition(penalty=0.3), x, 20)
    other, _ = trained(decomposition(penalty=0.3 * factor), factor * x + 1000.0, 20)
    z, factored = code.transform(x), other.transform(factor * x + 1000.0)
    np.testing.assert_allclose(factored, factor * z, rtol=1e-3, atol=1e-3 * np.abs(factored).max())


@pytest.mark.parametrize(
    "x",
    [np.full((30, 5), 7.1), np.zeros((30, 5)), np.ones((1, 5)), np.arange(15.0).reshape(3, 5)],
    ids=["constant", "zero", "one", "three"],
)
def test_nothing_becomes_nan(x):
    code, losses = trained(decomposition(n_components=40), x, 20)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    assert np.isfinite(code.inverse_transform(code.transform(x))).all()
    assert all(np.isfinite(v) for v in code.report(x).facts().values())


def test_what_makes_no_sense_is_refused():
    x = sparse_rows(20)
    for name, value in [
        ("n_components", 0),
        ("epochs", 0),
        ("batch", -1),
        ("penalty", -0.1),
        ("alpha", -1.0),
    ]:
        with pytest.raises(ChainruleError, match=f"{name} is {value}"):
            PredictiveSparseDecomposition(**{name: value}).fit(x)
