"""The benchmarks of sparse codes, image chains and texts run, on small made-up data, and compare what is comparable."""

import argparse
import doctest
import importlib
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import ChainruleError, Dataset, fit
from chainrule.archive import STORED
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.counting import ContextMixing
from chainrule.chains.uniform import Uniform
from chainrule.data import Sound
from chainrule.lecture import spoken
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


def test_gpt_speed_times_one_model_on_all_sides(benchmark, monkeypatch):
    module = benchmark("gpt_speed")
    tiny = {"symbols": 9, "width": 16, "layers": 1, "heads": 2, "window": 16, "begin": 0}
    monkeypatch.setattr(module, "MODELS", {"tiny": tiny})
    monkeypatch.setattr(module, "bandwidth", lambda: 1e9)
    options = argparse.Namespace(models=["tiny"], tokens=[8], threads=[1], runs=1, peer=None)
    before = torch.get_num_threads()
    rows = {row["side"]: row for row in module.measured(options)}
    torch.set_num_threads(before)
    assert {"engine", "floor"} <= rows.keys() <= {"engine", "llama.cpp", "transformers", "floor"}
    assert rows["engine"]["tokens/s"] > 0
    assert rows["floor"]["MB a token"] == 4 * (12 * 16 * 16 + 16 * 9) / 1e6


def test_step_cost_has_a_floor_below_the_engine(benchmark, monkeypatch):
    module = benchmark("step_cost")
    chain = CharLSTM(**CharLSTM.SIZES["tiny"]).eval()
    monkeypatch.setattr(module, "models", lambda wanted: [("tiny", chain, (40,), module.TextSteps)])
    monkeypatch.setattr(module, "numpy_rate", lambda *shape: 1.0)
    options = argparse.Namespace(models=[], batches=[1, 5], threads=[1], runs=1, no_compile=True)
    rows = list(module.measured(options))
    assert [row["batch"] for row in rows] == [1, 5]
    assert all(0 < row["floor_us"] < row["engine_us"] < row["naive_us"] for row in rows)


def test_wavenet_speed_draws_on_every_side(benchmark, tmp_path):
    module = benchmark("wavenet_speed")
    options = argparse.Namespace(peers=None, samples=40, few=3, runs=1, layers=2)
    rows = {row["side"]: row for row in module.measured(options)}
    assert list(rows)[:-1] == ["chainrule", "known", "floor", "in turn", "BLAS", "naive"]
    assert rows["floor"]["us/floor"] == rows["chainrule"]["chainrule/side"] == 1
    assert all(rows[side]["us"] > 0 for side in list(rows)[:-1])
    assert list(rows)[-1].startswith("left out: pytorch-wavenet, wavenet_vocoder")
    costs = list(module.reach(options))
    assert [row["receptive_field"] for row in costs] == [5, 8, 11, 14, 17, 9, 15, 21]
    with pytest.raises(SystemExit, match="a folder with checkouts"):
        module.imported(tmp_path / "nothing", "wavenet_model")


def test_sparse_attention_has_an_exponent_of_every_side(benchmark):
    module = benchmark("sparse_attention")
    rows = list(module.measured(argparse.Namespace(sizes=[64, 256], runs=1)))
    assert [row["side"] for row in rows] == 3 * ["strided", "fixed", "dense"]
    small, large = (rows[i]["MB"] for i in (0, 3))
    assert rows[6]["MB"] == pytest.approx(np.log(large / small) / np.log(4))


def test_text_training_gives_both_ways_the_same_time(benchmark, monkeypatch):
    module = benchmark("text_training")
    text = np.random.default_rng(0).integers(97, 100, (1, 3000)).astype(np.uint8)
    monkeypatch.setattr(module, "load", lambda name, split: Dataset(text, 256, "text"))
    rows = list(module.measured(argparse.Namespace(models=["mlstm"], seconds=0.5, seed=0)))
    assert [row["state"] for row in rows] == ["zero", "carried"]
    assert all(row["steps"] > 0 and 1 < row["nats"] < np.log(256) for row in rows)


