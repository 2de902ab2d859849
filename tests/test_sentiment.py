"""The final cells of recurrent chains as codes of texts, the sst2 reader, and the figure of the sentiment neuron."""

import csv
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

import chainrule
from chainrule import Dataset, cli, plots, store
from chainrule.chains import CHAINS
from chainrule.data import load, named
from chainrule.errors import ChainruleError
from chainrule.layers import sequence
from chainrule.layers.sequence import Cells
from chainrule.lecture import lecture, sentiment_neuron
from chainrule.verbs.probe import words
from contracts import randomised

SYMBOLS, LENGTHS = 5, (4, 1, 9, 4, 0, 30, 9, 2)
CHAINS_OF = [("mlstm", {}, 0), ("char-lstm", {}, 0), ("char-lstm", {"layers": 2}, 0), ("mlstm", {}, 2)]


def small(name, settings, classes):
    """A chain in float64 with random weights."""
    cls = store.resolve(name, CHAINS)
    return randomised(cls(SYMBOLS, width=7, embed=3, classes=classes, **settings), (6,))


def texts(lengths=LENGTHS, symbols=SYMBOLS):
    g = torch.Generator().manual_seed(3)
    return [torch.randint(symbols, (n,), generator=g) for n in lengths]


# ---- cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [3, 128])
@pytest.mark.parametrize("chunk", [4, 2048])
@pytest.mark.parametrize(("name", "settings", "classes"), CHAINS_OF)
@torch.no_grad()
def test_a_text_has_the_cells_that_it_has_alone(name, settings, classes, together, chunk, monkeypatch):
    monkeypatch.setattr(sequence, "TOGETHER", together)
    monkeypatch.setattr(sequence, "CHUNK", chunk)
    chain, x = small(name, settings, classes), texts()
    context = torch.arange(len(x)) % classes if classes else None
    found = chain.cells(x, context)
    assert found.shape == (len(x), 7 * settings.get("layers", 1))
    for i, one in enumerate(x):
        own = None if context is None else context[i : i + 1]
        np.testing.assert_allclose(found[i], chain.cells([one], own)[0], rtol=1e-12, atol=1e-15)
        along = chain.cells_along(one, own)
        assert along.shape == (len(one), found.shape[1])
        for end in {1, len(one) // 2, len(one)} - {0} if len(one) else ():
            np.testing.assert_allclose(
                along[end - 1], chain.cells([one[:end]], own)[0], rtol=1e-12, atol=1e-15
            )
    assert chain.cells([]).shape == (0, found.shape[1])


@torch.no_grad()
def test_cells_are_cells_and_not_hidden_units():
    """c of the equations of Krause et al. 2016 by a plain loop, and the hidden units that the logits are made of."""
    chain, (x,) = small("mlstm", {}, 0), texts([12])
    w_x, w_mx, w_m, w_mh = chain._weights()
    h = c = torch.zeros(7, dtype=torch.float64)
    for before in [SYMBOLS, *x.tolist()]:
        z = chain.embed.weight[before]
        m = (z @ w_mx) * (h @ w_mh)
        i, f, g, o = (z @ w_x + m @ w_m + chain.bias).reshape(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    found = chain.cells(x[None])[0]
    np.testing.assert_allclose(found, c, rtol=1e-12)
    assert float(abs(found - h).max()) > 0.01


@torch.no_grad()
def test_cells_of_several_layers_are_those_of_pytorch():
    chain, (x,) = small("char-lstm", {"layers": 2}, 0), texts([9])
    before = torch.cat([torch.tensor([SYMBOLS]), x])
    _, (_, c) = chain.lstm(chain.embed(before[None]))
    np.testing.assert_allclose(chain.cells(x[None])[0], c[:, 0].flatten(), rtol=1e-12, atol=1e-15)


@torch.no_grad()
def test_the_last_symbol_counts_and_those_of_other_texts_do_not():
    chain, x = small("mlstm", {}, 0), texts()
    changed = [*x[:-1], (x[-1] + 1) % SYMBOLS]
    moved = abs(chain.cells(x) - chain.cells(changed)).amax(1)
    assert float(moved[-1]) > 1e-3
    assert float(moved[:-1].max()) < 1e-14


def test_no_step_is_made_in_vain(monkeypatch):
    chain, steps = small("mlstm", {}, 0), []
    run = type(chain)._run

    def watched(self, inputs, *more, **named):
        steps.append(inputs.numel())
        return run(self, inputs, *more, **named)

    monkeypatch.setattr(type(chain), "_run", watched)
    chain.cells(texts())
    assert sum(steps) == sum(n + 1 for n in LENGTHS)


# ---- a chain as a code ---------------------------------------------------------------------------------


def test_cells_are_features_for_scikit_learn():
    code = Cells(small("mlstm", {}, 0).float())
    x = [one.numpy() for one in texts([3, 8, 5, 4] * 5)]
    y = np.array([one[-1] > 2 for one in x])
    model = make_pipeline(code, DecisionTreeClassifier(random_state=0)).fit(x, y)
    assert model.predict(x).tolist() == y.tolist()
    assert code.transform(x).dtype == np.float32
    assert not hasattr(code, "inverse_transform")


def test_what_a_chain_cannot_code_is_one_line():
    with pytest.raises(ChainruleError, match=r"conditioned on 2 classes.*without --conditional"):
        Cells(small("mlstm", {}, 2))
    with pytest.raises(ChainruleError, match="symbol 5, the chain knows 0 to 4"):
        Cells(small("mlstm", {}, 0)).transform([np.array([1, 5])])


def call(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


def good(capsys, *words):
    assert call(*words, "--json") == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *words):
    assert call(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up reviews as files, a folder a class; and one of two letters that differ in length only."""
    path = tmp_path_factory.mktemp("texts")
    made = sentiment_neuron.made_up(40, 0)
    for i, (text, y) in enumerate(zip(made.x, made.context, strict=True)):
        (path / made.classes[y]).mkdir(exist_ok=True)
        (path / made.classes[y] / f"{i:02}.txt").write_bytes(text.tobytes())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("runs") / "chain"
    chainrule.fit(folder, "mlstm", out=path, size="tiny", steps=5, holdout=0)
    return path


def test_encode_gives_the_cells_of_every_text(run, folder, tmp_path, capsys):
    (told,) = good(capsys, "encode", run, folder, "-o", tmp_path / "c.npy")
    assert (told["items"], told["codes"], told["code"]) == (40, 40, [16])
    codes, chain = np.load(tmp_path / "c.npy"), chainrule.open_run(run).chain
    assert codes.dtype == np.float32
    with torch.no_grad():
        for code, x in zip(codes, load(folder).x, strict=True):
            np.testing.assert_allclose(code, chain.cells(torch.from_numpy(x)[None])[0], rtol=1e-4, atol=1e-6)


def test_probe_compares_cells_with_words(run, folder, capsys):
    rows = good(capsys, "probe", run, folder, "--labels", 16, "--seeds", 2)
    assert [(row["probe"], row["features"]) for row in rows] == [
        (kind, name) for kind in ("linear", "neighbours") for name in ("words", "code")
    ]
    found = {(row["probe"], row["features"]): row for row in rows}
    assert found["linear", "code"]["width"] == 16
    assert found["linear", "words"]["accuracy"] == 1  # every word of praise is known after so many


@pytest.mark.parametrize("verb", ["encode", "probe"])
def test_what_has_no_cells_is_one_line(verb, run, folder, tmp_path, capsys):
    out = ["-o", tmp_path / "c.npy"] if verb == "encode" else []
    assert "digits" in (line := refused(capsys, verb, run, "digits", *out))
    assert "image, the model takes text and array" in line
    chainrule.fit(folder, "counting", size="tiny", out=tmp_path / "counts", holdout=0)
    line = refused(capsys, verb, tmp_path / "counts", folder, *out)
    assert "a chain: this verb needs a code" in line
    assert "a chain that has cells, such as mlstm" in line
    chainrule.fit(folder, "mlstm", size="tiny", steps=1, conditional=True, out=tmp_path / "told", holdout=0)
    assert "fit it without --conditional" in refused(capsys, verb, tmp_path / "told", folder, *out)
    assert not (tmp_path / "c.npy").exists()


def test_cells_have_no_way_back(run, tmp_path, capsys):
    np.save(tmp_path / "c.npy", np.zeros((2, 16), np.float32))
    assert "mlstm has no way back" in refused(
        capsys, "decode", run, tmp_path / "c.npy", "-o", tmp_path / "d.npy"
    )


def test_words_are_those_of_the_training_texts():
    learn, test = (
        [np.frombuffer(t, np.uint8) for t in part] for part in ([b"Bad, bad!", b"good"], [b"BAD good new!"])
    )
    found, other = words(learn, test)  # "!", ",", "bad", "good"
    assert found.tolist() == [[1, 1, 2, 0], [0, 0, 0, 1]]
    assert other.tolist() == [[1, 0, 1, 1]]
    with pytest.raises(ChainruleError, match="2 texts hold no words"):
        words([np.full(3, 32, np.uint8)] * 2, test)


# ---- sst2 ----------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_sentences_are_those_of_the_files(real_data):
    counts = {"train": 6920, "validation": 872, "test": 1821}
    parts = {split: load(f"sst2:{split}") for split in counts}
    whole = load("sst2:all")
    assert {split: len(part) for split, part in parts.items()} == counts
    assert [x.tobytes() for x in whole.x] == [x.tobytes() for part in parts.values() for x in part.x]
    for split, part in parts.items():
        file = {"validation": "dev"}.get(split, split)
        with Path(real_data, "sst2", f"{file}.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [(x.tobytes().decode(), int(y)) for x, y in zip(part.x, part.context, strict=True)] == [
            (row["sentence"], int(row["label"])) for row in rows
        ]
        assert (part.kind, part.levels, part.event, part.classes) == (
            "text",
            256,
            None,
            ("negative", "positive"),
        )
    assert load("sst2", split="validation").source == "sst2:validation"


def sst2_like(folder, monkeypatch, text):
    """Three files with one content each, of which two sentences are wanted."""
    monkeypatch.setenv("CHAINRULE_DATA", str(folder))
    monkeypatch.setattr(named, "SST2_FILES", dict.fromkeys(named.SST2_FILES, 2))
    (folder / "sst2").mkdir(exist_ok=True)
    for file in named.SST2_FILES:
        (folder / "sst2" / f"{file}.csv").write_bytes(text)


def test_sentences_with_commas_quotes_and_accents(tmp_path, monkeypatch):
    sst2_like(tmp_path, monkeypatch, 'label,sentence\r\n0,"bad, ""bad"""\n1,crème brûlée\n'.encode())
    data = load("sst2:all")
    assert [x.tobytes().decode() for x in data.x] == ['bad, "bad"', "crème brûlée"] * 3
    assert data.context.tolist() == [0, 1] * 3
    assert data.x[0].flags.writeable


@pytest.mark.parametrize(
    "text",
    [
        b"", b"PK\3\4" * 99, b"label,sentence\n", b"label,sentence\n0,a\n", b"label,sentence\n0,a\n2,b\n",
        b"sentence,label\n0,a\n1,b\n", b"label,sentence\n0,a\n1,b,c\n", b"label,sentence\n0,a\nx,b\n",
        b"label,sentence\n0,a\n1,\n", b"label,sentence\n0,a\n1,\xff\n", b"label,sentence\n0,a\n1\n",
    ],
)  # fmt: skip
def test_a_file_that_only_has_the_name_is_one_line(tmp_path, monkeypatch, text):
    sst2_like(tmp_path, monkeypatch, text)
    with pytest.raises(ChainruleError, match=r"sst2/test.csv") as error:
        load("sst2:test")
    assert len(str(error.value).splitlines()) == 1


def test_without_the_files_a_line_says_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    with pytest.raises(ChainruleError, match=r"sst2 is not here, .* CHAINRULE_DATA"):
        load("sst2")
    (tmp_path / "sst2").mkdir()
    with pytest.raises(ChainruleError, match=r"sst2/train.csv cannot be read"):
        load("sst2")
    os.mkfifo(tmp_path / "sst2" / "train.csv")
    with pytest.raises(ChainruleError, match="pipe"):
        load("sst2")


def test_only_sets_that_have_one_give_a_validation_split(tmp_path):
    with pytest.raises(ChainruleError, match=r"no split 'validation' of digits: take train, test, all$"):
        load("digits:validation")
    with pytest.raises(ChainruleError, match="of sst2: take train, test, all, validation"):
        load("sst2:dev")
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.uint8))
    with pytest.raises(ChainruleError, match="no split 'validation': take train, test, all"):
        load(tmp_path / "x.npy", split="validation")


# ---- the figure ----------------------------------------------------------------------------------------


def divisions(values, y):
    """The accuracy of every division of the values of one unit."""
    for threshold in [values.min() - 1, *np.unique(values)]:
        right = float(np.mean((values > threshold) == y))
        yield from (right, 1 - right)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_unit_is_the_best_of_all_divisions(seed):
    rng = np.random.default_rng(seed)
    codes, y = rng.integers(0, 9, size=(40, 6)).astype(float), rng.integers(2, size=40)
    codes[:, 3] -= 2.5 * y
    unit = sentiment_neuron.best_unit(codes, y)
    every = [max(divisions(column, y)) for column in codes.T]
    assert unit.number == int(np.argmax(every))
    assert unit.accuracy == pytest.approx(max(every))
    assert np.mean((unit.of(codes) > 0) == y) == pytest.approx(unit.accuracy)


def test_units_that_are_all_alike_divide_nothing():
    unit = sentiment_neuron.best_unit(np.zeros((5, 3)), np.array([0, 1, 1, 0, 1]))
    assert unit.accuracy == pytest.approx(0.6)
    assert np.isfinite(unit.threshold)
    assert np.mean((unit.of(np.zeros((5, 3))) > 0) == [0, 1, 1, 0, 1]) == pytest.approx(0.6)


def test_one_cell_of_made_up_reviews_knows_good_from_bad(tmp_path):
    (row,) = lecture("sentiment-neuron", tmp_path, size="tiny")["rows"]
    assert row["unit_accuracy"] > 0.65
    assert row["cells_accuracy"] > 0.95
    assert row["words_accuracy"] == 1
    assert row["bits_per_byte"] < 0.7
    assert {path.name for path in tmp_path.iterdir()} == {
        "unit-made-up.png",
        "reviews-made-up.png",
        "facts.json",
    }


def test_what_is_learned_depends_on_no_class():
    made = sentiment_neuron.made_up(60, 0)
    options = {"name": "x", "width": 8, "steps": 3, "rate": 1e-2, "dropout": 0.0, "seed": 0}
    one, other = (
        sentiment_neuron.learned(data, **options).state_dict()
        for data in (made, replace(made, context=1 - made.context))
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_made_up_reviews_differ_between_parts_and_agree_in_themselves():
    parts = [sentiment_neuron.made_up(50, 0, part) for part in range(2)]
    assert {x.tobytes() for x in parts[0].x} != {x.tobytes() for x in parts[1].x}
    for x, y in zip(parts[0].x, parts[0].context, strict=True):
        clauses = set(x.tobytes().decode().split(" and ")) - set(sentiment_neuron.FACTS)
        verdicts = {clause.split(" is ")[1] for clause in clauses}
        assert len(clauses) in (3, 4)
        assert verdicts <= set(sentiment_neuron.PRAISE if y else sentiment_neuron.BLAME)


def test_reviews_that_are_shown():
    found, truth = np.array([3.0, -1, 2, -5, 0, -4]), np.array([1, 1, 1, 0, 0, 0])
    assert sentiment_neuron.shown(found, truth) == [0, 2, 3, 5]


def test_the_penalty_is_chosen_on_validation_events_alone():
    x = np.array([[0.0], [1.0]])
    learn, valid, test = (Dataset(x, 2, "array", context=np.array(y)) for y in ([0, 1], [0, 1], [1, 0]))
    reviews = sentiment_neuron.Reviews(learn, valid, test)

    class Answers:
        coef_ = np.array([1.0, 0.0])

        def __init__(self, C):
            self.C = C

        def fit(self, x, y):
            return self

        def predict(self, x):
            return np.array([0, 1] if self.C > 1 else [1, 0])

    found = sentiment_neuron.chosen(Answers, [1.0, 2.0, 3.0], [x] * 3, reviews)
    assert found == (0.0, 2.0, 1)


def test_the_penalty_of_the_cells_leaves_weights_at_0():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 20))
    model = sentiment_neuron.sparse_regression(0.05).fit(x, x[:, 3] > 0)
    assert np.count_nonzero(model.coef_) < 5


