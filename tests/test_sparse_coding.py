"""Learning a dictionary: objectives that fall, bits that do not depend on threads or interruptions, dead atoms."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from chainrule.codes.sparse_coding import (
    PATIENCE,
    Alternating,
    Online,
    SparseCoding,
    descend_atoms,
    moments,
    unit,
)
from chainrule.codes.whitening import Whitening
from chainrule.errors import ChainruleError
from chainrule.layers.coordinate_descent import coordinate_descent
from chainrule.layers.lasso import kkt_residual, objective
from chainrule.train import Plan

TRAININGS = pytest.mark.parametrize(
    "training", [Online(batch=64, epochs=3), Alternating(8)], ids=["online", "full"]
)


def mixtures(n=600, d=16, K=24, seed=0, kind=np.float64):
    """(rows, atoms): sums of 3 of K atoms, and a little noise."""
    rng = np.random.default_rng(seed)
    atoms = unit(rng.normal(size=(K, d)))
    codes = np.zeros((n, K))
    for z in codes:
        z[rng.choice(K, 3, replace=False)] = rng.choice([-1, 1], 3) * rng.uniform(1, 3, 3)
    return (codes @ atoms + 0.01 * rng.normal(size=(n, d))).astype(kind), atoms.astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_the_full_objective_never_rises(kind, positive):
    rows, _ = mixtures(300, kind=kind)
    code = SparseCoding(30, penalty=0.3, positive=positive, training=Alternating(15))
    losses = [learner.loss for learner in code.learner(rows)]
    assert len(losses) == 15
    assert (np.diff(losses) <= 1e-6 * losses[0]).all()
    assert losses[-1] < 0.8 * losses[0]


@TRAININGS
def test_atoms_that_made_the_data_are_found(training):
    rows, atoms = mixtures(3000)
    longer = Online(batch=128, epochs=40) if isinstance(training, Online) else Alternating(60)
    code = SparseCoding(24, penalty=0.1, training=longer).fit(rows)
    found = np.abs(atoms @ code.components_.T).max(1)
    assert np.mean(found > 0.98) > 0.8


@TRAININGS
def test_the_dictionary_is_as_good_as_that_of_scikit_learn(training):
    rows, _ = mixtures(1200)
    train, held = rows[:1000], rows[1000:]
    longer = Online(batch=64, epochs=20) if isinstance(training, Online) else Alternating(30)
    ours = SparseCoding(24, penalty=0.3, training=longer).fit(train)
    peer = MiniBatchDictionaryLearning(
        24, alpha=0.3, batch_size=64, max_iter=20, random_state=0, transform_alpha=0.3
    )
    atoms = peer.fit(train).components_
    theirs = objective(held, atoms, coordinate_descent(held, atoms, 0.3), 0.3).mean()
    assert ours.objective(held).mean() < 1.05 * theirs


def test_codes_are_exact_and_rows_at_most_of_norm_1():
    rows, _ = mixtures()
    code = SparseCoding(20, penalty=0.4, training=Online(64, 2)).fit(rows)
    assert np.linalg.norm(code.components_, axis=1).max() <= 1 + 1e-12
    codes = code.transform(rows)
    assert kkt_residual(rows, code.components_, codes, 0.4).max() <= 1.01e-3 * 0.4
    np.testing.assert_allclose(code.inverse_transform(codes), codes @ code.components_)
    as_csr = (
        SparseCoding(20, penalty=0.4, training=Online(64, 2), sparse_output=True).fit(rows).transform(rows)
    )
    np.testing.assert_array_equal(as_csr.toarray(), codes)


@TRAININGS
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bits_do_not_depend_on_threads(training, kind, monkeypatch):
    rows, _ = mixtures(kind=kind)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        with threadpool_limits(threads):
            found.append(SparseCoding(20, penalty=0.4, training=training, before=Whitening()).fit(rows))
    np.testing.assert_array_equal(found[0].components_, found[1].components_)


@TRAININGS
@pytest.mark.parametrize("at", [1, 5])
def test_an_interrupted_training_goes_on_with_the_same_bits(training, at):
    rows, _ = mixtures()
    code = SparseCoding(20, penalty=0.4, training=training, before=Whitening())
    plan = Plan(steps=8, seed=3)
    whole = code.learner(rows, plan)
    for learner in whole:
        if learner.step == at:
            saved = learner.arrays()
    again = SparseCoding(20, penalty=0.4, training=training, before=Whitening()).learner(rows, plan)
    again.restore(*saved)
    assert again.step == at
    for _ in again:
        pass
    for name, value in whole.state.items():
        np.testing.assert_array_equal(again.state[name], value)
    assert (again.loss, again.seen, again.step) == (whole.loss, whole.seen, whole.step)


@TRAININGS
def test_a_foreign_state_is_refused_and_changes_nothing(training):
    rows, _ = mixtures()
    code = SparseCoding(20, penalty=0.4, training=training)
    learner = code.learner(rows)
    next(iter(learner))
    tensors, counters = learner.arrays()
    kept = learner.state["components"].copy()
    for broken in (
        (tensors | {"components": tensors["components"][:-1]}, counters),
        ({k: v for k, v in tensors.items() if k != "inner"}, counters),
        (tensors, counters | {"step": -1}),
        (tensors, counters | {"seconds": float("nan")}),
        (tensors, {}),
    ):
        with pytest.raises(ChainruleError, match="state of the training"):
            learner.restore(*broken)
        np.testing.assert_array_equal(learner.state["components"], kept)
    if "codes/indices" in tensors:
        tensors["codes/indices"] = tensors["codes/indices"] + 1000
        with pytest.raises(ChainruleError, match="damaged"):
            learner.restore(tensors, counters)


def test_partial_fit_in_uneven_batches_learns():
    rows, _ = mixtures(4000)
    code, rng = SparseCoding(24, penalty=0.3), np.random.default_rng(0)
    begin, values = 0, []
    while begin < len(rows):
        size = int(rng.integers(1, 200))
        code.partial_fit(rows[begin : begin + size])
        begin += size
        values.append(code.objective(rows[:200]).mean())
    assert code.n_seen_ == len(rows)
    reached = SparseCoding(24, penalty=0.3).fit(rows).objective(rows[:200]).mean()
    assert values[0] > 1.2 * reached
    assert values[-1] < 1.1 * reached


def test_partial_fit_weighs_events_alike_when_nothing_is_forgotten():
    rows, _ = mixtures(300)
    code = SparseCoding(10, penalty=0.3, training=Online(forget=1.0))
    inner = np.zeros((10, 10))
    for part in (rows[:37], rows[37:40], rows[40:]):
        start = code.components_.copy() if hasattr(code, "components_") else None
        code.partial_fit(part)
        if start is None:
            start = SparseCoding(10, penalty=0.3).learner(part, Plan(steps=1)).state["components"]
        codes = coordinate_descent(part, start, 0.3).toarray()
        inner += codes.T @ codes
    np.testing.assert_allclose(code.inner_, inner / 300, atol=1e-12)


def test_dead_atoms_are_drawn_anew():
    rows, _ = mixtures(2000)
    code = SparseCoding(24, penalty=0.3, training=Online(batch=200, epochs=1))
    learner = code.learner(rows, Plan(steps=40))
    learner.state["components"][:5] = 0  # nothing will ever use them
    for step in learner:
        if step.step * 200 < PATIENCE:
            np.testing.assert_array_equal(learner.state["components"][:5], 0)
    np.testing.assert_allclose(np.linalg.norm(learner.state["components"], axis=1), 1, atol=0.2)
    codes = coordinate_descent(rows, learner.state["components"], 0.3)
    assert (np.bincount(codes.indices, minlength=24) > 0).all()


def test_more_atoms_than_events_and_events_that_are_all_alike():
    rows, _ = mixtures(5)
    for few in (rows, rows[:1], np.repeat(rows[:1], 50, axis=0), np.zeros((9, 16))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code = SparseCoding(24, penalty=0.1, training=Alternating(3)).fit(few)
        assert np.isfinite(code.components_).all()
        assert np.isfinite(code.transform(few)).all()


def test_streams_from_a_mapped_file(tmp_path):
    rows, _ = mixtures(kind=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    code = SparseCoding(20, penalty=0.4, training=Online(64, 2))
    learner = code.learner(mapped)
    assert np.shares_memory(learner.raw, mapped)
    in_memory = SparseCoding(20, penalty=0.4, training=Online(64, 2)).fit(rows)
    np.testing.assert_array_equal(code.fit(mapped).components_, in_memory.components_)


def test_each_move_of_the_dictionary_lowers_its_objective():
    rng = np.random.default_rng(0)
    rows, atoms = mixtures(200)
    atoms = unit(atoms + 0.5 * rng.normal(size=atoms.shape))
    codes = coordinate_descent(rows, atoms, 0.2)
    inner, outer = moments(codes, rows)
    np.testing.assert_allclose(inner, codes.toarray().T @ codes.toarray() / 200, atol=1e-12)
    values = []
    for _ in range(30):
        values.append(objective(rows, atoms, codes, 0.2).mean())
        descend_atoms(atoms, inner, outer, passes=1)
    assert (np.diff(values) <= 1e-12).all()
    # at the end no projected step of the gradient gains anything
    step = atoms - 1e-3 * (inner @ atoms - outer)
    step /= np.maximum(1, np.linalg.norm(step, axis=1, keepdims=True))
    np.testing.assert_allclose(step, atoms, atol=2e-5)


def test_in_a_pipeline_with_a_search_over_its_parameters():
    rows, _ = mixtures(200)
    labels = (rows[:, 0] > 0).astype(int)
    steps = make_pipeline(SparseCoding(12, training=Online(50, 1)), LogisticRegression(max_iter=1000))
    grid = {"sparsecoding__penalty": [0.1, 1.0], "sparsecoding__training": [Online(50, 1), Alternating(2)]}
    found = GridSearchCV(steps, grid, cv=2).fit(rows, labels)
    assert found.best_score_ > 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"penalty": 0}, "the penalty is 0: take a number above 0"),
        ({"training": Online(batch=0)}, "batch"),
        ({"training": Online(epochs=0)}, "epochs=0, forget=20.0: take more than 0, and 1 or more"),
        ({"training": Alternating(0)}, "rounds"),
        ({"training": "online"}, "training is 'online': take one of Online, Alternating"),
        ({"solver": "lasso"}, r"solver is 'lasso': take an object such as CoordinateDescent\(\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ChainruleError, match=message):
        SparseCoding(**options).fit(mixtures(20)[0])
