"""What the solvers of sparse codes share: the check of a problem, and the division of samples into chunks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack
from threadpoolctl import ThreadpoolController

from chainrule.engine.strict import in_threads
from chainrule.errors import ChainruleError

Rows = np.ndarray  # (n, d) float32 or float64


def problem(rows, atoms) -> tuple[Rows, Rows]:
    """Rows (n, d) and atoms (K, d) in C order, both in the precision of the rows: float32, else float64.

    Raises:
        ChainruleError: they are not matrices of one width, or hold NaN or infinities.
    """
    rows, atoms = np.asarray(rows), np.asarray(atoms)
    for name, matrix in (("rows", rows), ("atoms", atoms)):
        if matrix.ndim != 2:
            raise ChainruleError(f"the {name} have the shape {matrix.shape}: a matrix is needed, one a line")
    if rows.shape[1] != atoms.shape[1]:
        raise ChainruleError(
            f"the rows have {rows.shape[1]} numbers, the atoms {atoms.shape[1]}: cut both alike"
        )
    if 0 in atoms.shape:
        raise ChainruleError(f"the atoms have the shape {atoms.shape}: at least 1 atom of 1 number is needed")
    kind = np.float32 if rows.dtype == np.float32 else np.float64
    rows, atoms = np.ascontiguousarray(rows, kind), np.ascontiguousarray(atoms, kind)
    for name, matrix in (("rows", rows), ("atoms", atoms)):
        if not np.isfinite(matrix).all():
            bad = int((~np.isfinite(matrix)).sum())
            raise ChainruleError(
                f"{bad} of {matrix.size} numbers of the {name} are NaN or infinite: remove them"
            )
    return rows, atoms


def warm(start, n: int, K: int, kind) -> csr_array:
    """The codes (n, K) to start from, dense or sparse, as CSR of dtype `kind`; None: all 0.

    Raises:
        ChainruleError: they have another shape, or hold NaN or infinities.
    """
    if start is None:
        return csr_array((n, K), dtype=kind)
    if np.shape(start) != (n, K):
        raise ChainruleError(
            f"the start has the shape {np.shape(start)}, the codes {(n, K)}: start with theirs"
        )
    codes = csr_array(start if issparse(start) else np.asarray(start), dtype=kind)
    if bad := int((~np.isfinite(codes.data)).sum()):
        raise ChainruleError(
            f"{bad} of {codes.nnz} numbers of the start are NaN or infinite: start without it"
        )
    return codes


def by_chunks(
    solve: Callable[[slice], csr_array], n: int, width: int, size: int, kind, threads: int | None
) -> csr_array:
    """The codes (n, width) of solve(slice of at most `size` samples), by so many threads (None: as PyTorch).

    The chunks depend on nothing but n, so the bits of the codes do not depend on the number of threads.
    """
    if threads is not None and threads < 1:
        raise ChainruleError(f"threads={threads}: at least 1 is needed")
    if not n:
        return csr_array((0, width), dtype=kind)
    chunks = [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]
    return vstack(list(in_threads(solve, chunks, threads or torch.get_num_threads())), format="csr")


@cache
def blas() -> ThreadpoolController:
    """The threads of NumPy's products. `limit(limits=1, user_api="blas")`: bits do not depend on how many there are."""
    return ThreadpoolController()  # looks through all loaded libraries: a millisecond or more
