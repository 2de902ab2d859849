"""Samples a second of a WaveNet that draws one recording on one core, and what a longer reach costs.

    python benchmarks/wavenet_speed.py [--peers FOLDER] [--reach] [--json]

30 layers of 64 channels (3 stacks of dilations 1 to 512, kernel 2, 64 skips), 256 levels, random weights, batch 1, one
thread. Every side draws in this process, in turn; the median counts. The sides:

    chainrule  `chainrule.sample`: all that it does, the program and its tables made anew included
    known      the strict engine's walk along given samples
    floor      the dense products of the program alone, as the engine runs them: what a layer reads d samples back is
               multiplied for up to 32 samples at once, so that these weights are read less often
    in turn    the same with every product at every sample
    BLAS       a matrix-vector product of numpy's kind (`np.dot` in compiled code) of each shape at every sample
    naive      a full pass over the receptive field for every sample: a few passes timed
    peers      with --peers: the cached generation of two public PyTorch models, whose checkouts FOLDER holds:
               pytorch-wavenet (github.com/vincentherrmann/pytorch-wavenet): `generate_fast`, with 64 dilation,
               residual, skip and end channels, with no gradients recorded; what it gives to its queues is squeezed, as
               present PyTorch needs, and its file that reads sound is left out
               wavenet_vocoder (github.com/r9y9/wavenet_vocoder): `incremental_forward`, with 128 gate channels, 64
               residual and skip channels, weight norm removed, with no gradients recorded

Rates are 10⁹ multiply-adds a second, and gigabytes of weights a second if each is read once a sample.

--reach: the receptive field against its cost, 1 to 5 stacks with kernel 2 and 1 to 3 with kernel 3: `chainrule` and
`floor` as above.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numba
import numpy as np
import torch
from step_cost import AGREE, Floor
from table import Row, in_turn, show
from threadpoolctl import threadpool_limits

import chainrule
from chainrule.chains.wavenet import WaveNet
from chainrule.engine import Program, layout, program_of
from chainrule.engine.strict import Strict

PEERS = ("pytorch-wavenet", "wavenet_vocoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where the checkouts of the peers are")
    parser.add_argument("--reach", action="store_true", help="the receptive field against its cost instead")
    parser.add_argument("--samples", type=int, default=4000, help="drawn by chainrule in a run")
    parser.add_argument("--few", type=int, default=200, help="drawn by a peer in a run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--layers", type=int, default=10, help="of a stack: dilations 1, 2, 4, ...")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        show(reach(options) if options.reach else measured(options), options.json)


def model(options: argparse.Namespace, stacks: int = 3, kernel: int = 2) -> WaveNet:
    """The WaveNet, with random weights."""
    torch.manual_seed(0)
    dilations = [1 << i for i in range(options.layers)]
    return WaveNet(symbols=256, width=64, skip=64, stacks=stacks, dilations=dilations, kernel=kernel).eval()


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each side."""
    chain, samples = model(options), options.samples
    program = checked_program(chain)
    sides: dict[str, Callable[[], Any]] = {
        "chainrule": lambda: chainrule.sample(chain, 1, (samples,)),
        "known": walk(program, samples),
        "floor": Floor(program, (samples,), 1, 1).run,
    }
    with mock.patch.object(layout, "AHEAD", 1):
        sides["in turn"] = Floor(program, (samples,), 1, 1).run
    sides |= {"BLAS": Products(program, samples).run, "naive": passes(chain)}
    counts = dict.fromkeys(sides, samples) | {"naive": 1}
    if options.peers:
        sides |= {name: peer(options, name) for name in PEERS}
        counts |= dict.fromkeys(PEERS, options.few)
    times = in_turn(sides, options.runs)
    work, floor = sum(program.multiply_adds().values()), times["floor"] / samples
    for side, seconds in times.items():
        each = seconds / counts[side]
        row: Row = {"side": side, "us": 1e6 * each, "samples_s": 1 / each, "us/floor": each / floor}
        yield row | {"chainrule/side": times["chainrule"] / samples / each} | rates(side, work, each)
    if not options.peers:
        yield {"side": f"left out: {', '.join(PEERS)} (give --peers FOLDER)"}


def rates(side: str, work: int, seconds: float) -> Row:
    """Of the products alone: so many multiply-adds, each with a weight of four bytes."""
    if side not in ("floor", "in turn", "BLAS"):
        return {}
    return {"rate": work / seconds / 1e9, "GB_s": 4 * work / seconds / 1e9}


