"""One block of an archive: events side by side, walked along a chain by an entropy coder."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chainrule.archive import FILE, Archive, Header, Item, Progress
from chainrule.coding import Decoder, Encoder, frequencies
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.walk import walk

ARITHMETIC, CODER = "native", "range24"


class Lanes:
    """The items of a block as the lanes that are walked side by side.

    An event is a lane. A text is cut into several, and texts of different length stand side by side: lanes
    are in order of falling length, and a lane that has ended is coded no further.

    Attributes:
        event: the shape that is walked: that of the items, or (steps,).
        owner, first, length: of each lane (B,): its item, and which of its symbols.
        steps: symbols of the longest lane.
        active: (steps,) how many lanes go on at each step: the first so many.
    """

    def __init__(self, items: Sequence[Item], header: Header) -> None:
        pieces = []
        for owner, item in enumerate(items):
            each = max(1, -(-item.size // lanes_of(item, header)))
            pieces += [(owner, i, min(each, item.size - i)) for i in range(0, item.size, each)]
        pieces.sort(key=lambda piece: -piece[2])
        self.items = items
        self.owner, self.first, self.length = np.array(pieces, np.int64).reshape(-1, 3).T
        self.steps = int(self.length.max(initial=0))
        self.active = np.searchsorted(-self.length, -np.arange(self.steps))
        self.event = (self.steps,) if len(items[0].shape) == 1 else items[0].shape

    def gather(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The symbols of the items as lanes (B, steps) int64, filled up with zeros."""
        flat = np.zeros((len(self.owner), self.steps), np.int64)
        for row, owner, first, length in zip(flat, self.owner, self.first, self.length, strict=True):
            row[:length] = arrays[owner].reshape(-1)[first : first + length]
        return flat

    def scatter(self, flat: np.ndarray, dtype: np.dtype) -> list[np.ndarray]:
        """Undo `gather`."""
        arrays = [np.empty(item.shape, dtype) for item in self.items]
        for row, owner, first, length in zip(flat, self.owner, self.first, self.length, strict=True):
            arrays[owner].reshape(-1)[first : first + length] = row[:length]
        return arrays

    def shaped(self, flat: np.ndarray) -> Tensor:
        """(B, steps) -> (B, *event)."""
        return torch.from_numpy(flat).reshape(len(flat), *self.event)

    def context(self, chain: Chain) -> Tensor | None:
        """The class of each lane (B,), for a chain that is conditioned on classes."""
        if not chain.classes:
            return None
        classes = [self.items[owner].context for owner in self.owner]
        if any(c is None or c >= chain.classes for c in classes):
            raise ChainruleError(
                f"the model is conditioned on {chain.classes} classes, the items have others"
            )
        return torch.tensor(classes, dtype=torch.int64)


def lanes_of(item: Item, header: Header) -> int:
    """How many lanes an item is cut into; only texts are."""
    if len(item.shape) != 1 or not header.lane or item.form == FILE:
        return 1
    return max(1, min(header.block_items, item.size // header.lane))


def encode(chain: Chain, lanes: Lanes, arrays: Sequence[np.ndarray], meter: Meter) -> bytes:
    """One coder stream, in the order (step, lane)."""
    encoder, flat = Encoder(), lanes.gather(arrays)

    def put(i: int, table: np.ndarray) -> np.ndarray:
        symbols = flat[: len(table), i]
        encoder.put(table, symbols)
        return symbols

    go(chain, lanes, put, meter)
    return encoder.bytes()


def decode(chain: Chain, lanes: Lanes, stream: bytes, dtype: np.dtype, meter: Meter) -> list[np.ndarray]:
    """The items that `encode` was given."""
    decoder, flat = Decoder(stream), np.zeros((len(lanes.owner), lanes.steps), np.int64)

    def get(i: int, table: np.ndarray) -> np.ndarray:
        flat[: len(table), i] = decoder.get(table)
        return flat[: len(table), i]

    go(chain, lanes, get, meter)
    return lanes.scatter(flat, dtype)


def go(chain: Chain, lanes: Lanes, choose: Callable[[int, np.ndarray], np.ndarray], meter: Meter) -> None:
    """Walk along the chain; symbols = choose(position, frequencies (active lanes, K))."""

    def pick(i: int, logits: Tensor) -> Tensor:
        active = int(lanes.active[i])
        symbols = torch.zeros(len(lanes.owner), dtype=torch.int64)
        symbols[:active] = torch.from_numpy(choose(i, frequencies(logits[:active].numpy())))
        meter.add(active)
        return symbols

    if lanes.steps:
        for _ in walk(chain, pick, lanes.event, len(lanes.owner), lanes.context(chain)):
            pass


class Meter:
    """Tells `progress` how much is done, and estimates the seconds that are left."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._start, self._done, self._sure = time.monotonic(), 0, 0

    def add(self, symbols: int) -> None:
        self._done += symbols
        if self._progress is not None:
            left = (time.monotonic() - self._start) / max(1, self._done) * (self._total - self._done)
            self._progress(self._what, self._done, self._total, left)

    def at(self, symbols: int) -> None:
        """A block of so many symbols is finished, whether it was walked along or not."""
        self._sure += symbols
        self.add(self._sure - self._done)


def settled(chain: Chain) -> Chain:
    """A copy whose results do not depend on how the tensors came to lie in memory: aligned, in C order."""
    chain = copy.deepcopy(chain).cpu().eval()
    for tensor in [*chain.parameters(), *chain.buffers()]:
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return chain


@contextmanager
def arithmetic(header: Header) -> Iterator[None]:
    """As many threads as the archive was written with: sums depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(header.environment["threads"]))
    try:
        with torch.inference_mode():
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


def check_arithmetic(archive: Archive) -> None:
    """Refuse what this program, or this machine, cannot compute exactly as it was written."""
    header, path = archive.header, archive.path
    if (header.arithmetic, header.coder) != (ARITHMETIC, CODER):
        raise ChainruleError(
            f"{path} needs {header.arithmetic!r} arithmetic and coder {header.coder!r}, "
            f"this program has {ARITHMETIC!r} and {CODER!r}: update it"
        )
    here, there = environment(), header.environment
    threads = there.get("threads")
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


def symbol_type(header: Header) -> np.dtype:
    """The type in which the symbols of an archive are handed out, and stand in its raw blocks."""
    return np.dtype(f"<u{header.width}")
