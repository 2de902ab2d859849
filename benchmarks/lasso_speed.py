"""Exact sparse codes of natural patches: coordinate descent beside SPAMS and scikit-learn.

    python benchmarks/lasso_speed.py [--json]

100,000 whitened 12×12 patches of photographs in float32 and 256 atoms that `SparseCoding` learned from other patches;
λ such that about 10 and about 35 coefficients are not 0. All sides code the same rows, in one process and in turn, with
so many threads each; the median counts. The slow sides (scikit-learn's) code the first `--few` rows. Their
`codes_a_second` is of wall-clock, everything from rows to codes included; `speed` is the median ratio of a run of
`coordinate_descent` to the same side's run of that round, by time per code, so 3 is three times as slow as ours.

`kkt` is the largest violation of the optimality conditions by the codes of the first `--few` rows, as a share of λ,
and `gap` the mean objective beyond the smallest one of all sides on the common rows, as a share of it; both in
float64, whatever the side computes in. A `kkt` of 2 with no gap is a coefficient of the size of rounding with the
wrong sign. SPAMS solves by LARS. It is left out where it is not installed, and a line says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from natural_patches import whitened_patches
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning
from table import Row, show
from threadpoolctl import threadpool_limits

from chainrule.codes.sparse_coding import Online, SparseCoding
from chainrule.layers.coordinate_descent import coordinate_descent
from chainrule.layers.lasso import kkt_residual, objective

try:
    import spams
except ImportError:
    spams = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1_000, help="patches for the slow sides")
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--nonzeros", type=float, nargs="+", default=[10, 35])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=["float32", "float64"])
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    rows = whitened_patches(options.patches)
    atoms = learned(options.atoms, options.patches)
    for nonzeros in options.nonzeros:
        penalty = penalty_for(nonzeros, rows, atoms)
        for precision in options.precision:
            yield from compared(rows.astype(precision), atoms.astype(precision), penalty, options)
    if spams is None:
        yield {"side": "spams: not installed (pip install spams-bin)"}


def compared(rows, atoms, penalty: float, options: argparse.Namespace) -> Iterator[Row]:
    """A row for every side and number of threads."""
    few = rows[: options.few]
    for threads in options.threads:
        named = sides(rows, few, atoms, penalty, threads)
        with threadpool_limits(threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what a side left is in the table
            times = rounds(named, options.runs)
            codes = {name: side()[: len(few)] for name, side in named.items()}
        means = {name: objective(few, atoms, z, penalty).mean() for name, z in codes.items()}
        for name, took in times.items():
            z = codes[name]
            yield {
                "λ": penalty,
                "nonzeros": (z != 0).sum() / len(few),
                "type": str(rows.dtype),
                "threads": threads,
                "side": name,
                "codes_a_second": round(float(1 / np.median(took))),
                "speed": float(np.median(took / times["coordinate_descent"])),
                "kkt": float(kkt_residual(few, atoms, z, penalty).max() / penalty),
                "gap": float(means[name] / min(means.values()) - 1),
            }


def sides(rows, few, atoms, penalty: float, threads: int) -> dict[str, Callable]:
    """What is timed, each giving codes (n, K), sparse or dense."""
    named = {
        "coordinate_descent": partial(coordinate_descent, rows, atoms, penalty, threads=threads),
        "scikit-learn lasso_cd": partial(of_scikit_learn, few, atoms, penalty, "lasso_cd", threads),
        "scikit-learn lasso_lars": partial(of_scikit_learn, few, atoms, penalty, "lasso_lars", threads),
    }
    if spams is not None:
        columns = np.asfortranarray(rows.T), np.asfortranarray(atoms.T)  # its own layout, not timed
        named["spams lasso"] = partial(of_spams, *columns, penalty, threads)
    return named


def of_scikit_learn(rows, atoms, penalty: float, algorithm: str, threads: int) -> np.ndarray:
    return sparse_encode(rows, atoms, algorithm=algorithm, alpha=penalty, n_jobs=threads, max_iter=10_000)


def of_spams(x, dictionary, penalty: float, threads: int):
    return spams.lasso(x, dictionary, lambda1=penalty, mode=2, numThreads=threads).T.tocsr()


def rounds(named: dict[str, Callable], runs: int) -> dict[str, np.ndarray]:
    """Seconds a code of every side, (runs,), one side after the other in every round."""
    took: dict[str, list[float]] = {name: [] for name in named}
    named["coordinate_descent"]()  # compiled
    for _ in range(runs):
        for name, side in named.items():
            began = time.perf_counter()
            count = side().shape[0]
            took[name].append((time.perf_counter() - began) / count)
    return {name: np.array(seconds) for name, seconds in took.items()}


def learned(count: int, patches: int) -> np.ndarray:
    """Atoms (count, d) learned from other patches."""
    code = SparseCoding(count, training=Online(epochs=5))
    return code.fit(whitened_patches(patches, seed=1)).components_


def penalty_for(nonzeros: float, rows, atoms) -> float:
    """λ at which the codes of the first rows have so many non-zeros on average, by bisection; two digits."""
    low, high, few = 1e-3, 100.0, rows[:1000]
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        too_many = coordinate_descent(few, atoms, middle).nnz > nonzeros * len(few)
        low, high = (middle, high) if too_many else (low, middle)
    return float(f"{low:.2g}")


if __name__ == "__main__":
    main()