def test_variants_of_a_training_are_compared_at_equal_time(benchmark, monkeypatch):
    module = benchmark("text_variants")
    text = np.random.default_rng(0).integers(97, 100, 3000).astype(np.uint8)
    monkeypatch.setattr(module, "load", lambda name, split: Dataset([text], 256, "text"))
    monkeypatch.setattr(module, "LEARN", 2500)
    monkeypatch.setattr(module, "CHECK", 500)
    used = []
    plain = module.Training
    monkeypatch.setattr(
        module,
        "Training",
        lambda *args: used.append((args[2], module.attention.LONGEST)) or plain(*args),
    )
    longest = module.attention.LONGEST
    options = argparse.Namespace(variants=list(module.VARIANTS), size="tiny", seconds=0.3, seed=0)
    rows = {row["variant"]: row for row in module.measured(options)}
    assert list(rows) == options.variants
    for name, (plan, length) in zip(rows, used, strict=True):
        assert (plan.muon, plan.lr) == (("Adam" not in name), rows[name]["lr"])
        assert length == (0 if name == module.PYTORCH else longest)
    counts = [row["parameters"] for name, row in rows.items() if name.startswith("deep")]
    classifier = 256 * (8 + 1)
    assert (counts[0] - counts[1], counts[1] - counts[2]) == (2 * classifier, classifier)
    assert all(row["steps"] > 0 and 1 < row["nats_per_char"] < 6 for row in rows.values())
    assert longest == module.attention.LONGEST


def test_text_minutes_scores_the_network_the_counts_and_both(benchmark, monkeypatch, tmp_path):
    module = benchmark("text_minutes")
    text = np.random.default_rng(0).integers(97, 100, (1, 3000)).astype(np.uint8)
    monkeypatch.setattr(module, "load", lambda name, split: Dataset(text, 256, "text", ("a",)))
    monkeypatch.setattr(
        module, "fit", lambda data=None, model=None, **more: fit(of_text(data), model, **more)
    )
    of_text = lambda data: Dataset(text, 256, "text", ("a",)) if data == "shakespeare" else data  # noqa: E731
    sizes = {"width": 8, "embed": 4, "dropout": 0.0}
    monkeypatch.setitem(module.SETTINGS, "shakespeare", {"mlstm": {0.002: sizes}})
    monkeypatch.setitem(module.COUNTS, "shakespeare", {"bits": 10})
    options = argparse.Namespace(
        data="shakespeare", model="mlstm", folder=tmp_path, minutes=None, peer=None, seed=0, also=None
    )
    rows = list(module.measured(options))
    assert [row["model"] for row in rows] == ["counting", "mlstm", "mixture"]
    assert rows[2]["nats_per_char"] < rows[1]["nats_per_char"] < np.log(256)
    options.also = tmp_path / "mlstm-0.002-0"
    again = list(module.measured(options))
    assert [row["model"] for row in again] == ["counting", "mlstm", "mixture", "and mlstm"]
    assert again[1]["nats_per_char"] == rows[1]["nats_per_char"], "a network that is there was trained anew"


def test_text_minutes_scores_every_character_of_the_peer_once(benchmark):
    module = benchmark("text_minutes")
    text = torch.arange(64 + 64 * 3 + 5) % 7

    def model(x, y=None):  # it knows the next character where it sees the one before
        logits = torch.nn.functional.one_hot((x + 1) % 7, 7).float()
        return (logits if y is not None else logits[:, -1:]), None

    each = float(torch.logsumexp(torch.tensor([1.0] + [0.0] * 6), 0)) - 1
    assert module.by_blocks(model, text) == pytest.approx(each * (64 * 3 + 5))
    assert module.sliding(model, text) == pytest.approx(each * (64 * 3 + 5))


SOURCE = rb"""
\section{A} % a comment with { and \begin{lemma}
\begin{lemma} \label{x} 5\% of \{ a_{b_{c}} \} \\{d}
\begin{proof} $x^{2}$ \end{proof}
\end{lemma}
"""


def test_real_latex_balances(benchmark):
    found = benchmark("latex").shares(SOURCE)
    assert found == {
        "bytes": len(SOURCE), "begin_end": 4, "environments_nest": 1.0, "braces": 20, "braces_balance": 1.0,
    }  # fmt: skip


