"""The training images of a named set and their mirror images, as an array to learn from.

python benchmarks/mirrored.py cifar10-first4000 OUT.npz
"""

from __future__ import annotations

import argparse

import numpy as np

from chainrule import load
from chainrule.errors import ChainruleError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="a named set of images of one size")
    parser.add_argument("out", help="the .npz to write")
    options = parser.parse_args()
    try:
        images = np.asarray(load(options.data, split="train").x)  # (n, H, W, C)
    except ChainruleError as error:
        raise SystemExit(f"error: {error}") from error
    np.savez(options.out, x=np.concatenate([images, images[:, :, ::-1]]))


if __name__ == "__main__":
    main()
