"""What a pair of texts costs that grow longer: a step of training, and a translation, by ByteNet and by LSTMs.

    python benchmarks/translation_cost.py [--sizes 64 256 1024 4096] [--runs 3] [--json]

Source and target have n symbols, drawn at random; the models have their laptop size and random weights; one thread. A
step of training is the loss of one pair, in bfloat16 where the processor multiplies such numbers itself, and its
gradient. A translation is n symbols drawn one after another by the step program, the encoding of the source included.
`ms` are of processor time, which other work on the machine touches less than a clock on the wall; all sides in turn,
the median counts. The last rows are the exponents a of n^a between the two longest: 1 is linear. What is shorter is
mostly what a step or a translation costs at all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from sparse_attention import exponent
from table import Row, show

from chainrule import sample
from chainrule.chains.bytenet import ByteNet
from chainrule.chains.seq2seq import Seq2Seq

SYMBOLS = 256
SIDES: dict[str, Any] = {"bytenet": ByteNet, "seq2seq": Seq2Seq}
WORK = ("training_ms", "translation_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--size", default="laptop", help="of the models")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    rows = []
    torch.manual_seed(0)
    chains = {name: side(SYMBOLS, source=SYMBOLS, **side.SIZES[options.size]) for name, side in SIDES.items()}
    for n in options.sizes:
        for row in of_length(chains, n, options.runs):
            rows.append(row)
            yield row
    for name in chains:
        mine = [row for row in rows if row["model"] == name]
        yield {"model": name, "n": "exponent", **{key: exponent(mine[-2:], key) for key in WORK}}


def of_length(chains: dict[str, Any], n: int, runs: int) -> Iterator[Row]:
    """All sides for one length, in turn."""
    x, source = torch.randint(SYMBOLS, (2, 1, n), generator=torch.Generator().manual_seed(n))
    known: dict[tuple[str, str], list[float]] = {(name, work): [] for name in chains for work in WORK}
    for run in range(runs + 1):  # the first to warm up
        for name, chain in chains.items():
            for work, do in zip(WORK, (step, translation), strict=True):
                began = time.process_time()
                do(chain, x, source)
                if run:
                    known[name, work].append(1000 * (time.process_time() - began))
    for name in chains:
        yield {"model": name, "n": n, **{work: statistics.median(known[name, work]) for work in WORK}}


def step(chain: Any, x: torch.Tensor, source: torch.Tensor) -> None:
    """The loss and its gradient."""
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = chain.train().loss(x, source)
    loss.backward()


def translation(chain: Any, x: torch.Tensor, source: torch.Tensor) -> None:
    """As many symbols as the source has."""
    sample(chain, 1, tuple(x.shape[1:]), source)


if __name__ == "__main__":
    main()
