"""Sparse autoencoders: each activation's theorem, unit atoms, dead units that come back, and the gap to the Lasso."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from chainrule import fit
from chainrule.codes import CODES
from chainrule.codes.sparse_autoencoder import (
    Autoencoder,
    BatchTopK,
    JumpReLU,
    ReLUL1,
    SparseAutoencoder,
    TopK,
    forget,
)
from chainrule.errors import ChainruleError
from chainrule.layers.amortisation import (
    comparison,
    objective,
    penalty_for,
    refitted_errors,
)
from chainrule.layers.atoms import RandomBatches, random_atoms, standardised, unit_rows
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.store import dump, parse
from chainrule.train import Plan

KINDS = [ReLUL1(0.3), TopK(3), BatchTopK(3), JumpReLU(target=3.0)]
every_kind = pytest.mark.parametrize("activation", KINDS, ids=lambda a: type(a).__name__)

exact_codes = CoordinateDescent()


def sparse_rows(n=600, d=12, atoms=20, seed=0):
    """Rows that are made of three of `atoms` unit atoms each, and a little noise."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, atoms))
    for code in codes:
        code[rng.choice(atoms, 3, replace=False)] = rng.uniform(1, 3, 3)
    dictionary = random_atoms(atoms, d, 99).numpy()
    return codes @ dictionary + 0.02 * rng.normal(size=(n, d)) + 5.0


def autoencoder(activation, **args):
    return SparseAutoencoder(**{"n_components": 24, "activation": activation, "batch": 64, **args})


def trained(code, x, steps):
    learner = code.learner(x, Plan(steps=steps))
    losses = [state.loss for state in learner]
    return code.learned(learner), losses


# ---- activations ---------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_topk_keeps_the_k_largest_positive(n, units, k, seed):
    pre = np.random.default_rng(seed).normal(size=(n, units))
    z = TopK(k).encode(torch.from_numpy(pre), torch.zeros(units)).numpy()
    for row, code in zip(pre, z, strict=True):
        kept = [j for j in np.argsort(-row)[:k] if row[j] > 0]
        expected = np.zeros(units)
        expected[kept] = row[kept]
        np.testing.assert_array_equal(code, expected)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_batch_topk_keeps_the_largest_of_the_whole_batch(n, units, k, seed):
    pre = np.random.default_rng(seed).normal(size=(n, units))
    z, cost = BatchTopK(k).train(torch.from_numpy(pre), None)
    least = np.sort(pre, axis=None)[::-1][: k * n][-1]
    np.testing.assert_array_equal(z.numpy(), np.where((pre >= least) & (pre > 0), pre, 0))
    assert cost == 0


def test_relu_costs_the_penalty_of_the_lasso_in_units_of_the_data():
    # ½‖x − x̂‖² + λ‖z‖₁ of data in their own units is scale² · d times the loss of training.
    rng = np.random.default_rng(0)
    scale, width, pre = 3.0, 5, torch.from_numpy(rng.normal(size=(7, 4)))
    z, cost = ReLUL1(0.7).scaled(scale, width).train(pre, None)
    np.testing.assert_allclose(float(cost) * scale**2 * width, 0.7 * scale * float(z.sum(1).mean()))
    _, count = JumpReLU(penalty=0.7).scaled(scale, width).train(pre, torch.full((4,), 0.2).double())
    np.testing.assert_allclose(
        float(count) * scale**2 * width, 0.7 * float((pre > 0.2).sum(1).double().mean())
    )


def smooth_jump(pre, theta, width):
    """The function of θ whose derivative is the published −(θ/ε) K((pre − θ)/ε), and that is `pre` at −∞."""
    low = pre - width / 2
    top = np.clip(theta, low, pre + width / 2)
    return pre - (top**2 - low**2) / (2 * width)


def smooth_step(pre, theta, width):
    """The step convolved with the kernel: from 1 to 0 as θ passes from pre − ε/2 to pre + ε/2."""
    return np.clip((pre - theta) / width + 0.5, 0, 1)


