"""A text through archives and through the coders that people use: bits a byte, and speed of one thread.

    python benchmarks/text_coders.py [TEXT --last N --before M] [--recurrent RUN] [--lanes 1 4 13 64] [--json]

TEXT is a file, or one packed by xz, of which the last N bytes are coded after the M bytes before them; by default
Shakespeare, the last tenth after the rest. Everything is read back and compared.

    counting    counts alone, with the training text read first and without
    RUN         a recurrent chain, as one lane and cut into so many that each begin from nothing
    mixture     both, weighed online

These are whole archives without their model. `bits_per_byte` is the file, its container included; `ideal` is
-log2 p of what the model coded. The coders that people use have two rows each: the text alone; and after the training
text, as size(both) - size(training text), for which no file exists. Their speed is then that of both texts.

Speeds are kB of text a second of processor time: the median of a few runs, or one run that takes longer than seconds.
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import lzma
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from counting import read
from table import Row, show

from chainrule import ChainruleError, Dataset, compress, decompress, load, open_run
from chainrule.chains.counting import ContextMixing
from chainrule.chains.mixture import Mixture
from chainrule.model import Chain
from chainrule.verbs.coders import coder_of

SLOW = 4.0  # seconds: what takes longer is run once
FEW = 300  # bytes that compile everything


@dataclass(frozen=True)
class Text:
    """What is coded, and what may be known before."""

    before: bytes
    test: bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="?", type=Path, help="a file; Shakespeare by default")
    parser.add_argument("--last", type=int, default=1_000_000, help="bytes at its end that are coded")
    parser.add_argument("--before", type=int, default=8_000_000, help="bytes before them that may be known")
    parser.add_argument("--recurrent", default="zoo:shakespeare-mlstm", help="a run with a recurrent chain")
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 4, 13, 64], help="pieces of the text")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show(measured(text_of(options), options), options.json)


def text_of(options: argparse.Namespace) -> Text:
    """The two stretches of the text."""
    if options.text is None:
        before, test = (np.asarray(load("shakespeare", split=part).x[0]) for part in ("train", "test"))
        return Text(before.tobytes(), test.tobytes())
    data = options.text.read_bytes()
    data = lzma.decompress(data) if options.text.suffix == ".xz" else data
    cut = len(data) - options.last
    return Text(data[max(0, cut - options.before) : cut], data[cut:])


def measured(text: Text, options: argparse.Namespace) -> Iterator[Row]:
    """A row a coder."""
    yield from archives(text, options)
    for peer in peers():
        yield from coded(peer, text, options.runs)


# ---------------------------------------------------------------------------------------------------- archives


def archives(text: Text, options: argparse.Namespace) -> Iterator[Row]:
    """Archives of the counting chain, the recurrent one, and both."""
    recurrent, fresh = open_run(options.recurrent).chain, ContextMixing()
    counting, seconds = read_first(text.before)
    mixture = Mixture((recurrent, counting), symbols=256)
    for chain in (recurrent, fresh, mixture):
        archived(chain, text.test[:FEW], 1)
    speed = f"reads the training text at {len(text.before) / seconds / 1000:.0f} kB/s"
    yield row("counting", "nothing", archived(fresh, text.test, options.runs))
    yield row("counting", "training text", archived(counting, text.test, options.runs)) | {"note": speed}
    yield from in_lanes(recurrent, text.test, options)
    mixed = archived(mixture, text.test, options.runs)
    yield row("mixture", f"{options.recurrent}, training text", mixed)


def in_lanes(chain: Chain, test: bytes, options: argparse.Namespace) -> Iterator[Row]:
    """The recurrent chain over the text in one piece, and in pieces that know nothing of each other."""
    whole = None
    for lanes in options.lanes:
        found = archived(chain, test, options.runs, lanes)
        whole = whole or found["ideal"]
        more = (
            f": {1000 * (found['ideal'] - whole):+.2f} bits in 1,000 bytes" if found["ideal"] != whole else ""
        )
        found["note"] = f"lanes {lanes}{more}"
        yield row(type(chain).__name__, options.recurrent, found)


def row(coder: str, knows: str, numbers: Row) -> Row:
    return {"coder": coder, "knows": knows} | numbers


def read_first(before: bytes) -> tuple[ContextMixing, float]:
    """A counting chain that has read a text once, and the seconds it took."""
    chain, symbols = ContextMixing(), torch.from_numpy(np.frombuffer(before, np.uint8).astype(np.int64))
    read(ContextMixing(bits=10), symbols[:FEW], 0)  # compiles
    began = time.process_time()
    for begin in range(0, len(before), chain.PASSAGE):
        read(chain, symbols, begin)
    return chain, time.process_time() - began


def archived(chain: Chain, test: bytes, runs: int, lanes: int | None = None) -> Row:
    """The archive of one text, coded in so many lanes (by default as many as `compress` takes)."""
    coder, events = coder_of(chain), np.frombuffer(test, np.uint8)[None]
    data = Dataset(events, 256, "text", ("text",))
    with tempfile.TemporaryDirectory() as folder, lanes_of_any_length(lanes):
        path = Path(folder) / "a.chain"
        settings = {"coder": coder, "embed": False, "verify": False, "threads": 1, "force": True}
        pack = partial(compress, chain, data, path, block_items=lanes, **settings)
        report, encode = timed(pack, runs)
        found, decode = timed(lambda: [x for _, x, _ in decompress(path, chain, threads=1)], runs)
    check(found[0].tobytes() == test)
    numbers = {"bits_per_byte": report.bits_per_dim, "ideal": report.ideal_bits / len(test)}
    return numbers | speeds(len(test), encode, decode) | {"form": "archive"}


def lanes_of_any_length(lanes: int | None):
    """Also pieces that are shorter than `compress` would make them."""
    module = sys.modules["chainrule.verbs.compress"]
    return patch.object(module, "LANE", module.LANE if lanes is None else 1)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------- coders that people use


@dataclass(frozen=True)
class Peer:
    """A coder of bytes, or the package that it would need."""

    name: str
    encode: Callable[[bytes], bytes] | None
    decode: Callable[[bytes], bytes] | None
    package: str = ""


def peers() -> Iterator[Peer]:
    """Each with its strongest setting."""
    ppmd, codecs = installed("pyppmd"), installed("imagecodecs")
    setting = {"max_order": 6, "mem_size": 1 << 28, "variant": "I"}
    name = "PPMd I order 6, 256 MB"
    yield Peer(
        name,
        ppmd and partial(ppmd.compress, **setting),
        ppmd and partial(ppmd.decompress, **setting),
        "pyppmd",
    )
    yield Peer("bzip2 -9", bz2.compress, bz2.decompress)
    yield Peer("xz -9e", partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress)
    brotli = codecs and partial(codecs.brotli_encode, level=11, lgwin=24)
    yield Peer("brotli 11", brotli, codecs and codecs.brotli_decode, "imagecodecs")
    zstd = codecs and partial(codecs.zstd_encode, level=22)
    yield Peer("zstd 22", zstd, codecs and codecs.zstd_decode, "imagecodecs")


def installed(name: str):
    """A package that may be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def coded(peer: Peer, text: Text, runs: int) -> Iterator[Row]:
    """The text alone, and after the training text."""
    if peer.encode is None or peer.decode is None:
        yield {"coder": peer.name, "note": f"not measured: {peer.package} is not installed"}
        return
    for before in (b"", text.before):
        whole = before + text.test
        stream, encode = timed(partial(peer.encode, whole), runs)
        back, decode = timed(partial(peer.decode, stream), runs)
        check(back == whole)
        size = len(stream) - (len(peer.encode(before)) if before else 0)
        numbers = {"bits_per_byte": 8 * size / len(text.test)} | speeds(len(whole), encode, decode)
        form = "difference of sizes" if before else "file"
        yield row(peer.name, "training text" if before else "nothing", numbers | {"form": form})


# --------------------------------------------------------------------------------------------------- measuring


def timed(work: Callable, runs: int):
    """What it gives, and the median seconds of processor time."""
    seconds: list[float] = []
    while len(seconds) < runs and max(seconds, default=0.0) < SLOW:
        began = time.process_time()
        found = work()
        seconds.append(time.process_time() - began)
    return found, statistics.median(seconds)


def speeds(size: int, encode: float, decode: float) -> Row:
    return {"encode_kB/s": size / encode / 1000, "decode_kB/s": size / decode / 1000}


def check(same: bool) -> None:
    if not same:
        raise ChainruleError("what was read back is not what went in")


if __name__ == "__main__":
    main()
