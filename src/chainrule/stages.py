"""Several trainings that follow each other, with one budget, one progress and one exact resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.train import Plan, Training, check_counters, kind_of, take

OWN = 0.05  # of all other stages: what a stage with a budget of its own is taken for in the progress


@dataclass(frozen=True)
class Stage:
    """One of several trainings that follow each other.

    Attributes:
        share: of the whole budget; shares need not sum to 1. A stage without a share has a budget of its own, beside
            the whole; such stages come last.
        begin: (budget, models of the stages before) -> its training, a pure function.
    """

    share: float
    begin: Callable[[Plan, list[nn.Module]], Training]


class Stages:
    """Trainings one after the other, each begun with what those before have reached: a `Learner`.

    A model is left with the averaged weights of its training, where there is an average. The state is the weights of
    the stages that are done and the whole state of the one that is not.

    Attributes:
        models: of the stages that are done.
        training: of the stage that is not.
    """

    def __init__(self, stages: Sequence[Stage], plan: Plan):
        self.stages, self.plan = stages, plan
        self.models: list[nn.Module] = []
        self.before = 0, 0.0  # steps and seconds of the stages that are done
        self.training = stages[0].begin(self.budget(0), [])

    @property
    def stage(self) -> int:
        """Which stage is on, from 1 on."""
        return len(self.models) + 1

    @property
    def step(self) -> int:
        return self.before[0] + self.training.step

    @property
    def seconds(self) -> float:
        return self.before[1] + self.training.seconds

    @property
    def loss(self) -> float:
        return self.training.loss

    @property
    def done(self) -> float:
        """The share of all work that is done; 1 at the end of the last stage only."""
        sizes = [
            stage.share or OWN * sum(other.share for other in self.stages) or 1.0 for stage in self.stages
        ]
        before, now = sum(sizes[: self.stage - 1]), sizes[self.stage - 1] * self.training.done
        if self.stage == len(self.stages) and self.training.done >= 1:
            return 1.0
        return min((before + now) / sum(sizes), 0.999)

    @property
    def note(self) -> str:
        return self.training.note

    @property
    def params(self) -> dict[str, nn.Parameter]:
        return self.training.params

    def budget(self, i: int, before: tuple[int, float] = (0, 0.0)) -> Plan:
        """What stage i has: to where its share of the whole budget ends, from where those before ended.

        So the whole is kept when a stage took more, or less because a longer budget came later.
        """
        shares = [stage.share for stage in self.stages]
        end, (steps, seconds) = sum(shares[: i + 1]) / (sum(shares) or 1.0), before
        if self.plan.steps is None:
            return replace(self.plan, minutes=max(0.0, end * (self.plan.minutes or 0.0) - seconds / 60))
        return replace(self.plan, steps=max(0, round(end * self.plan.steps) - steps))

    def __iter__(self) -> Iterator[Stages]:
        """Learn to the end of the last stage; yields itself after every step."""
        while True:
            for _ in self.training:
                yield self
            if self.stage == len(self.stages):
                return
            self.before = self.step, self.seconds
            self.training.model.load_state_dict(self.training.averaged())
            self.models.append(self.training.model)
            budget = self.budget(self.stage - 1, self.before)
            self.training = self.stages[self.stage - 1].begin(budget, self.models)

    def averaged(self) -> dict[str, Tensor]:
        """The state of the last model with the averaged weights."""
        return self.training.averaged()

    def arrays(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, counters) from which `restore` continues."""
        states = [{f"weights.{k}": v for k, v in model.state_dict().items()} for model in self.models]
        current, counters = self.training.arrays()
        tensors = {f"{i}.{k}": v for i, state in enumerate([*states, current]) for k, v in state.items()}
        own = {"stage": self.stage, "stage_step": counters["step"], "stage_seconds": counters["seconds"]}
        return tensors, {"step": self.step, "seconds": self.seconds, **own}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, float]) -> None:
        """Go back to what `arrays` gave.

        Raises:
            ChainruleError: they are not the whole state of this training. Then nothing has changed.
        """
        stage = counters.get("stage")
        if type(stage) is not int or not 1 <= stage <= len(self.stages):
            raise ChainruleError(f"the state of the training is of stage {stage!r}: it is damaged")
        of_stage: list[dict[str, Tensor]] = [{} for _ in range(stage)]
        for name, tensor in tensors.items():
            i, _, inner = name.partition(".")
            if i not in map(str, range(stage)):
                raise ChainruleError(
                    f"the state of the training has {kind_of(tensor)} for {name}, the model nothing"
                )
            of_stage[int(i)][inner] = tensor
        own = {k: counters.get(f"stage_{k}", -1) for k in ("step", "seconds")}
        (step, seconds), (own_step, own_seconds) = check_counters(counters), check_counters(own)
        before = step - own_step, seconds - own_seconds
        if min(before) < 0 or (stage == 1 and any(before)):
            raise ChainruleError(
                f"the state of the training is of step {step}, {own_step} of them of stage {stage}: it is damaged"
            )
        models: list[nn.Module] = []
        for i in range(stage - 1):
            model = self.stages[i].begin(self.plan, models).model
            take({f"weights.{k}": v for k, v in model.state_dict().items()}, of_stage[i])
            models.append(model)
        training = self.stages[stage - 1].begin(self.budget(stage - 1, before), models)
        training.restore(of_stage[-1], own)
        self.models, self.training, self.before = models, training, before
