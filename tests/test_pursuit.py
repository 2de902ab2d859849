"""Orthogonal matching pursuit: two implementations, scikit-learn and the definition agree, whatever the dictionary."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp_gram

from chainrule.errors import ChainruleError
from chainrule.layers.pursuit import CHUNK, OMP, BatchOMP, batch_omp, orthogonal_matching_pursuit

BOTH = pytest.mark.parametrize("pursue", [orthogonal_matching_pursuit, batch_omp])


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def problem(n=40, d=20, K=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), unit(rng.normal(size=(K, d)))


@BOTH
@pytest.mark.parametrize("nonzeros", [1, 3, 10])
def test_equals_scikit_learn(pursue, nonzeros):
    rows, atoms = problem()
    theirs = orthogonal_mp_gram(atoms @ atoms.T, atoms @ rows.T, n_nonzero_coefs=nonzeros).T
    np.testing.assert_allclose(pursue(rows, atoms, nonzeros).toarray(), theirs, atol=1e-12)


@BOTH
def test_equals_scikit_learn_when_stopped_by_error(pursue):
    rows, atoms = problem()
    theirs = orthogonal_mp_gram(
        atoms @ atoms.T, atoms @ rows.T, tol=4.0, norms_squared=(rows**2).sum(1), copy_Xy=True
    ).T
    codes = pursue(rows, atoms, None, error=4.0)
    np.testing.assert_allclose(codes.toarray(), theirs, atol=1e-12)
    assert (((rows - codes @ atoms) ** 2).sum(1) <= 4.0 * (1 + 1e-12)).all()
    assert len(set(np.diff(codes.indptr))) > 2  # samples stop at different sizes


@BOTH
def test_both_limits_hold(pursue):
    rows, atoms = problem()
    both = pursue(rows, atoms, 4, error=6.0)
    count, error = pursue(rows, atoms, 4), pursue(rows, atoms, None, error=6.0)
    sizes = [np.diff(codes.indptr) for codes in (both, count, error)]
    np.testing.assert_array_equal(sizes[0], np.minimum(sizes[1], sizes[2]))
    assert sizes[0].min() < 4
    assert sizes[2].max() > 4


@BOTH
def test_every_choice_is_the_best_atom_and_every_fit_least_squares(pursue):
    """By the definition: all single atoms are tried, and the residual is that of the projection."""
    rows, atoms = problem(n=8, d=5, K=7)
    atoms = atoms * np.linspace(0.1, 30, 7)[:, None]
    for row in rows:
        support, residual = [], row
        for m in range(1, 5):
            left = [((residual - residual @ np.outer(a, a) / (a @ a)) ** 2).sum() for a in atoms]
            support.append(int(np.argmin(left)))
            fit = np.linalg.lstsq(atoms[support].T, row)[0]
            residual = row - fit @ atoms[support]
            expected = np.zeros(7)
            expected[support] = fit
            np.testing.assert_allclose(pursue(row[None], atoms, m).toarray()[0], expected, atol=1e-10)


@BOTH
def test_brute_force_over_all_supports(pursue):
    """Never below the best support of its size, and equal to it where greed is optimal: one atom, orthogonal atoms."""
    rows, atoms = problem(n=10, d=6, K=8)
    axes = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    for dictionary, size, optimal in ((atoms, 1, True), (axes, 3, True), (atoms, 3, False)):
        fits = [dictionary[list(s)] for s in combinations(range(len(dictionary)), size)]
        best = [min(np.linalg.norm(x - x @ np.linalg.pinv(f) @ f) for f in fits) for x in rows]
        found = np.linalg.norm(rows - pursue(rows, dictionary, size) @ dictionary, axis=1)
        assert (found >= np.array(best) - 1e-10).all()
        assert np.allclose(found, best, atol=1e-10) == optimal


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@BOTH
def test_sparse_signals_in_an_incoherent_dictionary_are_recovered(pursue, kind):
    # Tropp 2004: (1 + 1/μ) / 2 non-zeros and fewer are always found. Spikes and cosines: μ = sqrt(2 / d).
    d, nonzeros = 128, 4
    t = np.arange(d)
    atoms = np.concatenate([np.eye(d), unit(np.cos(np.pi * np.outer(t, t + 0.5) / d))]).astype(kind)
    coherence = np.abs(np.triu(atoms @ atoms.T, 1)).max()
    assert nonzeros < (1 + 1 / coherence) / 2
    rng = np.random.default_rng(0)
    truth = np.zeros((50, 2 * d), kind)
    for code in truth:
        where = rng.choice(2 * d, nonzeros, replace=False)
        code[where] = rng.choice([-1, 1], nonzeros) * rng.uniform(0.5, 2, nonzeros)
    found = pursue(truth @ atoms, atoms, nonzeros)
    assert found.dtype == kind
    np.testing.assert_array_equal(found.toarray() != 0, truth != 0)
    np.testing.assert_allclose(found.toarray(), truth, atol=50 * np.finfo(kind).eps)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_residual_is_orthogonal_to_the_chosen_atoms(kind):
    rows, atoms = problem(n=200, d=64, K=100)
    rows, atoms = rows.astype(kind), atoms.astype(kind)
    codes = batch_omp(rows, atoms, 20)
    correlations = (rows.astype(float) - codes.astype(float) @ atoms.astype(float)) @ atoms.T.astype(float)
    assert (np.diff(codes.indptr) == 20).all()
    assert np.abs(correlations[codes.toarray() != 0]).max() < 100 * np.finfo(kind).eps
    assert np.abs(correlations).max() > 0.1


def test_scaled_atoms_give_scaled_coefficients():
    rows, atoms = problem()
    sizes = np.exp(np.random.default_rng(1).normal(size=len(atoms)) * 5)
    plain, scaled = batch_omp(rows, atoms, 5), batch_omp(rows, atoms * sizes[:, None], 5)
    np.testing.assert_allclose(scaled.toarray() * sizes, plain.toarray(), atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_samples_are_coded_like_others(kind, scale):
    rows, atoms = problem()
    rows, atoms = rows.astype(kind), atoms.astype(kind)
    codes = batch_omp(rows * kind(scale), atoms, 5).toarray() / kind(scale)
    np.testing.assert_allclose(codes, batch_omp(rows, atoms, 5).toarray(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bits_depend_neither_on_threads_nor_on_later_samples(kind):
    rows, atoms = problem(n=2 * CHUNK + 77)
    rows, atoms = rows.astype(kind), atoms.astype(kind)
    one = batch_omp(rows, atoms, 6, threads=1)
    for threads in (2, 3):
        other = batch_omp(rows, atoms, 6, threads=threads)
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part), strict=True)
    np.testing.assert_array_equal(batch_omp(rows[:CHUNK], atoms, 6).toarray(), one[:CHUNK].toarray())


@BOTH
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_degenerate_dictionaries(pursue, kind):
    rng = np.random.default_rng(0)
    atom = rng.normal(size=6)
    rows = np.concatenate([rng.normal(size=(5, 6)), np.zeros((1, 6)), atom[None], np.ones((1, 6))]).astype(
        kind
    )
    dictionaries = {
        "duplicates": np.repeat(rng.normal(size=(3, 6)), 4, 0),
        "nearly duplicates": np.repeat(rng.normal(size=(3, 6)), 4, 0) + 1e-9 * rng.normal(size=(12, 6)),
        "opposites and multiples": np.outer([1, -1, 2, 0.5, -3], atom),
        "zeros": np.zeros((4, 6)),
        "one atom and zeros": np.concatenate([np.zeros((3, 6)), atom[None]]),
        "constant": np.ones((5, 6)),
        "more than dimensions": rng.normal(size=(20, 6)),
    }
    rank = {"duplicates": 3, "nearly duplicates": 3, "zeros": 0, "more than dimensions": 6}
    for name, atoms in dictionaries.items():
        atoms = atoms.astype(kind)
        codes = pursue(rows, atoms, 10)
        assert np.isfinite(codes.data).all(), name
        assert np.diff(codes.indptr).max() == rank.get(name, 1), name
        assert codes[[5]].nnz == 0, name
        # No better than least squares on all atoms, and with no atom left to take no worse.
        left = np.linalg.norm(rows - codes @ atoms, axis=1)
        wide = atoms.T.astype(float)
        best = np.linalg.norm(rows.T - wide @ np.linalg.pinv(wide, rcond=1e-5) @ rows.T, axis=0)
        np.testing.assert_allclose(left, best, atol=1e4 * np.finfo(kind).eps, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 5),
    d=st.integers(1, 20),
    K=st.integers(1, 40),
    nonzeros=st.one_of(st.none(), st.integers(1, 50)),
    error=st.sampled_from([0.0, 0.5, 1e9]),
    seed=st.integers(0, 99),
)
def test_the_fast_form_equals_the_definition(n, d, K, nonzeros, error, seed):
    rows, atoms = problem(n, d, K, seed)
    fast, plain = batch_omp(rows, atoms, nonzeros, error), OMP(nonzeros, error)(rows, atoms)
    assert fast.shape == (n, K)
    assert fast.has_sorted_indices
    assert fast.nnz <= n * min(d, K)
    # What all agree on however close the choices: the sizes of residuals, and supports while m is small.
    np.testing.assert_allclose(np.diff(fast.indptr), np.diff(plain.indptr), atol=0)
    left = [np.linalg.norm(rows - codes @ atoms, axis=1) for codes in (fast, plain)]
    np.testing.assert_allclose(left[0], left[1], atol=1e-7)


def test_the_solvers_are_called_alike_and_penalty_and_start_change_nothing():
    rows, atoms = problem()
    for solver in (OMP(nonzeros=3), BatchOMP(nonzeros=3)):
        plain = solver(rows, atoms).toarray()
        other = solver(rows, atoms, 7.0, start=np.ones((len(rows), len(atoms))), threads=2).toarray()
        np.testing.assert_array_equal(plain, other)
        assert (plain != 0).sum(1).tolist() == [3] * len(rows)


def test_what_cannot_be_coded_is_refused():
    rows, atoms = problem()
    cases = {
        "the rows have 20 numbers, the atoms 19": (rows, atoms[:, 1:]),
        r"the rows have the shape \(20,\)": (rows[0], atoms),
        r"the atoms have the shape \(0, 20\)": (rows, atoms[:0]),
        "1 of 800 numbers of the rows are NaN": (np.where(rows == rows.max(), np.nan, rows), atoms),
        "1 of 640 numbers of the atoms are NaN": (rows, np.where(atoms == atoms.max(), np.inf, atoms)),
    }
    for message, arguments in cases.items():
        for pursue in (orthogonal_matching_pursuit, batch_omp):
            with pytest.raises(ChainruleError, match=message):
                pursue(*arguments)
    with pytest.raises(ChainruleError, match="nonzeros=0"):
        batch_omp(rows, atoms, 0)
    with pytest.raises(ChainruleError, match="error=-1"):
        batch_omp(rows, atoms, error=-1)
    with pytest.raises(ChainruleError, match="error=nan"):
        OMP(error=float("nan"))(rows, atoms)
    with pytest.raises(ChainruleError, match="threads=0"):
        batch_omp(rows, atoms, threads=0)
    for solver in (OMP(), BatchOMP()):
        with pytest.raises(ChainruleError, match="positive=True needs another solver"):
            solver(rows, atoms, positive=True)
