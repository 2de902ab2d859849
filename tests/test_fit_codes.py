"""A code that learns in steps goes through the loop of chains: budgets, metrics, checkpoints, exact resume."""

import json
import signal
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import chainrule
from chainrule import Dataset, cli, fit, open_run, store
from chainrule.errors import ChainruleError
from chainrule.models import TABLE
from chainrule.report import report
from stepwise import DOTTED, NAME

fitting = sys.modules[fit.__module__]


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch):
    monkeypatch.setitem(TABLE, NAME, DOTTED)


def rows(n=60):
    x = np.random.default_rng(0).integers(0, 17, size=(n, 8, 8, 1)).astype(np.uint8)
    return Dataset(x, levels=17, kind="image", source="noise", names=[str(i) for i in range(n)])


def learn(out, **more):
    return fit(rows(), NAME, out=out, **{"save_every": 0, **more})


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_run(one, other):
    for name in ("model", "state"):
        first, second = (safetensors.torch.load_file(run / f"{name}.safetensors") for run in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[k], second[k]) for k in first)
    assert store.sha256(open_run(one).code, TABLE) == store.sha256(open_run(other).code, TABLE)
    drop = ("seconds", "steps_per_s")
    kept = [
        [{k: v for k, v in line.items() if k not in drop} for line in metrics(run)] for run in (one, other)
    ]
    assert kept[0] == kept[1]


def test_without_a_budget_a_code_takes_its_own_number_of_steps(tmp_path):
    run = learn(tmp_path / "run", holdout=0.0)
    assert run.info["budget"] == {"minutes": None, "steps": None}
    assert run.info["trained"] == {"steps": 25, "seconds": 12.5, "note": "walked"}
    assert [line["step"] for line in metrics(run.path)] == [20, 25]
    alone = store.build(NAME, {"first": "pca"}, TABLE).fit(rows().x.astype(np.float32))
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, run.code.arrays()[name])


def test_budgets_are_steps_or_minutes(tmp_path):
    assert learn(tmp_path / "steps", steps=7).info["trained"]["steps"] == 7
    timed = learn(tmp_path / "minutes", minutes=0.1)  # a step of the code says that it took half a second
    assert timed.info["trained"] == {"steps": 12, "seconds": 6.0, "note": "walked"}
    assert learn(tmp_path / "none", steps=0).info["trained"]["steps"] == 0
    with pytest.raises(ChainruleError, match="not both"):
        learn(tmp_path / "both", steps=1, minutes=1)


def test_the_seed_becomes_the_random_state_unless_one_is_set(tmp_path):
    first, again = (learn(tmp_path / str(i), seed=5) for i in (1, 2))
    assert first.info["args"]["random_state"] == 5
    same_run(first.path, again.path)
    other = learn(tmp_path / "other", seed=6)
    assert not np.array_equal(other.code.mean_, first.code.mean_)
    assert learn(tmp_path / "set", seed=5, settings={"random_state": 9}).code.random_state == 9


def test_what_a_code_minimises_is_not_called_bits(tmp_path, capsys):
    run = learn(tmp_path / "run", listen=None)
    assert all("loss" in line and "loss_bits" not in line for line in metrics(run.path))
    assert run.metrics() == metrics(run.path)
    html = report(run, tmp_path / "page", rows()).read_text()
    assert "25 steps in 12.5 seconds" in html
    assert "bits/" not in html.lower()
    assert "Training: a batch each." in html
    assert "Held out: an estimate" not in html
    told = chainrule.console.told(metrics(run.path)[-1])
    assert "loss " in told
    assert "bits" not in told


@pytest.mark.parametrize("step", [1, 9, 22])
def test_a_code_that_is_interrupted_goes_on_with_the_same_bits(tmp_path, step):
    def listen(event):
        if event["event"] == "step" and event["training"].step == step:
            signal.raise_signal(signal.SIGINT)

    learn(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match=r"saved after \d+ steps: go on with"):
        learn(tmp_path / "run", listen=listen, save_every=1e6)
    with pytest.raises(ChainruleError, match="unfinished training: finish it with"):
        open_run(tmp_path / "run")
    fit(rows(), out=tmp_path / "run", resume=True)
    same_run(tmp_path / "run", tmp_path / "whole")


def test_a_longer_budget_goes_on_where_a_code_ended(tmp_path):
    learn(tmp_path / "run", steps=5)
    assert fit(rows(), out=tmp_path / "run", resume=True, steps=9).info["trained"]["steps"] == 9
    learn(tmp_path / "whole", steps=9)
    same_state = [safetensors.torch.load_file(tmp_path / r / "state.safetensors") for r in ("run", "whole")]
    assert torch.equal(same_state[0]["mean"], same_state[1]["mean"])