@pytest.mark.parametrize("cost", [{"penalty": 0.3}, {"target": 2.0}])
def test_jump_gradients_are_finite_differences_of_the_smoothed_objective(cost):
    rng = np.random.default_rng(1)
    pre, weights, theta = rng.normal(size=(50, 6)), rng.normal(size=(50, 6)), rng.uniform(0.2, 0.8, 6)
    activation = JumpReLU(bandwidth=0.4, **cost)
    parameter = torch.tensor(theta, requires_grad=True)
    z, price = activation.train(torch.from_numpy(pre), parameter)
    np.testing.assert_array_equal(z.detach().numpy(), pre * (pre > theta))  # forward: nothing is smoothed
    (torch.from_numpy(weights) * z).sum().backward(retain_graph=True)
    of_jump, parameter.grad = parameter.grad.numpy().copy(), None
    price.backward()
    of_price, h = parameter.grad.numpy(), 1e-6
    slope = float(
        torch.func.grad(activation.price)(torch.tensor(float((pre > theta).sum(1).mean())).double())
    )
    for j in range(6):
        up, down = (np.where(np.arange(6) == j, theta + s, theta) for s in (h, -h))
        jumps = [np.sum(weights * smooth_jump(pre, t, 0.4)) for t in (up, down)]
        counts = [smooth_step(pre, t, 0.4).sum(1).mean() for t in (up, down)]
        np.testing.assert_allclose(of_jump[j], (jumps[0] - jumps[1]) / (2 * h), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            of_price[j], slope * (counts[0] - counts[1]) / (2 * h), rtol=1e-6, atol=1e-8
        )


def test_jump_gradient_is_the_derivative_of_the_mean_objective_over_many_events():
    # pre ~ N(0, 1), one unit, target y = pre: the mean of ½(y − z)² + λ[z > 0] is ½∫_{<θ} pre² φ + λ(1 − Φ(θ)),
    # whose derivative by θ is (½θ² − λ) φ(θ).
    theta, penalty = 0.8, 0.1
    pre = torch.from_numpy(np.random.default_rng(0).normal(size=(2_000_000, 1)))
    parameter = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    z, cost = JumpReLU(bandwidth=0.05, penalty=penalty).train(pre, parameter)
    (0.5 * (pre - z).square().mean() + cost).backward()
    density = np.exp(-(theta**2) / 2) / np.sqrt(2 * np.pi)
    # The value of z enters the derivative of the error: 0 below θ, pre above, half of the events each.
    assert float(parameter.grad) == pytest.approx((theta**2 / 2 - penalty) * density, rel=0.02)


def test_activations_refuse_what_makes_no_sense():
    x = sparse_rows(20)
    for activation, message in [
        (ReLUL1(-1.0), "penalty is -1.0"),
        (ReLUL1(float("nan")), "penalty is nan"),
        (TopK(0), "k is 0"),
        (BatchTopK(-2), "k is -2"),
        (JumpReLU(bandwidth=0.0), "bandwidth is 0.0"),
        (JumpReLU(target=1.0, penalty=1.0), "give one of the two"),
        (JumpReLU(target=0.0), "target is 0.0"),
        ("top-k", "take one of ReLUL1, TopK, BatchTopK, JumpReLU"),
    ]:
        with pytest.raises(ChainruleError, match=message):
            SparseAutoencoder(4, activation=activation).fit(x)
    for argument in ("n_components", "epochs", "batch", "patience"):
        with pytest.raises(ChainruleError, match=f"{argument} is 0"):
            SparseAutoencoder(**{argument: 0}).fit(x)


# ---- training ------------------------------------------------------------------------------------------


@every_kind
def test_atoms_have_norm_1_after_every_step(activation):
    learner = autoencoder(activation, patience=5).learner(sparse_rows(), Plan(steps=25))
    for state in learner:
        np.testing.assert_allclose(state.model.decoder.detach().norm(dim=1).numpy(), 1, atol=1e-6)


