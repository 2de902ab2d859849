"""What the smooth basis of `LevelTable` is worth: the same model, steps and seed with it and with a plain table.

python benchmarks/level_basis.py --steps 300
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from chainrule import fit
from chainrule.layers import levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="cifar10-first4000")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    for name, basis in (("smooth", levels.smooth_basis), ("plain", torch.eye)):
        levels.smooth_basis = basis
        with tempfile.TemporaryDirectory() as folder:
            run = fit(options.data, steps=options.steps, out=Path(folder) / "run")
        bits = round(run.info["held_out"]["bits_per_dim"], 4)
        print(
            json.dumps(
                {"basis": name, "data": options.data, "steps": options.steps, "held_out_bits_per_dim": bits}
            )
        )


if __name__ == "__main__":
    main()
