"""PyTorch's random numbers as functions of (seed, step): what a training draws does not depend on what came before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What numbers of the same step are for: each has its own.
STEP, BATCH, REDRAW = 0, 1, 2


def seed_of(seed: int, step: int, use: int = STEP) -> int:
    """What to seed PyTorch's generator with, which takes 32 bits only, at a step: another number at every step.

    Other seeds, and another use of random numbers at the same step, begin somewhere else among these numbers.
    """
    x = (seed * 0x9E3779B97F4A7C15 + use * 0xD1B54A32D192ED03 + 1) % (1 << 64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # Steele, Lea & Flood 2014
        x = ((x ^ (x >> shift)) * factor) % (1 << 64)
    return ((x >> 32) + step) % (1 << 32)


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Within it PyTorch's random numbers on the processor follow from the seed; everyone else's are kept.

    (`torch.random.fork_rng` and `torch.manual_seed` do the same, and take a noticeable part of a small step.)
    """
    generator = torch.default_generator
    kept = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(kept)
