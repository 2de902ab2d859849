"""Orthogonal matching pursuit: codes with few non-zeros, one atom chosen after the other.

At every step the atom that correlates best with what is left of the sample joins the support, and the sample is
projected onto the span of the support (Pati, Rezaiifar & Krishnaprasad 1993). Atoms need not have norm 1: the
correlation is that with the direction of the atom, |⟨r, d⟩| / ‖d‖, so that scaling an atom scales its
coefficient and changes nothing else. Ties go to the atom that comes first.

Two functions: the definition, and the fast form on the Gram matrix. There is no λ here: `penalty` is taken, so
that all solvers are called alike, and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from chainrule.errors import ChainruleError
from chainrule.jit import called, compiled, ieee
from chainrule.layers.sparse import blas, by_chunks, problem

CHUNK = 512  # samples: their products with some hundred atoms stay in the cache
LANES = 16  # atoms are padded with zeros to a multiple of it, so that blocks of them are vectors


@dataclass(frozen=True)
class OMP:
    """Orthogonal matching pursuit by its definition: slow, and what `BatchOMP` is measured against.

    Attributes:
        nonzeros: the most atoms a sample; None: as many as `error` asks for.
        error: a sample is done when its squared residual ‖x − zD‖² is no larger.

    Example:
        >>> OMP(nonzeros=1)(np.array([[3.0, 1.0]]), np.eye(2)).toarray()
        array([[3., 0.]])
    """

    nonzeros: int | None = 10
    error: float = 0.0

    def __call__(self, rows, atoms, penalty=0.0, positive=False, start=None, threads=None) -> csr_array:
        """Codes (n, K) of rows (n, d) in atoms (K, d); `penalty`, `start` and `threads` change nothing."""
        only_with_signs(positive)
        return orthogonal_matching_pursuit(rows, atoms, self.nonzeros, self.error)


@dataclass(frozen=True)
class BatchOMP:
    """Orthogonal matching pursuit of many samples in one dictionary, on its Gram matrix.

    Attributes:
        nonzeros: the most atoms a sample; None: as many as `error` asks for.
        error: a sample is done when its squared residual ‖x − zD‖² is no larger. It is known to the rounding
            error of ‖x‖², 1e-7 of it for float32: ask for less in float64 only.

    Example:
        >>> BatchOMP(nonzeros=1)(np.array([[3.0, 1.0]]), np.eye(2)).toarray()
        array([[3., 0.]])
    """

    nonzeros: int | None = 10
    error: float = 0.0

    def __call__(self, rows, atoms, penalty=0.0, positive=False, start=None, threads=None) -> csr_array:
        """Codes (n, K) of rows (n, d) in atoms (K, d); `penalty` and `start` change nothing."""
        only_with_signs(positive)
        return batch_omp(rows, atoms, self.nonzeros, self.error, threads)


def only_with_signs(positive: bool) -> None:
    if positive:
        raise ChainruleError(
            "pursuit gives codes of both signs: positive=True needs another solver, e.g. FISTA"
        )


def orthogonal_matching_pursuit(rows, atoms, nonzeros: int | None = 10, error: float = 0.0) -> csr_array:
    """Codes (n, K) of rows (n, d) in atoms (K, d): least squares on the support at every step.

    Args:
        rows: float32 or float64, which the codes have as well; computed in float64.
        nonzeros, error: when a sample is done, see `OMP`. It is done as well when no atom correlates with its
            residual, or only such that lie in the span of those chosen: with duplicates, zeros and fewer
            dimensions than `nonzeros`, codes have fewer non-zeros.

    Raises:
        ChainruleError: shapes that do not fit, NaN, or limits that are none.
    """
    rows, atoms = problem(rows, atoms)
    most = limits(nonzeros, error, atoms)
    wide = atoms.astype(np.float64)
    codes = [pursued(row, wide, most, error) for row in rows.astype(np.float64)]
    return csr_array(np.array(codes).reshape(len(rows), len(atoms)), dtype=rows.dtype)


def limits(nonzeros: int | None, error: float, atoms) -> int:
    """The most atoms a sample can have."""
    if nonzeros is not None and nonzeros < 1:
        raise ChainruleError(f"nonzeros={nonzeros}: a code needs at least 1, or None and an error to stop at")
    if not error >= 0:
        raise ChainruleError(f"error={error}: a squared residual is 0 or more")
    return min(atoms.shape) if nonzeros is None else min(nonzeros, *atoms.shape)


def pursued(row, atoms, most: int, error: float):
    """The code (K,) of one sample (d,)."""
    directions, norms = directions_of(atoms)
    none = rounding(atoms.dtype)
    support: list[int] = []
    free, residual, values = norms > 0, row, np.zeros(0)
    while len(support) < most and residual @ residual > error:
        scores = np.abs(directions @ residual) * free
        chosen = int(scores.argmax())
        if scores[chosen] <= none * np.linalg.norm(row):
            break
        free[chosen] = False
        basis = np.linalg.qr(directions[support].T)[0]  # (d, m)
        beside = directions[chosen] - basis @ (basis.T @ directions[chosen])
        if beside @ beside <= none:
            continue  # it adds nothing to the span of the others
        support.append(chosen)
        values = np.linalg.lstsq(directions[support].T, row)[0]
        residual = row - values @ directions[support]
    code = np.zeros(len(atoms))
    code[support] = values / norms[support]
    return code


def directions_of(atoms):
    """(atoms divided by their norms, norms); zeros stay zeros."""
    largest = np.abs(atoms).max(1, keepdims=True).astype(np.float64)  # divided out: squares can overflow
    scaled = np.divide(atoms, largest, out=np.zeros(atoms.shape), where=largest > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions = np.divide(scaled, norms, out=scaled, where=norms > 0)
    return directions, (norms * largest)[:, 0]


def rounding(kind) -> float:
    """What counts as nothing beside 1: correlations and squared lengths below it are rounding errors."""
    return 32 * float(np.finfo(kind).eps)


# ----------------------------------------------------------------------------------------------- the fast form


def batch_omp(
    rows, atoms, nonzeros: int | None = 10, error: float = 0.0, threads: int | None = None
) -> csr_array:
    """The same codes (n, K) as `orthogonal_matching_pursuit`, computed on the Gram matrix of the atoms.

    Rubinstein, Zibulevsky & Elad 2008, algorithm Batch-OMP with progressive Cholesky factors. Instead of the
    correlations G_I z of all coefficients anew at every step, it keeps those of every atom with the orthonormal
    directions that the support spans, so that a step is m sums of rows that are in the cache.

    Args:
        rows: float32 or float64: the precision of all computations and of the codes.
        nonzeros, error: as for `BatchOMP`.
        threads: None: as many as PyTorch has. The bits of the codes do not depend on it.

    Raises:
        ChainruleError: shapes that do not fit, NaN, or limits that are none.
    """
    rows, atoms = problem(rows, atoms)
    most = limits(nonzeros, error, atoms)
    directions, norms = directions_of(atoms)
    padded = np.zeros((-(-len(atoms) // LANES) * LANES, atoms.shape[1]))
    padded[: len(atoms)] = directions
    gram, directions = (padded @ padded.T).astype(rows.dtype), padded.astype(rows.dtype)

    def solve(chunk: slice) -> csr_array:
        return chunk_of_codes(rows[chunk], directions, gram, norms, most, error)

    with blas().limit(limits=1, user_api="blas"):
        return by_chunks(solve, len(rows), len(atoms), CHUNK, rows.dtype, threads)


def chunk_of_codes(rows, directions, gram, norms, most: int, error: float) -> csr_array:
    """Codes (n, K) of a chunk; `directions` and `gram` are padded to a multiple of `LANES`."""
    n, kind = len(rows), rows.dtype
    # In units of a power of two near the largest number of each sample: exact, and no square overflows.
    exponents = np.frexp(np.abs(rows).max(1, initial=0))[1] - 1
    unit = np.ldexp(kind.type(1), exponents)  # (n,)
    rows, errors = rows / unit[:, None], np.square(np.sqrt(error) / unit.astype(float)).astype(kind)
    products, energy = rows @ directions.T, np.einsum("nd,nd->n", rows, rows)
    counts, chosen, values = np.zeros(n, np.int32), np.zeros((n, most), np.int32), np.zeros((n, most), kind)
    room = [np.zeros(shape, kind) for shape in ((most, len(gram)), (most, most), most, len(gram), len(gram))]
    with ieee():
        pursue(products, gram, energy, errors, kind.type(rounding(kind)), *room, counts, chosen, values)
    used = np.arange(most) < counts[:, None]  # (n, most)
    starts = np.concatenate([[0], counts.cumsum()])
    chosen = chosen[used]
    scaled = (values[used] * np.repeat(unit, counts) / norms[chosen]).astype(kind)
    codes = csr_array((scaled, chosen, starts), shape=(n, len(norms)))
    codes.eliminate_zeros()  # a later atom can make an earlier one superfluous
    return codes


# In the kernel: s sample, k atom, m size of the support, i and j atoms of the support in the order of choice.
# q_i are the orthonormal directions of the support (its Gram-Schmidt basis, never formed).


@compiled
def pursue(
    products, gram, energy, errors, nothing, shadows, lower, along, free, scores, counts, chosen, values
):
    """Choose atoms for every sample: `counts`, and in order of atoms `chosen` and `values`.

    Args:
        products: (n, K) ⟨x, d_k⟩; becomes the correlations with the residuals.
        gram: (K, K) of atoms of norm 1 or 0. energy: (n,) ‖x‖². K is a multiple of `LANES`.
        errors: (n,) squared residuals to stop at. nothing: see `rounding`.
        shadows, lower, along, free, scores: room for (most, K) ⟨q_i, d_k⟩, (most, most) the Cholesky factor of
            the support's Gram matrix, (most,) ⟨q_i, x⟩, and twice (K,).
        counts, chosen, values: (n,), (n, most), (n, most).
    """
    for s in range(len(products)):
        free[:] = 1
        left, least, m = energy[s], nothing * np.sqrt(energy[s]), 0
        while m < len(shadows) and left > errors[s]:
            k = best(products, s, free, scores, least)
            if k < 0:
                break
            free[k] = 0
            square = gram[k, k]  # of the length of d_k beside the span of the support
            for i in range(m):
                lower[m, i] = shadows[i, k]
                square -= lower[m, i] * lower[m, i]
            if square <= nothing:
                continue
            lower[m, m] = np.sqrt(square)
            along[m] = products[s, k] / lower[m, m]
            cast(products, s, shadows, lower, along, m, gram, k)
            left -= along[m] * along[m]
            chosen[s, m] = k
            m += 1
        solve_transposed(lower, along, m, values, s)
        in_order(chosen, values, s, m)
        counts[s] = m


@called
def best(products, s, free, scores, least):
    """The first of the free atoms with the largest |correlation|, or -1 when none is above `least`."""
    for k in range(len(free)):
        scores[k] = abs(products[s, k]) * free[k]
    highest, block = least, -1
    for begin in range(0, len(free), LANES):
        score = scores[begin]
        for k in range(begin + 1, begin + LANES):
            score = max(score, scores[k])
        if score > highest:
            highest, block = score, begin
    if block < 0:
        return -1
    while scores[block] != highest:
        block += 1
    return block


@called
def cast(products, s, shadows, lower, along, m, gram, k):
    """shadows[m] = ⟨q_m, ·⟩ of all atoms, q_m = (d_k − Σ_i lower[m, i] q_i) / lower[m, m]; then ⟨residual, ·⟩."""
    row, first, scale = shadows[m], m % 4, 1 / lower[m, m]
    for a in range(len(gram)):
        row[a] = gram[k, a]
    for i in range(first):
        for a in range(len(gram)):
            row[a] -= lower[m, i] * shadows[i, a]
    for i in range(first, m, 4):  # four at a time: a quarter of the loads and stores
        w, x, y, z = lower[m, i], lower[m, i + 1], lower[m, i + 2], lower[m, i + 3]
        for a in range(len(gram)):
            row[a] = (row[a] - w * shadows[i, a] - x * shadows[i + 1, a]) - (
                y * shadows[i + 2, a] + z * shadows[i + 3, a]
            )
    for a in range(len(gram)):
        row[a] *= scale
        products[s, a] -= along[m] * row[a]


@called
def solve_transposed(lower, along, m, values, s):
    """values[s] z: lowerᵀ z = along, the least squares on the support."""
    for i in range(m - 1, -1, -1):
        z = along[i]
        for j in range(i + 1, m):
            z -= lower[j, i] * values[s, j]
        values[s, i] = z / lower[i, i]


@called
def in_order(chosen, values, s, m):
    """Sort the support of a sample by atoms, as CSR wants it."""
    for i in range(1, m):
        k, z = chosen[s, i], values[s, i]
        j = i
        while j > 0 and chosen[s, j - 1] > k:
            chosen[s, j], values[s, j] = chosen[s, j - 1], values[s, j - 1]
            j -= 1
        chosen[s, j], values[s, j] = k, z