def test_a_character_of_several_bytes_has_the_value_of_its_last(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "ground_at", lambda axes, x, y, share: drawn.append((x, share)))
    monkeypatch.setattr(plots, "key", lambda *a: None)
    text, values = np.frombuffer("aé$\n".encode(), np.uint8), np.array([1.0, 9.0, -1.0, 1.0, 1.0])
    plots.valued_texts(["t"], [text], [values], ("bad", "good"), form=lambda figure: figure)
    most = np.percentile([0, 1, 9, 1, 1, 1], 98)
    assert drawn == [(0, 1 / most), (1, -1 / most), (2, 1 / most), (3, 1 / most)]


def test_lines_are_broken_between_words():
    def lines(text, columns):
        places = plots.laid_out(text, columns)
        rows = [
            [s for s, (row, _) in zip(text, places, strict=True) if row == r]
            for r in range(places[-1][0] + 1)
        ]
        return ["".join(row) for row in rows]

    assert lines("the plot is dull", 8) == ["the plot ", "is dull"]
    assert lines("incomprehensible plot", 6) == ["incomp", "rehens", "ible ", "plot"]
    assert lines("a  b", 2) == ["a  ", "b"]
    assert plots.laid_out("", 5) == []


# ---- the benchmark -------------------------------------------------------------------------------------


def test_the_benchmark_gives_every_row(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    module = importlib.import_module("sentiment")
    made = sentiment_neuron.Reviews(*(sentiment_neuron.made_up(n, 0, i) for i, n in enumerate((80, 20, 40))))
    monkeypatch.setattr(module, "reviews_of", lambda name, seed: made)
    options = module.argparse.Namespace(
        seconds=0.4, width=8, labels=[8], draws=2, seed=0, until="letter", readings=""
    )
    rows = list(module.measured(options))
    read = [row for row in rows if "learned_from" in row]
    assert len(read) == 6  # without the newswire
    assert [row["bytes"] for row in read[:5]] == sorted(row["bytes"] for row in read[:5])
    assert read[-1]["regression_%"] == 100  # words
    few = [row for row in rows if "features" in row]
    assert [(row["features"], row["labels"]) for row in few] == [
        (name, n) for name in ("cells", "words and pairs", "both") for n in (8, 80)
    ]
    assert all(0 <= row["test_%"] <= 100 for row in few)
