"""Training speed of the Gated PixelCNN in images/s, beside pytorch-generative's at the same layers and channels.

    python benchmarks/train_speed.py --peer PATH

PATH is a checkout of github.com/EugenHotaj/pytorch-generative (its optional parts `datasets`, `trainer` and
`debug` need packages that the model does not, and are left out). Both train on the same random binary images
of 28 × 28, batch 64 and batch 16, with Adam, two threads, in alternation; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types

import torch
from torch.nn import functional as F

from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.train import Plan, Training, for_one_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", required=True, help="a checkout of pytorch-generative")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for batch in (16, 64):
        x = (torch.rand(batch, 28, 28, 1, generator=torch.Generator().manual_seed(0)) < 0.2).long()
        steps = {
            "chainrule": ours(x),
            "chainrule, compiled": ours(x, compiled=True),
            "peer": peer(x, options.peer),
        }
        speeds = measure(steps, batch, options.rounds)
        for name, values in speeds.items():
            ratio = statistics.median(a / b for a, b in zip(values, speeds["peer"], strict=True))
            row = {"batch": batch, "model": name, "images_per_s": round(statistics.median(values), 1)}
            print(
                json.dumps({**row, "ratio_to_peer": round(ratio, 3), "threads": options.threads}), flush=True
            )


def measure(steps: dict, batch: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of every model in every round, the models in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(3):
                step()
            speeds[name].append(3 * batch / (time.perf_counter() - began))
    return speeds


def ours(x: torch.Tensor, compiled: bool = False):
    """A step of `chainrule fit`: loss, gradient, clipping, AdamW, average of the weights."""
    chain = GatedPixelCNN(symbols=2, width=32, layers=8, head=64, mix=0, embedding=0, memory=0, copies=0)
    training = Training(chain, lambda step: (x,), Plan(steps=1 << 20, compile=False))
    loss = for_one_shape(chain.loss) if compiled else chain.loss
    return lambda: training.update(loss, (x,))


def peer(x: torch.Tensor, path: str):
    """A step as the peer's own trainer takes it: loss summed over pixels, gradient, Adam."""
    sys.path.insert(0, path)
    for name in ("datasets", "trainer", "debug"):
        sys.modules[f"pytorch_generative.{name}"] = types.ModuleType(name)
    from pytorch_generative.models.autoregressive.gated_pixel_cnn import GatedPixelCNN as Peer

    model = Peer(in_channels=1, out_channels=1, n_gated=8, gated_channels=32, head_channels=32)
    optimizer, images = torch.optim.Adam(model.parameters(), 1e-3), x.permute(0, 3, 1, 2).float()

    def step() -> None:
        optimizer.zero_grad()
        loss = (
            F.binary_cross_entropy_with_logits(model(images), images, reduction="none").sum((1, 2, 3)).mean()
        )
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