@every_kind
def test_gradients_of_atoms_have_no_component_along_them_and_reach_every_weight(activation):
    learner = autoencoder(activation).learner(sparse_rows(), Plan(steps=2))
    model = learner.model
    model.loss(*learner.batch_at(0)).backward()
    along = (model.decoder.grad * model.decoder.detach()).sum(1)
    assert along.abs().max() < 1e-6 * model.decoder.grad.norm()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@every_kind
def test_training_loss_falls_and_codes_are_sparse(activation):
    x = sparse_rows()
    code, losses = trained(autoencoder(activation, learning_rate=0.01), x, 400)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:5])
    z = code.transform(x)
    assert (z >= 0).all()
    assert code.explained_ > 0.6
    assert 0 < code.l0_ < 12
    np.testing.assert_allclose(np.linalg.norm(code.components_, axis=1), 1, atol=1e-6)
    errors = ((x - code.inverse_transform(z)) ** 2).sum()
    np.testing.assert_allclose(code.explained_, 1 - errors / (len(x) * x.var(0).sum()), rtol=1e-4)
    np.testing.assert_allclose(code.l0_, (z != 0).sum(1).mean(), rtol=1e-3)
    np.testing.assert_allclose(code.alive_, (z != 0).any(0).mean())


def test_topk_has_at_most_k_nonzeros_and_batch_topk_k_on_average():
    x = sparse_rows()
    exactly, _ = trained(autoencoder(TopK(3)), x, 60)
    assert (exactly.transform(x) != 0).sum(1).max() == 3
    on_average, _ = trained(autoencoder(BatchTopK(3)), x, 60)
    counts = (on_average.transform(x) != 0).sum(1)
    assert counts.mean() == pytest.approx(3, abs=2 / len(x))  # one or two may change sides in rounding
    assert counts.min() < 3 < counts.max()
    alone = np.concatenate([on_average.transform(row[None]) for row in x[:40]])
    np.testing.assert_allclose(alone, on_average.transform(x)[:40], rtol=1e-9)  # inference knows no batch


def test_jump_relu_reaches_its_target():
    code, _ = trained(autoencoder(JumpReLU(target=4.0), learning_rate=0.01), sparse_rows(), 500)
    assert code.l0_ == pytest.approx(4.0, rel=0.1)


@every_kind
def test_one_batch_can_be_overfitted(activation):
    x = np.random.default_rng(3).normal(size=(6, 12))
    free = {ReLUL1: ReLUL1(0.0), JumpReLU: JumpReLU(penalty=0.0)}.get(type(activation), activation)
    code, losses = trained(autoencoder(free, learning_rate=0.01), x, 500)
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(code.inverse_transform(code.transform(x)), x, atol=0.15)


@every_kind
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(activation):
    x = sparse_rows(200)
    one, same, other = (
        trained(autoencoder(activation, random_state=s, patience=5), x, 30)[0].arrays() for s in (0, 0, 1)
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    assert (one["encoder_"] != other["encoder_"]).all()


def stored(arrays):
    tensors, counters = arrays
    data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(counters))


@every_kind
def test_a_resumed_training_ends_with_the_same_bits(activation):
    x, plan = sparse_rows(300), Plan(steps=24)
    code = autoencoder(activation, patience=4)  # units are redrawn on the way
    whole, states = code.learner(x, plan), []
    for state in whole:
        states.append(stored(state.arrays()))
    expected = code.learned(whole).arrays()
    for k in (1, 3, 4, 7, 18):
        rest = autoencoder(activation, patience=4).learner(x, plan)
        rest.restore(*states[k - 1])
        for _ in rest:
            pass
        for name, tensor in rest.arrays()[0].items():
            assert torch.equal(tensor, states[-1][0][name]), name
        found = autoencoder(activation, patience=4)
        found.rows(x, reset=True)
        for name, array in found.learned(rest).arrays().items():
            np.testing.assert_array_equal(array, expected[name])


def test_fit_is_its_learner_to_the_end_and_takes_the_epochs_it_was_given():
    x = sparse_rows(200)
    code = autoencoder(TopK(3), epochs=3)
    learner = code.learner(x)
    losses = [state.loss for state in learner]
    assert len(losses) == 3 * 4  # 200 events are four batches of at most 64
    assert code.learned(learner) is code
    for name, array in autoencoder(TopK(3), epochs=3).fit(x).arrays().items():
        np.testing.assert_array_equal(array, code.arrays()[name])


