"""A small code that is made of a part and of another code, and learns in steps: for tests of all three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from chainrule.codes.pca import PCA
from chainrule.errors import ChainruleError
from chainrule.model import Code
from chainrule.train import Plan

NAME, DOTTED = "running-mean", "stepwise:RunningMean"  # its line in a table of codes


@dataclass(frozen=True)
class Fixed:
    """The same rate at every step."""

    rate: float = 0.1


@dataclass(frozen=True)
class Falling:
    """A rate that has halved after so many steps."""

    rate: float = 0.5
    half: int | None = 10

    def check(self):
        if self.half is not None and self.half < 1:
            raise ChainruleError(f"half is {self.half}: take 1 or more")


class Walk:
    """A `Learner` that moves a mean towards random rows: everything it draws follows from (seed, step)."""

    def __init__(self, rows, pace, plan):
        self.rows, self.pace, self.plan = rows, pace, plan
        self.step, self.seconds, self.loss, self.note = 0, 0.0, float("nan"), "walked"
        self.mean = torch.zeros(rows.shape[1], dtype=torch.float64)

    @property
    def done(self):
        return self.plan.done(self.step, self.seconds)

    def __iter__(self):
        while self.done < 1:
            row = self.rows[np.random.default_rng((self.plan.seed, self.step)).integers(len(self.rows))]
            error = torch.from_numpy(row) - self.mean
            rate = self.pace.rate * 2.0 ** (-self.step / (getattr(self.pace, "half", None) or np.inf))
            self.mean += rate * error
            self.loss, self.step, self.seconds = (
                float(error.square().mean()),
                self.step + 1,
                self.seconds + 0.5,
            )
            yield self

    def arrays(self):
        return {"mean": self.mean}, {"step": self.step, "seconds": self.seconds}

    def restore(self, tensors, counters):
        if tensors.keys() != {"mean"} or tensors["mean"].shape != self.mean.shape:
            raise ChainruleError(f"the state has {sorted(tensors)}: it is damaged")
        self.mean.copy_(tensors["mean"])
        self.step, self.seconds = counters["step"], counters["seconds"]


class RunningMean(Code):
    """The differences of `first`'s codes to their mean, which is learned in steps."""

    SIZES = {
        "tiny": {"pace": {"kind": "falling", "half": 5}},
        "laptop": {"first": {"model": "pca", "args": {}}},
    }
    PARTS: ClassVar[dict[str, type]] = {"fixed": Fixed, "falling": Falling}
    TYPES: ClassVar[tuple] = (np.float64, np.float32)
    SPARSE: ClassVar[bool] = True

    def __init__(self, pace: Fixed | Falling | None = None, first: Code | None = None, random_state: int = 0):
        self.pace = pace
        self.first = first
        self.random_state = random_state

    def unfitted(self, name):
        if name == "first_" and self.first is None:
            return PCA(n_components=3)
        return super().unfitted(name)

    def fit(self, X, y=None):
        learner = self.learner(X)
        for _ in learner:
            pass
        return self.learned(learner)

    def learner(self, X, plan=None):
        self.rows(X, reset=True)
        self.first_ = self.unfitted("first_").fit(X)
        plan = plan or Plan(steps=25, seed=self.random_state)
        return Walk(self.first_.transform(X), self.pace or Fixed(), plan)

    def learned(self, learner):
        self.mean_ = learner.mean.numpy().copy()
        return self

    def transform(self, X):
        rows = self.rows(X)
        return (self.first_.transform(rows) - self.mean_).astype(rows.dtype)

    def inverse_transform(self, Z):
        check_is_fitted(self)
        codes = self.codes(Z, len(self.mean_))
        dense = codes.toarray() if hasattr(codes, "toarray") else codes
        back = self.first_.inverse_transform((dense + self.mean_).astype(codes.dtype))
        return self.events(back.reshape(len(back), -1))