def reach(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each size of the receptive field."""
    for kernel, stacks in [(2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (3, 1), (3, 2), (3, 3)]:
        yield cost(model(options, stacks, kernel), options, {"kernel": kernel, "stacks": stacks})


def cost(chain: WaveNet, options: argparse.Namespace, row: Row) -> Row:
    """What a sample costs, added to a row."""
    program, samples = checked_program(chain), options.samples
    floor = Floor(program, (samples,), 1, 1)
    sides = {"chainrule": lambda: chainrule.sample(chain, 1, (samples,)), "floor": floor.run}
    times = in_turn(sides, options.runs)
    row |= {"layers": len(chain.layers), "receptive_field": chain.reach}
    row |= {"multiply_adds": sum(program.multiply_adds().values())}
    row |= {f"{side}_us": 1e6 * seconds / samples for side, seconds in times.items()}
    return row | {"us/floor": times["chainrule"] / times["floor"], "samples_s": samples / times["chainrule"]}


def checked_program(chain: WaveNet, steps: int = 200) -> Program:
    """The step program, once it has given the logits of the model."""
    program = program_of(chain)
    assert program is not None
    x = torch.randint(256, (1, steps), generator=torch.Generator().manual_seed(1))
    run, met = Strict(program, (steps,), 1), []
    for t in range(steps):
        met.append(run.logits())
        run.tell(x[:, t].numpy())
    with torch.inference_mode():
        difference = float((torch.from_numpy(np.stack(met, 1)) - chain.logits(x)).abs().max())
    if not difference < AGREE:
        raise SystemExit(f"the engine's logits differ by {difference:.2g} from the model's")
    return program


def walk(program: Program, samples: int) -> Callable[[], Any]:
    """Along given samples: nothing but logits is computed."""
    run = Strict(program, (samples,), 1)
    x = np.random.default_rng(0).integers(256, size=(1, samples)).astype(np.int32)

    def side() -> None:
        run.t, run.memory[:] = 0, 0
        run.fill(x, np.ones(samples, bool), np.ones(x.shape))

    return side


def passes(chain: WaveNet) -> Callable[[], Any]:
    """One sample without anything kept: a pass over all that it sees."""
    x = torch.randint(256, (1, chain.reach), generator=torch.Generator().manual_seed(2))

    def side() -> None:
        with torch.inference_mode():
            chain.logits(x)

    return side


@numba.njit(error_model="numpy")
def multiply(weights, table, x, out, times):
    """out = x W for each row (k, n, where W begins) of the table, `times` times."""
    for _ in range(times):
        for i in range(len(table)):
            k, n, first = table[i]
            np.dot(x[:k], weights[first : first + k * n].reshape(k, n), out[:n])


class Products:
    """The dense products of a program by BLAS, one after another, each with weights of its own."""

    def __init__(self, program: Program, samples: int):
        shapes = [program.weights[op.weights[0]].shape for op in program.ops if op.kind.startswith("dense")]
        ends = np.cumsum([k * n for k, n in shapes])
        rows = [(k, n, end - k * n) for (k, n), end in zip(shapes, ends, strict=True)]
        self.table, self.samples = np.array(rows, np.int64), samples
        self.weights = np.random.default_rng(0).normal(size=int(ends[-1])).astype(np.float32)
        self.x, self.out = (np.ones(max(sizes), np.float32) for sizes in zip(*shapes, strict=True))

    def run(self) -> None:
        multiply(self.weights, self.table, self.x, self.out, self.samples)


# ------------------------------------------------------------------------------------------------------ peers


def peer(options: argparse.Namespace, name: str) -> Callable[[], Any]:
    """The cached generation of a peer, `few` samples of one recording."""
    make = {"pytorch-wavenet": herrmann, "wavenet_vocoder": vocoder}[name]
    torch.manual_seed(0)
    generate = make(options.peers / name, options.layers)

    def side() -> None:
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            generate(options.few)

    return side


def herrmann(path: Path, layers: int) -> Callable[[int], Any]:
    """github.com/vincentherrmann/pytorch-wavenet"""
    silent = ModuleType("audio_data")  # reads sound with librosa; of it the model needs this function only
    silent.mu_law_expansion = lambda data, mu: data  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"audio_data": silent}):
        module = imported(path, "wavenet_model")
    queue = module.DilatedQueue
    enqueue = queue.enqueue
    queue.enqueue = lambda self, x: enqueue(self, x.squeeze(-1))
    channels = dict.fromkeys(["dilation_channels", "residual_channels", "skip_channels", "end_channels"], 64)
    net = module.WaveNetModel(layers=layers, blocks=3, classes=256, bias=True, **channels)
    return lambda few: net.generate_fast(few)


def vocoder(path: Path, layers: int) -> Callable[[int], Any]:
    """github.com/r9y9/wavenet_vocoder"""
    module = imported(path, "wavenet_vocoder")
    channels = {"residual_channels": 64, "gate_channels": 128, "skip_out_channels": 64}
    net = module.WaveNet(
        out_channels=256, layers=3 * layers, stacks=3, kernel_size=2, dropout=0.0, **channels
    )
    net.eval().make_generation_fast_()
    return lambda few: net.incremental_forward(T=few)


def imported(path: Path, name: str) -> Any:
    """A module of a checkout."""
    if not path.is_dir():
        raise SystemExit(f"{path} is not there: --peers wants a folder with checkouts of {', '.join(PEERS)}")
    sys.path.insert(0, str(path))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(path))


if __name__ == "__main__":
    main()
