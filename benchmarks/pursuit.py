"""Orthogonal matching pursuit of natural patches: batch OMP beside SPAMS and scikit-learn.

    python benchmarks/pursuit.py [--json]

Whitened 12×12 patches of photographs, 256 atoms, 10 non-zeros each, in float32 where a side has it. The atoms
are other patches divided by their norms: no side is favoured by having learned them. All sides run in one
process and in turn, with so many threads each; the median counts. `us` is microseconds a patch, of all threads
together, everything from rows to the sparse matrix included. `error` is the mean ‖x − zD‖² / ‖x‖²; `same` the share
of patches whose support is that of the definition, `orthogonal_matching_pursuit` in float64, on the first few.
SPAMS is left out where it is not installed, and a line says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from natural_patches import whitened_patches
from scipy.sparse import csr_array
from sklearn.decomposition import sparse_encode
from table import Row, in_turn, show
from threadpoolctl import threadpool_limits

from chainrule.layers.pursuit import batch_omp, orthogonal_matching_pursuit

try:
    import spams
except ImportError:
    spams = None

COMPARED = 300  # patches coded by the definition as well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--nonzeros", type=int, default=10)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    rows, atoms = whitened_patches(options.patches), whitened_patches(options.atoms, seed=1)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    exact = orthogonal_matching_pursuit(rows[:COMPARED].astype(float), atoms, options.nonzeros)
    for threads in options.threads:
        named = sides(rows, atoms, options.nonzeros, threads)
        with threadpool_limits(threads):
            codes = {name: side() for name, side in named.items()}
            seconds = in_turn(named, options.runs, warm=False)
        for name, took in seconds.items():
            row: Row = {"side": name, "threads": threads, "us": 1e6 * took / len(rows)}
            row |= {"times batch_omp": took / seconds["batch_omp"], "nonzeros": codes[name].nnz / len(rows)}
            yield row | {"error": error(rows, atoms, codes[name]), "same": same(codes[name], exact)}
        if spams is None:
            yield {"side": "spams: not installed (pip install spams-bin)", "threads": threads}


def sides(rows, atoms, nonzeros: int, threads: int) -> dict[str, Callable[[], csr_array]]:
    """What is timed, each giving codes (n, K)."""
    found = {
        "batch_omp": partial(batch_omp, rows, atoms, nonzeros, threads=threads),
        "scikit-learn": partial(of_scikit_learn, rows, atoms, nonzeros, threads),
    }
    if spams is not None:
        columns = np.asfortranarray(rows.T), np.asfortranarray(atoms.T)  # its own layout, not timed
        found["spams"] = partial(of_spams, *columns, nonzeros, threads)
    return found


def of_scikit_learn(rows, atoms, nonzeros: int, threads: int) -> csr_array:
    return csr_array(sparse_encode(rows, atoms, algorithm="omp", n_nonzero_coefs=nonzeros, n_jobs=threads))


def of_spams(x, dictionary, nonzeros: int, threads: int) -> csr_array:
    return csr_array(spams.omp(x, dictionary, L=nonzeros, eps=0.0, numThreads=threads).T)


def error(rows, atoms, codes) -> float:
    """The mean share of the energy of a patch that its code leaves."""
    left = ((rows - codes.astype(float) @ atoms.astype(float)) ** 2).sum(1)
    return float((left / (rows.astype(float) ** 2).sum(1)).mean())


def same(codes, exact) -> float:
    """The share of patches with the support of the definition."""
    first = codes[: exact.shape[0]].toarray() != 0
    return float((first == (exact.toarray() != 0)).all(1).mean())


if __name__ == "__main__":
    main()
