"""What a unit sees through causal convolutions, plain and dilated; and what a ByteNet sees of source and target.

The slides "Causal Convolution" and "Causal Dilated Convolution"; Kalchbrenner et al. 2016, figures 1 and 2. Nothing is
drawn by rule: a unit is seen where the last output has a derivative by it, in a stack with random weights; a symbol is
seen where another one in its place changes the conditional. `reach` are the inputs that the last output sees, which has
to be 1 + Σ (k - 1) r, and `edges` the products a position of the stack costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chainrule import plots
from chainrule.chains.bytenet import ByteNet
from chainrule.layers.dilated import Dilated, causal
from chainrule.lecture.natural import Save
from chainrule.randomness import random_numbers, seed_of

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"kernel": 2, "layers": 2, "source": 4},
    "laptop": {"kernel": 2, "layers": 4, "source": 40},
    "paper": {"kernel": 3, "layers": 5, "source": 60},
}
SYMBOLS = 5


def draw(save: Save, seed: int, kernel: int, layers: int, source: int) -> dict:
    """Stacks without and with dilation, and the maps of a ByteNet with a block less in its encoder and its decoder."""
    stacks = {"plain": [1] * layers, "dilated": [2**i for i in range(layers)]}
    width = 1 + (kernel - 1) * sum(stacks["dilated"])
    seen = {name: units_seen(kernel, rates, width, seed) for name, rates in stacks.items()}
    save("causal-convolutions", drawing(seen, stacks, kernel))
    maps = pair_maps(kernel + 1 - kernel % 2, layers - 1, source, seed)
    save("source-and-target", pictures(maps))
    rows = [row(name, found, stacks[name], kernel) for name, found in seen.items()]
    return {"rows": rows, "source_seen": int(maps["source"].sum(1).max()), "target": len(maps["target"])}


def units_seen(kernel: int, rates: list[int], width: int, seed: int) -> np.ndarray:
    """(layers + 1, width) which units the last output sees, the inputs first."""
    with random_numbers(seed_of(seed, 0)):
        stack = [Dilated(1, 1, causal(kernel, rate)).double() for rate in rates]
        units = [torch.randn(1, width, 1, dtype=torch.float64, requires_grad=True)]
    for layer in stack:
        units.append(layer(units[-1]))
        units[-1].retain_grad()
    units[-1][0, -1].sum().backward()
    return np.stack([np.asarray(unit.grad[0, :, 0]) != 0 for unit in units])  # type: ignore[index]


def row(name: str, seen: np.ndarray, rates: list[int], kernel: int) -> dict[str, Any]:
    """How far a stack sees, beside the formula."""
    formula = 1 + (kernel - 1) * sum(rates)
    facts = {"layers": len(rates), "kernel": kernel, "dilations": " ".join(map(str, rates))}
    return {
        "stack": name,
        **facts,
        "reach": int(seen[0].sum()),
        "formula": formula,
        "edges": kernel * len(rates),
    }


def pair_maps(kernel: int, layers: int, source: int, seed: int) -> dict[str, np.ndarray]:
    """Which symbols of a source (T, S) and of a target (T, T), which outgrows the encoding, change a conditional."""
    rates = [2**i for i in range(layers)]
    with random_numbers(seed_of(seed, 1)):
        settings: dict[str, Any] = {"kernel": kernel, "units": "multiplicative", "source": SYMBOLS}
        chain = ByteNet(SYMBOLS, width=4, sets=1, dilations=rates, **settings).double().eval()
        for p in chain.parameters():
            nn.init.normal_(p)
        length = round(1.5 * source)
        x, given = torch.randint(SYMBOLS, (1, length)), torch.randint(SYMBOLS, (1, source))
    with torch.inference_mode():
        own = chain.logits(x, given)
        by_source = [(chain.logits(x, changed(given, j)) != own).any(-1)[0] for j in range(source)]
        by_target = [(chain.logits(changed(x, j), given) != own).any(-1)[0] for j in range(length)]
    return {"source": torch.stack(by_source, 1).numpy(), "target": torch.stack(by_target, 1).numpy()}


def changed(x: torch.Tensor, j: int) -> torch.Tensor:
    """x with another symbol at place j."""
    y = x.clone()
    y[0, j] = (y[0, j] + 1) % SYMBOLS
    return y


def drawing(seen: dict[str, np.ndarray], stacks: dict[str, list[int]], kernel: int) -> Any:
    """Units as dots, layer on layer; what the last output sees is dark, and so are the taps it is seen through."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(len(seen)), seen.items(), strict=True):
        layers, width = found.shape
        for layer, rate in enumerate(stacks[name], 1):
            for place in range(width):
                for at in causal(kernel, rate):
                    if place + at >= 0:
                        dark = bool(found[layer, place])
                        look: dict[str, Any] = {
                            "color": plots.BLUE if dark else "#dfe3e7",
                            "zorder": 1 + dark,
                        }
                        axes.plot([place + at, place], [layer - 1, layer], lw=1.2 if dark else 0.7, **look)
        rows, columns = np.indices(found.shape)
        colours = np.where(found, plots.BLUE, "#c8ced4").ravel()
        axes.scatter(columns, rows, s=28, c=colours, zorder=3)
        reach = int(found[0].sum())
        axes.set_title(f"{name}: the last output sees {reach} inputs", color=plots.INK, size=11)
        axes.set_yticks(
            range(layers), ["input", *(f"r = {rate}" for rate in stacks[name])], color=plots.INK, size=9
        )
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_frame_on(False)
    return plots.raster(figure)


def pictures(maps: dict[str, np.ndarray]) -> Any:
    """A row a conditional: dark where it sees a symbol of the source, of the target."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    shapes = [found.shape[1] for found in maps.values()]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, 2, width_ratios=shapes), maps.items(), strict=True):
        axes.pcolormesh(
            found, cmap=ListedColormap(["#eef0f2", plots.BLUE]), vmin=0, vmax=1, edgecolors="white", lw=0.3
        )
        axes.invert_yaxis()
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.set_xlabel(f"symbols of the {name}", color=plots.INK, size=10)
        axes.set_frame_on(False)
    figure.axes[0].set_ylabel("conditionals of the target", color=plots.INK, size=10)
    return plots.raster(figure)