def test_a_part_and_a_code_can_be_set_by_name_json_or_object(tmp_path):
    from stepwise import Falling

    parts = ["falling", {"kind": "falling"}, Falling()]
    runs = [
        learn(tmp_path / str(i), settings={"pace": part, "first": "contrast"}) for i, part in enumerate(parts)
    ]
    for run in runs:
        assert run.info["args"]["pace"] == {"kind": "falling", "rate": 0.5, "half": 10}
        assert run.info["args"]["first"]["model"] == "contrast"
        same_run(run.path, runs[0].path)
    assert json.loads((runs[2].path / "run.json").read_text())["settings"]["pace"]["kind"] == "falling"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"pace": "slow"}}, "no pace of kind 'slow': choose from fixed, falling"),
        ({"settings": {"pace": {"kind": "falling", "half": 0}}}, "half is 0: take 1 or more"),
        ({"settings": {"first": {"model": "pca", "args": {"n_components": 0}}}}, "n_components=0"),
        ({"batch": 4}, "--batch is for chains: running-mean has its own options for --set: pace, first"),
        ({"lr": 0.1}, "--lr is for chains"),
        ({"compile": True}, "--compile is for chains"),
    ],
)
def test_what_a_code_cannot_learn_is_one_line_and_leaves_no_folder(tmp_path, options, message):
    with pytest.raises(ChainruleError, match=message) as refused:
        learn(tmp_path / "run", **options)
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_code_that_memory_does_not_hold_leaves_no_folder(tmp_path):
    with pytest.raises(MemoryError):
        fit(rows(), "sparse-coding", out=tmp_path / "run", settings={"n_components": 10**13})
    assert list(tmp_path.iterdir()) == []


def test_events_of_several_shapes_leave_no_folder(tmp_path):
    mixed = Dataset([np.zeros((2, 2, 1), int), np.zeros((3, 2, 1), int)] * 9, levels=2, kind="image")
    with pytest.raises(ChainruleError, match="events of one shape"):
        fit(mixed, NAME, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [{}, {"mean": torch.zeros(2)}, {"other": torch.zeros(3)}])
def test_a_damaged_state_of_a_code_is_one_line(tmp_path, damage):
    learn(tmp_path / "run", steps=3)
    counters = {store.KEY: json.dumps({"step": 3, "seconds": 1.5})}
    (tmp_path / "run" / "state.safetensors").write_bytes(safetensors.torch.save(damage, counters))
    with pytest.raises(ChainruleError, match="the state has") as refused:
        fit(rows(), out=tmp_path / "run", resume=True, steps=5)
    assert len(str(refused.value).splitlines()) == 1


def test_a_code_that_is_fitted_at_once_can_be_resumed_too(tmp_path):
    settings = {"n_components": 3}
    first = fit(rows(), "pca", out=tmp_path / "run", settings=settings)
    again = fit(rows(), out=tmp_path / "run", resume=True)
    assert store.sha256(first.code, TABLE) == store.sha256(again.code, TABLE)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_line_tells_how_a_code_learns(tmp_path, capsys, options):
    np.save(tmp_path / "x.npy", rows().x)
    run = str(tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["fit", str(tmp_path / "x.npy"), "--model", NAME, "--set", "pace=falling", *options, "-o", run]
        )
    assert stop.value.code == 0
    said = capsys.readouterr().out
    if options:
        lines = [json.loads(line) for line in said.splitlines()]
        assert lines[-1]["trained"]["steps"] == 25
        assert "loss" in lines[0]
    else:
        assert "running-mean learns 60 items" in said
        assert "for 25 steps" in said


def test_what_comes_before_a_sparse_code_sees_images_and_not_rows(tmp_path):
    images = np.random.default_rng(0).integers(0, 17, size=(60, 8, 8, 1)).astype(np.uint8)
    before = {"model": "olshausen-filter", "args": {}}
    settings = {"before": before, "n_components": 9, "penalty": 0.1}
    data = Dataset(images, levels=17, kind="image")
    run = fit(data, "sparse-coding", out=tmp_path / "run", steps=2, settings=settings, holdout=0.0)
    filtered = store.build("olshausen-filter", {}, TABLE).fit(images).transform(images.astype(np.float32))
    np.testing.assert_allclose(run.code.before_.transform(images.astype(np.float32)), filtered, atol=1e-5)
    assert open_run(tmp_path / "run").code.inverse_transform(run.code.transform(images)).shape == images.shape
