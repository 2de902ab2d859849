"""Whole texts come back byte for byte, and their archives are the same bytes with any number of threads.

    python benchmarks/same_text.py [TEXT ...] [--last 3000000] [--threads 1 2] [--steps 300] [--json]

Of every TEXT (a file, or one packed by xz; Shakespeare when there is none) the last so many bytes are one item. It is
compressed with the counting chain, which has read nothing, and with a small recurrent chain that was fitted to the
first 500,000 bytes for a few steps, and decompressed, with each number of threads; the models code the text whether
lzma would be shorter or not. The text is one block, so that a second thread has nothing to do: `s` are seconds of
processor time.

Exit code 1 when a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from table import Row, show

from chainrule import Dataset, compress, decompress, fit, load
from chainrule.archive import MODEL, STORED
from chainrule.chains.counting import ContextMixing
from chainrule.model import Chain

LEARNED = 500_000  # bytes
SMALL = {"width": 128, "embed": 64}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="*", type=Path)
    parser.add_argument("--last", type=int, default=3_000_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the recurrent chain")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    rows = show(results(options), options.json)
    return 0 if all(row["same text"] == row["same archive"] == "yes" for row in rows) else 1


def results(options: argparse.Namespace) -> Iterator[Row]:
    """A row a text, a chain and a number of threads."""
    for name, text in texts(options):
        for chain in (ContextMixing(), recurrent(text[:LEARNED], options.steps)):
            first = None
            for threads in options.threads:
                digest, numbers = archived(chain, text, threads)
                first = first or digest
                same: Row = {"same archive": "yes" if digest == first else "NO", "sha256": digest[:16]}
                yield {"text": name, "model": type(chain).__name__, "threads": threads} | numbers | same


def texts(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Names, and bytes."""
    if not options.text:
        yield "shakespeare", np.asarray(load("shakespeare", split="all").x[0])
    for path in options.text:
        data = path.read_bytes()
        data = lzma.decompress(data) if path.suffix == ".xz" else data
        yield path.name, np.frombuffer(data, np.uint8)[-options.last :]


def recurrent(text: np.ndarray, steps: int) -> Chain:
    """A small multiplicative LSTM that has seen some of the text."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"steps": steps, "settings": SMALL, "seed": 0, "compile": False}
        run = fit(one(text), "mlstm", out=Path(folder) / "run", holdout=0, **settings)
    assert isinstance(run.chain, Chain)
    return run.chain


def one(text: np.ndarray) -> Dataset:
    return Dataset(text[None], 256, "text", ("text",))


def archived(chain: Chain, text: np.ndarray, threads: int) -> tuple[str, Row]:
    """SHA-256 of an archive, and what it was like to write and to read it."""
    with tempfile.TemporaryDirectory() as folder, models_always():
        path = Path(folder) / "a.chain"
        settings: dict[str, Any] = {"embed": False, "verify": False, "threads": threads}
        report, written = timed(lambda: compress(chain, one(text), path, **settings))
        found, read = timed(lambda: [x for _, x, _ in decompress(path, chain, threads=threads)])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.blocks[MODEL] == 1
    same = "yes" if (found[0] == text).all() else "NO"
    numbers: Row = {"bytes": len(text), "archive_bytes": report.archive_bytes}
    return digest, numbers | {"compress_s": written, "decompress_s": read, "same text": same}


def models_always():
    """The model codes every block: what packing alone would come to is not asked."""
    module = sys.modules["chainrule.verbs.compress"]
    return patch.object(module, "without_model", lambda raw, items: (STORED, raw + raw))


def timed(work: Callable) -> tuple[Any, float]:
    """What it gives, and seconds of processor time."""
    began = time.process_time()
    return work(), time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