@every_kind
def test_fitting_data_in_other_units_gives_the_same_code_in_those_units(activation):
    x = sparse_rows(200)
    code, _ = trained(autoencoder(activation), x, 20)
    factor = 64.0
    rescaled = {ReLUL1: ReLUL1(0.3 * factor)}.get(type(activation), activation)
    other, _ = trained(autoencoder(rescaled), factor * x + 1000.0, 20)
    z, factored = code.transform(x), other.transform(factor * x + 1000.0)
    np.testing.assert_allclose(factored, factor * z, rtol=1e-3, atol=1e-3 * factored.max())


@every_kind
def test_rebuilt_from_its_file_it_has_its_activation_and_the_same_bits(activation):
    x = sparse_rows(100)
    code, _ = trained(autoencoder(activation), x, 5)
    rebuilt, header = parse(dump(code, CODES), CODES)
    kind = next(kind for kind, cls in SparseAutoencoder.PARTS.items() if cls is type(activation))
    assert header["args"]["activation"] == {"kind": kind, **asdict(activation)}
    assert rebuilt.activation == activation
    np.testing.assert_array_equal(rebuilt.transform(x), code.transform(x))


def test_the_fit_verb_trains_it_within_a_budget(tmp_path):
    settings = {"activation": {"kind": "top-k", "k": 2}, "n_components": 8}
    levels = np.random.default_rng(0).integers(0, 9, (100, 12))
    run = fit(levels, "sparse-autoencoder", out=tmp_path / "run", steps=7, settings=settings, seed=3)
    assert run.code.activation == TopK(2)
    assert run.code.random_state == 3
    assert run.code.n_steps_ == run.info["trained"]["steps"] == 7


@pytest.mark.parametrize("single", [False, True])
def test_codes_may_be_sparse_and_keep_their_precision(single):
    x = sparse_rows(50).astype(np.float32 if single else np.float64)
    code, _ = trained(autoencoder(TopK(3)), x, 5)
    z = code.transform(x)
    back = code.inverse_transform(z)
    assert z.dtype == back.dtype == x.dtype
    np.testing.assert_allclose(code.inverse_transform(csr_array(z)), back, rtol=1e-6)


# ---- dead units ----------------------------------------------------------------------------------------


@every_kind
def test_dead_units_come_back(activation):
    x = sparse_rows()
    learner = autoencoder(activation, patience=10, learning_rate=0.01).learner(x, Plan(steps=300))
    with torch.no_grad():  # 20 of 24 units are killed: no event of these data can wake them
        learner.model.encoder_bias[4:] = -8.0
    code = autoencoder(activation)
    code.rows(x, reset=True)
    assert code.learned(learner).alive_ <= 4 / 24
    for _ in learner:
        pass
    assert code.learned(learner).alive_ >= 18 / 24  # the data are made of 20 atoms


def test_without_help_they_would_stay_dead(monkeypatch):
    monkeypatch.setattr(Autoencoder, "dead", lambda self: torch.zeros_like(self.silent, dtype=torch.bool))
    x = sparse_rows()
    for activation in KINDS:
        learner = autoencoder(activation, learning_rate=0.01).learner(x, Plan(steps=100))
        with torch.no_grad():
            learner.model.encoder_bias[4:] = -8.0
        for _ in learner:
            pass
        code = autoencoder(activation)
        code.rows(x, reset=True)
        assert code.learned(learner).alive_ <= 4 / 24


