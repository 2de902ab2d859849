"""An archive of a fitted run's test data: its size beside the codecs that people use, and its speed.

    python benchmarks/archives.py RUN [DATA] [--part size speed codecs] [--json]

DATA is what the run was fitted to, unless named; of a named set the test split is compressed. Gray levels are
thresholded at 0.5 (x > 127) for a model of two symbols. Three tables:

    size     bits/dim of the archive without and with its model, against the exact score; from how many items on
             it is smaller than xz with its model
    speed    kB of raw symbols (one byte each) a second, the median of a few runs in turn: compressing with and
             without verification, decompressing, with 1 and 2 threads; of the first --timed items
    codecs   the same items through other codecs: "measured" in this run where the codec is installed (PNG, WebP,
             xz, bzip2; with the packages imagecodecs, brotli, zstandard and pyppmd also JPEG XL, JPEG-LS, brotli,
             zstd, PPMd), "stated": sizes measured before, with their settings (sizes do not depend on a machine)

Sizes are whole files, headers included; of texts also after the training text: size(both) - size(training
text), or with the latter as a dictionary.
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import lzma
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from table import Row, in_turn, show

from chainrule import Dataset, compress, decompress, load, open_run, score
from chainrule.model import Chain
from chainrule.report.codecs import codec_table, sheet, xz
from chainrule.verbs.coders import coder_of

PARTS = ("size", "speed", "codecs")
# Bits a symbol of the whole test set, measured before: (data, levels) -> codec, settings -> bits.
NATS = 1 / math.log(2) / 784  # bits a pixel in a nat an image
STATED = {
    ("mnist", 256): {
        "JPEG XL effort 10, one sheet (libjxl 0.11.2)": 1.115,
        "JPEG XL effort 10, a file each (libjxl 0.11.2)": 1.945,
        "brotli 11, all images one after another": 1.354,
        "xz -9e, all images one after another": 1.382,
        "WebP lossless m6 q100, one sheet": 1.540,
        "PNG oxipng -o6, one sheet": 1.600,
        "PNG oxipng -o6, a file each": 2.507,
    },
    ("mnist", 2): {
        "JBIG1 pbmtojbg -q -s 2800, one sheet": 83.56 * NATS,
        "LZMA lc0 lp0 pb0, a byte a pixel": 119.85 * NATS,
        "PNG oxipng -o6, 1 bit, one sheet": 161.0 * NATS,
    },
    ("cifar10-first4000", 256): {
        "JPEG XL effort 9, one sheet (libjxl 0.11.2)": 3.935,
        "JPEG XL effort 7, a file each (libjxl 0.11.2)": 4.107,
        "WebP lossless m6 q100, one sheet": 4.324,
        "PNG oxipng -o6, one sheet": 5.612,
    },
    ("shakespeare", 256): {
        "PPMd I order 6, after the first 90 %": 2.026,
        "LZMA lc4 pb0, after the first 90 %": 2.515,
        "brotli 11, after the first 90 %": 2.530,
        "zstd -22, the first 90 % as dictionary": 2.547,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data", nargs="?", help="a name or a path; by default what the run was fitted to")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--items", type=int, help="only the first so many, for a quick look")
    parser.add_argument("--timed", type=int, default=2000, help="items of which the speed is measured")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    run = open_run(options.run)
    name = options.data or run.info["data"]
    data = thresholded(load(name, split="test"), run.chain)
    whole = options.items is None or options.items >= len(data)
    data = data if whole else data.select(slice(0, options.items))
    parts = {
        "size": lambda: [size(run.chain, data)],
        "speed": lambda: speed(run.chain, data.select(slice(0, options.timed)), options),
        "codecs": lambda: codecs(run.chain, data, name, STATED if whole else {}),
    }
    for part in options.part:
        show(parts[part](), options.json)


def thresholded(data: Dataset, chain: Chain) -> Dataset:
    """Gray levels as ink or no ink, for a model of two symbols."""
    if chain.symbols != 2 or not (data.levels == 256 or data.binarise):
        return data
    return replace(data, x=(np.asarray(data.x) > 127).astype(np.uint8), levels=2, binarise=False)


# ------------------------------------------------------------------------------------------------ the archive


def size(chain: Chain, data: Dataset) -> Row:
    """The archive's size."""
    with tempfile.TemporaryDirectory() as folder:
        report = compress(chain, data, Path(folder) / "a.chain", verify=False)
    exact = score(chain, data).bits_per_dim
    row: Row = {"items": report.items, "raw_bytes": report.raw_bytes, "archive_bytes": report.archive_bytes}
    row |= {"model_bytes": report.model_bytes, "bits_per_dim": round(report.bits_per_dim, 4)}
    row |= {"with_model": round(report.with_model, 4), "exact_score": round(exact, 4)}
    row |= {"overhead_%": 100 * (report.bits_per_dim / exact - 1)}
    row |= {"coder_overhead_%": 100 * (report.coded_bits / max(1.0, report.ideal_bits) - 1)}
    row |= {"break_even_items": report.break_even, "blocks": str(report.blocks)}
    return row | nats(report.bits_per_dim, data)


def nats(bits: float, data: Dataset) -> Row:
    """Of binary images also nats an image."""
    binary = data.levels == 2 and data.kind == "image"
    return {"nats_per_item": round(bits * math.log(2) * data.symbols_total / len(data), 2)} if binary else {}


