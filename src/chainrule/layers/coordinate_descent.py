"""Coordinate descent on the Gram matrix: the Lasso solver for processors.

All that the descent needs of the data are the correlations b = Dx and the Gram matrix G = DDᵀ: with c = b − zG, the
best zⱼ given the others is S(cⱼ + gⱼzⱼ)/gⱼ (Friedman et al. 2007). Three things make it fast here:

- The coordinate that is moved is the one that is most wrong (Gauss & Southwell). Finding it means looking at all K
  coordinates, in vectors: that costs less than updating c does, and it is the test of optimality as well.
- Once no violation is large, the support and its signs are nearly right. Then the equations of the support,
  G_AA δ = c_A − λ sign(z_A), are solved at once by conjugate gradients, and δ is followed until a coefficient
  would change its sign; that one leaves the support (Lee et al. 2007). The objective falls in every such step.
- Events are coded one by one, so everything stays in the cache, and chunks of them in parallel.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning

from chainrule import jit
from chainrule.layers.lasso import lasso_problem
from chainrule.layers.sparse import blas, by_chunks, warm
from chainrule.layers.vectors import LANES, axpy, copy, dot, most_violated, product, times, xpay

U = np.uint64  # places are unsigned, or every access would look for a negative one
CHUNK = 256  # events coded together: a fixed number, so that bits do not depend on the threads
HAND_OVER = 0.1  # violation, as a share of λ, at which the support is first solved for
INEXACT = 0.1  # share of the residual that a solve may leave
FLAT = 64  # rounding errors, beside the largest ‖dⱼ‖²: a direction of less curvature has none
MOVES = U(64)  # single moves after which the support is solved for in any case
SURE = 0.99  # of the tolerance, at which a code is done: rounding in single precision adds less than the rest
SHRINK = 0.3  # share of the violation left by a solve at which the next one begins


@dataclass(frozen=True)
class CoordinateDescent:
    """Solve the Lasso by coordinate descent with exact solves on the support.

    Args:
        tol: the KKT residual at which a code is done, as a share of λ.
        max_steps: moves of single coordinates, as a multiple of K, after which an event is given up with a warning.

    Example:
        >>> codes = CoordinateDescent()(np.array([[3.0, 0.5]]), np.eye(2), penalty=1.0)
        >>> codes.toarray()
        array([[2., 0.]])
    """

    tol: float = 1e-3
    max_steps: int = 100

    def __call__(self, rows, atoms, penalty, positive=False, start=None, threads=None) -> csr_array:
        return coordinate_descent(rows, atoms, penalty, positive, start, threads, self.tol, self.max_steps)


def coordinate_descent(
    rows: np.ndarray,
    atoms: np.ndarray,
    penalty: float,
    positive: bool = False,
    start: csr_array | None = None,
    threads: int | None = None,
    tol: float = 1e-3,
    max_steps: int = 100,
) -> csr_array:
    """codes (n, K): argmin_z ½‖x − zD‖² + λ‖z‖₁ of every row x; see `chainrule.layers.lasso.Solver`.

    The bits do not depend on the number of threads.

    Raises:
        ChainruleError: rows and atoms of different widths, or a penalty that is not above 0.

    Warns:
        ConvergenceWarning: some events still violate the conditions by more than `tol`.
    """
    rows, atoms = lasso_problem(rows, atoms, penalty)
    n, count = len(rows), len(atoms)
    padded = np.zeros(
        (-(-count // LANES) * LANES, rows.shape[1]), rows.dtype
    )  # atoms of zeros are never used
    padded[:count] = atoms
    start = shorter(warm(start, n, count, rows.dtype), rows.shape[1])
    real = rows.dtype.type
    given_up: list[int] = []

    def code(chunk: slice) -> csr_array:
        b = np.matmul(rows[chunk], padded.T, out=aligned((len(rows[chunk]), len(padded)), rows.dtype))
        codes, unsolved = code_chunk(b, gram, start[chunk], options)
        given_up.append(unsolved)
        return codes

    # One product is one thread's work: its bits must not depend on how many threads there are.
    with blas().limit(limits=1, user_api="blas"):
        gram = np.matmul(padded, padded.T, out=aligned((len(padded), len(padded)), rows.dtype))
        flat = real(FLAT * np.finfo(rows.dtype).eps * np.diag(gram).max())
        both = real(not positive)
        options = (
            real(penalty),
            real(SURE * tol),
            flat,
            real(HAND_OVER),
            real(SHRINK),
            max_steps * count,
            both,
        )
        codes = by_chunks(code, n, count, CHUNK, rows.dtype, threads)
    if sum(given_up):
        warnings.warn(
            f"{sum(given_up)} of {n} codes violate the conditions by more than {tol} λ after {max_steps} moves "
            "an atom: raise max_steps or tol, or code in float64; do the norms of the atoms differ widely?",
            ConvergenceWarning,
            stacklevel=2,
        )
    return codes


def shorter(start: csr_array, most: int) -> csr_array:
    """Starts without those of more than `most` non-zeros: no code needs so many, and to drop them takes long."""
    lengths = np.diff(start.indptr)
    kept = np.repeat(lengths <= most, lengths)
    ends = np.concatenate([[0], np.cumsum(np.where(lengths <= most, lengths, 0))])
    return csr_array((start.data[kept], start.indices[kept], ends), shape=start.shape)


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array of zeros that begins where a line of the cache begins, as vectors like it."""
    size, count = np.dtype(dtype).itemsize, math.prod(shape)
    memory = np.zeros(count + 64 // size, dtype)
    first = -memory.ctypes.data % 64 // size
    return memory[first : first + count].reshape(shape)


def code_chunk(b: np.ndarray, gram: np.ndarray, start: csr_array, options: tuple) -> tuple[csr_array, int]:
    """(codes (n, K), how many were given up) from correlations b (n, K padded) and the codes to start from."""
    n, width = b.shape
    stride = width + 2 * LANES  # of the vectors of a support and of its matrix
    work = aligned((2 * width + (5 + width) * stride,), b.dtype)
    z, support, inside = aligned((width,), b.dtype), np.empty(width, np.int32), np.zeros(width, np.bool_)
    data, columns, ends = np.empty(b.size, b.dtype), np.empty(b.size, np.int32), np.zeros(n + 1, np.int32)
    given = start.data, start.indices.astype(np.int32, copy=False), start.indptr.astype(np.int32, copy=False)
    with jit.ieee():
        unsolved = descend(
            b.ravel(), gram.ravel(), *options, *given, z, work, support, inside, stride, data, columns, ends
        )
    parts = data[: ends[-1]].copy(), columns[: ends[-1]].copy(), ends
    return csr_array(parts, shape=start.shape), unsolved


# ---- the kernel ----------------------------------------------------------------------------------------
# z (K,) the code, and in `work`: c (K,) correlations of the residual, g (K,) diagonal of G, five vectors and the matrix
# of the support: r residual of its equations, p direction, q = G_AA p, delta the solution, active 1 or 0. The support
# keeps the atoms that were once in it, so that the matrix only grows; they are not active.


@jit.compiled
def descend(
    b, gram, penalty, tol, flat, hand_over, shrink, most, both,
    from_data, from_columns, from_ends, z, work, support, inside, stride, data, columns, ends,
):  # fmt: skip
    """Code every row of b into the CSR parts data, columns, ends; gives how many were given up."""
    K, unsolved, filled = U(len(z)), 0, U(0)
    for j in range(K):
        work[K + j] = gram[j * K + j]
    for i in range(U(len(ends) - 1)):
        for at in range(from_ends[i], from_ends[i + U(1)]):
            value = from_data[at]
            z[U(from_columns[at])] = value if value > 0 else value * both
        unsolved += code_one(
            b,
            i * K,
            gram,
            penalty,
            tol,
            flat,
            hand_over,
            shrink,
            most,
            both,
            z,
            work,
            support,
            inside,
            K,
            U(stride),
        )
        for j in range(K):
            data[filled], columns[filled] = z[j], j
            filled += U(z[j] != 0)
            z[j] = 0
            inside[j] = False
        ends[i + U(1)] = filled
    return unsolved


@jit.called
def code_one(
    b, bi, gram, penalty, tol, flat, hand_over, shrink, most, both, z, work, support, inside, K, stride
):
    """Code the event whose correlations begin at b[bi], from z on; gives 0, or 1 when the patience ends."""
    c, g, count = U(0), K, U(0)
    copy(work, c, b, bi, K)
    for j in range(K):
        if z[j] != 0:
            axpy(work, c, gram, j * K, K, -z[j])
            count = enter(j, gram, work, support, inside, count, K, stride)
    steps, moves, goal, solved = 0, U(0), max(tol, hand_over), False
    while steps < most:
        j = most_violated(work, c, z, U(0), work, g, K, penalty, both)
        now = work[g + j] * z[j]
        change = thresholded(work[c + j] + now, penalty, both) - now
        violation = abs(change)
        if solved:
            if violation <= tol * penalty:
                return 0
            moves, goal, solved = U(0), max(tol, shrink * violation / penalty), False
        if violation > goal * penalty and moves < MOVES:
            moves += U(1)
            change /= work[g + j]
            z[j] += change
            axpy(work, c, gram, j * K, K, -change)
            if not inside[j]:
                count = enter(j, gram, work, support, inside, count, K, stride)
        else:
            solve_support(b, bi, gram, penalty, tol, flat, z, work, support, count, K, stride)
            solved = True
        steps += 1
    return 1


@jit.inlined
def enter(j, gram, work, support, inside, count, K, stride):
    """Add atom j to the support and its products to the matrix; gives how many are in it."""
    support[count] = j
    inside[j] = True
    matrix = U(2) * K + U(5) * stride
    for k in range(count + U(1)):
        product_of_two = gram[j * K + U(support[k])]
        work[matrix + count * stride + k] = product_of_two
        work[matrix + k * stride + count] = product_of_two
    return count + U(1)


@jit.inlined
def thresholded(u, penalty, both):
    """S(u): u moved towards 0 by the penalty, and no further."""
    if u > penalty:
        return u - penalty
    if u < -penalty:
        return (u + penalty) * both
    return u - u


@jit.called
def solve_support(b, bi, gram, penalty, tol, flat, z, work, support, count, K, stride):
    """Solve the equations of the support for as long as coefficients change their signs; then c anew."""
    crossed = True
    while crossed:
        equations(penalty, z, work, support, count, K, stride)
        conjugate_gradients(penalty, tol, flat, z, work, support, count, K, stride)
        crossed = follow(z, work, support, count, K, stride)
        copy(work, U(0), b, bi, K)
        for k in range(count):
            j = U(support[k])
            if z[j] != 0:
                axpy(work, U(0), gram, j * K, K, -z[j])


@jit.inlined
def equations(penalty, z, work, support, count, K, stride):
    """The right side c_A − λ sign(z_A), and which coefficients are active; zeros behind them."""
    r = U(2) * K
    active = r + U(4) * stride
    for k in range(count):
        j = U(support[k])
        side = z[j] * 0
        work[r + k] = work[active + k] = side
        if z[j] != 0:
            work[active + k] = side + U(1)
            work[r + k] = work[j] - (penalty if z[j] > 0 else -penalty)
    for k in range(count, count + U(2 * LANES)):
        work[r + k] = work[active + k] = 0


@jit.inlined
def conjugate_gradients(penalty, tol, flat, z, work, support, count, K, stride):
    """delta with G_AA delta = r (Hestenes & Stiefel 1952), or nearly so: what is left is for the next solve."""
    r = U(2) * K
    p, q, delta, active = r + stride, r + U(2) * stride, r + U(3) * stride, r + U(4) * stride
    matrix, wide = active + stride, count + U(LANES)
    copy(work, p, work, r, wide)
    for k in range(wide):
        work[delta + k] = 0
    size = dot(work, r, work, r, count)
    enough = max(penalty * penalty * tol * tol / 100, size * INEXACT * INEXACT)
    for _ in range(U(2) * count + U(10)):
        if size <= enough:
            return
        product(work, q, work, p, work, matrix, count, stride)
        times(work, q, work, active, wide)
        curvature = dot(work, p, work, q, count)
        if curvature <= flat * dot(work, p, work, p, count):
            # Along p the objective falls in a straight line until a coefficient reaches 0: `follow` stops there.
            for k in range(count):
                work[delta + k] = 0
            axpy(work, delta, work, p, count, beyond_crossing(z, work, support, count, p))
            return
        axpy(work, delta, work, p, count, size / curvature)
        axpy(work, r, work, q, count, -size / curvature)
        before = size
        size = dot(work, r, work, r, count)
        xpay(work, p, work, r, count, size / before)


@jit.inlined
def beyond_crossing(z, work, support, count, p):
    """A step along p after which some coefficient has changed its sign; 0 when there is none."""
    step = work[p] - work[p]
    for k in range(count):
        now, along = z[U(support[k])], work[p + k]
        if now * along < 0 and (step == 0 or -2 * now / along < step):
            step = -2 * now / along
    return step


@jit.inlined
def follow(z, work, support, count, K, stride):
    """z_A += t delta for the largest t ≤ 1 that changes no sign; gives whether a coefficient became 0."""
    delta = U(2) * K + U(3) * stride
    t = work[delta] - work[delta] + U(1)
    for k in range(count):
        now, step = z[U(support[k])], work[delta + k]
        if now != 0 and (now + step) * now <= 0:
            t = min(t, -now / step)
    crossed = False
    for k in range(count):
        j, step = U(support[k]), work[delta + k]
        now = z[j]
        if now != 0 and (now + step) * now <= 0 and -now / step <= t:
            z[j] = 0
            crossed = True
        else:
            z[j] = now + t * step
    return crossed
