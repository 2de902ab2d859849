"""A training that is stopped, killed or interrupted ends with the bits of one that was not."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import victim
from chainrule import Dataset, fit, open_run, score, store, train
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.chains.uniform import Uniform
from chainrule.codes.pca import PCA
from chainrule.data import streams
from chainrule.errors import ChainruleError
from chainrule.layers import carried
from chainrule.models import TABLE
from chainrule.train import Plan, Training
from contracts import events, mixed

fitting, scoring = sys.modules[fit.__module__], sys.modules[score.__module__]


# ---- the loop ---------------------------------------------------------------------------------------------


def text_chain(seed=0):
    args = {"symbols": 4, "width": 6, "layers": 2, "dropout": 0.2, "classes": 2}
    return store.build("char-lstm", args, TABLE, seed)


def image_chain(seed=0):
    args = {**GatedPixelCNN.SIZES["tiny"], "symbols": 4, "channels": 3, "dropout": 0.2, "classes": 2}
    return store.build("gated-pixelcnn", args, TABLE, seed)


def batches_for(chain, event):
    """A pure function of the step: batches of different sizes."""

    def batch_at(step):
        n = 3 + step % 3
        return events(chain, event, n, seed=step), mixed(chain, n)

    return batch_at


def stored(arrays):
    """What comes back when (tensors, counters) have been in a file."""
    tensors, counters = arrays
    data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(counters))


def same_arrays(one, other):
    assert one.keys() == other.keys()
    different = [k for k in one if not torch.equal(one[k], other[k])]
    assert not different, f"other bits: {different}"


@pytest.mark.parametrize(("make", "event"), [(text_chain, (7,)), (image_chain, (4, 5, 3))])
def test_a_training_goes_on_from_any_step_with_the_same_bits(make, event):
    steps, plan = 13, Plan(steps=13, lr=0.01, seed=5)
    whole = Training(make(), batches_for(make(), event), plan)
    losses, states = [], [stored(whole.arrays())]
    for state in whole:
        losses.append(state.loss)
        states.append(stored(state.arrays()))
    assert len(losses) == steps
    assert len(set(losses)) == steps
    for k, (tensors, counters) in enumerate(states):
        rest = Training(make(seed=1), batches_for(make(), event), plan)
        rest.restore(tensors, counters)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)  # what others draw does not matter
            assert [state.loss for state in rest] == losses[k:]
        same_arrays(rest.arrays()[0], states[-1][0])
        assert rest.step == steps


SOME_TEXTS = Dataset(
    [np.random.default_rng(n).integers(0, 4, n).astype(np.uint8) for n in (100, 3, 41, 1)],
    levels=4,
    kind="text",
    context=np.array([0, 1, 1, 0]),
    classes=("a", "b"),
)


@pytest.mark.parametrize("name", ["char-lstm", "mlstm", "gpt", "deep-attention", "transformer-xl"])
def test_a_training_with_a_carried_state_goes_on_from_any_step_with_the_same_bits(name):
    def training(seed):
        args = {"symbols": 4, "width": 6, "dropout": 0.2, "classes": 2}
        args |= {"heads": 2, "window": 9} if "lstm" not in name else {}
        args |= {"memory": 5} if name == "transformer-xl" else {}
        chain = store.build(name, args, TABLE, seed)
        return Training(chain, batch_at, Plan(steps=13, lr=0.01, seed=5), chain.rest(4))

    def batch_at(step):  # 36 of 145 symbols a step: an epoch has 4 steps
        return tuple(map(torch.from_numpy, streams(SOME_TEXTS, 4, 5, step, 9)))

    whole = training(0)
    losses, states = [], [stored(whole.arrays())]
    for state in whole:
        losses.append(state.loss)
        states.append(stored(state.arrays()))
    carried = [
        tensors["carried"] for tensors, _ in states if tensors["carried"].numel()
    ]  # of chains in blocks nothing is
    assert not any(torch.equal(one, other) for one, other in pairwise(carried))
    for k, (tensors, counters) in enumerate(states):
        rest = training(1)
        rest.restore(tensors, counters)
        assert [state.loss for state in rest] == losses[k:]
        same_arrays(rest.arrays()[0], states[-1][0])
    del states[5][0]["carried"]
    with pytest.raises(ChainruleError, match="has nothing for carried"):
        training(1).restore(*states[5])


def test_the_average_of_the_weights_is_the_one_of_a_loop_in_double_precision():
    chain = text_chain().double()
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=40, lr=0.01, average=0.7))
    mean = {k: p.detach().clone().numpy() for k, p in chain.named_parameters()}
    for state in training:
        decay = min(0.7, (1 + state.step) / (10 + state.step))
        for k, p in chain.named_parameters():
            mean[k] = decay * mean[k] + (1 - decay) * p.detach().numpy()
    averaged = training.averaged()
    assert averaged.keys() == chain.state_dict().keys()
    for k, expected in mean.items():
        np.testing.assert_allclose(averaged[k].numpy(), expected, rtol=1e-9, atol=1e-12)
        assert not torch.equal(averaged[k], chain.state_dict()[k])


class Tied(nn.Module):
    """One matrix under two names, as in a language model whose output is its embedding."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def loss(self, x):
        return (self.second(torch.tanh(self.first(x))) - 1).square().mean()


