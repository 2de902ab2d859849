"""What one conditional sees of the pixels before it: a PixelCNN has a blind spot, two stacks of convolutions have none.

Van den Oord, Kalchbrenner, Vinyals et al. 2016, figure 1. Nothing is learned and nothing is drawn by rule: a pixel is
seen where the logits in the middle of a random image have a derivative by it, in any of several networks of random
weights. Convolutions are 3 × 3, the first one too. `before` are the pixels that the chain rule lets the middle depend
on; `blind` are those that no number of layers reaches, measured where every further layer has left the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from chainrule import plots, store
from chainrule.lecture.natural import Save
from chainrule.models import TABLE
from chainrule.randomness import random_numbers, seed_of

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"side": 9, "layers": [1, 2, 4], "draws": 3},
    "laptop": {"side": 21, "layers": [1, 2, 4, 8], "draws": 10},
    "paper": {"side": 41, "layers": [1, 2, 4, 8, 16], "draws": 20},
}
SMALL = {"symbols": 2, "channels": 1, "classes": 0, "width": 8, "head": 8, "kernel": 3, "first_kernel": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "PixelCNN": ("pixelcnn", SMALL),
    "Gated PixelCNN": (
        "gated-pixelcnn",
        {**SMALL, "mix": 0, "embedding": 0, "memory": 0, "copies": 0, "position": False},
    ),
}


KINDS = ("after", "never", "not yet", "seen", "middle")  # what a pixel of a map is: an index of these


def draw(save: Save, seed: int, side: int, layers: list[int], draws: int) -> dict:
    """A map for each model and number of layers, and how many pixels are seen, are not seen yet, are never seen."""
    past = np.arange(side * side).reshape(side, side) < side * side // 2
    maps: dict[str, list[np.ndarray]] = {}
    found: list[dict[str, Any]] = []
    for name in MODELS:
        ever = seen(name, side, side, draws, seed)
        maps[name] = []
        for count in layers:
            now = seen(name, count, side, draws, seed)
            kinds = np.where(past, 1 + ever + now, 0)
            kinds[side // 2, side // 2] = KINDS.index("middle")
            maps[name].append(kinds)
            sees = {"before": past.sum(), "seen": (now & past).sum(), "blind": (past & ~ever).sum()}
            row = {"model": name, "layers": count, **{key: int(value) for key, value in sees.items()}}
            found.append({**row, "not_before": int((now & ~past).sum())})
    save("receptive-fields", picture(maps, layers, found))
    return {"rows": found}


def seen(name: str, layers: int, side: int, draws: int, seed: int) -> np.ndarray:
    """(side, side) whether the logits in the middle depend on a pixel, in one of `draws` random networks."""
    model, args = MODELS[name]
    found = np.zeros((side, side), bool)
    for i in range(draws):
        chain: Any = store.build(model, {**args, "layers": layers}, TABLE, seed_of(seed, i))
        chain.double().eval()
        with random_numbers(seed_of(seed, i)):
            x = torch.rand(1, side, side, 1, dtype=torch.float64, requires_grad=True)
        logits = chain.logits(x)[0, side // 2, side // 2, 0]
        (slope,) = torch.autograd.grad(logits[1] - logits[0], x)
        found |= slope[0, :, :, 0].numpy() != 0
    return found


def picture(maps: dict[str, list[np.ndarray]], layers: list[int], found: list[dict[str, Any]]) -> Any:
    """A row of maps for each model, and what the colours mean."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = ["#e9ebee", plots.ORANGE, "#c3d9ee", plots.BLUE, "black"]
    look: dict[str, Any] = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": len(colours) - 1}
    figure = Figure(figsize=(1.9 * len(layers) + 0.3, 1.75 * len(maps) + 0.6), layout="constrained")
    grid = figure.subplots(len(maps), len(layers), squeeze=False)
    rows = iter(found)
    for i, (name, kinds) in enumerate(maps.items()):
        for axes, count, kind in zip(grid[i], layers, kinds, strict=True):
            row, side = next(rows), len(kind)
            axes.pcolormesh(kind, edgecolors="white", lw=0.6, **look)
            bottom = side // 2 + 1 + side // 5  # all that comes later looks the same
            axes.set(aspect="equal", xlim=(0, side), ylim=(bottom, 0), xticks=[], yticks=[])
            axes.set_xlabel(f"sees {row['seen']} of {row['before']}", color=plots.INK, size=9)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(f"first layer + {count}", color=plots.INK, size=10)
        grid[i, 0].set_ylabel(name, color=plots.INK, size=11)
    words = {
        "middle": "the pixel predicted",
        "seen": "seen",
        "not yet": "seen with more layers",
        "never": "blind: never seen",
        "after": "comes later",
    }
    marks = [Patch(color=colours[KINDS.index(kind)], label=word) for kind, word in words.items()]
    how: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": len(marks),
        "frameon": False,
        "fontsize": 9,
    }
    figure.legend(
        handles=marks, labelcolor=plots.INK, handlelength=1, handleheight=1, columnspacing=1.2, **how
    )
    return plots.raster(figure)