def test_redrawn_units_point_at_events_that_nobody_reconstructs_and_are_new_to_the_optimizer():
    rng = np.random.default_rng(0)
    x = np.concatenate([0.01 * rng.normal(size=(95, 8)), np.eye(8)[[7] * 5] * 40])  # five far away, alike
    learner = autoencoder(ReLUL1(1e-3), n_components=10, patience=3).learner(x, Plan(steps=100))
    iterator = iter(learner)
    with torch.no_grad():
        learner.model.encoder_bias[:] = -50.0
        learner.model.decoder[:, 7] = 0.0  # before: none of them can see the five
    next(iterator), next(iterator)
    before = learner.model.decoder.detach().clone()
    next(iterator)
    model, x = learner.model, learner.batch_at.x
    far = (x[-1] - model.decoder_bias.detach()) / (x[-1] - model.decoder_bias.detach()).norm()
    redrawn = (model.decoder.detach() != before).any(1)
    assert redrawn.all()
    assert (model.decoder.detach() @ far > 0.999).sum() >= 5
    assert (model.silent == 0).all()
    for name in ("encoder", "encoder_bias", "decoder"):
        state = learner.optimizer.state[learner.params[name]]
        assert not state["exp_avg"].any()
        assert not state["exp_avg_sq"].any()


def test_moments_are_forgotten_of_the_named_units_only():
    learner = autoencoder(JumpReLU(target=3.0)).learner(sparse_rows(100), Plan(steps=3))
    for _ in learner:
        pass
    kept = {k: learner.optimizer.state[p]["exp_avg_sq"].clone() for k, p in learner.params.items()}
    forget(learner.optimizer, learner.model, torch.tensor([1, 5]))
    for name, p in learner.params.items():
        now, axis = learner.optimizer.state[p]["exp_avg_sq"], int(name == "encoder")
        if name == "decoder_bias":
            assert torch.equal(now, kept[name])
            continue
        assert not now.index_select(axis, torch.tensor([1, 5])).any()
        others = torch.tensor([i for i in range(24) if i not in (1, 5)])
        assert torch.equal(now.index_select(axis, others), kept[name].index_select(axis, others))


# ---- awkward data --------------------------------------------------------------------------------------


@every_kind
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "x",
    [
        np.full((30, 5), 7.1),
        np.zeros((30, 5)),
        np.ones((1, 5)),
        np.arange(15.0).reshape(3, 5),
        np.eye(2)[[0] * 40 + [1]] * 1e6,
        np.random.default_rng(0).normal(size=(20, 1)),
        1e-20 * np.random.default_rng(0).normal(size=(20, 3)) + 1.0,
    ],
    ids=["constant", "zero", "one", "three", "outlier", "narrow", "tiny"],
)
def test_nothing_becomes_nan(activation, x):
    code, losses = trained(autoencoder(activation, n_components=40, patience=3), x, 20)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    z = code.transform(x)
    assert np.isfinite(z).all()
    assert np.isfinite(code.inverse_transform(z)).all()
    assert all(np.isfinite(v) for v in code.report(x).facts().values())


def test_single_precision_stays_single_and_agrees():
    x = sparse_rows(100)
    code, _ = trained(autoencoder(ReLUL1(0.1)), x, 20)
    np.testing.assert_allclose(
        code.transform(x.astype(np.float32)), code.transform(x), rtol=1e-3, atol=1e-4 * x.max()
    )


# ---- the report ----------------------------------------------------------------------------------------


@every_kind
def test_the_gap_is_never_negative(activation):
    x = sparse_rows(200)
    for steps in (1, 50):
        code, _ = trained(autoencoder(activation), x, steps)
        for penalty in (None, 0.05, 1.0):
            assert code.report(x, penalty=penalty, samples=60).gap >= -1e-12


def test_the_gap_of_exact_codes_is_0_and_of_others_their_objective_more():
    x, atoms = sparse_rows(50) - 5, random_atoms(20, 12, 99).double().numpy()
    z = exact_codes(x, atoms, 0.3, positive=True).toarray()
    same = comparison(x, atoms, z, exact_codes, 0.3, True)
    assert 0 <= same["gap"] < 1e-3 * same["objective"]
    none = comparison(x, atoms, np.zeros_like(z), exact_codes, 0.3, True)
    np.testing.assert_allclose(none["objective"], (x**2).sum(1).mean() / 2)
    np.testing.assert_allclose(none["gap"], none["objective"] - objective(x, atoms, z, 0.3).mean(), rtol=1e-3)
    assert none["error"] == none["error_refit"] == 1.0


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("l0", [1.0, 3.0, 6.0])
def test_the_penalty_is_found_at_which_exact_codes_are_as_sparse(l0, positive):
    x, atoms = sparse_rows(60) - 5, random_atoms(20, 12, 99).double().numpy()
    penalty = penalty_for(x, atoms, l0, exact_codes, positive)
    assert exact_codes(x, atoms, penalty, positive=positive).nnz / 60 == pytest.approx(l0, abs=0.1)