def speed(chain: Chain, data: Dataset, options: argparse.Namespace) -> Iterator[Row]:
    """kB/s of raw symbols."""
    kilobytes, coder = data.symbols_total / 1000, coder_of(chain)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.chain"

        def work(threads: int, verify: bool) -> Callable[[], object]:
            return lambda: compress(
                chain, data, path, coder=coder, threads=threads, verify=verify, force=True
            )

        def back(threads: int) -> Callable[[], object]:
            return lambda: [None for _ in decompress(path, threads=threads)]

        sides: dict[tuple[str, int], Callable[[], object]] = {}
        for threads in options.threads:
            torch.set_num_threads(threads)
            sides["compress", threads] = work(threads, False)
            sides["compress and verify", threads] = work(threads, True)
            sides["decompress", threads] = back(threads)
        names = {f"{what}, {threads}": (what, threads) for what, threads in sides}
        times = in_turn({name: sides[key] for name, key in names.items()}, options.runs, warm=False)
    for name, (what, threads) in names.items():
        row: Row = {"what": what, "threads": threads, "kB/s": kilobytes / times[name]}
        yield row | {"seconds": times[name], "items": len(data), "raw_kB": kilobytes}


# ----------------------------------------------------------------------------------------------------- codecs


def codecs(chain: Chain, data: Dataset, name: str, stated: dict) -> Iterator[Row]:
    """Every codec, the smallest first, and by how much the archive is smaller than it."""
    ours = float(size_only(chain, data))
    found = [("chainrule, model apart", ours, "archive", "measured")]
    events = [np.asarray(x) for x in data.x]
    found += [(c.name, c.bits_per_dim, c.best, "measured") for c in codec_table(events, data.levels)]
    found += [(*row, "measured") for row in [*as_images(data), *as_bytes(data)]]
    found += [(*row, "measured") for row in (after_training(data, name) if data.kind == "text" else [])]
    known = stated.get((name.partition(":")[0].replace("binarized-", ""), data.levels), {})
    found += [(codec, bits, "", "stated") for codec, bits in known.items()]
    for codec, bits, form, origin in sorted(found, key=lambda row: row[1]):
        row: Row = {"codec": codec, "bits_per_dim": round(bits, 4), **nats(bits, data)}
        yield row | {"archive_smaller_by_%": 100 * (1 - ours / bits), "form": form, "origin": origin}


def size_only(chain: Chain, data: Dataset) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return compress(chain, data, Path(folder) / "a.chain", verify=False).bits_per_dim


def installed(name: str) -> ModuleType | None:
    """A package that may be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def as_images(data: Dataset) -> list[tuple[str, float, str]]:
    """JPEG XL and JPEG-LS of all images, on one sheet and a file each."""
    package = installed("imagecodecs")
    if package is None or data.kind != "image" or data.levels != 256:
        return []
    coders = {
        f"JPEG XL effort {effort}": partial(package.jpegxl_encode, lossless=True, effort=effort)
        for effort in (7, 9, 10)
    }
    coders["JPEG-LS"] = package.jpegls_encode
    events = [np.ascontiguousarray(np.asarray(x).squeeze()) for x in data.x]
    forms = {"a file each": events}
    if data.event is not None:
        forms["one sheet"] = [np.ascontiguousarray(sheet(data.x).squeeze())]
    return [
        (f"{name}, {form}", 8 * sum(len(code(x)) for x in images) / data.symbols_total, "8 bits a symbol")
        for form, images in forms.items()
        for name, code in coders.items()
    ]


def as_bytes(data: Dataset) -> list[tuple[str, float, str]]:
    """Brotli and zstd of all symbols one after another."""
    raw, rows = raw_of(data), []
    if (brotli := installed("brotli")) is not None:
        rows.append(("brotli 11, one file", len(brotli.compress(raw, quality=11, lgwin=24))))
    if (zstandard := installed("zstandard")) is not None:
        rows.append(("zstd -22, one file", len(zstandard.ZstdCompressor(level=22).compress(raw))))
    return [(name, 8 * size / len(raw), "1 byte a symbol") for name, size in rows]


def after_training(data: Dataset, name: str) -> list[tuple[str, float, str]]:
    """What coders of bytes need for a text after the text that the model learned from."""
    before, raw = raw_of(load(name.partition(":")[0], split="train")), raw_of(data)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "xz -9e": xz,
        "bzip2 -9": bz2.compress,
        "LZMA lc4 pb0": lzma_4,
    }
    if (brotli := installed("brotli")) is not None:
        packers["brotli 11"] = lambda text: brotli.compress(text, quality=11, lgwin=24)
    if (pyppmd := installed("pyppmd")) is not None:
        packers["PPMd I order 6"] = lambda text: pyppmd.compress(
            text, max_order=6, mem_size=1 << 28, variant="I"
        )
    rows = [
        (
            f"{packer}, after the training text",
            len(pack(before + raw)) - len(pack(before)),
            "difference of sizes",
        )
        for packer, pack in packers.items()
    ]
    if (zstandard := installed("zstandard")) is not None:
        known = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        size = len(zstandard.ZstdCompressor(level=22, dict_data=known).compress(raw))
        rows.append(("zstd -22, after the training text", size, "as dictionary"))
    return [(packer, 8 * size / len(raw), form) for packer, size, form in rows]


def lzma_4(text: bytes) -> bytes:
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    return lzma.compress(text, format=lzma.FORMAT_XZ, filters=chain)


def raw_of(data: Dataset) -> bytes:
    return b"".join(np.asarray(x).astype(np.uint8).tobytes() for x in data.x)


if __name__ == "__main__":
    main()
