"""What the figures of autoencoders share: images of 0 to 1, learning for so many steps, and what is lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.data import load
from chainrule.model import Code
from chainrule.train import Plan


def images(name: str, split: str = "train") -> np.ndarray:
    """(n, H, W, C) float32 images of 0 to 1 of a named set."""
    data = load(name, split=split)
    return np.asarray(data.x, np.float32) / np.float32(data.levels - 1)


def classes(name: str, split: str = "train") -> np.ndarray:
    """(n,) the classes of the same images, from 0 on."""
    found = load(name, split=split).context
    assert found is not None
    return np.asarray(found)


def learned(code: Any, x: np.ndarray, steps: int) -> Any:
    """A code that learns in steps, learned from x (n, *event) within so many of them."""
    learner = code.learner(x, Plan(steps=steps))
    for _ in learner:
        pass
    return code.learned(learner)


def rebuilt(code: Code, x: np.ndarray) -> np.ndarray:
    """x (n, *event) -> what a code keeps of it, (n, *event)."""
    return code.inverse_transform(code.transform(x))


def error(found: np.ndarray, x: np.ndarray) -> float:
    """The mean of Σ(x̂ − x)² of an event, both (n, *event)."""
    return float(np.square(found - x).reshape(len(x), -1).sum(1).mean())