def test_weights_that_are_shared_are_averaged_under_both_names():
    model = Tied()
    training = Training(model, lambda step: (torch.ones(2, 3),), Plan(steps=20, lr=0.1))
    for _ in training:
        pass
    averaged = training.averaged()
    assert torch.equal(averaged["first.weight"], averaged["second.weight"])
    assert not torch.equal(averaged["second.weight"], model.second.weight)


class Scheduled(nn.Module):
    """Its loss is made of two, the second of which counts less and less."""

    SCHEDULED = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.heard = []

    def loss(self, *, done):
        self.heard.append((float(done), done.dtype, done.shape))
        first, second = self.weight.square()
        return torch.stack([first, (1 - done.float()) * second])


def test_a_vector_of_losses_is_minimised_as_a_sum_and_told_as_its_first_number():
    model = Scheduled()
    training = Training(model, lambda step: (), Plan(steps=8, lr=0.1, clip=math.inf))
    for state in training:
        np.testing.assert_allclose(model.weight.grad[0] ** 2 / 4, state.loss, rtol=1e-6)
        assert model.weight.grad[1] > 0
    assert model.heard == [(step / 8, torch.float64, ()) for step in range(8)]


def test_a_schedule_follows_the_clock_and_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(train.time, "perf_counter", Clock())
    plan = Plan(minutes=4 / 60, compile=False)  # steps of half a second
    whole, half, rest = (Training(Scheduled(), lambda step: (), plan) for _ in range(3))
    for training in (whole, half):
        for state in training:
            if training is half and state.step == 3:
                break
    rest.restore(*stored(half.arrays()))
    assert len(list(rest)) == 5
    assert [done for done, *_ in whole.model.heard] == [step / 8 for step in range(8)]
    assert half.model.heard + rest.model.heard == whole.model.heard
    same_arrays(rest.arrays()[0], whole.arrays()[0])


def test_the_learning_rate_rises_in_the_warmup_and_falls_to_zero():
    plan = Plan(steps=1000, lr=0.5, warmup=99)
    assert plan.rate(0, 0) == pytest.approx(0.5 / 100)
    assert plan.rate(49, 0) == pytest.approx(0.5 * 0.5 * (1 - 0.049))
    assert plan.rate(99, 0) == pytest.approx(0.5 * (1 - 0.099))
    assert plan.rate(500, 1e9) == pytest.approx(0.5 * 0.5)  # a budget of steps knows no clock
    assert plan.rate(999, 0) == pytest.approx(0.5 * 0.001)
    assert plan.rate(1000, 0) == 0
    assert Plan(steps=10, lr=1.0).rate(1, 0) == pytest.approx(0.9)  # a short run has a short warmup
    timed = Plan(minutes=2, lr=0.5, warmup=99)
    assert timed.rate(49, 30) == pytest.approx(0.5 * 0.5 * 0.75)
    assert timed.rate(5000, 90) == pytest.approx(0.5 * 0.25)
    assert timed.rate(5000, 121) == 0
    rates = [plan.rate(step, 0) for step in range(1001)]
    assert max(rates) <= 0.5
    assert np.argmax(rates) == 99


def test_the_learning_rate_of_the_plan_reaches_the_optimizer(monkeypatch):
    chain = text_chain()
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=20, lr=0.01))
    step, seen = training.optimizer.step, []

    def watched():
        seen.extend({group["lr"] for group in training.optimizer.param_groups})
        step()

    monkeypatch.setattr(training.optimizer, "step", watched)
    for _ in training:
        pass
    assert seen == [training.plan.rate(k, 0) for k in range(20)]


