"""What turns the lanes of a block into bits and back: a step program, or a chain without one."""

from __future__ import annotations

import copy
import math
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import engine, store
from chainrule.archive import Archive
from chainrule.coding import Decoder, Encoder, frequencies
from chainrule.engine.strict import ARITHMETIC as STRICT
from chainrule.engine.strict import Strict
from chainrule.errors import ChainruleError
from chainrule.model import Chain, pick
from chainrule.models import TABLE, parse_model
from chainrule.verbs.lanes import Lanes
from chainrule.verbs.walk import tell_slow, walk

NATIVE, CODER = "native", "range24"
CACHE = (
    1 << 18
)  # symbols of a block by default: what one item costs to get back, against some 60 bytes a block

MEMORY = 1 << 26  # whole numbers that the lanes of a block may keep to learn from: 256 MB

Tick = Callable[[int], object]


class Coder(ABC):
    """Codes lanes with the probabilities of a model (abstract).

    Attributes:
        arithmetic: the identifier of how probabilities are computed; environment: what they depend on.
        symbols, classes, event: of the model.
        adapts: whether the model learns from what it codes: then a text is coded in one piece.
    """

    arithmetic: str
    environment: dict[str, str | int]
    symbols: int
    classes: int
    event: tuple[int, ...] | None = None
    adapts: bool
    parallel: bool  # whether several blocks may be coded at a time

    @abstractmethod
    def model(self) -> bytes:
        """The model as bytes that an archive can hold."""

    @abstractmethod
    def identity(self) -> str:
        """SHA-256 of the model, 64 hexadecimal digits."""

    @abstractmethod
    def most_lanes(self, largest: int) -> int:
        """How many events of so many symbols a block takes by default: a function of model and data alone."""

    @abstractmethod
    def encode(self, lanes: Lanes, symbols: np.ndarray, tick: Tick) -> tuple[bytes, np.ndarray]:
        """(one stream of the symbols (lanes, steps) in the order (step, lane), −log₂ p (lanes,) in bits)."""

    @abstractmethod
    def decode(self, lanes: Lanes, stream: bytes, tick: Tick) -> np.ndarray:
        """The symbols (lanes, steps) that `encode` was given."""


