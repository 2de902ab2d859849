"""The benchmarks of sparse codes, image chains and texts run, on small made-up data, and compare what is comparable."""

import argparse
import importlib
import sys

import numpy as np
import pytest
import torch

from chainrule import ChainruleError, Dataset, fit
from chainrule.archive import STORED
from chainrule.chains.counting import ContextMixing
from chainrule.chains.uniform import Uniform
from test_sparse_coding import mixtures


@pytest.fixture
def benchmark(monkeypatch):
    """Name -> the module, with patches that need no photographs."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))

    def load(name):
        module = importlib.import_module(name)
        monkeypatch.setattr(
            module,
            "whitened_patches",
            lambda count, seed=0: mixtures(count, seed=seed)[0].astype("f"),
            raising=False,
        )
        return module

    return load


def test_lasso_speed_compares_equal_objectives(benchmark):
    options = argparse.Namespace(
        patches=400, few=60, atoms=24, nonzeros=[3], runs=1, threads=[1], precision=["float64"]
    )
    rows = [row for row in benchmark("lasso_speed").measured(options) if "kkt" in row]
    assert {"coordinate_descent", "scikit-learn lasso_cd", "scikit-learn lasso_lars"} <= {
        row["side"] for row in rows
    }
    for row in rows:
        assert row["gap"] < 1e-5
        assert abs(row["nonzeros"] - 3) < 1
    assert next(row for row in rows if row["side"] == "coordinate_descent")["kkt"] < 1.01e-3


def test_dictionary_learning_judges_all_sides_alike(benchmark):
    sides = ["chainrule online", "scikit-learn cd"]
    options = argparse.Namespace(
        patches=600, held=100, atoms=24, penalty=0.3, batch=64, threads=1, seconds=[1], sides=sides
    )
    rows = list(benchmark("dictionary_learning").measured(options))
    assert [row["side"] for row in rows] == sides
    assert rows[0]["start"] == rows[1]["start"]
    for row in rows:
        assert row["1 s"] < row["start"]


def test_pursuit_has_the_supports_of_the_definition(benchmark):
    options = argparse.Namespace(patches=200, atoms=24, nonzeros=3, runs=1, threads=[1])
    rows = [row for row in benchmark("pursuit").measured(options) if "same" in row]
    assert rows
    assert all(row["same"] == 1 for row in rows)
    assert np.ptp([row["error"] for row in rows]) < 1e-4


def test_amortisation_gaps_are_not_negative(benchmark):
    module = benchmark("amortisation")
    rows = mixtures(300)[0].astype("f")
    for code in module.codes(units=24).values():
        module.fit(code, rows, steps=20)
        row = module.row(code, rows, runs=1)
        assert row["given_up"] >= -1e-9
        assert row["us"] > 0


@pytest.fixture
def image_chains(benchmark, monkeypatch):
    """The module, with images of 6 x 6 and a small network for the peer's."""
    module = benchmark("image_chains")
    gray = np.random.default_rng(0).integers(256, size=(40, 6, 6, 1)).astype(np.uint8)
    learn = Dataset(gray, levels=2, kind="image", binarise=True, source="noise")
    test = Dataset((gray[:9] > 99).astype(np.uint8), levels=2, kind="image", source="noise:test")
    monkeypatch.setattr(module, "images", lambda split: learn if split == "train" else test)
    monkeypatch.setattr(module, "peer_model", lambda path, setting: PeerNet(setting.model == "NADE"))
    return module


class PeerNet(torch.nn.Module):
    """Every pixel alike, whatever the others are; probabilities or logits."""

    def __init__(self, probabilities):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(2.0))
        self.probabilities = probabilities

    def forward(self, x):
        out = self.logit.expand(x.shape)
        return out.sigmoid() if self.probabilities else out


def of_image_chains(folder, **changes):
    settings = {
        "chains": ["gated-pixelcnn"],
        "peer": "",
        "peers": [],
        "again": [],
        "minutes": 0.005,
        "threads": 1,
        "clock": "wall",
    }
    return argparse.Namespace(folder=folder, **{**settings, **changes})


def test_image_chains_keep_their_rows(image_chains, tmp_path):
    options = of_image_chains(tmp_path / "table", peers=["made", "nade"])
    rows = list(image_chains.measured(options))
    assert [row["model"] for row in rows] == ["gated-pixelcnn", "peer-made", "peer-nade"]
    assert [row["program"] for row in rows] == ["yes", "no", "no"]
    assert all(row["steps"] and 0 < row["test_nats"] < 36 and row["us_64"] > 0 for row in rows)
    assert list(image_chains.measured(options)) == rows
    options.again = ["peer-made"]
    again = list(image_chains.measured(options))
    assert again[0] == rows[0]
    assert again[1] != rows[1]
    options = of_image_chains(tmp_path / "other", clock="processor", chains=[], peers=["made"])
    (row,) = image_chains.measured(options)
    assert row["clock"] == "processor"
    with pytest.raises(ChainruleError, match="take another --folder"):
        list(image_chains.measured(of_image_chains(tmp_path / "table", minutes=1)))


def test_image_chains_know_their_names(image_chains, tmp_path):
    with pytest.raises(ChainruleError, match="no model 'nobody'"):
        list(image_chains.measured(of_image_chains(tmp_path, chains=["gated-pixelcnn", "nobody"])))
    with pytest.raises(ChainruleError, match="choose from gated-pixelcnn"):
        list(image_chains.measured(of_image_chains(tmp_path, again=["made"])))
    assert not list(tmp_path.iterdir())


