"""What the figures of images drawn pixel by pixel share: a Gated PixelCNN that knows classes, and what it expects."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from chainrule import store
from chainrule.data import batches, load
from chainrule.lecture.learning import run
from chainrule.model import Chain
from chainrule.models import TABLE
from chainrule.train import Plan, Training

MODEL = "gated-pixelcnn"
# The paper's network, told where a pixel lies and residual in both stacks: none of what is added for peculiar levels.
PLAIN = {"mix": 0, "embedding": 0, "memory": 0, "copies": 0}
BATCH, RATE = 16, 4e-3
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "width": 16, "layers": 2, "steps": 150},
    "laptop": {"data": "binarized-mnist", "width": 32, "layers": 6, "steps": 2500},
    "paper": {"data": "binarized-mnist", "width": 64, "layers": 12, "steps": 40_000},
}


def learned(data: str, width: int, layers: int, steps: int, seed: int) -> Chain:
    """A chain of the training images of a named set and their classes, learned within so many steps."""
    images = load(data)
    args = {**store.resolve(MODEL, TABLE).configure(images), **PLAIN}
    sizes = {"width": width, "layers": layers, "head": 2 * width}
    chain: Any = store.build(MODEL, {**args, **sizes}, TABLE, seed)

    def batch_at(step: int) -> tuple[torch.Tensor, ...]:
        x, context = batches(images, BATCH, seed, step)
        return torch.from_numpy(x), torch.from_numpy(np.asarray(context))

    training = Training(chain, batch_at, Plan(steps=steps, lr=RATE, seed=seed))
    run(training, f"{MODEL} of {data}", steps)
    chain.load_state_dict(training.averaged())
    return chain.eval()


class Expected(NamedTuple):
    """What a chain that knows classes expects of each symbol of an image, whose class it is not told.

    Attributes:
        levels: (H, W, C, K) p(symbol | symbols before).
        classes: (H, W, C, classes) p(class | symbols before); all classes are equally likely at first.
        bits: (H, W, C) −log₂ p(the symbol that is there | symbols before).
    """

    levels: np.ndarray
    classes: np.ndarray
    bits: np.ndarray


def expected(chain: Chain, x: np.ndarray) -> Expected:
    """What `chain` expects of x (H, W, C), by Bayes' rule from what it expects of an image of each class:

    p(class | before) ∝ ∏ p(xᵢ | before, class) over the symbols before, p(symbol | before) = Σ p(class | before) ·
    p(symbol | before, class) over the classes.
    """
    n = chain.classes
    every = torch.from_numpy(np.repeat(x[None].astype(np.int64), n, axis=0))
    with torch.inference_mode():
        logs = torch.log_softmax(chain.logits(every, torch.arange(n)).double(), -1)  # (classes, H, W, C, K)
    found = logs.gather(-1, every[..., None])[..., 0].flatten(1)  # (classes, H · W · C)
    belief = torch.log_softmax(found.cumsum(1) - found, 0).view(every.shape)
    mixed = torch.logsumexp(belief[..., None] + logs, 0)  # (H, W, C, K)
    bits = -mixed.gather(-1, every[0][..., None])[..., 0] / np.log(2)
    return Expected(mixed.exp().numpy(), belief.movedim(0, -1).exp().numpy(), bits.numpy())
