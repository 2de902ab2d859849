"""Deeper self-attention: sizes, the weights of the total loss, and which parameters learn at which time."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from chainrule import fit, train
from chainrule.chains.deep_attention import DeepAttention
from chainrule.data import Dataset, streams
from chainrule.engine import program_of
from chainrule.engine.program import identity
from chainrule.errors import ChainruleError
from chainrule.train import Plan, Training, for_one_shape
from contracts import check_causality, check_engine, check_gradients, randomised
from test_chains import blocks

# layers, parameters in training, parameters at inference; published: 235 and 219 million, and 44 million
PUBLISHED = [(64, 235_471_360, 218_792_704), (12, 44_257_792, 41_237_248)]


@pytest.mark.parametrize(("layers", "training", "inference"), PUBLISHED)
def test_the_published_sizes_have_their_numbers_of_parameters(layers, training, inference):
    with torch.device("meta"):
        chain = DeepAttention(256, **{**DeepAttention.SIZES["paper"], "layers": layers})
        chain.logits(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert sum(p.numel() for p in chain.parameters()) == training
    assert sum(p.numel() for p in chain.parameters() if p.grad is not None) == inference


def test_the_paper_size_has_64_layers():
    wanted = {"width": 512, "layers": 64, "heads": 2, "window": 512, "dropout": 0.55}
    assert DeepAttention.SIZES["paper"] == wanted


def small(**more):
    return DeepAttention(**{"symbols": 7, **DeepAttention.SIZES["tiny"], **more})


def texts(n, length, seed=0):
    return torch.randint(7, (n, length), generator=torch.Generator().manual_seed(seed))


SETTINGS = [{}, {"targets": 1}, {"targets": 3}, {"intermediate": False}, {"classes": 2, "layers": 3}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("window", [1, 3, 20])
def test_contracts_hold_in_all_settings(settings, window):
    chain = randomised(small(**settings, window=window), (9,))
    check_causality(chain, (9,), blocks)
    check_engine(chain, (9,))
    check_gradients(chain.double(), (9,))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "a width of 8 cannot be shared by 3 heads"), ({"targets": 0}, "targets is 0")],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ChainruleError, match=message):
        small(**options)


def test_positions_are_added_before_every_layer():
    """Layers that add nothing leave the sum of the symbol and of the positions so far."""
    chain, x = small(layers=3, window=5), texts(2, 5)
    with torch.no_grad():
        for layer in chain.layers:
            for last in (layer.answer, layer.down):
                last.weight.zero_()
                last.bias.zero_()
        wanted = chain.embed(x)
        for layer, found in zip(chain.layers, chain._states(x, None), strict=True):
            wanted = wanted + layer.positions.weight
            torch.testing.assert_close(found, wanted)


# ---- the loss -------------------------------------------------------------------------------------------------


def plain_loss(chain, x, before, done):
    """(−log p, auxiliary losses), position by position, from what is known after each layer."""
    layers, begins = len(chain.layers), before < 0
    inner = begins if begins[:, 1:].any() else None
    known = list(chain._states(before.masked_fill(begins, chain.nothing), None, inner))
    total = {True: 0.0, False: 0.0}
    for back, classifiers in enumerate(reversed(chain.classifiers)):
        layer, u = layers - back, known[layers - back - 1]
        if layer < layers and done >= layer / (2 * layers):
            continue
        z = (u - u.mean(-1, keepdim=True)) / (u.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        for k, classify in enumerate(classifiers):
            nats = []
            for b, t in np.ndindex(*x.shape):
                if t + k < x.shape[1] and not begins[b, t + 1 : t + k + 1].any():
                    log_p = (z[b, t] @ classify.weight.T + classify.bias).log_softmax(-1)
                    nats.append(-float(log_p[x[b, t + k]]))
            weight = 1.0 if k == 0 else 0.5
            total[layer == layers and k == 0] += weight * np.mean(nats)
    return total[True], total[False]


@pytest.mark.parametrize("settings", [*SETTINGS[:4], {"layers": 5}], ids=str)
@pytest.mark.parametrize("done", [0.0, 0.1, 0.25, 0.31, 0.5, 1.0])
def test_the_loss_is_that_of_a_plain_loop(settings, done):
    chain, x = randomised(small(window=6, **settings), (6,)), texts(3, 6)
    before = torch.cat([torch.full((3, 1), -1), x[:, :-1]], 1)
    with torch.no_grad():
        whole = chain.loss(x, done=done)
        window, _ = chain.loss_from(chain.rest(3), x, before, done=torch.tensor(done, dtype=torch.float64))
        np.testing.assert_allclose(whole, plain_loss(chain, x, before, done), rtol=1e-9)
        assert torch.equal(window, whole)
        before[0, 4] = before[1, 1] = before[1, 2] = -1  # other texts begin
        window, _ = chain.loss_from(chain.rest(3), x, before, done=done)
        np.testing.assert_allclose(window, plain_loss(chain, x, before, done), rtol=1e-9)


def test_a_single_symbol_has_nothing_after_it():
    loss = small().loss(texts(3, 1), done=1.0)
    assert loss[1] == 0
    loss.sum().backward()


@pytest.mark.parametrize("layers", [2, 5, 12])
def test_a_layer_stops_to_predict_after_its_share_of_the_training(layers):
    chain, x = small(layers=layers), texts(2, 4)

    def learning(done):
        chain.zero_grad()
        chain.loss(x, done=done).sum().backward()
        return [c[0].weight.grad is not None for c in chain.classifiers]

    assert all(learning(0.0))
    for layer in range(1, layers):
        share = layer / (2 * layers)
        assert learning(math.nextafter(share, 0)) == [i >= layer for i in range(1, layers + 1)]
        assert learning(share) == [i > layer for i in range(1, layers + 1)]
    assert learning(0.5) == [False] * (layers - 1) + [True]


def test_early_every_parameter_learns_and_late_those_that_are_needed():
    chain, x = small(layers=3, classes=2), texts(2, 4)
    names = dict(chain.named_parameters()).keys()
    for done, missing in [(0.0, set()), (0.4, {"0", "1"})]:
        chain.zero_grad()
        chain.loss(x, torch.tensor([0, 1]), done=done).sum().backward()
        still = {name for name, p in chain.named_parameters() if p.grad is None}
        assert still == {n for n in names if n.startswith("classifiers.") and n.split(".")[1] in missing}
    chain.zero_grad()
    chain.log_prob(x, torch.tensor([0, 1])).sum().backward()
    used = {name for name, p in chain.named_parameters() if p.grad is not None}
    assert {n for n in used if n.startswith("classifiers.")} == {
        f"classifiers.2.0.{p}" for p in ("weight", "bias")
    }


def test_a_program_holds_no_auxiliary_classifier():
    chain = randomised(small(layers=3), (6,)).float()
    program = program_of(chain)
    with torch.no_grad():
        for name, p in chain.named_parameters():
            if name.startswith("classifiers.") and not name.startswith("classifiers.2.0."):
                p.add_(1)
    assert identity(program_of(chain)) == identity(program)


# ---- in training ----------------------------------------------------------------------------------------------

TEXT = Dataset(np.random.default_rng(0).integers(0, 7, (1, 400)), levels=7, kind="text")


def training_of(plan, seed=0, **more):
    torch.manual_seed(seed)
    chain = small(**{"layers": 4, "dropout": 0.2, **more})

    def batch_at(step):
        return tuple(torch.from_numpy(array) for array in streams(TEXT, 3, 0, step, 4)[:2])

    return Training(chain, batch_at, plan, chain.rest(3))


def changed(training):
    """Before each step: (share of the budget that is spent, the layers whose classifiers the step changes)."""
    chain = training.model
    kept = [c[0].weight.detach().clone() for c in chain.classifiers]
    done = training.done
    for state in training:
        found = [i for i, c in enumerate(chain.classifiers, 1) if not torch.equal(c[0].weight, kept[i - 1])]
        yield done, found
        kept, done = [c[0].weight.detach().clone() for c in chain.classifiers], state.done


def test_a_training_in_steps_keeps_the_schedule():
    found = list(changed(training_of(Plan(steps=16))))
    assert [done for done, _ in found] == [step / 16 for step in range(16)]
    assert [layers[0] for _, layers in found] == [1, 1, 2, 2, 3, 3, *[4] * 10]
    assert all(layers == list(range(layers[0], 5)) for _, layers in found)


class Clock:
    """A clock that moves by half a second each time somebody looks at it."""

    now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


def test_a_training_in_minutes_keeps_the_schedule_also_when_it_is_resumed(monkeypatch):
    monkeypatch.setattr(train.time, "perf_counter", Clock())
    plan = Plan(minutes=8 / 60, compile=False)  # 16 steps of half a second
    whole = training_of(plan)
    assert [layers[0] for _, layers in changed(whole)] == [1, 1, 2, 2, 3, 3, *[4] * 10]
    half, rest = training_of(plan), training_of(plan, seed=1)
    for state in half:
        if state.step == 3:
            break
    rest.restore(*half.arrays())
    assert [layers[0] for _, layers in changed(rest)] == [2, 3, 3, *[4] * 10]
    for name, tensor in whole.arrays()[0].items():
        assert torch.equal(rest.arrays()[0][name], tensor), name


def test_the_loss_that_is_told_is_that_of_the_last_layer():
    training = training_of(Plan(steps=3), dropout=0.0)
    chain = training.model
    for step in range(3):
        x, before = training.batch_at(step)
        nats = float(chain.loss_from(chain.rest(3), x, before)[0][0].detach())
        next(iter(training))
        assert training.loss == pytest.approx(nats, rel=1e-6)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch.compile looks at it
def test_a_compiled_training_is_not_compiled_at_each_step(monkeypatch):
    counter, counts = CompileCounter(), []
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    training = training_of(Plan(steps=16), dropout=0.0)
    losses = [state.loss for state in training_of(Plan(steps=16), dropout=0.0)]
    loss_of = for_one_shape(training.model.loss_from)
    for step in range(16):
        training.update(loss_of, training.batch_at(step))
        assert training.loss == pytest.approx(losses[step], rel=1e-4)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts[-1] == counts[1]


def test_it_learns_from_the_command(tmp_path):
    run = fit(TEXT, "deep-attention", out=tmp_path / "run", size="tiny", steps=40, holdout=0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_bits"] < 1.2 * math.log2(7) for line in lines)  # and not the sum of all losses
    assert run.chain.args["window"] == 4
