"""Codes of coordinate descent and of feature-sign search: optimal by the definition, equal to scikit-learn's."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from chainrule.errors import ChainruleError
from chainrule.layers.coordinate_descent import CoordinateDescent, coordinate_descent
from chainrule.layers.feature_sign import FeatureSign, feature_sign
from chainrule.layers.fista import fista
from chainrule.layers.lasso import duality_gap, kkt_residual, objective

KINDS = pytest.mark.parametrize("kind", [np.float32, np.float64])
SIGNS = pytest.mark.parametrize("positive", [False, True])
SOLVERS = pytest.mark.parametrize(
    "solver", [CoordinateDescent(), FeatureSign()], ids=["descent", "feature-sign"]
)


def problem(n=300, d=20, K=64, seed=0, kind=np.float64, atoms="random"):
    """Rows (n, d) and atoms (K, d) of norm 1 (or 0), from harmless to barely solvable."""
    rng = np.random.default_rng(seed)
    rows, D = 2 * rng.normal(size=(n, d)), rng.normal(size=(K, d))
    if atoms == "twice":
        D[K // 2 :] = D[: K - K // 2]
    if atoms == "nearly twice":
        D[K // 2 :] = D[: K - K // 2] + 1e-3 * rng.normal(size=(K - K // 2, d))
    if atoms == "alike":
        D = 1 + 0.05 * D
    if atoms == "of zeros":
        D[::3] = 0
    norms = np.linalg.norm(D, axis=1, keepdims=True)
    return rows.astype(kind), (D / np.where(norms > 0, norms, 1)).astype(kind)


def violation(rows, atoms, codes, penalty, positive=False):
    """(n,) the largest violation, straight from the subdifferential, in double precision."""
    x, D, z = (np.asarray(a, np.float64) for a in (rows, atoms, codes.toarray()))
    c = (x - z @ D) @ D.T
    silent = np.maximum(c - penalty, 0) if positive else np.maximum(np.abs(c) - penalty, 0)
    found = np.where(z == 0, silent, np.abs(c - penalty * np.sign(z)))
    assert not positive or (z >= 0).all()
    return found.max(1)


@KINDS
@SIGNS
@pytest.mark.parametrize("atoms", ["random", "twice", "nearly twice", "alike", "of zeros"])
@pytest.mark.parametrize(("K", "d"), [(16, 2), (16, 10), (64, 5), (40, 1), (150, 40), (7, 30)])
def test_codes_are_optimal_however_the_atoms_depend_on_each_other(K, d, atoms, positive, kind):
    rows, D = problem(100, d, K, kind=kind, atoms=atoms)
    for penalty in (0.1, 1.0):
        codes = coordinate_descent(rows, D, penalty, positive)
        assert codes.dtype == kind
        limit = 1.01e-3 if kind == np.float64 else 1.2e-3  # the correlations are rounded
        assert violation(rows, D, codes, penalty, positive).max() <= limit * penalty


@KINDS
@SIGNS
@pytest.mark.parametrize("atoms", ["random", "twice", "nearly twice", "alike", "of zeros"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_codes_are_optimal_wherever_they_start(scale, atoms, positive, kind):
    rows, D = problem(100, 10, 40, kind=kind, atoms=atoms)
    rng = np.random.default_rng(1)
    start = scale * rng.normal(size=(100, 40)) * (rng.random((100, 40)) < 0.2)
    lengths = (start != 0).sum(1)
    assert (
        lengths.min() <= 10 < lengths.max()
    )  # those of more non-zeros than numbers of an event are not used
    codes = coordinate_descent(rows, D, 0.3, positive, start)
    assert violation(rows, D, codes, 0.3, positive).max() <= 1.2e-3 * 0.3


@SIGNS
@pytest.mark.parametrize("atoms", ["random", "twice", "nearly twice", "alike", "of zeros"])
@pytest.mark.parametrize(("K", "d"), [(16, 3), (64, 20), (7, 30)])
def test_feature_sign_search_is_exact(K, d, atoms, positive):
    rows, D = problem(40, d, K, atoms=atoms)
    codes = feature_sign(rows, D, 0.3, positive)
    assert violation(rows, D, codes, 0.3, positive).max() < 1e-9
    best = objective(rows, D, codes, 0.3)
    for tol in (1e-3, 1e-7):
        descent = coordinate_descent(rows, D, 0.3, positive, tol=tol)
        beyond = objective(rows, D, descent, 0.3) - best
        assert beyond.min() > -1e-12
        assert beyond.max() < 5 * tol


@SIGNS
@pytest.mark.parametrize(
    "solver", [CoordinateDescent(tol=1e-7), FeatureSign()], ids=["descent", "feature-sign"]
)
def test_codes_are_those_of_scikit_learn(solver, positive):
    rows, D = problem(20, 30, 24)
    codes = solver(rows, D, 0.4, positive).toarray()
    for x, z in zip(rows, codes, strict=True):
        peer = Lasso(alpha=0.4 / 30, fit_intercept=False, positive=positive, tol=1e-12, max_iter=100_000)
        np.testing.assert_allclose(z, peer.fit(D.T, x).coef_, atol=1e-6)


def test_solvers_agree():
    rows, D = problem(50)
    named = [
        coordinate_descent(rows, D, 0.5, tol=1e-7),
        feature_sign(rows, D, 0.5),
        fista(rows, D, 0.5, tol=1e-7),
    ]
    for codes in named[1:]:
        np.testing.assert_allclose(codes.toarray(), named[0].toarray(), atol=1e-5)


@KINDS
def test_a_tighter_tolerance_is_kept(kind):
    rows, D = problem(kind=kind)
    tol = 1e-5 if kind == np.float32 else 1e-10
    codes = coordinate_descent(rows, D, 0.5, tol=tol)
    assert violation(rows, D, codes, 0.5).max() < 3 * tol


@SOLVERS
def test_a_start_changes_nothing_but_time(solver):
    rows, D = problem(50)
    exact = feature_sign(rows, D, 0.5)
    best = objective(rows, D, exact, 0.5)
    rng = np.random.default_rng(0)
    for start in (exact, csr_array(rng.normal(size=exact.shape)), rng.normal(size=exact.shape) * 1e3):
        codes = solver(rows, D, 0.5, start=start)
        away = np.abs((codes - exact).toarray()).sum(1)  # a gradient of 1e-3 λ at most, by convexity
        assert (objective(rows, D, codes, 0.5) - best <= 1.01e-3 * 0.5 * away + 1e-12).all()
    positive = solver(rows, D, 0.5, positive=True, start=csr_array(rng.normal(size=exact.shape)))
    assert violation(rows, D, positive, 0.5, positive=True).max() <= 1.01e-3 * 0.5


@KINDS
def test_bits_do_not_depend_on_threads(kind):
    rows, D = problem(1111, kind=kind)
    first, second = (coordinate_descent(rows, D, 0.5, threads=threads) for threads in (1, 3))
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))


@SOLVERS
def test_a_large_penalty_and_empty_rows(solver):
    rows, D = problem(10)
    assert solver(rows, D, 1e6).nnz == 0
    assert solver(np.zeros_like(rows), D, 0.1).nnz == 0
    assert solver(rows[:0], D, 0.1).shape == (0, 64)
    largest = np.abs(rows @ D.T).max()  # above it all codes are 0, just below it one is not
    assert solver(rows, D, largest).nnz == 0
    assert solver(rows, D, 0.999 * largest).nnz == 1


def test_certificates():
    rows, D = problem(50)
    codes = coordinate_descent(rows, D, 0.5)
    np.testing.assert_allclose(kkt_residual(rows, D, codes, 0.5), violation(rows, D, codes, 0.5), atol=1e-12)
    best = objective(rows, D, feature_sign(rows, D, 0.5), 0.5)
    gap = duality_gap(rows, D, codes, 0.5)
    assert (gap >= objective(rows, D, codes, 0.5) - best - 1e-12).all()
    assert gap.max() < 0.02
    worse = csr_array(codes.toarray() + 0.01)
    assert kkt_residual(rows, D, worse, 0.5).min() > 1e-3
    assert duality_gap(rows, D, worse, 0.5).min() > gap.max()


def test_what_is_given_up_is_said():
    rows, D = problem(50)
    with pytest.warns(
        ConvergenceWarning, match=r"50 of 50 codes violate the conditions by more than 0.001 λ after 0"
    ):
        coordinate_descent(rows, D, 0.1, max_steps=0)


@SOLVERS
def test_a_shrunken_code_is_caught(solver):
    """The tests above are able to fail: codes that are off by 2 per cent of λ violate them."""
    rows, D = problem(20)
    codes = solver(rows, D, 0.5)
    assert violation(rows, D, codes * 0.98, 0.5).max() > 1.01e-3 * 0.5


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 5),
    K=st.integers(1, 40),
    d=st.integers(1, 12),
    seed=st.integers(0, 99),
    penalty=st.floats(1e-2, 10),
    atoms=st.sampled_from(["random", "twice", "nearly twice", "alike", "of zeros"]),
    positive=st.booleans(),
)
def test_any_shape(n, K, d, seed, penalty, atoms, positive):
    rows, D = problem(n, d, K, seed, atoms=atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = coordinate_descent(rows, D, penalty, positive)
    assert codes.shape == (n, K)
    assert violation(rows, D, codes, penalty, positive).max(initial=0) <= 1.01e-3 * penalty


@SOLVERS
def test_what_is_no_problem_is_refused(solver):
    rows, D = problem(5)
    for penalty in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ChainruleError, match="take a number above 0"):
            solver(rows, D, penalty)
    for start, message in (
        (np.ones((5, 3)), r"the shape \(5, 3\)"),
        (np.full((5, 64), np.nan), "320 of 320 numbers"),
    ):
        with pytest.raises(ChainruleError, match=message):
            solver(rows, D, 0.5, start=start)
    with pytest.raises(ChainruleError, match="the rows have 20 numbers, the atoms 19"):
        solver(rows, D[:, 1:], 0.5)
    rows[2, 3] = np.nan
    with pytest.raises(ChainruleError, match="1 of 100 numbers of the rows are NaN or infinite"):
        solver(rows, D, 0.5)