def test_only_matrices_decay_and_gradients_are_clipped():
    chain = text_chain()
    before = {k: p.detach().clone() for k, p in chain.named_parameters()}
    # The loss is flat, so nothing but decay moves a weight.
    chain.loss = lambda *batch: 0 * sum(p.sum() for p in chain.parameters())
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=1, lr=0.1, warmup=0, weight_decay=0.5))
    for _ in training:
        pass
    for k, p in chain.named_parameters():
        factor = 0.95 if p.ndim > 1 else 1.0
        assert torch.allclose(p, factor * before[k], rtol=1e-6), k
    steep = Training(text_chain(), batches_for(chain, (5,)), Plan(steps=1, clip=1e-3))
    steep.model.loss = lambda *batch: 1e6 * CharLSTM.loss(steep.model, *batch)
    for _ in steep:
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in steep.params.values()))
        assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_budget_of_no_steps_trains_nothing():
    chain = text_chain()
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=0))
    assert list(training) == []
    same_arrays(training.averaged(), chain.state_dict())


@pytest.mark.parametrize("seed", [0, 2**32, 2**63, 2**64 - 1])
def test_any_seed_will_do(seed):
    chain = text_chain()
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=2, seed=seed))
    assert len([state.loss for state in training]) == 2


class Clock:
    """A clock that moves by half a second each time somebody looks at it."""

    now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


def test_a_budget_of_minutes_ends_when_they_are_over(monkeypatch):
    monkeypatch.setattr(train.time, "perf_counter", Clock())
    chain, plan = text_chain(), Plan(minutes=0.25, lr=0.01, compile=False)
    training = Training(chain, batches_for(chain, (5,)), plan)
    rates = [(state.seconds, state.optimizer.param_groups[0]["lr"]) for state in training]
    assert [seconds for seconds, _ in rates] == [0.5 * (k + 1) for k in range(30)]
    # The rate of a step is that of the time before it.
    assert [rate for _, rate in rates] == [plan.rate(k, 0.5 * k) for k in range(30)]
    half = Training(text_chain(), batches_for(chain, (5,)), plan)
    for state in half:
        if state.step == 12:
            break
    rest = Training(text_chain(), batches_for(chain, (5,)), plan)
    rest.restore(*stored(half.arrays()))
    assert len(list(rest)) == 18
    same_arrays(rest.arrays()[0], training.arrays()[0])


def some_state():
    chain = text_chain()
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=3))
    for _ in training:
        pass
    return stored(training.arrays())


def spoiled(change):
    """Training states with one thing wrong."""
    tensors, counters = some_state()
    change(tensors, counters)
    return tensors, counters


