"""Where a position looks: attention to everything before, strided and fixed sparse attention.

Child, Gray, Radford & Sutskever 2019, figure 3. Nothing is drawn by rule: position t looks at j where what is seen at t
has a derivative by the value at j, in any head of a layer with random queries and keys. `scores` are the pairs of t
and j in one layer, `share` of those of attention to everything before, `most` the positions that one looks at, and
`layers` how many it takes until every position is reached by what comes from any earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import plots
from chainrule.layers.attention import attention
from chainrule.layers.sparse_attention import Fixed, Strided
from chainrule.lecture.natural import Save
from chainrule.randomness import random_numbers, seed_of

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"stride": 4, "summary": 1},
    "laptop": {"stride": 8, "summary": 1},
    "paper": {"stride": 16, "summary": 4},
}
HEADS = 2
KINDS = ("after", "not", "far", "near", "middle")  # what a position is to another: an index of these


def draw(save: Save, seed: int, stride: int, summary: int) -> dict:
    """For each kind of attention what a position in the middle sees, what all of them see, and how much it costs."""
    looks: dict[str, Callable[..., Tensor]] = {
        "full": everything,
        "strided": Strided(stride, rows=1),
        "fixed": Fixed(stride, summary),
    }
    maps = {name: seen(look, stride * stride, seed) for name, look in looks.items()}
    save("attention-patterns", picture(maps, stride))
    return {"rows": [row(name, found, stride) for name, found in maps.items()]}


def everything(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to all positions before, (B, n, h, d) as the sparse ones are given it."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return attention(q, k, v).transpose(1, 2)


def seen(look: Callable[..., Tensor], n: int, seed: int) -> np.ndarray:
    """(n, n) whether the position of a row looks at that of a column, in any head."""
    with random_numbers(seed_of(seed, 0)):
        q, k, v = torch.randn(3, 1, n, HEADS, 2, dtype=torch.float64)
    v.requires_grad_()
    told = look(q, k, v)[0].sum((1, 2))  # (n,)
    slopes = [torch.autograd.grad(at, v, retain_graph=True)[0][0].abs().sum((1, 2)) for at in told]
    return (torch.stack(slopes) != 0).numpy()


def row(name: str, found: np.ndarray, stride: int) -> dict[str, Any]:
    """What the attention of a map costs, and how far it reaches."""
    n, scores = len(found), int(found.sum())
    layers, reached, all_before = 1, found, np.tri(n, dtype=bool)
    while not (reached >= all_before).all() and layers < n:
        layers, reached = layers + 1, reached @ found
    share = scores / all_before.sum()
    most = int(found.sum(1).max())
    facts = {"n": n, "stride": stride, "scores": scores, "share": float(share), "most": most}
    return {"attention": name, **facts, "layers": layers}


def kinds_of(found: np.ndarray) -> np.ndarray:
    """`KINDS` of each pair (n, n): near are those seen with all that lies between, far are the others."""
    near = np.flip(np.logical_and.accumulate(np.flip(found | ~np.tri(len(found), dtype=bool), 1), 1), 1)
    kinds = np.where(found, np.where(near, KINDS.index("near"), KINDS.index("far")), KINDS.index("not"))
    kinds[~np.tri(len(found), dtype=bool)] = KINDS.index("after")
    np.fill_diagonal(kinds, KINDS.index("middle"))
    return kinds


def picture(maps: dict[str, np.ndarray], stride: int) -> Any:
    """Above, a position and what it sees, in rows of the stride; below, the same of all positions."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = ["#f4f5f6", "#dfe3e7", plots.ORANGE, plots.BLUE, "black"]
    look: dict[str, Any] = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": len(colours) - 1}
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    grid = figure.subplots(2, len(maps), height_ratios=[1, 2.2])
    middle = stride * (2 * stride // 3) + stride // 2  # a position with rows above it
    for column, (name, found) in enumerate(maps.items()):
        kinds = kinds_of(found)
        one, every = grid[:, column]
        one.pcolormesh(kinds[middle].reshape(stride, stride), edgecolors="white", lw=0.6, **look)
        every.pcolormesh(kinds, **look)
        one.set_title(name, color=plots.INK, size=11)
        facts = row(name, found, stride)
        said = f"{facts['scores']:,} of {math.comb(len(found) + 1, 2):,} scores"
        every.set_xlabel(f"{said}\n{counted(facts['layers'])} to reach all", color=plots.INK, size=9)
        for axes in (one, every):
            axes.set(aspect="equal", xticks=[], yticks=[])
            axes.invert_yaxis()
            for spine in axes.spines.values():
                spine.set_visible(False)
    words = {
        "middle": "the position",
        "near": "seen, with all between",
        "far": "seen, beyond a gap",
        "not": "not seen",
        "after": "comes later",
    }
    marks = [Patch(color=colours[KINDS.index(kind)], label=word) for kind, word in words.items()]
    how: dict[str, Any] = {"loc": "outside lower center", "ncols": len(marks), "frameon": False}
    figure.legend(handles=marks, labelcolor=plots.INK, fontsize=8, handlelength=1, handleheight=1, **how)
    return plots.raster(figure)


def counted(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"
