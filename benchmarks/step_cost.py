"""What a symbol costs: the strict engine beside its arithmetic floor, PyTorch with a cache, and full passes.

    python benchmarks/step_cost.py [--json]

Every side computes the logits of every symbol of given events, in one run and in turn; the median counts, in
microseconds a symbol (of all lanes together: wall-clock seconds / symbols). The sides:

    engine    the strict engine's walk; "coded" with entropy coding (Strict.encode)
    floor     the dense products of the program alone, through the engine's tiled kernel, on aligned arrays
    eager     the same model in plain PyTorch with cached activations, all lanes at once
    compiled  torch.compile of those steps
    naive     a full pass for every symbol: a few passes timed, one of them counted a symbol

Two threads: the engine and its floor divide the lanes (one lane cannot be divided), PyTorch its operations.
Rates are 10⁹ multiply-adds a second: of the floor on all shapes of the program, of the tiled kernel on the
largest of them alone, and of numpy's matrix product on the latter (one thread, in a process of its own without
settings for OpenBLAS). Models: Gated PixelCNN, 8 layers × 32 channels as in the paper, kernels 7 and 3, 32
units in the head, no coordinates; character LSTM, "laptop" (384 units, 256 symbols).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numba
import numpy as np
import torch
from table import Row, in_turn, show
from torch import Tensor
from torch.nn import functional as F

from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.engine import Program, program_of
from chainrule.engine import layout as at
from chainrule.engine.kernels import AHEAD, DENSE, ROW, dense
from chainrule.engine.strict import Strict, aligned, in_threads
from chainrule.layers.conv import affine
from chainrule.model import Chain

PLAIN = {"mix": 0, "embedding": 0, "memory": 0, "copies": 0, "position": False}
MODELS = ["binary", "gray", "text"]
AGREE = 2e-3  # largest difference of logits between the sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    for name, chain, event, step in models(options.models):
        for batch in options.batches:
            for threads in options.threads:
                yield {"model": name, **one(chain, event, step, batch, threads, options)}


def models(wanted: list[str]) -> Iterator[tuple[str, Chain, tuple[int, ...], type[Steps]]]:
    """Name, chain, event, and how PyTorch computes it step by step."""
    for levels in [levels for name, levels in (("binary", 2), ("gray", 256)) if name in wanted]:
        torch.manual_seed(0)
        chain = GatedPixelCNN(symbols=levels, width=32, layers=8, head=32, **PLAIN).eval()
        yield f"gated-pixelcnn 8x32, {levels} levels, 28x28", chain, (28, 28, 1), PixelSteps
    if "text" in wanted:
        torch.manual_seed(0)
        yield "char-lstm laptop, 256 symbols", CharLSTM(**CharLSTM.SIZES["laptop"]).eval(), (256,), TextSteps


def one(chain: Chain, event, step: type[Steps], batch: int, threads: int, options) -> Row:
    """One line of the table."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, chain.symbols, (batch, *event), generator=generator)
    program = program_of(chain)
    assert program is not None
    engine, floor = Engine(program, event, x, threads), Floor(program, event, batch, threads)
    eager, note = step(chain, x), ""
    check(eager, chain, engine, x)
    sides = {"engine": engine.walk, "coded": engine.encode, "floor": floor.run, "eager": eager.walk}
    sides["pass"] = lambda: full_pass(chain, x)
    if not options.no_compile:
        faster, note = compiled(step(chain, x))
        sides |= {} if faster is None else {"compiled": faster.walk}
    times = in_turn(sides, options.runs, least=0.1)
    per_symbol = {name: 1e6 * seconds / x.numel() for name, seconds in times.items()}
    naive = 1e6 * times["pass"] / batch  # every symbol of every lane takes a pass of all lanes
    shape, best = floor.largest()
    row: Row = {"batch": batch, "threads": threads}
    if batch < threads:
        note = " ".join(["one lane: the engine uses one thread.", note]).strip()
    row |= {f"{k}_us": per_symbol.get(k, "-") for k in ("floor", "engine", "coded", "eager", "compiled")}
    row |= {"naive_us": naive, "engine/floor": per_symbol["engine"] / per_symbol["floor"]}
    row |= {f"{k}/engine": per_symbol[k] / per_symbol["engine"] for k in ("eager", "compiled") if k in times}
    row |= {"naive/engine": naive / per_symbol["engine"]}
    row |= {"floor_rate": floor.multiply_adds / times["floor"] / 1e9, "tile_rate": best}
    return row | {"gemm_rate": numpy_rate(*shape), "tile": "x".join(map(str, shape)), "note": note}


