"""Trainings in stages: killed at any step they end with the same bits, and a damaged state changes nothing."""

import json
import math
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import Dataset, fit, open_run, store, train
from chainrule.codes.deep_autoencoder import DeepAutoencoder, Machines
from chainrule.codes.stacked_autoencoder import Convolution, StackedAutoencoder
from chainrule.errors import ChainruleError
from chainrule.layers.atoms import RandomBatches
from chainrule.layers.corruption import Masking
from chainrule.models import TABLE
from chainrule.randomness import random_numbers, seed_of
from chainrule.train import Plan

fitting = sys.modules[fit.__module__]
CODES = {
    "deep": DeepAutoencoder(
        (5, 3), "tanh", Machines(0.5, batch=20), corruption=Masking(), batch=20, weight_decay=0.1
    ),
    "stacked": StackedAutoencoder((5, 4, 3), units="sigmoid", corruption=Masking(), batch=20),
    "convolution": StackedAutoencoder((3, 2), convolution=Convolution(3), corruption=Masking(), batch=20),
}
every_code = pytest.mark.parametrize("name", CODES)
STEPS = 12


def rows(n=60, d=7):
    return np.random.default_rng(0).random((n, d)) @ np.random.default_rng(1).random((d, d))


def begun(name, plan=None):
    return CODES[name].learner(rows(), plan or Plan(steps=STEPS))


def stored(arrays):
    """What comes back when (tensors, counters) have been in a file."""
    tensors, counters = arrays
    data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(counters))


def same_arrays(one, other):
    assert one.keys() == other.keys()
    different = [k for k in one if not torch.equal(one[k], other[k])]
    assert not different, f"other bits: {different}"


def states_of(learner):
    """(losses, stages, states) after no step, after the first, ..."""
    losses, stages, states = [], [learner.stage], [stored(learner.arrays())]
    for state in learner:
        losses.append(state.loss)
        stages.append(state.stage)
        states.append(stored(state.arrays()))
    return losses, stages, states


# ---- killed after any step -----------------------------------------------------------------------------------


