"""What chains over events of one fixed shape share: an order of the symbols, and levels as a few numbers each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.levels import MOST, smooth_basis

LONGEST = 1 << 20  # numbers of an event, N F: whatever a damaged file says, tables are no longer than that
SEEDS = 1 << 16  # of random orders: in a file a number is no larger than a small model is

# How an order is given: "raster" (C order), the seed of a random one, or the flat positions in the order in which
# they are predicted.
Order = str | int | list


class Line(nn.Module):
    """The N symbols of an event of one shape, put into the order of a chain, and each as a vector of F numbers.

    With φ(k) (F,) the columns 1 to F of `smooth_basis(K)`, F = min(features, K − 1), and λ the length of the first
    of them, a level k of K enters a network as ψ(k), and the numbers s that a network says of a symbol give logits:

        ψ(k) = (φ(k) − φ(0)) / λ                                                             (F,)
        logits[k] = φ(k)·s                                                                   (K,)

    So level 0 enters as nothing, as in binary networks of zeros and ones. With K = 2 a level is one number, 0 or 2,
    and the logits are −s and s; with F = K − 1 they can be those of every softmax. With fewer they give
    distributions that are smooth in k: with two numbers, discretised Gaussians.

    Args:
        event: the shape.
        order: "raster", the seed of a random order, or all flat positions in the order of the chain.
        symbols: K.
        features: the most numbers for a level.

    Example:
        >>> line = Line((2, 2), [3, 0, 1, 2], symbols=2, features=16)
        >>> line.enter(torch.tensor([[[0, 0], [1, 1]]]))[0, :, 0]
        tensor([2., 0., 0., 2.])
    """

    visit: Tensor
    rank: Tensor
    phi: Tensor
    psi: Tensor

    def __init__(self, event: tuple[int, ...], order: Order, symbols: int, features: int):
        super().__init__()
        if not 1 <= symbols <= MOST:
            raise ChainruleError(f"symbols is {symbols}: 1 to {MOST} levels can stand for numbers")
        self.width = min(features, max(1, symbols - 1))  # F
        self.event, self.size = tuple(event), size_of(event, self.width)
        visit = visits(order, self.size)
        self.raster = bool((visit == np.arange(self.size)).all())
        phi = smooth_basis(symbols)[:, 1 : 1 + features] if symbols > 1 else torch.zeros(1, 1)  # (K, F)
        psi = (phi - phi[:1]) / max(1.0, symbols / 8)  # λ of `smooth_basis`
        for name, places in {"visit": visit, "rank": np.argsort(visit)}.items():
            self.register_buffer(name, here(places), persistent=False)
        for name, table in {"phi": phi, "psi": psi}.items():
            self.register_buffer(name, here(table), persistent=False)

    def ranks(self, event: tuple[int, ...]) -> np.ndarray:
        """The rank (N,) of every flat position of an event, which must have the shape that it has."""
        self.check(event)
        return self.rank.cpu().numpy()

    def check(self, event: tuple[int, ...]) -> None:
        """One clear line for an event of another shape."""
        check_shape(event, self.event)

    def enter(self, x: Tensor) -> Tensor:
        """Events x (B, *event) -> (B, N, F): ψ of the symbols in the order of the chain."""
        self.check(tuple(x.shape[1:]))
        flat = x.reshape(len(x), self.size).long()
        return nn.functional.embedding(flat if self.raster else flat[:, self.visit], self.psi)

    def leave(self, said: Tensor) -> Tensor:
        """What is said (B, N, F) of the symbols in order -> logits (B, *event, K)."""
        said = said.to(self.phi) if self.raster else said.to(self.phi)[:, self.rank]
        with torch.autocast("cpu", enabled=False):
            return (said @ self.phi.T).reshape(len(said), *self.event, len(self.phi))


def here(table: np.ndarray | Tensor) -> Tensor:
    """A copy on the device where modules are being made: "meta" where nothing but shapes is wanted."""
    return torch.as_tensor(table).to(torch.empty(0).device, copy=True)


def size_of(event: tuple[int, ...], width: int = 1) -> int:
    """N, the symbols of an event; a ChainruleError for a shape that no such model can be made for.

    >>> size_of((28, 28, 1))
    784
    """
    if not event or not all(type(side) is int and side >= 1 for side in event):
        raise ChainruleError(f"event is {event!r:.60}: take a shape of one side or more, each 1 or more")
    size = math.prod(event)
    if size * width > LONGEST:
        raise ChainruleError(
            f"event is {event!r:.60}, of {size} symbols, each as {width} numbers: there is room for {LONGEST}"
        )
    return size


def visits(order: Order, size: int) -> np.ndarray:
    """The flat positions (N,) in the order in which they are predicted.

    >>> visits([2, 0, 1], 3), visits(0, 5)
    (array([2, 0, 1]), array([0, 3, 1, 2, 4]))
    """
    if isinstance(order, str) and order == "raster":
        return np.arange(size)
    if type(order) is int:
        if not 0 <= order < SEEDS:
            raise ChainruleError(f"order is {order}: take a seed from 0 to {SEEDS - 1}")
        return np.argsort(np.random.Generator(np.random.Philox(order)).random(size), kind="stable")
    if isinstance(order, list | tuple):
        if all(type(place) is int for place in order) and sorted(order) == list(range(size)):
            return np.array(order)
        raise ChainruleError(
            f"order lists {len(order)} positions: it must have each of 0 to {size - 1} exactly once"
        )
    raise ChainruleError(f"order is {order!r:.60}: take raster, the seed of a random one, or all positions")


def one_shape(data: Any, name: str) -> dict[str, Any]:
    """The constructor arguments that data of one shape imply: symbols, event, classes."""
    if data.event is None:
        raise ChainruleError(f"{name} needs events of one shape, and these differ: resize or crop them first")
    return {"symbols": data.levels, "event": tuple(map(int, data.event)), "classes": len(data.classes)}


def check_shape(event: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """One clear line for an event of another shape than the one that a model takes."""
    if tuple(event) != wanted:
        raise ChainruleError(
            f"an event has shape {tuple(event)}, the model takes {wanted}: crop or resize it"
        )


def check_given(classes: int, context: Tensor | None) -> None:
    """One clear line when a model that is conditioned on a class is given none."""
    if classes and context is None:
        raise ChainruleError(f"the model is conditioned on {classes} classes: give one for each event")