def test_image_chains_go_on_with_a_stopped_training(image_chains, tmp_path):
    def stop(event):
        if event["event"] == "step" and event["training"].step == 3:
            raise KeyboardInterrupt

    learn, folder = image_chains.images("train"), tmp_path / "gated-pixelcnn"
    with pytest.raises(KeyboardInterrupt):
        fit(learn, "gated-pixelcnn", out=folder, minutes=10, holdout=0, save_every=0, listen=stop)
    assert (folder / "state.safetensors").exists()
    (row,) = image_chains.measured(of_image_chains(tmp_path, minutes=1e-6))  # which are over already
    assert row["steps"] == 3


def test_chains_without_a_program_take_their_own_steps(image_chains):
    assert image_chains.step_seconds(Uniform(2), None, (2, 2, 1), 4) > 0


def test_peers_have_their_likelihood_and_go_on(image_chains, tmp_path):
    test, setting = image_chains.images("test"), image_chains.PEERS["nade"]
    x = torch.from_numpy(test.x)
    wanted = float(torch.nn.functional.softplus(2 - 4.0 * x).sum()) / len(x)
    for probabilities in (False, True):
        model = image_chains.Likelihood(PeerNet(probabilities), (6, 6, 1), probabilities)
        assert image_chains.mean_nats(model, test) == pytest.approx(wanted, rel=1e-6)
    learn = image_chains.images("train")
    training = image_chains.peer_training(model, learn, setting, minutes=0.002)
    image_chains.train(training, tmp_path)
    other = image_chains.Likelihood(PeerNet(True), (6, 6, 1), True)
    later = image_chains.peer_training(other, learn, setting, minutes=0.002)
    image_chains.restore(later, tmp_path)
    assert later.step == training.step > 0
    assert other.net.logit.item() == model.net.logit.item() < 2


def test_peers_step_as_adam_does(image_chains):
    """Adam of PyTorch with its usual settings, the rate multiplied after every step."""
    setting = image_chains.PEERS["gated-pixelcnn"]
    model, twin = (image_chains.Likelihood(PeerNet(False), (6, 6, 1), False) for _ in range(2))
    training = image_chains.peer_training(model, image_chains.images("train"), setting, minutes=1)
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiplicativeLR(adam, lambda _: 0.9999)
    for step in range(20):
        training.update(model.loss, training.batch_at(step))
        adam.zero_grad()
        twin.loss(*training.batch_at(step)).backward()
        adam.step()
        schedule.step()
    assert model.net.logit.item() == pytest.approx(twin.net.logit.item(), abs=1e-6)


def test_image_sampling_extrapolates_full_passes(benchmark, image_chains, monkeypatch):
    module = benchmark("image_sampling")
    for name in ("images", "peer_model"):
        monkeypatch.setattr(module, name, getattr(image_chains, name))
    options = argparse.Namespace(peer="", chains=["gated-pixelcnn"], runs=1, images=2, threads=1)
    (row,) = module.measured(options)
    assert row["program"] == "yes"
    assert row["naive/chainrule"] == pytest.approx(row["naive_s_extrapolated"] / row["chainrule_s"])
    assert row["peer_pixelcnn_s_extrapolated"] > 0


def test_text_training_gives_both_ways_the_same_time(benchmark, monkeypatch):
    module = benchmark("text_training")
    text = np.random.default_rng(0).integers(97, 100, (1, 3000)).astype(np.uint8)
    monkeypatch.setattr(module, "load", lambda name, split: Dataset(text, 256, "text"))
    rows = list(module.measured(argparse.Namespace(models=["mlstm"], seconds=0.5, seed=0)))
    assert [row["state"] for row in rows] == ["zero", "carried"]
    assert all(row["steps"] > 0 and 1 < row["nats"] < np.log(256) for row in rows)


@pytest.fixture
def small_text():
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, 5).astype(np.uint8)) for _ in range(50)]
    return b" ".join(words[i] for i in rng.integers(50, size=900))


def test_text_coders_measure_archives_and_other_coders(benchmark, monkeypatch, tmp_path, small_text):
    module = benchmark("text_coders")
    data = Dataset(np.frombuffer(small_text, np.uint8)[None], 256, "text")
    fit(data, "mlstm", out=tmp_path / "run", steps=5, settings={"width": 8, "embed": 4}, holdout=0)
    monkeypatch.setattr(module, "ContextMixing", lambda bits=12: ContextMixing(bits=12))
    monkeypatch.setattr(module, "installed", lambda name: None)
    monkeypatch.setattr(
        sys.modules["chainrule.verbs.compress"], "without_model", lambda raw, items: (STORED, raw + raw)
    )
    options = argparse.Namespace(recurrent=str(tmp_path / "run"), lanes=[1, 3], runs=1)
    rows = list(module.measured(module.Text(small_text[:4000], small_text[4000:]), options))
    bits = {
        (row["coder"], row.get("knows"), row.get("note", "")[:8]): row.get("bits_per_byte") for row in rows
    }
    assert bits["counting", "training text", "reads th"] < bits["counting", "nothing", ""]
    assert bits["xz -9e", "training text", ""] < bits["xz -9e", "nothing", ""]
    assert sum("is not installed" in row.get("note", "") for row in rows) == 3
    assert all(row["decode_kB/s"] > 0 for row in rows if "form" in row)
    assert all(0 < row["ideal"] < row["bits_per_byte"] for row in rows if row.get("form") == "archive")


def test_same_text_compares_archives(benchmark, tmp_path, small_text):
    module = benchmark("same_text")
    (tmp_path / "a.txt").write_bytes(small_text)
    options = argparse.Namespace(text=[tmp_path / "a.txt"], last=2000, threads=[1, 2], steps=2)
    rows = list(module.results(options))
    assert [row["threads"] for row in rows] == [1, 2, 1, 2]
    assert all(row["same text"] == row["same archive"] == "yes" and row["bytes"] == 2000 for row in rows)
