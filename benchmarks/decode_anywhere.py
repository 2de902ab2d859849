"""Decodes archives with nothing but numpy, numba and safetensors: no PyTorch, no class of a model.

    python benchmarks/decode_anywhere.py ARCHIVE ...

For machines on which the whole of chainrule is not installed, such as another processor under emulation. It
prints the SHA-256 of what each block decodes to beside the one that the archive promises, and exits with 1
when any differs.
"""

import platform
import sys
import time

from chainrule.archive import MODEL, Archive, digest
from chainrule.engine.program import parse
from chainrule.engine.strict import Strict, known_answer
from chainrule.verbs.lanes import Lanes, symbol_type


def main(paths: list[str]) -> int:
    started = time.monotonic()
    print(f"{platform.machine()}: the known program gives {known_answer()[:16]}", flush=True)
    wrong = 0
    for path in paths:
        with Archive(path) as archive:
            program = parse(archive.model() or b"")
            for number, block in enumerate(archive.blocks):
                if block.coding == MODEL:
                    lanes = Lanes(block.items, archive.header)
                    run = Strict(program, lanes.event, len(lanes.owner), lanes.context(program.classes))
                    symbols = run.decode(archive.payload(number), lanes.active)
                    parts = [x.tobytes() for x in lanes.scatter(symbols, symbol_type(archive.header))]
                    found = digest(archive.header, block.items, parts)
                    wrong += found != block.sha256
                    print(f"{path} block {number}: {found[:16]}, promised {block.sha256[:16]}", flush=True)
    print(f"{wrong} of them differ; {time.monotonic() - started:.0f} s", flush=True)
    return int(wrong > 0 or "torch" in sys.modules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
