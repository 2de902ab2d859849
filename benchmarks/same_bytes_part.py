"""One setting of `benchmarks/same_bytes.py`, in a process of its own: writes archives, reads those of another.

    python benchmarks/same_bytes_part.py FOLDER [--write OUT] [--threads 2] [--group 7] [--flush]

FOLDER holds NAME.npz (events x0, x1, ..., their levels and kind) beside NAME.safetensors (the model), and
NAME.chain (archives) once they are written. Prints a JSON object: the SHA-256 of every archive written, and of the
symbols of every archive read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path

from chainrule import engine
from chainrule.archive import Archive
from chainrule.data import BYTES
from chainrule.verbs.coders import StrictCoder
from chainrule.verbs.unpack import decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--flush", action="store_true", help="numbers below 1e-38 are zero to the caller")
    options = parser.parse_args()
    if options.flush:
        import torch

        if not torch.set_flush_denormal(True):
            raise SystemExit("this processor cannot be told to flush")
    began = time.perf_counter()
    written = {} if options.write is None else write(options)
    read = {path.stem: symbols(path, options) for path in sorted(options.folder.glob("*.chain"))}
    facts = {"machine": platform.machine(), "python": platform.python_version()}
    facts["torch"] = "imported" if "torch" in sys.modules else "not imported"
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({"written": written, "read": read, "seconds": seconds, **facts}))


def write(options: argparse.Namespace) -> dict[str, str]:
    """Compress every set with its model; the SHA-256 of each archive."""
    import numpy as np

    from chainrule import Dataset, compress, open_run

    found = {}
    for source in sorted(options.folder.glob("*.npz")):
        with np.load(source) as file:
            events = [file[f"x{i}"] for i in range(len(file.files) - 2)]
            names = tuple(map(str, range(len(events))))
            data = Dataset(events, int(file["levels"]), str(file["kind"]), names, source=source.stem)
        chain = open_run(source.with_suffix(".safetensors")).chain
        program = engine.program_of(chain)
        assert program is not None
        coder = StrictCoder(program, chain.event, group=options.group)
        target = options.write / f"{source.stem}.chain"
        few = {"block_items": 24} if data.kind == "image" else {}  # several blocks, to be coded side by side
        report = compress(chain, data, target, coder=coder, threads=options.threads, verify=False, **few)
        if report.blocks["model"] < sum(report.blocks.values()):
            raise SystemExit(
                f"{source.stem}: the model does not beat lzma, so nothing is shown: {report.blocks}"
            )
        found[source.stem] = hashlib.sha256(target.read_bytes()).hexdigest()
    return found


def symbols(path: Path, options: argparse.Namespace) -> str:
    """SHA-256 of all names and symbols in an archive, decoded with its embedded model."""

    def coder_of(archive: Archive) -> StrictCoder:
        model = archive.model()
        assert model is not None
        return StrictCoder(engine.parse(model), group=options.group)

    digest = hashlib.sha256()
    with Archive(path) as archive:
        found = decoded(archive, coder_of, BYTES, None, options.threads, None)
        for one in sorted(found, key=lambda one: int(one.item.name)):  # blocks have an order of their own
            name, symbols = f"{one.item.name} {one.item.shape} ", one.symbols.astype("<i4")
            digest.update(name.encode() + symbols.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