def test_what_overlaps_or_is_never_closed_does_not_nest(benchmark):
    latex = benchmark("latex")
    for cut, share in [
        (rb"\begin{a}\begin{b}\end{a}\end{b}", 0.5),
        (rb"\begin{a}\begin{a}\end{a}", 2 / 3),
        (rb"\end{a}\begin{a}", 0.0),
    ]:
        assert latex.shares(cut)["environments_nest"] == pytest.approx(share, abs=1e-4)
    for cut, share in [
        (rb"{{}", 2 / 3),
        (rb"}{", 0.0),
        (rb"\{{}", 1.0),
        (rb"%{" + b"\n{}", 1.0),
        (rb"\%{}{", 2 / 3),
    ]:
        assert latex.shares(cut)["braces_balance"] == pytest.approx(share, abs=1e-4)
    assert latex.shares(b"no environments")["environments_nest"] is None
    assert latex.together([b"{}", b"}{"])["braces_balance"] == 0.5
    assert doctest.testmod(latex).failed == 0


NESTED = st.recursive(
    st.just([]),
    lambda inner: st.builds(
        lambda name, one, two: [(True, name), *one, (False, name), *two], st.sampled_from("abc"), inner, inner
    ),
    max_leaves=12,
)


@given(marks=NESTED, more=st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=3))
@settings(max_examples=80, deadline=None)
def test_pairs_are_found_whatever_stands_between(marks, more):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        import latex
    finally:
        sys.path.pop(0)
    assert latex.paired(marks) == len(marks)  # all of what nests
    mixed = [*more, *marks]
    assert 0 <= latex.paired(mixed) <= len(mixed)
    assert latex.paired(mixed) % 2 == 0
    begun, ended = (Counter(name for opens, name in mixed if opens is way) for way in (True, False))
    assert latex.paired(mixed) <= 2 * sum((begun & ended).values())