SPOILS = {
    "no average": lambda t, c: [t.pop(k) for k in list(t) if k.startswith("average.")],
    "one average less": lambda t, c: t.pop("average.out.bias"),
    "one weight less": lambda t, c: t.pop("weights.out.bias"),
    "no moments": lambda t, c: [t.pop(k) for k in list(t) if k.startswith("optimizer.")],
    "one moment less": lambda t, c: t.pop("optimizer.out.bias.exp_avg_sq"),
    "a moment too many": lambda t, c: t.update({"optimizer.out.bias.more": torch.zeros(4)}),
    "something else": lambda t, c: t.update({"more": torch.zeros(4)}),
    "an average of another shape": lambda t, c: t.update({"average.out.bias": torch.zeros(1)}),
    "a moment of another shape": lambda t, c: t.update({"optimizer.out.weight.exp_avg": torch.zeros(6)}),
    "a weight of another shape": lambda t, c: t.update({"weights.out.bias": torch.zeros(5)}),
    "a weight of another type": lambda t, c: t.update({"weights.out.bias": torch.zeros(4).long()}),
    "no step": lambda t, c: c.pop("step"),
    "no number": lambda t, c: c.update({"step": "many"}),
    "half a step": lambda t, c: c.update({"step": 2.5}),
    "a negative step": lambda t, c: c.update({"step": -3}),
    "an endless step": lambda t, c: c.update({"step": math.inf}),
    "no time": lambda t, c: c.update({"seconds": math.nan}),
    "a negative time": lambda t, c: c.update({"seconds": -1.0}),
    "endless time": lambda t, c: c.update({"seconds": math.inf}),
    "a list for time": lambda t, c: c.update({"seconds": []}),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_state_that_is_not_whole_is_refused_before_anything_changes(spoil):
    chain = text_chain(seed=1)
    training = Training(chain, batches_for(chain, (5,)), Plan(steps=5))
    before = stored(training.arrays())
    with pytest.raises(ChainruleError):
        training.restore(*spoiled(SPOILS[spoil]))
    same_arrays(training.arrays()[0], before[0])
    assert training.step == 0


# ---- fit: stopped, killed, interrupted --------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    victim.learn(out)
    return out


@pytest.fixture(autouse=True)
def _intervals(monkeypatch):
    """`victim` changes how often a run looks at held-out items; afterwards that is as it was."""
    monkeypatch.setattr(fitting, "LOOK_EVERY", fitting.LOOK_EVERY)


def metrics(folder):
    """The lines of metrics.jsonl without what a clock said."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "steps_per_s")} for line in lines]


def same_run(one, other):
    """Weights, averages, moments and curves are the same, bit for bit; only clocks may differ."""
    same_arrays(
        safetensors.torch.load_file(one / "state.safetensors"),
        safetensors.torch.load_file(other / "state.safetensors"),
    )
    same_arrays(
        safetensors.torch.load_file(one / "model.safetensors"),
        safetensors.torch.load_file(other / "model.safetensors"),
    )
    assert store.sha256(open_run(one).chain, TABLE) == store.sha256(open_run(other).chain, TABLE)
    assert metrics(one) == metrics(other)
    infos = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    for info in infos:
        info["trained"].pop("seconds")
    assert infos[0] == infos[1]


def test_an_undisturbed_run_leaves_what_it_should(whole):
    names = {p.name for p in whole.iterdir()}
    assert names == {"model.safetensors", "state.safetensors", "metrics.jsonl", "run.json"}
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert [("val_bits" in line) for line in lines] == [False, False, True]
    tensors = safetensors.torch.load_file(whole / "state.safetensors")
    model = safetensors.torch.load_file(whole / "model.safetensors")
    for name, p in model.items():  # what is kept as the model is the average of the weights
        assert torch.equal(p, tensors[f"average.{name}"])
        assert not torch.equal(p, tensors[f"weights.{name}"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 33, victim.STEPS])
def test_a_run_that_is_interrupted_saves_its_state_and_can_go_on(tmp_path, whole, number, step):
    def listen(event):
        if event["event"] == "step" and event["training"].step == step:
            signal.raise_signal(number)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    if step < victim.STEPS:
        with pytest.raises(KeyboardInterrupt, match=r"saved after \d+ steps: go on with"):
            victim.learn(tmp_path / "run", listen=listen, save_every=1e6)
        counters, _ = store.read_tensors((tmp_path / "run" / "state.safetensors").read_bytes(), "it")
        assert counters["step"] in (step, step + 1)
        with pytest.raises(ChainruleError, match="unfinished training: finish it with"):
            open_run(tmp_path / "run")
        victim.learn(tmp_path / "run", resume=True)
    else:  # at the last step there is nothing left to interrupt
        victim.learn(tmp_path / "run", listen=listen)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    same_run(tmp_path / "run", whole)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, whole):
    out, first = tmp_path / "run", int(np.random.default_rng(0).integers(5, 20))
    saved = []
    for where, number in [("step", first), ("write", 40), ("log", 60)]:
        resume = ["--resume"] if saved else []
        command = [sys.executable, victim.__file__, out, torch.get_num_threads(), where, number, *resume]
        killed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        saved.append(store.read_tensors((out / "state.safetensors").read_bytes(), "it")[0]["step"])
    assert saved == [first, 39, 59]  # what was being written is not there
    assert (out / "metrics.jsonl").read_text().splitlines()[-1] == '{"step": 60, "second'
    victim.learn(out, resume=True)
    same_run(out, whole)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store.write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for where, what in [(os, "fsync"), (Path, "replace")]:
        with monkeypatch.context() as broken:
            broken.setattr(where, what, full)
            with pytest.raises(ChainruleError, match="No space"):
                store.write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    store.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_looking_at_held_out_items_changes_nothing(tmp_path, whole):
    victim.learn(tmp_path / "run", look_every=0)
    for name in ("model", "state"):
        one, other = (
            safetensors.torch.load_file(run / f"{name}.safetensors") for run in (tmp_path / "run", whole)
        )
        same_arrays(one, other)
    seen = [line["val_bits"] for line in metrics(tmp_path / "run")]
    assert len(seen) == victim.STEPS
    assert seen[-1] == metrics(whole)[-1]["val_bits"]
    held_out = json.loads((tmp_path / "run" / "run.json").read_text())["held_out"]
    assert held_out == {"items": 2, "bits_per_dim": seen[-1]}  # so few that the estimate is exact


class Stopped(Exception):
    """What stops a training in these tests."""


def learn_texts(out, **more):
    """Train on streams, or go on; stopped after step `more["until"]`."""
    until = more.pop("until", None)

    def listen(event):
        if event["event"] == "step" and event["training"].step == until:
            raise Stopped

    more = {"steps": 12, "size": "tiny", "batch": 3, "seed": 2, "holdout": 0, **more}
    if more.get("resume"):
        more = {"resume": True}
    return fit(SOME_TEXTS, "char-lstm", out=out, save_every=0, listen=listen, **more)


def test_a_run_on_streams_goes_on_with_the_state_that_it_carried(tmp_path):
    learn_texts(tmp_path / "whole")
    with pytest.raises(Stopped):
        learn_texts(tmp_path / "stopped", until=7)
    learn_texts(tmp_path / "stopped", resume=True)
    same_run(tmp_path / "whole", tmp_path / "stopped")
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["training"]["carry"] is True


def test_a_run_of_an_earlier_version_goes_on_with_windows(tmp_path, monkeypatch):
    earlier = {"batch": 3, "lr": 3e-3, "window": 8}
    monkeypatch.setattr(CharLSTM, "TRAINING", earlier)
    learn_texts(tmp_path / "whole")
    with pytest.raises(Stopped):
        learn_texts(tmp_path / "stopped", until=7)
    monkeypatch.undo()
    assert CharLSTM.TRAINING["carry"] is True
    for run in ("whole", "stopped"):
        info = json.loads((tmp_path / run / "run.json").read_text())
        assert info["training"].pop("carry") is False  # nothing was said about it
        (tmp_path / run / "run.json").write_text(json.dumps(info))
    learn_texts(tmp_path / "stopped", resume=True)
    same_run(tmp_path / "whole", tmp_path / "stopped")
    assert "carried" not in safetensors.torch.load_file(tmp_path / "stopped" / "state.safetensors")


def test_a_longer_budget_goes_on_where_a_run_ended(tmp_path):
    victim.learn(tmp_path / "run", steps=5)
    assert victim.learn(tmp_path / "run", steps=9, resume=True).info["trained"]["steps"] == 9
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    assert (
        victim.learn(tmp_path / "run", steps=9, resume=True).info["trained"]["steps"] == 9
    )  # nothing left to do
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before


def changed(data, **more):
    return replace(data, **more)


OTHER_DATA = {
    "items": lambda d: d.select(slice(0, 49)),
    "levels": lambda d: replace(d, levels=18),
    "event": lambda d: replace(d, x=d.x[:, :7]),
    "kind": lambda d: Dataset(d.x.reshape(50, 64), levels=17, kind="array"),
    "crc32": lambda d: replace(d, x=np.where(np.arange(50)[:, None, None, None] == 49, 16 - d.x, d.x)),
}


@pytest.mark.parametrize("what", OTHER_DATA)
def test_a_run_does_not_go_on_with_other_data(tmp_path, what):
    victim.learn(tmp_path / "run", steps=1)
    with pytest.raises(
        ChainruleError, match=f"the data have {what} .*, the run began with .*: go on with the same"
    ):
        fit(OTHER_DATA[what](victim.digits()), out=tmp_path / "run", resume=True, steps=2)


def damage_state(change):
    """A change of the state file: (tensors, counters) -> nothing."""

    def damage(folder):
        path = folder / "state.safetensors"
        counters, tensors = store.read_tensors(path.read_bytes(), "it")
        change(tensors, counters)
        path.write_bytes(safetensors.torch.save(tensors, {store.KEY: json.dumps(counters)}))

    return damage


def damage_info(change):
    """A change of run.json: info -> nothing."""

    def damage(folder):
        info = json.loads((folder / "run.json").read_text())
        change(info)
        (folder / "run.json").write_text(json.dumps(info))

    return damage


def cut(name, share):
    return lambda folder: (folder / name).write_bytes(
        (data := (folder / name).read_bytes())[: int(share * len(data))]
    )


DAMAGE = {
    "half a state": cut("state.safetensors", 0.5),
    "an empty state": cut("state.safetensors", 0),
    "a state but for a byte": cut("state.safetensors", 0.99999),
    "another state": lambda f: (f / "state.safetensors").write_bytes((f / "model.safetensors").read_bytes()),
    "text for a state": lambda f: (f / "state.safetensors").write_text("hello " * 20),
    "a state without an array": damage_state(lambda t, c: t.pop("average.head.out_bias")),
    "a state of nothing": damage_state(lambda t, c: t.clear()),
    "an impossible step": damage_state(lambda t, c: c.update(step=-1)),
    "half a run.json": cut("run.json", 0.5),
    "an empty run.json": cut("run.json", 0),
    "binary run.json": lambda f: (f / "run.json").write_bytes(b"\xff\xfe\x00{}"),
    "deep run.json": lambda f: (f / "run.json").write_text("[" * 100_000),
    "a list": lambda f: (f / "run.json").write_text("[]"),
    "an empty object": lambda f: (f / "run.json").write_text("{}"),
    "no such model": damage_info(lambda i: i.update(model="no-such")),
    "no arguments": damage_info(lambda i: i.pop("args")),
    "a strange argument": damage_info(lambda i: i["args"].update(strange=1)),
    "an argument of another type": damage_info(lambda i: i["args"].update(width="wide")),
    "another width": damage_info(lambda i: i["args"].update(width=8)),
    "two budgets": damage_info(lambda i: i.update(budget={"minutes": 1, "steps": 1})),
    "a budget of words": damage_info(lambda i: i.update(budget={"minutes": None, "steps": "many"})),
    "no threads": damage_info(lambda i: i.update(threads=0)),
    "too many threads": damage_info(lambda i: i.update(threads=10**9)),
    "all of it held out": damage_info(lambda i: i.update(holdout=1.0)),
    "a share of NaN": damage_info(lambda i: i.update(holdout=math.nan)),
    "a batch of nothing": damage_info(lambda i: i["training"].update(batch=0)),
    "a rate of words": damage_info(lambda i: i["training"].update(lr="high")),
    "a negative rate": damage_info(lambda i: i["training"].update(lr=-1.0)),
    "a seed of words": damage_info(lambda i: i.update(seed="s")),
    "a negative seed": damage_info(lambda i: i.update(seed=-1)),
    "a carried state of words": damage_info(lambda i: i["training"].update(carry="yes")),
    "a carried state for images": damage_info(lambda i: i["training"].update(carry=True, window=3)),
    "windows for images": damage_info(lambda i: i["training"].update(window=3)),
}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The files of a run of two steps."""
    out = tmp_path_factory.mktemp("short") / "run"
    victim.learn(out, steps=2)
    return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_refused_in_one_line(tmp_path, short, damage):
    for name, data in short.items():
        (tmp_path / name).write_bytes(data)
    DAMAGE[damage](tmp_path)
    with pytest.raises(ChainruleError) as refused:
        victim.learn(tmp_path, steps=4, resume=True)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


def test_a_torn_line_of_metrics_is_left_out(tmp_path, short):
    for name, data in short.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'[]\n{"step": "x"}\n{"step": 1e999}\n{"ste\n\xff')
    victim.learn(tmp_path, steps=4, resume=True)
    assert [line["step"] for line in metrics(tmp_path)] == [2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "minutes": 1.0}, "not both"),
        ({"steps": -1}, "--steps -1"),
        ({"minutes": 0.0}, "--minutes 0.0"),
        ({"minutes": math.nan}, "--minutes nan"),
        ({"steps": 1, "holdout": 0.8}, "--holdout 0.8"),
        ({"steps": 1, "holdout": math.nan}, "--holdout nan"),
        ({"steps": 1, "model": "no-such"}, "choose from .*gated-pixelcnn"),
        ({"steps": 1, "model": "char-lstm"}, "learns from text and array data, digits is image"),
        ({"steps": 1, "size": "huge"}, "choose from tiny, laptop, paper"),
        ({"steps": 1, "settings": {"widht": 3}}, "has no option 'widht': it has .*width"),
        ({"steps": 1, "settings": {"width": "wide"}}, "takes int for width, not 'wide'"),
        ({"steps": 1, "settings": {"width": True}}, "takes int for width, not True"),
        ({"steps": 1, "settings": {"dropout": math.nan}}, "takes float for dropout, not nan"),
        ({"steps": 1, "settings": {"position": 1}}, "takes bool for position, not 1"),
        ({"steps": 1, "settings": {"width": -1}}, "cannot be built with .*width=-1"),
        ({"steps": 1, "seed": -1}, "seed"),
        ({"steps": 1, "lr": -1.0}, "lr"),
        ({"steps": 1, "batch": 0}, "batch"),
        ({"resume": True}, "resume needs the run"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_leaves_no_folder(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChainruleError, match=message) as refused:
        fit(victim.digits(), **{"size": "tiny", **options})
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ChainruleError, match="not an empty folder"):
        victim.learn(tmp_path, steps=1)
    with pytest.raises(ChainruleError, match="not an empty folder"):
        victim.learn(tmp_path / "mine.txt", steps=1)
    with pytest.raises(ChainruleError, match="cannot make the folder"):
        victim.learn(tmp_path / "mine.txt" / "below", steps=1)
    with pytest.raises(ChainruleError, match="no run to resume"):
        victim.learn(tmp_path, steps=1, resume=True)
    victim.learn(tmp_path / "a run, ünd more", steps=1)
    with pytest.raises(ChainruleError, match="holds a run already: go on with --resume"):
        victim.learn(tmp_path / "a run, ünd more", steps=1)


