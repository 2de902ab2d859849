"""A run's exact score on the test split of its data, with how it was trained, and for texts xz beside it.

python benchmarks/scores.py RUN DATA
"""

from __future__ import annotations

import argparse
import json
import lzma

import numpy as np

from chainrule import load, open_run, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data", help="a named set; its test split is scored")
    options = parser.parse_args()
    run, test = open_run(options.run), load(options.data, split="test")
    result = score(run.chain, test)
    trained = run.info["trained"]
    row = {
        "data": test.source,
        "items": len(test),
        "symbols": int(result.symbols.sum()),
        "bits_per_dim": round(result.bits_per_dim, 4),
        "nats_per_item": round(result.nats_per_item, 2),
        "threads": run.info["threads"],
        "steps": trained["steps"],
        "batch": run.info["training"]["batch"],
        "seconds": round(trained["seconds"]),
    }
    if test.kind == "text":
        row["xz_primed"] = round(primed(options.data), 4)
    print(json.dumps(row))


def primed(name: str) -> float:
    """Bits a byte that xz -9e adds for the test text when it has seen the training text: a difference of sizes."""
    train, test = (np.asarray(load(name, split=split).x[0]).tobytes() for split in ("train", "test"))
    sizes = [len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (train + test, train)]
    return 8 * (sizes[0] - sizes[1]) / len(test)


if __name__ == "__main__":
    main()
