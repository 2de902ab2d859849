"""One loop for anything that has `loss` and parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from chainrule.errors import ChainruleError
from chainrule.muon import Muon, between_layers
from chainrule.randomness import random_numbers, seed_of

Batch = tuple[Tensor, ...]
COMPILE_PAYS_AFTER = (
    6.0  # minutes of budget; a compilation takes most of one, see benchmarks/train_speed.py for the gain
)
TRIAL = 5  # steps timed before and after compiling


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn. Exactly one of `minutes` and `steps` is given.

    Attributes:
        minutes: wall-clock of training; the learning rate follows the time that has passed.
        steps: optimizer steps; exactly reproducible for a given number of threads.
        lr: the highest learning rate: reached after `warmup` steps, falling linearly to 0 at the end.
        average: decay of the running average of the weights; the average is what is scored and saved. 0: none is kept.
        clip: largest norm of the gradient of a step; infinite: whatever it is.
        compile: use torch.compile; None: try it when the budget is in minutes and long enough, keep the faster.
            A compiled training that is resumed goes on well, but not with the same bits.
        bfloat16: compute the loss in bfloat16 where that loses little (weights and their averages stay in single
            precision); only with a budget in minutes, and on a processor that multiplies such numbers itself.
        muon: step the matrices between the layers by `chainrule.muon.Muon`; all else is Adam's.
    """

    minutes: float | None = None
    steps: int | None = None
    lr: float = 3e-3
    seed: int = 0
    warmup: int = 100
    average: float = 0.998
    weight_decay: float = 0.01
    clip: float = 1.0
    compile: bool | None = None
    bfloat16: bool = False
    muon: bool = False

    @property
    def mixed(self) -> bool:
        """Whether bfloat16 is used here."""
        return self.bfloat16 and self.minutes is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def done(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0..1."""
        if self.steps is not None:
            return min(1.0, step / self.steps) if self.steps else 1.0
        return min(1.0, seconds / (60 * (self.minutes or 1e-9)))

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of a step."""
        warmup = self.warmup if self.steps is None else min(self.warmup, self.steps // 10)
        return self.lr * min(1.0, (step + 1) / (warmup + 1)) * (1 - self.done(step, seconds))


def plan_of(
    plan: Plan | None,
    steps: int,
    learning_rate: float,
    seed: int,
    **more: float | bool,
) -> Plan:
    """The budget of `plan`, or so many steps, with the rates of a code, and `more` of a plan.

    The rate falls to 0: averaged weights would only lag, and atoms of norm 1 would lose it.
    """
    fixed: dict[str, Any] = {"average": 0.0, "weight_decay": 0.0, "compile": False, "bfloat16": False}
    return replace(plan or Plan(steps=steps), lr=learning_rate, seed=seed, **{**fixed, **more})


class Learner(Protocol):
    """What the loop of `fit` can drive, save and take up again. `Training` is one; a code may bring its own.

    Attributes:
        plan: the budget.
        step: steps done.
        seconds: time spent in them.
        loss: of the last step; what it measures is the model's business.
        done: the share of the budget that is spent, 0 to 1.
        note: something to remember about the training, or "".
    """

    plan: Plan

    @property
    def step(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def note(self) -> str: ...
    @property
    def done(self) -> float: ...

    def __iter__(self) -> Iterator[Learner]:
        """Learn to the end of the budget; yields itself after every step."""
        ...

    def arrays(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, counters): the whole state, with at least the counters "step" and "seconds"."""
        ...

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, float]) -> None:
        """Go back to what `arrays` gave; a ChainruleError when it is not the whole state of this learner."""
        ...


class Training:
    """A training that can be stopped after any step and goes on with the same bits.

    Everything random is drawn from (seed, step), so the whole state is the weights, their average, the moments of the
    optimizer, what is carried from step to step and two counters: `arrays()` gives it, `restore()` takes it back.

    Args:
        model: has parameters and `loss(*batch)`, whose gradient Adam follows; or `learn(*batch, rate) -> loss`, a rule
            of its own, whose state are buffers of the model. A loss may be a vector: its sum is minimised, its first
            number reported. Where `model.SCHEDULED`, losses are also given `done`, the share of the budget that is
            spent (a tensor without dimensions: a number would be compiled anew at every step).
        batch_at: step -> the batch of that step, a pure function.
        plan: the budget and the rates.
        carried: the state before the first step of a model that is trained on streams: `loss_from(carried, *batch)`
            gives the loss and the state for the next step, through which no gradient flows back.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_at: Callable[[int], Batch],
        plan: Plan,
        carried: Tensor | None = None,
    ):
        self.model: Any = model
        self.carried = carried
        self.batch_at, self.plan = batch_at, plan
        self.params = dict(model.named_parameters())
        self.optimizer: Any = None if hasattr(model, "learn") else optimizer_of(model, plan)
        self.average = {k: p.detach().clone() for k, p in self.params.items()} if plan.average else {}
        self.step, self.seconds, self.loss = 0, 0.0, math.nan
        self.note = ""  # what was decided about compiling

    @property
    def done(self) -> float:
        """The share of the budget that is spent."""
        return self.plan.done(self.step, self.seconds)

    def __iter__(self) -> Iterator[Training]:
        """Train to the end of the budget; yields itself after every step."""
        carries = self.carried is not None
        loss_of, trial = getattr(self.model, "loss_from" if carries else "loss", None), Trial(self.plan)
        while self.done < 1:
            began = time.perf_counter()
            loss_of = trial.choose(loss_of)
            self.update(loss_of, self.batch_at(self.step))
            took = time.perf_counter() - began
            self.note = trial.watch(took)
            self.seconds += took
            yield self

    def update(self, loss_of: Callable[..., Any], batch: Batch) -> None:
        """One step on `batch`: along the gradient of the loss, or by the model's own rule."""
        rate = self.plan.rate(self.step, self.seconds)
        self.model.train()
        with random_numbers(seed_of(self.plan.seed, self.step)):  # for dropout, corruption, chains
            own = self.optimizer is None
            loss = self.model.learn(*batch, rate) if own else self.descend(loss_of, batch, rate)
        self.step += 1
        self.loss = float(loss.detach())
        if self.average:
            decay = min(self.plan.average, (1 + self.step) / (10 + self.step))
            averaged, current = list(self.average.values()), [p.detach() for p in self.params.values()]
            torch._foreach_lerp_(averaged, current, 1 - decay)

    def descend(self, loss_of: Callable[..., Any], batch: Batch, rate: float) -> Tensor:
        """A step of the optimizer; gives the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scheduled = getattr(self.model, "SCHEDULED", False)
        more = {"done": torch.tensor(self.done, dtype=torch.float64)} if scheduled else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.mixed):
            if self.carried is None:
                loss = loss_of(*batch, **more)
            else:
                loss, after = loss_of(self.carried, *batch, **more)
                self.carried = after.detach()
        self.optimizer.zero_grad()
        loss.sum().backward()
        if self.plan.clip < math.inf:
            nn.utils.clip_grad_norm_(self.params.values(), self.plan.clip)
        self.optimizer.step()
        return loss.flatten()[0]

    def averaged(self) -> dict[str, Tensor]:
        """The state of the model with the averaged weights."""
        if not self.average:
            return dict(self.model.state_dict())
        mean_of = dict(zip(self.params.values(), self.average.values(), strict=True))
        named = self.model.named_parameters(
            remove_duplicate=False
        )  # weights shared by two modules have two names
        return {**self.model.state_dict(), **{name: mean_of[p] for name, p in named}}

    def arrays(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, counters) from which `restore` continues."""
        tensors = {f"weights.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for name, p in self.params.items() if self.optimizer else ():
            tensors |= {f"optimizer.{name}.{k}": v for k, v in self.optimizer.state[p].items()}
        if self.carried is not None:
            tensors["carried"] = self.carried
        return tensors, {"step": self.step, "seconds": self.seconds}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, float]) -> None:
        """Go back to what `arrays` gave.

        Raises:
            ChainruleError: they are not the whole state of this training. Then nothing has changed.
        """
        step, seconds = check_counters(counters)
        take(self.arrays()[0], tensors)
        self.step, self.seconds = step, seconds


def check_counters(counters: dict[str, float]) -> tuple[int, float]:
    """(step, seconds), when they can be those of a training."""
    step, seconds = counters.get("step"), counters.get("seconds")
    if type(step) is not int or not 0 <= step < 1 << 53:
        raise ChainruleError(f"the state of the training is of step {step!r}: it is damaged")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ChainruleError(f"the state of the training is of second {seconds!r}: it is damaged")
    return step, float(seconds)


def take(current: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into those of the same names; when they do not fit a ChainruleError, and nothing has changed."""
    for name in sorted(current.keys() | tensors.keys()):
        found, wanted = kind_of(tensors.get(name)), kind_of(current.get(name))
        if found != wanted:
            raise ChainruleError(f"the state of the training has {found} for {name}, the model {wanted}")
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(tensors[name])


def optimizer_of(model: nn.Module, plan: Plan) -> AdamW:
    """The optimizer; only weights decay, not biases. Its state is whole from the start, as after a first step."""
    matrices = between_layers(model) if plan.muon else []
    inner = {id(p) for p in matrices}
    every = [p for p in model.parameters() if id(p) not in inner]
    groups = [
        {"params": [p for p in every if decays(p)], "weight_decay": decay}
        for decay, decays in ((plan.weight_decay, lambda p: p.ndim > 1), (0.0, lambda p: p.ndim <= 1))
    ]
    if not plan.weight_decay:
        groups = [{"params": every, "weight_decay": 0.0}]  # one call instead of two
    settings: dict[str, Any] = {"lr": plan.lr, "betas": (0.9, 0.99), "fused": True}
    optimizer = Muon(matrices, groups, plan.mixed, **settings) if matrices else AdamW(groups, **settings)
    for p in every:
        zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = {"step": torch.zeros(()), **zeros}
    return optimizer


class Trial:
    """Decides whether torch.compile pays: times a few plain steps, compiles, times again, keeps the faster."""

    def __init__(self, plan: Plan):
        enough = plan.minutes is not None and plan.minutes >= COMPILE_PAYS_AFTER
        wanted = plan.compile if plan.compile is not None else enough
        self.forced = bool(plan.compile)
        self.active = bool(wanted) and has_compiler()
        self.plain: list[float] = []  # seconds of each step
        self.compiled: list[float] = []
        self.original = None
        self.text = "" if wanted == self.active else "torch.compile needs a C++ compiler: training without"

    def choose(self, loss_of):
        """The loss function of the next step."""
        if not self.active:
            return loss_of
        if len(self.plain) == TRIAL and self.original is None:
            self.original = loss_of
            return for_one_shape(loss_of)
        if len(self.compiled) == TRIAL + 1:  # the first one holds the compilation
            self.active = False
            before, after = sorted(self.plain)[TRIAL // 2], sorted(self.compiled[1:])[TRIAL // 2]
            keep = self.forced or after < before
            self.text = (
                f"torch.compile: {before / after:.2f} times the speed, {'kept' if keep else 'not kept'}"
            )
            return loss_of if keep else self.original
        return loss_of

    def watch(self, seconds: float) -> str:
        """Record how long a step took."""
        if self.active:
            (self.plain if self.original is None else self.compiled).append(seconds)
        return self.text


def for_one_shape(loss_of):
    """`loss_of` compiled for the shape it first meets; other shapes, such as a short last batch, run plain.

    (Left to itself, torch.compile would stop for another minute to compile each of them.)
    """
    compiled = torch.compile(loss_of, dynamic=False)
    shapes: list[list[torch.Size]] = []

    def chosen(*batch: Tensor, **more: Tensor) -> Any:
        shape = [t.shape for t in batch]
        shapes[:] = shapes or [shape]
        return (compiled if shape == shapes[0] else loss_of)(*batch, **more)

    return chosen


def has_compiler() -> bool:
    """Whether torch.compile can build code for the processor here."""
    import shutil

    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def kind_of(tensor: Tensor | None) -> str:
    """Type and shape of an array in words."""
    return (
        "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    )