def test_latex_measures_what_is_written_beside_what_is_real(benchmark, monkeypatch, tmp_path):
    latex = benchmark("latex")
    text = np.frombuffer(SOURCE * 40, np.uint8)
    monkeypatch.setattr(latex, "load", lambda name, split: Dataset(text[None], 256, "text", source="s:test"))
    monkeypatch.setattr(latex, "open_run", lambda path: argparse.Namespace(chain=Uniform(256)))
    out = tmp_path / "sampled.tex"
    options = argparse.Namespace(
        run="", data="", length=300, texts=2, prompt=150, temperature=1.0, seed=0, out=out
    )
    rows = list(latex.measured(options))
    names = ["written 0", "written 1", "written, all 2", "what really follows"]
    assert [row["text"] for row in rows[:-1]] == names
    assert rows[-1]["text"] == f"s:test in {len(text) // 300} such stretches"
    assert [row["bytes"] for row in rows] == [300, 300, 600, 300, len(text) // 300 * 300]
    assert rows[3]["environments_nest"] > 0.8
    assert len(out.read_bytes()) > 600
    with pytest.raises(ChainruleError, match="take a lower --length"):
        list(latex.measured(argparse.Namespace(**{**vars(options), "length": 10**6})))


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


def test_sound_archives_measure_archives_and_codecs(benchmark, monkeypatch, tmp_path):
    module = benchmark("sound_archives")
    heard, noise = Sound(8000, "16 bit"), np.random.default_rng(0)  # which no codec of bytes packs well
    data = Dataset(
        [heard.symbols(noise.normal(0, 300, n).astype(np.int16)) for n in (600, 450)],
        256,
        "sound",
        "ab",
        source="made",
        sound=heard,
    )
    for bits in (16, 8):
        fit(data, "wavenet", out=tmp_path / f"{bits}", steps=80, size="tiny", holdout=0, bits=bits)
    monkeypatch.setattr(module, "load", lambda name, split: data)
    monkeypatch.setattr(module, "installed", lambda name: None)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    runs = [str(tmp_path / f"{bits}") for bits in (16, 8)]
    options = argparse.Namespace(runs=runs, data=None, threads=[1, 2], items=None)
    rows = list(module.measured(options))
    for coding in ("16 bit", "mu-law"):
        mine = [row for row in rows if row["coding"] == coding]
        ours = [row for row in mine if row["coder"].startswith("chainrule")]
        assert [row["threads"] for row in ours] == [1, 2]
        assert ours[0]["bits/sample"] == ours[1]["bits/sample"] < ours[0]["with_model"]
        assert ours[0]["-log2 p"] == pytest.approx(ours[0]["score"], rel=1e-3)
        forms = {row["form"]: row["bits/sample"] for row in mine if row["coder"].startswith("FLAC")}
        assert forms["joined"] < forms["a file each"]
        assert sum("is not installed" in row.get("note", "") for row in mine) == 5
        assert {"xz -9e", "LZMA lc4", "bzip2 -9"} <= {row["coder"] for row in mine if "bits/sample" in row}
    assert all(row["decode_samples/s"] > 0 for row in rows if "bits/sample" in row)


def test_same_text_compares_archives(benchmark, tmp_path, small_text):
    module = benchmark("same_text")
    (tmp_path / "a.txt").write_bytes(small_text)
    options = argparse.Namespace(text=[tmp_path / "a.txt"], last=2000, threads=[1, 2], steps=2)
    rows = list(module.results(options))
    assert [row["threads"] for row in rows] == [1, 2, 1, 2]
    assert all(row["same text"] == row["same archive"] == "yes" and row["bytes"] == 2000 for row in rows)


@pytest.fixture
def small_pairs():
    """Pairs of lines: the target is the source backwards."""
    rng = np.random.default_rng(0)
    lines = [rng.integers(97, 100, n).astype(np.uint8) for n in rng.integers(3, 9, 40)]
    ended = [np.append(line, np.uint8(10)) for line in lines]
    targets = [np.append(line[::-1], np.uint8(10)) for line in lines]
    return Dataset(targets, 256, "text", [str(i) for i in range(40)], sources=ended, source="multi30k")


def test_translation_judges_and_shows_every_model(benchmark, monkeypatch, tmp_path, small_pairs):
    module = benchmark("translation")
    monkeypatch.setattr(module, "load", lambda name: small_pairs)
    monkeypatch.setattr(module, "fit", lambda data, model, **more: fit(small_pairs, model, **more))
    options = argparse.Namespace(
        folder=tmp_path, data="multi30k", models=["bytenet", "seq2seq"], minutes=0.002, size="tiny", beam=2
    )
    rows = list(module.measured(options))
    assert [row["model"] for row in rows] == options.models
    for row in rows:
        assert 0 < row["bits_per_char"] < 9
        assert 0 <= row["bleu_greedy"] <= 100
        assert "13a" in row["signature"]
        assert min(row["s_greedy"], row["s_beam_2"]) > 0
    options.show = 3
    shown = list(module.shown(options))
    assert [row["number"] for row in shown] == ["0", "19", "39"]
    assert shown[1]["reference"] == shown[1]["source"][::-1]
    monkeypatch.setattr(module, "translate", lambda chain, sources, **more: list(small_pairs.x))
    told = module.judged(None, small_pairs, 2)
    assert told["bleu_greedy"] == told["bleu_beam_2"], "what is right is not found to be"
    assert told["bleu_greedy"] == 0 or told["bleu_greedy"] > 99


def test_cost_of_pairs_is_measured_at_every_length(benchmark):
    module = benchmark("translation_cost")
    rows = list(module.measured(argparse.Namespace(sizes=[8, 32], size="tiny", runs=1)))
    assert [row["n"] for row in rows] == [8, 8, 32, 32, "exponent", "exponent"]
    assert all(row[work] > 0 for row in rows[:4] for work in module.WORK)


def test_spoken_digits_are_heard_in_what_is_real_said_again_and_drawn(benchmark, tmp_path):
    module = benchmark("spoken_digits")
    learn = spoken.digits(spoken.MADE_UP, "train", bits=8)
    run = fit(learn, "wavenet", out=tmp_path / "run", size="tiny", steps=3, conditional=True, holdout=0)
    options = argparse.Namespace(
        **{"run": [str(run.path)], "data": spoken.MADE_UP, "each": 1, "scored": 4, "seed": 0},
        **{"temperature": [1.0, 0.5], "out": tmp_path / "wav", "by_name": True},
    )
    rows = list(module.measured(options))
    real, coarse, again = rows[1:4]
    assert rows[0] == {"recordings": "chance", "digit_%": 50.0, "speaker_%": 50.0}
    assert all(row["digit_%"] == row["speaker_%"] == 100 for row in (real, coarse, again))
    assert 0 < again["shape_dB"] < 6
    made = [row for row in rows[4:] if "bits_per_sample" in row]
    assert [row["recordings"] for row in made] == [
        "drawn by run, from class",
        "drawn by run, from class, temperature 0.5",
    ]
    assert all(0 < row["bits_per_sample"] < 9 and row["samples_per_s"] > 0 for row in made)
    by_digit = [row["digit_%"] for row in rows[5:7]]
    assert np.mean(by_digit) == pytest.approx(made[0]["digit_%"])
    assert len(list((tmp_path / "wav").rglob("*.wav"))) == 8 + 2 * 4