def full_pass(chain: Chain, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return chain.logits(x)


def check(eager: Steps, chain: Chain, engine: Engine, x: Tensor) -> None:
    """The PyTorch steps and the engine compute what the model does."""
    wanted = full_pass(chain, x).reshape(len(x), -1, chain.symbols)
    for name, found in (("eager", eager.walk()), ("engine", engine.some_logits())):
        difference = float((found - wanted[:, : found.shape[1]]).abs().max())
        if not difference < AGREE:
            raise SystemExit(f"the logits of the {name} steps differ by {difference:.2g} from the model's")


# ------------------------------------------------------------------------------------------------- the engine


class Engine:
    """The strict engine, lanes divided over threads."""

    def __init__(self, program: Program, event, x: Tensor, threads: int):
        self.threads = min(threads, len(x))
        parts = np.array_split(x.reshape(len(x), -1).numpy().astype(np.int32), self.threads)
        self.parts = [(Strict(program, event, len(part)), part) for part in parts]

    def walk(self) -> None:
        """All symbols are given, so nothing but logits is computed."""
        self._each(lambda run, x: run.fill(x, np.ones(x.shape[1], bool), np.ones(x.shape)))

    def encode(self) -> None:
        self._each(lambda run, x: run.encode(x, np.full(x.shape[1], len(x), np.int64)))

    def some_logits(self) -> Tensor:
        """Of the first few symbols, (lanes, steps, K)."""
        return torch.cat([self._logits(*part) for part in self.parts])

    def _logits(self, run: Strict, x: np.ndarray) -> Tensor:
        found = []
        self._rewind(run)
        for t in range(min(60, x.shape[1])):
            found.append(torch.from_numpy(run.logits()))
            run.tell(x[:, t])
        return torch.stack(found, 1)

    def _each(self, do: Callable) -> None:
        def part(pair: tuple[Strict, np.ndarray]) -> None:
            self._rewind(pair[0])
            do(*pair)

        list(in_threads(part, self.parts, self.threads))

    def _rewind(self, run: Strict) -> None:
        """As it was at first: building it is not part of a step."""
        run.t, run.memory[:] = 0, 0


# -------------------------------------------------------------------------------------------------- the floor


@numba.njit(error_model="numpy", nogil=True)
def products(table, times, memory, weights, places, moved):
    """The products of `times` columns: each row of the table at every so many of them.

    A row: (every, repeats, rows, count, k, n, where its weights begin, how far apart their stripes are).
    """
    for column in range(times):
        for i in range(len(table)):
            every, repeats, rows, count, k, n, w, apart = table[i]
            ldx = -(-k // 16) * 16
            for s in range(count):
                places[s] = s * rows * ldx
            for _ in range(repeats if column % every == 0 else 0):
                y = count * rows * ldx
                dense(memory, places, count, k, ldx, rows, weights, w, apart, n, y, n, moved)


class Floor:
    """The products of a program, as the engine's own tables list them, and nothing else."""

    def __init__(self, program: Program, event, batch: int, threads: int):
        self.threads = min(threads, batch)
        lanes = batch // self.threads
        run = Strict(program, event, lanes)
        _, height, width, _, _, each, _ = run.tables.dims
        self.weights, self.groups = run.tables.weights, -(-lanes // each)
        rows_of, pixels = [], []
        for section, (a, b) in enumerate(zip(run.tables.starts, run.tables.starts[1:], strict=False)):
            for op in run.tables.ops[a:b]:
                if op[at.KIND] in (DENSE, AHEAD):
                    whole = section == ROW and op[at.WHOLE]
                    repeats = width if section == ROW and not whole else 1
                    every = op[at.A] if op[at.KIND] == AHEAD else 1
                    rows = each * width if whole else each * every
                    shape = (every, repeats, rows, *(op[i] for i in (at.COUNT, at.K, at.N, at.WEIGHT, at.B)))
                    (rows_of if section == ROW else pixels).append(shape)
        self.rows, self.pixels = (np.array(t, np.int64).reshape(-1, 8) for t in (rows_of, pixels))
        self.height, self.width = int(height), int(width)
        self.multiply_adds = sum(program.multiply_adds().values()) * batch * height * width
        shapes = np.concatenate([self.rows, self.pixels])
        self.size = int(max(r * (c * (k + 16) + n) for _, _, r, c, k, n, *_ in shapes)) + 64
        self.shapes = shapes

    def run(self) -> None:
        """The products of a whole walk."""
        list(in_threads(self._part, range(self.threads), self.threads))

    def _part(self, _: int) -> None:
        room = self._room()
        for _ in range(self.groups * self.height):
            products(self.rows, 1, *room)
            products(self.pixels, self.width, *room)

    def _room(self):
        reads = int(self.shapes[:, 3].max())
        return aligned(self.size), self.weights, np.zeros(reads, np.int64), np.zeros(reads, np.int64)

    def largest(self) -> tuple[tuple[int, int, int], float]:
        """The product with the most multiply-adds a row of the batch: (rows, inputs, outputs), 10⁹ a second."""
        work = self.shapes[:, 3] * self.shapes[:, 4] * self.shapes[:, 5]
        table = self.shapes[work.argmax()][None].copy()
        table[0, :2] = 1
        _, _, rows, count, k, n, *_ = table[0].tolist()
        each = rows * count * k * n
        times, room = max(1, int(1e8 / each)), self._room()
        seconds = in_turn({"": lambda: products(table, times, *room)}, 5)[""]
        return (rows, count * k, n), each * times / seconds / 1e9


GEMM = """
import sys, time, statistics
import numpy as np
rows, k, n = map(int, sys.argv[1:])
x, w = np.ones((rows, k), np.float32), np.ones((k, n), np.float32)
out, times, seconds = np.empty((rows, n), np.float32), max(1, int(1e8 / (rows * k * n))), []
for _ in range(6):
    began = time.perf_counter()
    for _ in range(times):
        np.matmul(x, w, out=out)
    seconds.append(time.perf_counter() - began)
print(rows * k * n * times / statistics.median(seconds[1:]) / 1e9)
"""


def numpy_rate(rows: int, k: int, n: int) -> float:
    """10⁹ multiply-adds a second of numpy's matrix product, one thread."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "NVPL", "MKL"))}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", GEMM, *map(str, (rows, k, n))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


# ---------------------------------------------------------------------------------------------------- PyTorch


class Steps:
    """A model in plain PyTorch, a symbol at a time: `walk` gives the logits (B, N, K) of given events."""

    def walk(self) -> Tensor:
        raise NotImplementedError

    def compile(self) -> None:
        raise NotImplementedError


class PixelSteps(Steps):
    """The plain Gated PixelCNN: vertical stack a row at a time, horizontal a pixel at a time.

    With kernel 3 a layer of the horizontal stack reads its pixel and the one before, so what is kept of each
    layer is one vector a lane.
    """

    def __init__(self, chain: GatedPixelCNN, x: Tensor):
        self.x, self.first, self.head = x, affine(chain.left), chain.head
        self.above, self.layers, self.width = chain.above, list(chain.layers), chain.above.out_channels
        self.image = chain._features(x).detach().contiguous()  # (B, C, H, W)
        self.taps = [affine(layer.horizontal)["weight"].T.contiguous().detach() for layer in self.layers]
        self.biases = [layer.horizontal.bias for layer in self.layers]
        self.outs = [layer.out.weight.flatten(1) for layer in self.layers]
        self.to_logits = chain.head.out.table().detach()
        self.first_weight = self.first["weight"].T.contiguous().detach()

    def compile(self) -> None:
        self.row = torch.compile(self.row, dynamic=False, fullgraph=True)  # type: ignore[method-assign]
        self.pixel = torch.compile(self.pixel, dynamic=False, fullgraph=True)  # type: ignore[method-assign]

    @torch.inference_mode()
    def walk(self) -> Tensor:
        batch, _, height, width = self.image.shape
        up, back = self.above.kernel_size[0], self.above.kernel_size[1] // 2
        above = F.pad(self.image, (back, back, up, 0))
        before = F.pad(self.image, (self.first["weight"].shape[0] // self.image.shape[1], 0))
        before = before.permute(2, 3, 0, 1).contiguous()  # (H, W + taps, B, C)
        last = [torch.zeros(batch, self.width, 1, width) for _ in self.layers]
        logits = []
        for r in range(height):
            links, last = self.row(above[:, :, r : r + up].contiguous(), last)
            places = [link.unbind(0) for link in links]  # of each layer W × (B, 2 width)
            left = [torch.zeros(batch, self.width) for _ in self.layers]
            line = before[r].unfold(0, 4, 1).permute(0, 1, 3, 2).flatten(2).contiguous().unbind(0)
            for c in range(width):
                found, left = self.pixel(line[c], [place[c] for place in places], left)
                logits.append(found)
        return torch.stack(logits, 1)

    def row(self, above: Tensor, last: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the vertical stack says to each pixel of a row, (W, B, 2 width) a layer."""
        v, links, new = F.conv2d(above, self.above.weight, self.above.bias), [], []
        for layer, before in zip(self.layers, last, strict=True):
            new.append(v)
            both = torch.cat([before, v], 2)  # (B, width, 2, W)
            a = F.conv2d(both, layer.vertical.weight, layer.vertical.bias, padding=(0, 1))
            f, g = a.chunk(2, 1)
            up = torch.tanh(f) * torch.sigmoid(g)
            link = F.conv2d(up, layer.link.weight, layer.link.bias)
            links.append((link[:, :, 0] + layer.horizontal.bias[:, None]).permute(2, 0, 1).contiguous())
            v = v + up
        return links, new

    def pixel(self, line: Tensor, links: list[Tensor], left: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits (B, K) of a pixel, and what each layer keeps for the next."""
        h, new = F.linear(line, self.first_weight, self.first["bias"]), []
        for i, layer in enumerate(self.layers):
            new.append(h)
            b = links[i] + F.linear(torch.cat([left[i], h], 1), self.taps[i])
            f, g = b.chunk(2, 1)
            h = h + F.linear(torch.tanh(f) * torch.sigmoid(g), self.outs[i], layer.out.bias)
        a = F.relu(F.linear(F.relu(h), self.head.from_past.weight, self.head.from_past.bias))
        return F.linear(a, self.to_logits, self.head.out_bias[0]), new


class TextSteps(Steps):
    """The LSTM as torch.nn.LSTMCell computes it; what a symbol gives the gates is a table, as in the engine."""

    def __init__(self, chain: CharLSTM, x: Tensor):
        w_x, self.w_h, b_x, b_h = chain.lstm.all_weights[0]
        assert chain.embed is not None
        self.table = (chain.embed.weight @ w_x.T + b_x + b_h).detach()
        self.out, self.width = chain.out, chain.width
        start = torch.full_like(x[:, :1], chain.symbols)
        self.before = torch.cat([start, x[:, :-1]], 1).T.contiguous()  # (T, B)

    def compile(self) -> None:
        self.step = torch.compile(self.step, dynamic=False, fullgraph=True)  # type: ignore[method-assign]

    @torch.inference_mode()
    def walk(self) -> Tensor:
        batch = self.before.shape[1]
        h, c, logits = torch.zeros(batch, self.width), torch.zeros(batch, self.width), []
        for symbols in self.before.unbind(0):
            found, h, c = self.step(symbols, h, c)
            logits.append(found)
        return torch.stack(logits, 1)

    def step(self, symbols: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, f, g, o = (self.table[symbols] + F.linear(h, self.w_h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return F.linear(h, self.out.weight, self.out.bias), h, c


def compiled(steps: Steps) -> tuple[Steps | None, str]:
    """The steps through torch.compile, run once; or None and why not."""
    torch.compiler.reset()
    began = time.perf_counter()
    try:
        steps.compile()
        steps.walk()
    except Exception as error:  # a compiler may fail in any way: the line says so
        return None, f"torch.compile failed: {' '.join(str(error).split())[:120]}"
    return steps, f"compiled in {time.perf_counter() - began:.0f} s"


if __name__ == "__main__":
    main()
