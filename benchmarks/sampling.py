"""Sampling images: the step engine beside the naive way, a full pass of the network for every pixel.

    python benchmarks/sampling.py [--peer PATH] [--json]

PATH is a checkout of github.com/EugenHotaj/pytorch-generative, whose GatedPixelCNN(n_gated=8, gated_channels=32,
head_channels=32) samples that way (its optional parts `datasets`, `trainer` and `debug` need packages that the
model does not, and are left out). Ours is the plain Gated PixelCNN of the same layers and channels, kernels 7
and 3, binary images, random weights: sampling costs the same whatever they are.

`chainrule.sample` draws whole images; the median counts. Naive sampling is EXTRAPOLATED: the median of a few full
passes at that batch, in turn with ours, times the number of pixels (the peer's own `sample` does just that, and
the choice of a symbol is left out here). Where 64 images do not fit into memory fewer are drawn, and the line
says how many. "us_per_pixel" should not depend on the size.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable, Iterator

import torch
from table import Row, in_turn, show

import chainrule
from chainrule.chains.gated_pixelcnn import GatedPixelCNN

PLAIN = {"mix": 0, "embedding": 0, "memory": 0, "copies": 0, "position": False}
IMAGES = {28: 64, 64: 64, 128: 16, 256: 4}  # drawn at a time, by the side of the image
REQUIRED = {28: 500, 64: 3000}  # times the naive way

Pass = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", help="a checkout of pytorch-generative")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=list(IMAGES))
    parser.add_argument("--images", type=int, help="fewer or more images, for a quick look")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    chain = GatedPixelCNN(symbols=2, width=32, layers=8, head=32, **PLAIN).eval()
    theirs = None if options.peer is None else peer(options.peer)
    for side in options.sides:
        yield one(chain, theirs, side, options.images or IMAGES[side], options)


def one(chain: GatedPixelCNN, theirs: torch.nn.Module | None, side: int, n: int, options) -> Row:
    """All sides at one size."""
    image = torch.zeros(n, side, side, 1, dtype=torch.long)
    sides: dict[str, Pass] = {
        "chainrule": lambda: chainrule.sample(chain, n=n, event=(side, side, 1)),
        "own full passes": quietly(lambda: chain.logits(image)),
    }
    if theirs is not None:
        pixels = image.permute(0, 3, 1, 2).float()
        sides["peer"] = quietly(lambda: theirs(pixels))
    times = in_turn(sides, options.runs)
    ours, count = times["chainrule"], side * side
    row: Row = {"side": side, "images": n, "threads": options.threads, "chainrule_s": ours}
    row |= {"us_per_pixel": 1e6 * ours / (n * count)}
    row |= {"own_naive_s_extrapolated": count * times["own full passes"]}
    row |= {"own_naive/chainrule": count * times["own full passes"] / ours}
    if theirs is not None:
        row |= {"peer_s_extrapolated": count * times["peer"], "peer/chainrule": count * times["peer"] / ours}
    return row | {"required": REQUIRED.get(side, "-")}


def quietly(run: Callable[[], object]) -> Pass:
    """Without gradients."""
    return torch.inference_mode()(run)


def peer(path: str) -> torch.nn.Module:
    """The peer's model of the same layers and channels."""
    sys.path.insert(0, path)
    for name in ("datasets", "trainer", "debug"):
        sys.modules[f"pytorch_generative.{name}"] = types.ModuleType(name)
    from pytorch_generative.models.autoregressive.gated_pixel_cnn import GatedPixelCNN as Peer

    return Peer(in_channels=1, out_channels=1, n_gated=8, gated_channels=32, head_channels=32).eval()


if __name__ == "__main__":
    main()