@every_code
def test_a_training_goes_on_from_any_step_of_any_stage_with_the_same_bits(name):
    whole = begun(name)
    losses, stages, states = states_of(whole)
    assert len(losses) == whole.step == STEPS
    assert stages == sorted(stages)
    assert set(stages) == set(range(1, len(whole.stages) + 1))
    end = stored(whole.arrays())
    for k, state in enumerate(states):
        rest = begun(name)
        rest.restore(*state)
        assert (rest.step, rest.stage) == (k, stages[k])
        same_arrays(stored(rest.arrays())[0], state[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)  # what others draw does not matter
            assert [s.loss for s in rest] == losses[k:]
        found = stored(rest.arrays())
        same_arrays(found[0], end[0])
        assert all(found[1][c] == end[1][c] for c in ("step", "stage", "stage_step"))


@every_code
def test_a_training_that_has_gone_on_can_be_set_back(name):
    learner = begun(name)
    losses, _, states = states_of(learner)
    for k in (STEPS - 1, 0, 5):
        learner.restore(*states[k])
        assert learner.step == k
        assert [s.loss for s in learner] == losses[k:]


@every_code
def test_what_is_learned_does_not_depend_on_where_it_was_interrupted(name):
    code = CODES[name]
    whole = begun(name)
    _, _, states = states_of(whole)
    expected = {k: v.copy() for k, v in code.learned(whole).arrays().items()}
    rest = begun(name)
    rest.restore(*states[6])
    for _ in rest:
        pass
    for key, array in code.learned(rest).arrays().items():
        np.testing.assert_array_equal(array, expected[key])


class Clock:
    """A clock that moves by half a second each time somebody looks at it."""

    now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


@every_code
def test_a_budget_of_minutes_is_kept_by_all_stages_together(name, monkeypatch):
    monkeypatch.setattr(train.time, "perf_counter", Clock())
    plan = Plan(minutes=0.249)  # thirty steps of half a second, the last a little too long
    learner = begun(name, plan)
    seconds, stages, done = [], [], []
    for state in learner:
        seconds.append(state.seconds)
        stages.append(state.stage)
        done.append(plan.done(state.step, state.seconds))
    assert seconds == [0.5 * (k + 1) for k in range(30)]
    assert done[-1] == 1  # the loop of `fit` knows that this step was the last,
    assert max(done[:-1]) < 1  # and that no other was
    shares = np.cumsum([stage.share for stage in learner.stages])
    counts = [stages.count(i + 1) for i in range(len(learner.stages))]
    np.testing.assert_allclose(np.cumsum(counts), 30 * shares / shares[-1], atol=1)
    half = begun(name, plan)
    for state in half:
        if state.step == 17:
            break
    rest = begun(name, plan)
    rest.restore(*stored(half.arrays()))
    assert len(list(rest)) == 13
    same_arrays(rest.arrays()[0], learner.arrays()[0])


@every_code
@pytest.mark.parametrize("k", range(0, STEPS + 1, 3))
def test_a_longer_budget_is_used_to_its_end_from_any_step(name, k):
    _, _, states = states_of(begun(name))
    longer, plan = begun(name, Plan(steps=30)), Plan(steps=30)
    longer.restore(*states[k])
    done = [plan.done(state.step, state.seconds) for state in longer]
    assert longer.step == 30
    assert len(done) == 30 - k
    assert done[-1] == 1
    shorter = begun(name, Plan(steps=2))  # and of a shorter one nothing is left
    shorter.restore(*states[k])
    for _ in shorter:
        pass
    assert shorter.step == max(k, 2)


def test_stages_of_no_steps_are_passed_through():
    learner = CODES["stacked"].learner(rows(), Plan(steps=0))
    assert list(learner) == []
    assert learner.stage == 3
    learner = CODES["stacked"].learner(rows(), Plan(steps=1))
    assert len(list(learner)) == 1
    assert learner.stage == 3


# ---- damaged states ------------------------------------------------------------------------------------------


def some_state(name):
    learner = begun(name)
    for state in learner:
        if state.stage == 2:
            return stored(state.arrays())
    raise AssertionError


def renamed(tensors, one, other):
    """One tensor of a stage under the name of another."""
    name = next(k for k in tensors if k.startswith(one))
    tensors[other + name.removeprefix(one)] = tensors.pop(name)


SPOILS = {
    "no tensors": lambda t, c: t.clear(),
    "nothing of the first stage": lambda t, c: [t.pop(k) for k in list(t) if k.startswith("0.")],
    "nothing of the second stage": lambda t, c: [t.pop(k) for k in list(t) if k.startswith("1.")],
    "one weight less": lambda t, c: t.pop(next(k for k in t if k.startswith("0.weights."))),
    "one weight of this stage less": lambda t, c: t.pop(next(k for k in t if k.startswith("1.weights."))),
    "something else": lambda t, c: t.update({"more": torch.zeros(4)}),
    "something else of a stage": lambda t, c: t.update({"0.weights.more": torch.zeros(4)}),
    "something of this stage": lambda t, c: t.update({"1.more": torch.zeros(4)}),
    "a stage too many": lambda t, c: t.update({"2.weights.more": torch.zeros(4)}),
    "a stage counted from the end": lambda t, c: renamed(t, "1.", "-1."),
    "a stage with a zero before it": lambda t, c: renamed(t, "0.", "00."),
    "no name": lambda t, c: t.update({"": torch.zeros(4)}),
    "another shape": lambda t, c: t.update(
        {next(k for k in t if k.startswith("0.weights.")): torch.zeros(2, 9)}
    ),
    "another shape of this stage": lambda t, c: t.update(
        {next(k for k in t if k.startswith("1.weights.")): torch.zeros(2, 9)}
    ),
    "another type": lambda t, c: t.update(
        {(k := next(k for k in t if k.startswith("0.weights."))): t[k].half()}
    ),
    "no stage": lambda t, c: c.pop("stage"),
    "the first stage": lambda t, c: c.update(stage=1),
    "the third stage": lambda t, c: c.update(stage=3),
    "stage 0": lambda t, c: c.update(stage=0),
    "a stage that is not there": lambda t, c: c.update(stage=9),
    "half a stage": lambda t, c: c.update(stage=1.5),
    "a stage that is true": lambda t, c: c.update(stage=True),
    "a stage of text": lambda t, c: c.update(stage="2"),
    "no step": lambda t, c: c.pop("step"),
    "half a step": lambda t, c: c.update(step=7.5),
    "a negative step": lambda t, c: c.update(step=-7),
    "an endless step": lambda t, c: c.update(step=math.inf),
    "a step of text": lambda t, c: c.update(step="7"),
    "no step of this stage": lambda t, c: c.pop("stage_step"),
    "a negative step of this stage": lambda t, c: c.update(stage_step=-1),
    "NaN for the step of this stage": lambda t, c: c.update(stage_step=math.nan),
    "more steps in this stage than in all": lambda t, c: c.update(stage_step=c["step"] + 1),
    "no seconds": lambda t, c: c.pop("seconds"),
    "NaN seconds": lambda t, c: c.update(seconds=math.nan),
    "negative seconds": lambda t, c: c.update(seconds=-1.0),
    "a list for seconds": lambda t, c: c.update(seconds=[]),
    "no seconds of this stage": lambda t, c: c.pop("stage_seconds"),
    "NaN seconds of this stage": lambda t, c: c.update(stage_seconds=math.nan),
    "negative seconds of this stage": lambda t, c: c.update(stage_seconds=-1e-9),
    "more seconds in this stage than in all": lambda t, c: c.update(stage_seconds=c["seconds"] + 1),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("name", ["deep", "stacked"])
def test_a_state_that_is_not_whole_is_refused_in_one_line_and_nothing_changes(name, spoil):
    learner = begun(name)
    for state in learner:
        if state.step == STEPS - 1:
            break
    before, models, training = stored(learner.arrays()), list(learner.models), learner.training
    tensors, counters = some_state(name)
    SPOILS[spoil](tensors, counters)
    with pytest.raises(ChainruleError) as refused:
        learner.restore(tensors, counters)
    assert len(str(refused.value).splitlines()) == 1
    same_arrays(stored(learner.arrays())[0], before[0])
    assert stored(learner.arrays())[1] == before[1]
    assert (learner.models, learner.training) == (models, training)
    learner.restore(*some_state(name))  # what is whole is taken


def test_nothing_can_have_come_before_the_first_stage():
    learner = begun("stacked")
    next(iter(learner))
    tensors, counters = stored(learner.arrays())
    for change in ({"step": 2}, {"seconds": counters["seconds"] + 1}):
        with pytest.raises(ChainruleError, match=r"of step .* of stage 1: it is damaged"):
            begun("stacked").restore(tensors, {**counters, **change})
    begun("stacked").restore(tensors, counters)


# ---- in run folders ------------------------------------------------------------------------------------------

MODELS = ("deep-autoencoder", "stacked-autoencoder")
every_model = pytest.mark.parametrize("model", MODELS)


def digits(n=60):
    x = np.random.default_rng(0).integers(0, 17, size=(n, 8, 8, 1)).astype(np.uint8)
    return Dataset(x, levels=17, kind="image", source="noise", names=[str(i) for i in range(n)])


def learn(model, out, **more):
    return fit(digits(), model, out=out, **{"size": "tiny", "steps": 30, "save_every": 0, "seed": 3, **more})


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The runs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("wholes")
    for model in MODELS:
        learn(model, folder / model)
    return folder


def metrics(folder):
    """The lines of metrics.jsonl without what a clock said."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "steps_per_s")} for line in lines]


def same_run(one, other):
    for name in ("model", "state"):
        same_arrays(*(safetensors.torch.load_file(run / f"{name}.safetensors") for run in (one, other)))
    assert store.sha256(open_run(one).code, TABLE) == store.sha256(open_run(other).code, TABLE)
    assert metrics(one) == metrics(other)


def counters_in(folder):
    return store.read_tensors((folder / "state.safetensors").read_bytes(), "it")[0]


VICTIM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_stages import learn
def listen(event):
    if event["event"] == "step" and event["training"].step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
learn({model!r}, {out!r}, listen=listen)
"""


@pytest.mark.parametrize(("model", "step"), [("deep-autoencoder", 5), ("stacked-autoencoder", 15)])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(tmp_path, wholes, model, step):
    out, tests = tmp_path / "run", sys.modules[__name__].__file__.rpartition("test_stages")[0]
    text = VICTIM.format(tests=tests, step=step, model=model, out=str(out))
    killed = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert counters_in(out)["step"] == step
    with pytest.raises(ChainruleError, match="unfinished training: finish it with"):
        open_run(out)
    fit(digits(), out=out, resume=True, save_every=0)
    same_run(out, wholes / model)


@every_model
@pytest.mark.parametrize("step", [1, 4, 8, 15, 16, 29])
def test_a_run_that_is_interrupted_in_any_stage_goes_on_with_the_same_bits(tmp_path, wholes, model, step):
    def listen(event):
        if event["event"] == "step" and event["training"].step == step:
            signal.raise_signal(signal.SIGINT)

    def interrupt():
        learn(model, tmp_path / "run", listen=listen, save_every=1e6)

    if step < 29:  # after the last step there is nothing left to interrupt
        with pytest.raises(KeyboardInterrupt, match=r"saved after \d+ steps: go on with"):
            interrupt()
        fit(digits(), out=tmp_path / "run", resume=True)
    else:
        interrupt()
    same_run(tmp_path / "run", wholes / model)


@every_model
def test_a_longer_budget_goes_on_where_a_run_ended(tmp_path, model):
    learn(model, tmp_path / "run", steps=10)
    assert counters_in(tmp_path / "run")["step"] == 10
    run = fit(digits(), out=tmp_path / "run", resume=True, steps=25)
    assert run.info["trained"]["steps"] == run.code.n_steps_ == 25
    assert counters_in(tmp_path / "run")["step"] == 25
    assert metrics(tmp_path / "run")[-1]["step"] == 25


@every_model
def test_without_a_budget_a_code_takes_its_own_number_of_steps(tmp_path, model):
    run = learn(model, tmp_path / "run", steps=None, holdout=0.0)
    alone = store.build(model, run.info["args"], TABLE).fit(digits().x.astype(np.float32))
    assert run.info["trained"]["steps"] == alone.n_steps_
    for key, array in alone.arrays().items():
        np.testing.assert_array_equal(array, run.code.arrays()[key])


@every_model
def test_a_damaged_state_of_a_run_is_one_line(tmp_path, model):
    learn(model, tmp_path / "run", steps=6)
    state = tmp_path / "run" / "state.safetensors"
    counters = {
        store.KEY: json.dumps({"step": 6, "seconds": 1.5, "stage": 2, "stage_step": 9, "stage_seconds": 1})
    }
    state.write_bytes(safetensors.torch.save({"0.weights.x": torch.zeros(2)}, counters))
    with pytest.raises(ChainruleError, match=r"of step 6, 9 of them of stage 2: it is damaged") as refused:
        fit(digits(), out=tmp_path / "run", resume=True, steps=8)
    assert len(str(refused.value).splitlines()) == 1


# ---- seeds ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**53), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_step_seed_and_use_has_random_numbers_of_its_own(seed, step, use):
    found = seed_of(seed, step, use)
    assert 0 <= found < 1 << 32  # PyTorch's generator takes no more
    assert (
        len({found, seed_of(seed, step + 1, use), seed_of(seed + 1, step, use), seed_of(seed, step, use + 1)})
        == 4
    )


def test_other_seeds_give_other_batches_and_other_noise():
    x = torch.arange(1000.0)[:, None]
    batches = [RandomBatches(x, 50, seed)(3)[0] for seed in range(5)]
    drawn = []
    for seed in range(5):
        with random_numbers(seed_of(seed, 3)):
            drawn.append(torch.rand(50))
    for found in (batches, drawn):
        assert all(not torch.equal(found[i], found[j]) for i in range(5) for j in range(i))
    assert torch.equal(RandomBatches(x, 50, 2)(3)[0], batches[2])
    with random_numbers(seed_of(2, 3)):  # what is drawn for a batch is not drawn again in the step
        assert not torch.equal(torch.randint(1000, (50,)), batches[2][:, 0].long())


def test_a_training_draws_other_numbers_with_another_seed():
    seen = []

    class Draws(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(()))

        def loss(self):
            seen.append(torch.rand(4))
            return self.w

    for seed in (0, 1, 2**32, 2**63):
        for _ in train.Training(Draws(), lambda step: (), Plan(steps=3, seed=seed)):
            pass
    assert len({tuple(draw.tolist()) for draw in seen}) == 12
