"""FISTA: its codes satisfy the optimality conditions, written down here once more, and equal scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from chainrule.errors import ChainruleError
from chainrule.layers.fista import FISTA, fista, largest_eigenvalue

KINDS = pytest.mark.parametrize("kind", [np.float32, np.float64])
SIGNS = pytest.mark.parametrize("positive", [False, True])


def problem(n=60, d=20, K=32, seed=0, kind=np.float64):
    rng = np.random.default_rng(seed)
    rows, atoms = rng.normal(size=(n, d)), rng.normal(size=(K, d))
    return rows.astype(kind), (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(kind)


def violation(rows, atoms, codes, penalty, positive=False):
    """(n,) distance of 0 from the subdifferential of ½‖x − zD‖² + λ‖z‖₁, the largest element, in float64."""
    x, D, z = (np.asarray(a, np.float64) for a in (rows, atoms, codes.toarray()))
    slope = (z @ D - x) @ D.T
    lowest, highest = slope - penalty, slope + penalty  # of the subdifferential at z = 0
    if positive:
        lowest = np.full_like(lowest, -np.inf)  # the cone of what is forbidden
    at_zero = np.maximum(0, np.maximum(lowest, -highest))
    return np.where(z == 0, at_zero, np.abs(slope + penalty * np.sign(z))).max(1)


def objective(rows, atoms, codes, penalty):
    codes = np.asarray(codes)
    return ((rows - codes @ atoms) ** 2).sum(1) / 2 + penalty * np.abs(codes).sum(1)


@KINDS
@SIGNS
@pytest.mark.parametrize("penalty", [0.03, 0.3, 1.0])
def test_every_sample_satisfies_the_optimality_conditions(kind, positive, penalty):
    rows, atoms = problem(kind=kind)
    codes = fista(rows, atoms, penalty, positive)
    assert codes.dtype == kind
    assert codes.shape == (60, 32)
    assert 0 < codes.nnz < 60 * 32
    # What float32 cannot know of the residual: 1e-6 of numbers of order one.
    assert violation(rows, atoms, codes, penalty, positive).max() <= 1e-3 * penalty + 4 * np.finfo(kind).eps
    assert (codes.data > 0).all() if positive else (codes.data < 0).any()


@SIGNS
@pytest.mark.parametrize("penalty", [0.05, 0.5])
def test_equals_scikit_learn(positive, penalty):
    rows, atoms = problem()
    ours = fista(rows, atoms, penalty, positive, tol=1e-9).toarray()
    theirs = Lasso(alpha=penalty / 20, fit_intercept=False, positive=positive, tol=1e-14, max_iter=100_000)
    theirs = theirs.fit(atoms.T, rows.T).coef_  # d = 20 numbers a sample: their loss is divided by d
    np.testing.assert_allclose(ours, theirs, atol=1e-7)
    np.testing.assert_array_equal(ours != 0, np.abs(theirs) > 1e-9)


def test_orthonormal_atoms_have_a_solution_in_closed_form():
    rows = problem(d=8)[0]
    atoms = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    products = rows @ atoms.T
    shrunk = np.sign(products) * np.maximum(np.abs(products) - 0.4, 0)
    np.testing.assert_allclose(fista(rows, atoms, 0.4, tol=1e-10).toarray(), shrunk, atol=1e-9)
    kept = np.maximum(products - 0.4, 0)
    np.testing.assert_allclose(fista(rows, atoms, 0.4, True, tol=1e-10).toarray(), kept, atol=1e-9)


def test_no_code_near_the_solution_is_better():
    rows, atoms = problem(n=10)
    best = fista(rows, atoms, 0.2, tol=1e-9).toarray()
    least, rng = objective(rows, atoms, best, 0.2), np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(100):
            other = best + size * rng.normal(size=best.shape) * (rng.random(best.shape) < 0.2)
            assert (objective(rows, atoms, other, 0.2) >= least - 1e-12).all()


@SIGNS
def test_a_warm_start_changes_nothing_but_the_time(positive):
    rows, atoms = problem()
    cold = fista(rows, atoms, 0.2, positive, tol=1e-9)
    rng = np.random.default_rng(0)
    starts = [cold, cold.toarray(), csr_array(np.abs(rng.normal(size=cold.shape))), np.full(cold.shape, 50.0)]
    if not positive:
        starts += [-starts[-1], rng.normal(size=cold.shape)]
    for start in starts:
        before = start.copy()
        found = fista(rows, atoms, 0.2, positive, start, tol=1e-9)
        np.testing.assert_allclose(found.toarray(), cold.toarray(), atol=1e-7)
        assert abs(start - before).max() == 0  # nobody writes into what the caller gave
    # From the solution no iteration is made, so one is enough; from zeros it is not.
    again = fista(rows, atoms, 0.2, positive, cold, tol=1e-9, max_iter=1)
    np.testing.assert_array_equal(again.toarray(), cold.toarray())
    with pytest.warns(ConvergenceWarning):
        fista(rows, atoms, 0.2, positive, tol=1e-9, max_iter=1)


@pytest.mark.parametrize("start", [-1.0, 1.0])
def test_a_start_of_the_wrong_sign_is_left_behind(start):
    rows, atoms = problem()
    found = fista(rows, atoms, 0.2, True, np.full((60, 32), start), tol=1e-9)
    assert violation(rows, atoms, found, 0.2, True).max() <= 2e-9 * 0.2
    assert (found.data > 0).all()


@KINDS
def test_bits_depend_on_neither_threads_nor_other_chunks(kind):
    rows, atoms = problem(n=300, kind=kind)
    one = FISTA(chunk=64)(rows, atoms, 0.2, threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for threads in (2, 3, None):
        other = FISTA(chunk=64)(rows, atoms, 0.2, threads=threads)
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part), strict=True)
    np.testing.assert_array_equal(FISTA(chunk=64)(rows[:64], atoms, 0.2).toarray(), one[:64].toarray())
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 2  # as the caller had set it


def test_the_solution_does_not_depend_on_the_chunk():
    rows, atoms = problem(n=50)
    whole = fista(rows, atoms, 0.2, tol=1e-10, chunk=50).toarray()
    np.testing.assert_allclose(fista(rows, atoms, 0.2, tol=1e-10, chunk=7).toarray(), whole, atol=1e-8)


def test_samples_that_are_done_leave_the_batch():
    """Easy samples beside a hard one end as they do alone: nobody iterates them on."""
    rows, atoms = problem(n=8)
    atoms[1] = atoms[0] + 1e-3 * atoms[1]  # two atoms that are nearly one make slow samples
    alone = [fista(row[None], atoms, 0.01).toarray()[0] for row in rows]
    np.testing.assert_allclose(fista(rows, atoms, 0.01).toarray(), alone, atol=1e-10)


def test_momentum_and_its_restart_save_iterations():
    # Never restarted it takes more than 1,500 iterations, and without momentum more than 12,000.
    rows, atoms = problem()
    fista(rows, atoms, 0.05, tol=1e-6, max_iter=800)


def test_samples_that_are_not_done_are_counted():
    rows, atoms = problem()
    with pytest.warns(ConvergenceWarning, match=r"(\d+) of 60 codes .* max_iter=3 ") as caught:
        codes = fista(rows, atoms, 0.05, max_iter=3)
    wrong = int((violation(rows, atoms, codes, 0.05) > 1e-3 * 0.05).sum())
    assert wrong > 30
    assert str(caught[0].message).startswith(f"{wrong} of 60 ")


@KINDS
@SIGNS
def test_degenerate_problems(kind, positive):
    rows, atoms = problem(n=6, d=5, K=4, kind=kind)
    rows[0] = 0
    rows[1] = 1
    dictionaries = {
        "duplicates": np.repeat(atoms[:2], 3, 0),
        "zeros": np.zeros((3, 5), kind),
        "one atom and zeros": np.concatenate([np.zeros((3, 5), kind), atoms[:1]]),
        "opposites": np.concatenate([atoms, -atoms]),
        "constant": np.ones((6, 5), kind),
        "short and long": atoms * np.array([[1e-4], [1], [3], [10]], kind),
    }
    for name, D in dictionaries.items():
        for start in (None, np.ones((6, len(D)))):
            codes = fista(rows, D, 0.1, positive, start, max_iter=100_000)
            allowed = 1e-3 * 0.1 + 10 * np.finfo(kind).eps * np.linalg.norm(D, axis=1).max()
            assert violation(rows, D, codes, 0.1, positive).max() <= allowed, name
            assert codes[[0]].nnz == 0, name
    assert fista(rows, atoms, 1e6, positive).nnz == 0
    assert fista(rows[:0], atoms, 0.1, positive).shape == (0, 4)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 6),
    d=st.integers(1, 20),
    K=st.integers(1, 40),
    chunk=st.integers(1, 8),
    penalty=st.sampled_from([0.05, 0.5, 5.0]),
    positive=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(n, d, K, chunk, penalty, positive, seed):
    rows, atoms = problem(n, d, K, seed)
    codes = fista(rows, atoms, penalty, positive, chunk=chunk, max_iter=100_000)
    assert codes.shape == (n, K)
    assert violation(rows, atoms, codes, penalty, positive).max(initial=0) <= 1e-3 * penalty + 1e-12


@KINDS
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (64, 64)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_bound_of_the_eigenvalue_is_safe_and_close(kind, shape, scale):
    atoms = (scale * np.random.default_rng(0).normal(size=shape)).astype(kind)
    truth = np.linalg.eigvalsh(atoms.astype(float) @ atoms.T.astype(float))[-1]
    bound = largest_eigenvalue(torch.from_numpy(atoms))
    assert truth <= bound <= 1.03 * truth


def test_the_bound_of_equal_eigenvalues_and_of_zeros():
    assert 1 <= largest_eigenvalue(torch.eye(512)) <= 1.03
    assert largest_eigenvalue(torch.zeros(3, 2)) == 0


def test_what_cannot_be_coded_is_refused():
    rows, atoms = problem()
    with pytest.raises(ChainruleError, match="the rows have 20 numbers, the atoms 19"):
        fista(rows, atoms[:, 1:], 0.1)
    with pytest.raises(ChainruleError, match="1 of 1200 numbers of the rows are NaN"):
        fista(np.where(rows == rows.max(), np.nan, rows), atoms, 0.1)
    with pytest.raises(ChainruleError, match=r"the start has the shape \(60, 31\), the codes \(60, 32\)"):
        fista(rows, atoms, 0.1, start=np.zeros((60, 31)))
    for penalty in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ChainruleError, match="penalty="):
            fista(rows, atoms, penalty)
    for name, wrong in {"tol": 0.0, "max_iter": 0, "chunk": 0}.items():
        with pytest.raises(ChainruleError, match=f"{name}=0"):
            fista(rows, atoms, 0.1, **{name: wrong})
    with pytest.raises(ChainruleError, match="threads=0"):
        fista(rows, atoms, 0.1, threads=0)
