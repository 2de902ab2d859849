"""Context mixing on one text: exact bits a byte of its end, with what comes before read first and without; and speed.

Speeds are of processor time: a machine that does other things meanwhile gives the same.

python benchmarks/counting.py tinyshakespeare.txt --last 111540 --before 1003854
python benchmarks/counting.py stacks.tex.xz --last 1000000 --before 8000000 --set bits=24 orders=1,2,3,4,6,9,14
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from pathlib import Path

import numpy as np
import torch

from chainrule.chains.counting import ContextMixing
from chainrule.engine import program_of
from chainrule.engine.strict import Strict

CODED = 50_000  # bytes that are coded to time it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path, help="a file, or one packed by xz")
    parser.add_argument("--last", type=int, required=True, help="bytes at the end that are scored")
    parser.add_argument("--before", type=int, default=0, help="bytes before them that are read first")
    parser.add_argument("--set", nargs="*", default=[], help="constructor arguments of the chain")
    options = parser.parse_args()
    data = options.text.read_bytes()
    data = lzma.decompress(data) if options.text.suffix == ".xz" else data
    text = torch.from_numpy(np.frombuffer(data, np.uint8)[-options.last - options.before :].astype(np.int64))
    settings = dict(map(setting, options.set))
    warm_up(settings)
    for before in sorted({0, options.before}):
        line = {"text": options.text.name, **settings, "last": options.last, "before": before}
        print(
            json.dumps(
                line | measured(ContextMixing(**settings), text[len(text) - options.last - before :], before)
            )
        )


def measured(chain: ContextMixing, text: torch.Tensor, before: int) -> dict[str, float]:
    """Bits a byte of what comes after the first `before` bytes, and kilobytes a second of all that is done."""
    began = time.process_time()
    for begin in range(0, before, chain.PASSAGE):
        read(chain, text[:before], begin)
    was_read, test = time.process_time(), text[None, before:]
    nats = -float(chain.log_prob(test))
    scored = time.process_time()
    encode(chain, test[:, :CODED].numpy())
    coded = time.process_time()
    speeds = {
        "score": test.shape[1] / (scored - was_read),
        "code": min(CODED, test.shape[1]) / (coded - scored),
    }
    speeds |= {"read": before / (was_read - began)} if before else {}
    bits = {"bits_per_byte": round(nats / np.log(2) / test.shape[1], 4)}
    return bits | {f"{name}_kB_per_s": round(speed / 1e3, 1) for name, speed in speeds.items()}


def setting(text: str) -> tuple[str, int | tuple[int, ...]]:
    """bits=24, orders=1,2,3"""
    name, _, value = text.partition("=")
    return name, tuple(map(int, value.split(","))) if name == "orders" else int(value)


def read(chain: ContextMixing, text: torch.Tensor, begin: int) -> None:
    """A passage, with what its first contexts need."""
    first = max(0, begin - 64)
    chain.learn(text[None, first : begin + chain.PASSAGE], torch.tensor(begin - first), 0.0)


def encode(chain: ContextMixing, symbols: np.ndarray):
    return Strict(program_of(chain), (symbols.shape[1],), 1).encode(
        symbols, np.ones(symbols.shape[1], np.int64)
    )


def warm_up(settings) -> None:
    """Compile everything."""
    chain, few = ContextMixing(**{**settings, "bits": 10}), torch.zeros(1, 50, dtype=torch.long)
    read(chain, few[0], 0)
    chain.log_prob(few)
    encode(chain, few.numpy())


if __name__ == "__main__":
    main()
