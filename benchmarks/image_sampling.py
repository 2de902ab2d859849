"""Sampling binary images of 28 × 28 with every image chain: the step engine beside a full pass for every pixel.

    python benchmarks/image_sampling.py [--peer PATH] [--threads 2] [--json]

The chains have their size "laptop" and random weights: sampling costs the same whatever they are. `chainrule.sample`
draws whole images; the median counts. Naive sampling is EXTRAPOLATED: the median of a few full passes at that batch, in
turn with ours, times the 784 pixels (the choice of a symbol is left out). A chain that states no step program is
sampled once, without warming up. PATH is a checkout of github.com/EugenHotaj/pytorch-generative, whose PixelCNN (as its
`reproduce()` states it: 15 residual blocks of 32 channels) samples in the naive way; it stands in every row, in turn
with that chain.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from image_chains import CHAINS, PEERS, images, peer_model
from sampling import Pass, quietly
from table import Row, in_turn, show

import chainrule
from chainrule import store
from chainrule.data import Dataset
from chainrule.engine import program_of
from chainrule.model import Chain
from chainrule.models import TABLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", help="a checkout of pytorch-generative")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=list(CHAINS), metavar="NAME")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    data = images("test")
    theirs = None if options.peer is None else peer_model(options.peer, PEERS["pixelcnn"]).eval()
    chains = {name: laptop(name, data) for name in options.chains}  # an unknown name is told at once
    for name, chain in chains.items():
        yield {"model": name, **one(chain, theirs, data.x[0].shape, options)}


def laptop(name: str, data: Dataset) -> Chain:
    """A chain for `data` with random weights."""
    cls = store.resolve(name, TABLE)
    implied = cls.configure(replace(data, context=None, classes=()))
    chain = store.build(name, {**cls.SIZES["laptop"], **implied}, TABLE)
    assert isinstance(chain, Chain)
    return chain.eval()


def one(
    chain: Chain, theirs: torch.nn.Module | None, event: tuple[int, ...], options: argparse.Namespace
) -> Row:
    """All sides of one chain."""
    image = torch.zeros(options.images, *event, dtype=torch.long)
    own = None if chain.event is not None else event
    sides: dict[str, Pass] = {
        "chainrule": lambda: chainrule.sample(chain, n=options.images, event=own),
        "naive": quietly(lambda: chain.logits(image)),
    }
    if theirs is not None:
        pixels = image.permute(0, 3, 1, 2).float()
        sides["peer_pixelcnn"] = quietly(lambda: theirs(pixels))
    fast = program_of(chain) is not None
    times = in_turn(sides, options.runs if fast else 1, warm=fast)
    ours = times.pop("chainrule")
    row: Row = {"program": "yes" if fast else "no", "images": options.images, "threads": options.threads}
    row |= {"chainrule_s": ours, "us_per_pixel": 1e6 * ours / image.numel()}
    for name, seconds in times.items():
        whole = seconds * image[0].numel()
        row |= {f"{name}_s_extrapolated": whole, f"{name}/chainrule": whole / ours}
    return row


if __name__ == "__main__":
    main()
