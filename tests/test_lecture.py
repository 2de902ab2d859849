"""Figures of the lecture: every one is drawn in its smallest size, from photographs that are made up here."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chainrule.lecture
from chainrule import cli, plots
from chainrule.errors import ChainruleError
from chainrule.layers.gabor import fit_gabors
from chainrule.lecture import FIGURES, figures, lecture, natural, sparse_gabors, sparse_patch, sparsity_error

FOLDER = Path(chainrule.lecture.__file__).parent
SHARED = {"__init__", "natural"}


@pytest.fixture(autouse=True)
def photos(monkeypatch):
    """Smooth noise instead of photographs, and few patches to judge by."""

    def made(split):
        rng = np.random.default_rng(split == "test")
        steps = rng.normal(size=(3, 60, 50, 1)).cumsum(1).cumsum(2)
        return list(np.clip(np.rint(128 + 4 * steps), 0, 255).astype(np.uint8))

    monkeypatch.setattr(natural, "photographs", made)
    monkeypatch.setattr(natural, "HELD_OUT", 200)


def test_every_module_of_the_folder_is_in_the_table():
    there = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert {dotted.removeprefix("chainrule.lecture.") for dotted in FIGURES.values()} == there
    assert all(len(row["shows"]) > 20 for row in figures())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(name, tmp_path):
    facts = lecture(name, tmp_path / "new" / name, size="tiny")
    *pictures, told = facts["files"]
    assert len(pictures) >= 1
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 100
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    kept = json.loads(Path(told).read_text(encoding="utf-8"))
    assert kept == {key: value for key, value in facts.items() if key != "files"}
    assert kept["rows"]
    numbers = [v for row in kept["rows"] for v in row.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()


def test_the_same_seed_draws_the_same_figure(tmp_path):
    first, again, other = (
        lecture("sparse-dictionary", tmp_path / str(i), size="tiny", seed=seed)
        for i, seed in enumerate((3, 3, 4))
    )
    assert Path(first["files"][0]).read_bytes() == Path(again["files"][0]).read_bytes()
    assert first["rows"] == again["rows"] != other["rows"]


def test_the_command_lists_and_draws(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["lecture", "--json"])
    assert stop.value.code == 0
    assert [json.loads(line)["figure"] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)
    with pytest.raises(SystemExit) as stop:
        cli.main(["lecture", "sparse-patch", "--size", "tiny", "-o", str(tmp_path)])
    assert stop.value.code == 0
    assert "x ≈" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sparse"], "there is no figure 'sparse' in the lecture: choose from sparse-dictionary, "),
        (
            ["sparse-patch", "--size", "huge"],
            "sparse-patch has no size 'huge': choose from tiny, laptop, paper",
        ),
        (["sparse-patch", "--size", "tiny", "-o", "{file}/x"], "cannot write patch-of-"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        cli.main(["lecture", *[word.format(file=tmp_path / "file") for word in words]])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_the_photographs_a_line_says_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    with pytest.raises(ChainruleError, match=r"bsds is not here, .* CHAINRULE_DATA"):
        lecture("sparse-dictionary", tmp_path / "out", size="tiny")
    assert not (tmp_path / "out").exists()


def test_filtered_photographs_have_variance_1_and_patches_of_the_splits_differ():
    (photo, *_) = natural.photographs("train")
    found = natural.whitened(photo)
    assert found.shape == (60 - 2 * natural.BORDER, 50 - 2 * natural.BORDER, 1)
    assert found.std() == pytest.approx(1, abs=1e-5)
    train, test = natural.patches(50, seed=0), natural.patches(50, seed=0, split="test")
    assert train.shape == test.shape == (50, natural.SIDE**2)
    assert not np.allclose(train, test)
    assert np.isfinite(natural.whitened(np.full((40, 40, 1), 7, np.uint8))).all()


def test_the_quality_of_a_code_is_what_its_definition_says():
    rows = natural.patches(300, seed=0)
    code = natural.learned(rows, 20, 1.0, steps=3, seed=0)
    held = natural.patches(40, seed=0, split="test")
    z = code.transform(held)
    left = held - z @ code.components_
    found = natural.quality(code, held)
    assert found.nonzeros == pytest.approx((z != 0).sum(1).mean())
    assert found.error == pytest.approx((left**2).sum() / (held**2).sum(), rel=1e-4)
    assert found.objective == pytest.approx((0.5 * (left**2).sum(1) + np.abs(z).sum(1)).mean(), rel=1e-4)


def test_a_sheet_goes_from_coarse_to_fine_and_turns_within_a_row():
    rng = np.random.default_rng(0)
    fits = fit_gabors(rng.normal(size=(10, 6, 6)))
    order = natural.by_frequency(fits, columns=4)
    assert sorted(order) == list(range(10))
    rows = [order[:4], order[4:8], order[8:]]
    for coarse, fine in pairwise(rows):
        assert fits.frequency[coarse].max() <= fits.frequency[fine].min()
    assert all((np.diff(fits.orientation[row]) >= 0).all() for row in rows)


def test_the_patches_shown_are_the_best_explained_of_their_count():
    counts = np.array([3, 5, 3, 9, 5, 1])
    errors = np.array([0.4, 0.3, 0.2, 0.0, 0.1, 0.0])
    assert sparse_patch.best_of_each(counts, errors) == [2, 4]


def test_zca_patches_are_white_and_of_variance_1():
    learn, held = sparse_gabors.data("zca", 400, seed=0)
    assert learn.shape == (400, 144)
    assert learn.std() == pytest.approx(1, abs=1e-3)
    assert held.shape == (200, 144)


def test_error_falls_as_the_numbers_grow():
    rows, test = natural.patches(400, 0), natural.patches(60, 0, "test").astype(float)
    atoms = natural.learned(rows, 30, 0.5, 5, 0).components_.astype(float)
    points = [
        *sparsity_error.on_dictionary(test, atoms, [1, 3, 9]),
        *sparsity_error.components(rows, test, [1, 3, 9]),
    ]
    for method in ("Lasso", "Lasso, refitted", "matching pursuit", "PCA"):
        curve = [(n, e) for name, n, e in points if name == method]
        assert all(a[0] <= b[0] and a[1] >= b[1] - 1e-9 for a, b in pairwise(curve)), method
    lasso, refitted = ([e for name, _, e in points if name == m] for m in ("Lasso", "Lasso, refitted"))
    assert all(r <= e + 1e-9 for e, r in zip(lasso, refitted, strict=True))


def test_a_sum_in_words():
    weights = np.zeros(70)
    weights[[36, 42, 65]] = 0.8, 0.3, 0.5
    assert plots.in_words(weights) == "x ≈ 0.8 φ₃₆ + 0.3 φ₄₂ + 0.5 φ₆₅"
    assert plots.in_words(np.zeros(4)) == "x ≈ 0"
    assert plots.in_words(np.arange(1.0, 6.0), most=2) == "x ≈ 4 φ₃ + 5 φ₄ + 3 smaller"


def test_the_real_photographs_give_edges(real_data, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("CHAINRULE_DATA", str(real_data))
    rows = natural.patches(20_000, seed=0)
    code = natural.learned(rows, 100, 1.0, steps=150, seed=0)
    atoms, unlearned = (fit_gabors(sparse_gabors.as_pictures(x)) for x in (code.components_, rows[:100]))
    assert sparse_gabors.share(atoms) > 0.6
    assert sparse_gabors.share(unlearned) < 0.2  # the fit alone does not make edges