class StrictCoder(Coder):
    """A step program in the strict engine: fast, and the same bits on every machine.

    Args:
        group: lanes computed side by side; it changes the speed, never the bits.
    """

    arithmetic, parallel = STRICT, True

    def __init__(
        self, program: engine.Program, event: tuple[int, ...] | None = None, group: int | None = None
    ):
        self.program, self.event, self.group = program, event, group
        self.symbols, self.classes, self.adapts = program.symbols, program.classes, program.adapts
        self.environment: dict[str, str | int] = {}

    def model(self) -> bytes:
        return engine.dump(self.program)

    def identity(self) -> str:
        return engine.identity(self.program)

    def most_lanes(self, largest: int) -> int:
        held = MEMORY // (self.program.counts or 1)  # every lane learns on its own
        return max(1, min(1024, CACHE // largest, held))

    def encode(self, lanes: Lanes, symbols: np.ndarray, tick: Tick) -> tuple[bytes, np.ndarray]:
        return self._start(lanes).encode(symbols, lanes.active, tick)

    def decode(self, lanes: Lanes, stream: bytes, tick: Tick) -> np.ndarray:
        return self._start(lanes).decode(stream, lanes.active, tick)

    def _start(self, lanes: Lanes) -> Strict:
        if self.program.features:
            raise ChainruleError("the model needs features of every pixel: archives do not keep such context")
        classes = lanes.context(self.classes)
        return Strict(self.program, lanes.event, len(lanes.owner), classes, group=self.group)


class NativeCoder(Coder):
    """A chain without a program, in PyTorch's arithmetic: slow, and safe only on the machine that wrote it."""

    arithmetic, parallel = NATIVE, False

    def __init__(self, chain: Chain, threads: int | None = None):
        self.chain = settled(chain)
        self.symbols, self.classes, self.event = chain.symbols, chain.classes, chain.event
        self.adapts = chain.ADAPTS
        self.threads = threads or torch.get_num_threads()
        self.environment = environment() | {"threads": self.threads}

    def model(self) -> bytes:
        return store.dump(self.chain, TABLE)

    def identity(self) -> str:
        return store.sha256(self.chain, TABLE)

    def most_lanes(self, largest: int) -> int:
        held = sum(t.numel() for t in self.chain.buffers()) if self.adapts else 0  # a lane has its own
        return max(1, min(128, (1 << 24) // (largest * self.symbols + held)))  # at most 64 MB of logits

    def encode(self, lanes: Lanes, symbols: np.ndarray, tick: Tick) -> tuple[bytes, np.ndarray]:
        encoder, bits = Encoder(), np.zeros(len(lanes.owner))

        def put(i: int, logits: Tensor) -> np.ndarray:
            chosen = symbols[: len(logits), i]
            encoder.put(frequencies(logits.numpy()), chosen)
            bits[: len(logits)] -= pick(logits, torch.from_numpy(chosen)).numpy() / math.log(2)
            return chosen

        self._walk(lanes, put, tick)
        return encoder.bytes(), bits

    def decode(self, lanes: Lanes, stream: bytes, tick: Tick) -> np.ndarray:
        decoder, flat = Decoder(stream), np.zeros((len(lanes.owner), lanes.steps), np.int64)

        def get(i: int, logits: Tensor) -> np.ndarray:
            flat[: len(logits), i] = decoder.get(frequencies(logits.numpy()))
            return flat[: len(logits), i]

        self._walk(lanes, get, tick)
        return flat

    def _walk(self, lanes: Lanes, choose: Callable[[int, Tensor], np.ndarray], tick: Tick) -> None:
        """Walk along the chain; symbols = choose(position, logits (active lanes, K))."""

        def some(i: int, logits: Tensor) -> Tensor:
            active = int(lanes.active[i])
            symbols = torch.zeros(len(lanes.owner), dtype=torch.int64)
            symbols[:active] = torch.from_numpy(choose(i, logits[:active]).astype(np.int64))
            tick(active)
            return symbols

        context = lanes.context(self.classes)
        classes = None if context is None else torch.from_numpy(context)
        with with_threads(self.threads):
            for _ in walk(self.chain, some, lanes.event, len(lanes.owner), classes):
                pass


def coder_of(chain: Chain) -> Coder:
    """The best way to code with a chain."""
    program = engine.program_of(chain)
    if program is not None:
        return StrictCoder(program, chain.event)
    tell_slow(type(chain).__name__)
    return NativeCoder(chain)


def coder_for(archive: Archive, chain: Chain | None) -> Coder:
    """The coder that an archive was written with: of the model it holds, else of `chain`.

    Raises:
        ChainruleError: there is no model, it is another one, or this machine or version cannot compute it.
    """
    header, path = archive.header, archive.path
    if header.coder != CODER or header.arithmetic not in (STRICT, NATIVE):
        raise ChainruleError(
            f"{path} needs {header.arithmetic!r} arithmetic and coder {header.coder!r}, this program has "
            f"{STRICT!r} and {CODER!r}: update it"
        )
    if header.arithmetic == NATIVE:
        check_environment(archive)
    embedded = archive.model()
    if embedded is None and chain is None:
        raise ChainruleError(
            f"{path} does not hold its model: give it with --run RUN (SHA-256 {header.model_sha256[:16]}...)"
        )
    coder: Coder
    if header.arithmetic == STRICT:
        program = engine.program_of(chain) if embedded is None and chain is not None else None
        if embedded is not None:
            program = engine.parse(embedded, f"the model in {path}")
        if program is None:
            raise ChainruleError(f"{path} needs a model with a step program, the one given has none")
        coder = StrictCoder(program)
    else:
        model = chain if embedded is None else parse_model(embedded, f"the model in {path}")
        if not isinstance(model, Chain):
            raise ChainruleError(f"{path} is damaged: its model is a code, not a chain")
        coder = NativeCoder(model, int(header.environment["threads"]))
    if (found := coder.identity()) != header.model_sha256:
        raise ChainruleError(
            f"{path} needs the model {header.model_sha256[:16]}..., this one is {found[:16]}...: give the run it "
            "was made with"
        )
    if coder.symbols != header.symbols:
        raise ChainruleError(f"{path} has {header.symbols} symbols, the model {coder.symbols}: it is another")
    return coder


# ----------------------------------------------------------------------------------------- native arithmetic


def settled(chain: Chain) -> Chain:
    """A copy whose results do not depend on how the tensors came to lie in memory: aligned, in C order."""
    chain = copy.deepcopy(chain).cpu().eval()
    for tensor in [*chain.parameters(), *chain.buffers()]:
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return chain


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """As many threads as the archive was written with: sums depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment() -> dict[str, str | int]:
    """What the results of PyTorch's floating-point arithmetic depend on."""
    return {
        "torch": torch.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def check_environment(archive: Archive) -> None:
    """Refuse what this machine cannot compute exactly as it was written."""
    path, here, there = archive.path, environment(), archive.header.environment
    threads: Any = there.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ChainruleError(f"{path} is damaged: it was written with {threads!r} threads")
    other = [
        f"{key} {there.get(key)!r} (here {here[key]!r})"
        for key in here
        if key != "threads" and here[key] != there.get(key)
    ]
    if other:
        raise ChainruleError(
            f"{path} was coded in the floating-point arithmetic of its own machine, and only there it can be "
            f"decoded: it needs {', '.join(other)}"
        )