# ---- exact scores -----------------------------------------------------------------------------------------


def mixed_shapes(n=23):
    """Images of three shapes, in no order."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 1), (3, 3, 1), (1, 1, 1)]
    return Dataset(
        [rng.integers(0, 4, shapes[i], dtype=np.uint8) for i in rng.integers(0, 3, n)],
        levels=4,
        kind="image",
        names=[f"image {i}" for i in range(n)],
        context=np.arange(n) % 2,
        classes=("even", "odd"),
    )


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_every_item_is_scored_once_with_its_own_class(monkeypatch, at_once):
    monkeypatch.setattr(scoring, "ITEMS_AT_ONCE", at_once)
    args = {**GatedPixelCNN.SIZES["tiny"], "symbols": 4, "classes": 2, "dropout": 0.5}
    chain = store.build("gated-pixelcnn", args, TABLE).double().train()
    data, done = mixed_shapes(), []
    found = score(chain, data, done.append)
    with torch.no_grad():
        alone = [
            -chain.log_prob(torch.from_numpy(x[None]).long(), torch.tensor([c])).item()
            for x, c in zip(data.x, data.context, strict=True)
        ]
    np.testing.assert_allclose(found.nats, alone, rtol=1e-9)
    assert found.names == data.names
    assert found.symbols.tolist() == [x.size for x in data.x]
    assert done[-1] == len(data)
    assert done == sorted(done)
    total = sum(alone) / math.log(2)
    assert found.bits_per_dim == pytest.approx(total / sum(x.size for x in data.x), rel=1e-9)
    assert found.nats_per_item == pytest.approx(sum(alone) / len(data), rel=1e-9)
    np.testing.assert_allclose(
        found.each(), [a / math.log(2) / x.size for a, x in zip(alone, data.x, strict=True)]
    )


def test_uniform_scores_are_exact():
    pixels = Dataset(np.zeros((70, 8, 8, 3), np.uint8), levels=256, kind="image")
    assert score(Uniform(256), pixels).bits_per_dim == pytest.approx(8, rel=1e-14)
    binary = Dataset(np.zeros((3, 28, 28, 1), np.uint8), levels=2, kind="image")
    assert score(Uniform(2), binary).nats_per_item == pytest.approx(784 * math.log(2), rel=1e-12)
    assert round(score(Uniform(2), binary).nats_per_item, 2) == 543.43
    empty = Dataset([np.zeros(0, np.uint8), np.zeros(3, np.uint8)], levels=256, kind="text")
    assert score(Uniform(256), empty).each().tolist() == [0.0, 8.0]


def test_a_long_text_is_scored_with_carried_state(monkeypatch):
    chain = store.build("char-lstm", {"symbols": 5, "width": 7}, TABLE).double()
    text = np.random.default_rng(1).integers(0, 5, 103).astype(np.uint8)
    whole = score(chain, Dataset([text], levels=5, kind="text")).nats
    monkeypatch.setattr(carried, "CHUNK", 10)
    np.testing.assert_allclose(score(chain, Dataset([text], levels=5, kind="text")).nats, whole, rtol=1e-12)


# ---- model files from anywhere ----------------------------------------------------------------------------


def small_models():
    chains = [
        store.build("char-lstm", {"symbols": 2, "width": 1}, TABLE),
        store.build(
            "gated-pixelcnn", {**GatedPixelCNN.SIZES["tiny"], "symbols": 2, "width": 1, "head": 1}, TABLE
        ),
        Uniform(7),
        PCA(n_components=2).fit(np.random.default_rng(0).normal(size=(5, 3))),
        store.build(
            "sparse-autoencoder",
            {"n_components": 3, "activation": {"kind": "top-k", "k": 2}, "epochs": 1},
            TABLE,
        ).fit(np.random.default_rng(0).normal(size=(5, 3))),
    ]
    return [store.dump(chain, TABLE) for chain in chains]


FILES = small_models()
by_file = pytest.mark.parametrize(
    "data", FILES, ids=["char-lstm", "gated-pixelcnn", "uniform", "pca", "autoencoder"]
)


def shapes(model):
    return {k: tuple(v.shape) for k, v in store.tensors_of(model).items()}


@lru_cache
def shapes_in(data):
    return shapes(store.parse(data, TABLE)[0])


def refused_or_whole(data, of=None):
    """Bytes are refused in one line, or they are a model of the shapes that `of` has (a code: any fitted code)."""
    try:
        model, _ = store.parse(data, TABLE)
    except ChainruleError as error:
        refusal = str(error)
        assert len(refusal.splitlines()) == 1, refusal
        assert len(refusal) < 1500, refusal[:2000]
        return None
    if of is not None and isinstance(model, nn.Module):
        assert shapes(model) == shapes_in(of)
    return model


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_no_model(data):
    assert refused_or_whole(data) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
@settings(max_examples=200, deadline=None)
@example({"format": 1, "model": "uniform", "args": []})
@example({"format": 1, "model": [], "args": {}})
@example({"format": 1, "model": "__init__", "args": {}})
@example({"format": 1, "model": "char-lstm", "args": {"self": 1}})
@example({"format": True, "model": "char-lstm", "args": {"": None}})
def test_random_headers_are_no_model(header):
    outer = json.dumps({"__metadata__": {store.KEY: json.dumps(header)}}).encode()
    assert refused_or_whole(struct.pack("<Q", len(outer)) + outer) is None
    inner = json.dumps(header).encode()
    assert refused_or_whole(struct.pack("<Q", len(inner)) + inner) is None


@by_file
def test_a_model_cut_off_anywhere_is_refused(data):
    for length in range(len(data)):
        assert refused_or_whole(data[:length]) is None, length
    assert refused_or_whole(data + b"\0") is None


@by_file
def test_any_changed_byte_is_refused_or_harmless(data):
    rng = np.random.default_rng(0)
    for place in range(0, len(data), max(1, len(data) // 800)):
        spoiled = bytearray(data)
        spoiled[place] ^= int(rng.integers(1, 256))
        refused_or_whole(bytes(spoiled), data)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_changed_bytes_are_refused_or_harmless(choices):
    data = choices.draw(st.sampled_from(FILES))
    spoiled = bytearray(data)
    places = st.integers(0, len(data) - 1)
    for place, byte in choices.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        spoiled[place] = byte
    refused_or_whole(bytes(spoiled), data)


def with_arguments(data, **changes):
    """A model file whose header says other arguments."""
    size = struct.unpack("<Q", data[:8])[0]
    outer = json.loads(data[8 : 8 + size])
    header = json.loads(outer["__metadata__"][store.KEY])
    header["args"].update(changes)
    outer["__metadata__"][store.KEY] = json.dumps(header)
    new = json.dumps(outer).encode()
    return struct.pack("<Q", len(new)) + new + data[8 + size :]


STRANGE = [
    10**9,
    10**6,
    65536,
    65535,
    4097,
    300,
    -1,
    -(10**9),
    10**400,
    1e308,
    math.nan,
    math.inf,
    2.5,
    True,
    None,
    "x",
    "9" * 10**5,
    [],
    [[1]],
    {},
]


@pytest.mark.parametrize("value", STRANGE, ids=lambda v: str(v)[:12])
@by_file
def test_strange_arguments_are_refused_before_they_cost_anything(data, value, monkeypatch):
    made, init = [0], nn.Module.__init__

    def counted(module, *args, **kwargs):
        made[0] += 1
        init(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__init__", counted)
    _, header = store.parse(data, TABLE)
    for option in header["args"]:
        made[0] = 0
        refused_or_whole(with_arguments(data, **{option: value}), data)
        assert made[0] < 2000, f"{option}={value}: {made[0]} modules were built"


def test_weights_of_another_type_are_refused():
    chain = store.build("char-lstm", {"symbols": 2, "width": 1}, TABLE)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.complex64, torch.bool):
        tensors = {k: v.to(dtype) for k, v in chain.state_dict().items()}
        with pytest.raises(ChainruleError, match="it is damaged or from another version"):
            store.parse(store.dump(chain, TABLE, tensors), TABLE)


def test_the_header_may_not_claim_more_than_there_is():
    for claim in (0, 1, 2**63, 2**64 - 1, 10**12, len(FILES[0])):
        with pytest.raises(ChainruleError, match="not a chainrule model"):
            store.parse(struct.pack("<Q", claim) + FILES[0][8:], TABLE)