def test_refitted_errors_are_those_of_least_squares_on_the_support():
    rng = np.random.default_rng(0)
    x, atoms = rng.normal(size=(5, 6)), rng.normal(size=(9, 6))
    codes = rng.normal(size=(5, 9)) * (rng.random((5, 9)) < 0.4)
    codes[0] = 0
    errors = refitted_errors(x, atoms, codes)
    assert errors[0] == pytest.approx((x[0] ** 2).sum())
    for row, code, error in zip(x, codes, errors, strict=True):
        chosen = atoms[code != 0]
        rest = row - row @ np.linalg.pinv(chosen) @ chosen
        assert error == pytest.approx((rest**2).sum())
        assert error <= ((row - code @ atoms) ** 2).sum() + 1e-12


def test_the_report_is_one_table_and_its_exact_side_is_as_sparse():
    x = sparse_rows(300)
    code, _ = trained(autoencoder(TopK(3), learning_rate=0.01), x, 300)
    report = code.report(x, samples=100)
    assert (report.events, report.compared) == (300, 100)
    assert report.l0_exact == pytest.approx(report.l0_codes, abs=0.05)
    assert report.error_refit <= report.error
    table = str(report)
    assert len({len(line) for line in table.splitlines()[:3]}) == 1
    for text in (
        f"{report.penalty:.4g}",
        f"{report.gap:.4g}",
        f"{report.alive:.1%}",
        f"{report.explained:.1%}",
    ):
        assert text in table
    assert json.loads(json.dumps(report.facts()))["gap"] == report.gap


# ---- what training shares ------------------------------------------------------------------------------


def test_batches_are_a_pure_function_of_seed_and_step():
    x = torch.arange(100.0)[:, None]
    batches = RandomBatches(x, 10, 0)
    assert torch.equal(batches(3)[0], RandomBatches(x, 10, 0)(3)[0])
    assert not torch.equal(batches(3)[0], batches(4)[0])
    assert not torch.equal(batches(3)[0], RandomBatches(x, 10, 1)(3)[0])
    assert torch.equal(RandomBatches(x, 100, 0)(5)[0], x)
    assert len(batches.some(40, 2).unique()) == 40
    assert torch.equal(batches.some(100), x)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_standardised_data_have_mean_0_and_mean_square_1(offset):
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1, 2, 3, 4] + offset
    x, mean, scale = standardised(rows)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    assert float(x.square().mean()) == pytest.approx(1)
    np.testing.assert_allclose(scale * x.numpy() + mean, rows, atol=1e-5)
    assert standardised(np.full((5, 3), 0.1))[2] == 1.0


def test_unit_rows_have_norm_1_even_of_nothing():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
    np.testing.assert_allclose(unit_rows(rows).numpy(), [[0.6, 0.8], [1, 0], [1, 0]])


def test_refitted_errors_are_those_of_least_squares_on_each_support_with_and_without_zeros():
    rng = np.random.default_rng(0)
    rows, atoms = rng.normal(size=(6, 9)), rng.normal(size=(4, 9))
    codes = (
        rng.normal(size=(6, 4)) * (np.arange(6) < 3)[:, None]
    )  # three without a zero, three of nothing else
    codes[4, 1:3] = 1.0
    expected = [
        np.square(row - row @ np.linalg.pinv(atoms[z != 0]) @ atoms[z != 0]).sum()
        for row, z in zip(rows, codes, strict=True)
    ]
    np.testing.assert_allclose(refitted_errors(rows, atoms, codes), expected)
