"""Time and memory of one layer of sparse attention, forward and backward, beside dense attention: how they grow with n.

    python benchmarks/sparse_attention.py [--sizes 1024 4096 16384 65536] [--runs 3] [--json]

One sequence of n positions, 64 numbers a position in two heads, single precision, one thread; the stride l is √n. The
sides:

    strided   one head along the row, one down the column
    fixed     both heads: their row, and 8 positions of every row above
    dense     scaled_dot_product_attention(is_causal=True) of PyTorch, which leaves out later keys and keeps no scores

`ms` are of processor time, which other work on the machine touches less than a clock on the wall; all sides in turn,
the median counts. `MB` is the most that PyTorch holds at a time beyond queries, keys and values, with the gradients:
the running sum of what its allocator gave and took back. The last rows are the exponents a of n^a, by least squares
through the logarithms of all sizes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from table import Row, show
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from chainrule.layers.sparse_attention import Fixed, Strided

HEADS, WIDTH, SUMMARY = 2, 64, 8
Side = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 10, 1 << 12, 1 << 14, 1 << 16])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    rows = []
    for n in options.sizes:
        for row in of_size(n, options.runs):
            rows.append(row)
            yield row
    for side in sides(1):
        mine = [row for row in rows if row["side"] == side]
        yield {"side": side, "n": "exponent", **{key: exponent(mine, key) for key in ("ms", "MB")}}


def sides(length: int) -> dict[str, Side]:
    """What is compared, for rows of so many positions."""
    return {"strided": Strided(length, rows=1), "fixed": Fixed(length, SUMMARY), "dense": dense}


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, n, h, d) thrice -> (B, n, h, d)."""
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def of_size(n: int, runs: int) -> Iterator[Row]:
    """All sides for one length, in turn."""
    length = round(n**0.5)
    known: dict[str, list[float]] = {name: [] for name in sides(length)}
    for _ in range(runs):
        for name, side in sides(length).items():
            once(side, 256)  # to warm up
            began = time.process_time()
            once(side, n)
            known[name].append(time.process_time() - began)
    for name, side in sides(length).items():
        row = {"side": name, "n": n, "stride": length, "ms": 1000 * statistics.median(known[name])}
        yield {**row, "MB": most_held(side, n) / 1e6}


def once(side: Side, n: int) -> None:
    """Forward and backward."""
    side(*inputs(n)).sum().backward()


def inputs(n: int) -> list[Tensor]:
    """Queries, keys and values (1, n, heads, d)."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, n, HEADS, WIDTH // HEADS)
    return [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]


def most_held(side: Side, n: int) -> int:
    """Bytes that PyTorch holds at most at a time, beyond the inputs."""
    given, held, most = inputs(n), 0, 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        side(*given).sum().backward()
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert held == sum(z.grad.nbytes for z in given if z.grad is not None), "what is left are the gradients"
    return most


def exponent(rows: list[Row], key: str) -> float:
    """a of key ≈ b · n^a."""
    n, values = (np.log([row[name] for row in rows]) for name in ("n", key))
    return float(np.polyfit(n, values, 1)[0])


if __name__ == "__main__":
    main()
