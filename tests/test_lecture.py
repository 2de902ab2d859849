"""Figures of the lecture: every one is drawn in its smallest size, from photographs that are made up here."""

import json
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import chainrule.lecture
from chainrule import cli, fit, plots, store
from chainrule.chains import CHAINS
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.codes.deep_autoencoder import DeepAutoencoder
from chainrule.codes.pca import PCA
from chainrule.data import vocoder
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError
from chainrule.layers.gabor import fit_gabors
from chainrule.lecture import (
    FIGURES,
    attention_patterns,
    bits_a_byte,
    class_samples,
    code_traversals,
    deep_reconstructions,
    denoising_filters,
    digits_map,
    dilated_convolutions,
    faces,
    figures,
    learning,
    lecture,
    natural,
    next_pixel,
    occlusions,
    pixelwise,
    receptive_fields,
    sparse_gabors,
    sparse_patch,
    sparsity_error,
    spoken,
    wavenet,
)

FOLDER = Path(chainrule.lecture.__file__).parent
SHARED = {"__init__", "natural", "faces", "learning", "pixelwise", "spoken"}


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
    *files, told = facts["files"]
    pictures = [file for file in files if file.endswith(".png")]
    assert len(pictures) >= 1
    assert all(Path(file).stat().st_size > 100 for file in files)
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 100
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    kept = json.loads(Path(told).read_text(encoding="utf-8"))
    assert kept == {key: value for key, value in facts.items() if key != "files"}
    assert kept["rows"]
    numbers = [v for row in kept["rows"] for v in row.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize("name", ["sparse-dictionary", "code-traversals", "occlusions"])
def test_the_same_seed_draws_the_same_figure(name, tmp_path):
    first, again, other = (
        lecture(name, tmp_path / str(i), size="tiny", seed=seed) for i, seed in enumerate((3, 3, 4))
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
        (["sparse-patch", "--set", "atom=3"], "sparse-patch has no option 'atom': choose from "),
        (["wavenet", "--size", "tiny", "--set", 'speakers=["eve"]'], "has no speaker 'eve'"),
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


def test_smoothness_is_a_correlation_of_neighbours():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(50, 12, 12, 1))
    assert denoising_filters.smoothness(noise) == pytest.approx(0, abs=0.03)
    assert denoising_filters.smoothness(noise.cumsum(1).cumsum(2)) > 0.7
    assert denoising_filters.smoothness((-1.0) ** np.indices((1, 12, 12, 1)).sum(0)) < -0.9


def test_masking_helps_where_half_of_the_input_is_hidden(tmp_path):
    plain, masked = lecture("denoising-filters", tmp_path, size="tiny")["rows"]
    assert (plain["masked"], masked["masked"]) == (0, 0.5)
    assert masked["error_of_half"] < 0.9 * plain["error_of_half"]
    assert masked["error"] > plain["error"]


def test_errors_of_reconstructions_are_what_they_say(tmp_path):
    rows = lecture("deep-reconstructions", tmp_path, size="tiny")["rows"]
    found = {row["code"]: row["error"] for row in rows}
    x, test = learning.images("digits").reshape(-1, 64), learning.images("digits", "test").reshape(-1, 64)
    assert (x.min(), x.max()) == (0, 1)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:6]
    left = (test - x.mean(0)) - (test - x.mean(0)) @ axes.T @ axes
    assert found["PCA"] == pytest.approx(np.square(left).sum(1).mean(), rel=1e-4)
    assert found["deep autoencoder"] < found["PCA"]


def test_faces_are_compared_as_they_are_learned_and_drawn_as_they_are(monkeypatch):
    rng = np.random.default_rng(0)
    people = np.clip(128 + 9 * rng.normal(size=(8, 64, 64, 1)).cumsum(1).cumsum(2), 0, 255)
    drawn = []
    monkeypatch.setattr(faces, "load", lambda name, split: Dataset(people.astype(np.uint8), 256, "image"))
    monkeypatch.setattr(plots, "image_rows", lambda rows, levels, form: drawn.append(rows))
    found = deep_reconstructions.compared(lambda *a: None, 0, "faces", layers=[9, 4], steps=5, patches=120)
    assert [row["data"] for row in found] == ["faces"] * 2
    split = deep_reconstructions.faces(120, 0)
    assert [x.shape for x in split[:3]] == [(120, 25, 25, 1)] * 2 + [(20, 25, 25, 1)]
    assert np.square(split.plain).mean() == pytest.approx(1, rel=1e-3)
    (rows,) = drawn
    patches = faces.face_patches(20, 0, "test")
    differs = np.abs(rows["test images"][:, None] - patches[None] / 255).max((2, 3, 4)).min(1)
    assert differs.max() < 1e-5  # those shown are patches, of 0 to 1


def test_neighbours_in_the_plane_are_training_images():
    y = np.repeat([0, 1], 20)
    known = np.stack([y, np.zeros(40)], 1) + np.random.default_rng(0).normal(scale=0.1, size=(40, 2))
    points = np.array([[0.0, 0], [0, 0], [1, 0], [1, 0]])
    assert digits_map.accuracy(known, y, points, np.array([0, 0, 1, 0])) == 0.75


def test_a_map_beside_that_of_pca_knows_its_digits(tmp_path):
    deep, pca = lecture("digits-map", tmp_path, size="tiny")["rows"]
    x, test = learning.images("digits"), learning.images("digits", "test")
    code = PCA(2).fit(x)
    labels = [learning.classes("digits", split) for split in ("train", "test")]
    near = np.square(code.transform(test)[:, None] - code.transform(x)[None]).sum(2).argsort(1)[:, :10]
    votes = np.stack([(labels[0][near] == c).sum(1) for c in range(10)], 1)
    assert pca["accuracy"] == pytest.approx((votes.argmax(1) == labels[1]).mean(), abs=0.01)
    assert deep["error"] < pca["error"]


def test_a_way_along_a_unit_changes_nothing_else():
    z = np.arange(4.0)
    found = code_traversals.along(z, 2, -1.0, 1.0)
    np.testing.assert_array_equal(np.delete(found, 2, axis=1), np.delete(z, 2)[None].repeat(len(found), 0))
    assert found[[0, -1], 2].tolist() == [-1, 1]
    x = np.random.default_rng(0).random((60, 3, 3, 1))
    code = DeepAutoencoder((4,), epochs=3).fit(x)
    codes = code.transform(x)
    change = code_traversals.changed(code, codes, 1, -2.0, 2.0)
    ends = [code.inverse_transform(np.c_[codes[:, :1], np.full(60, v), codes[:, 2:]]) for v in (-2, 2)]
    assert change == pytest.approx(np.square(ends[1] - ends[0]).sum() / 60)


# ---- images pixel by pixel -----------------------------------------------------------------------------


def test_attention_patterns_are_those_of_the_definitions(tmp_path):
    full, strided, fixed = lecture("attention-patterns", tmp_path, size="tiny")["rows"]
    t, j = np.indices((16, 16))
    before = j <= t
    near = (t - j < 4) & before
    assert full["scores"] == before.sum()
    assert strided["scores"] == (near | (before & ((t - j) % 4 == 0))).sum()
    rows = (t // 4 == j // 4) & before  # and the last two of each row above, one for either head
    assert fixed["scores"] == (rows | (before & (j % 4 >= 2) & (j // 4 < t // 4))).sum()
    assert [row["layers"] for row in (full, strided, fixed)] == [1, 2, 2]


def test_dilated_convolutions_see_as_far_as_the_formula_says(tmp_path):
    facts = lecture("dilated-convolutions", tmp_path, size="tiny")
    plain, dilated = facts["rows"]
    assert (plain["reach"], dilated["reach"]) == (plain["formula"], dilated["formula"]) == (3, 4)
    maps = dilated_convolutions.pair_maps(kernel=3, layers=2, source=20, seed=0)
    t, j = np.indices((30, 30))
    assert (maps["target"] == ((j < t) & (t - j <= 7))).all()  # 1 + 2 (1 + 2) symbols before it
    assert (
        maps["source"] == ((j - t <= 3) & (t - j <= 9))[:, :20]
    ).all()  # 3 ahead, and 3 more than 6 places back


def test_an_attention_that_never_reaches_all_is_said_to_take_as_many_layers_as_there_are_positions():
    assert attention_patterns.row("none", np.eye(5, dtype=bool), 2)["layers"] == 5


def test_what_is_seen_of_the_past(tmp_path):
    rows = lecture("receptive-fields", tmp_path, size="tiny")["rows"]
    assert all(row["not_before"] == 0 and row["before"] == 9 * 4 + 4 for row in rows)
    masked, gated = ([row for row in rows if row["model"] == name] for name in receptive_fields.MODELS)
    for found in (masked, gated):
        assert all(few["seen"] < more["seen"] for few, more in pairwise(found))
    assert {row["blind"] for row in gated} == {0}
    assert gated[-1]["seen"] == gated[-1]["before"]
    # windows of 3 × 3 reach one column further to the right for each row up
    right = sum(column > 4 + up for up in range(1, 5) for column in range(9))
    assert {row["blind"] for row in masked} == {right}
    assert masked[-1]["seen"] == masked[-1]["before"] - right


def test_the_blind_spot_lies_to_the_right_above():
    side, middle = 9, 4
    r, c = np.indices((side, side))
    after = (r > middle) | ((r == middle) & (c >= middle))
    np.testing.assert_array_equal(
        receptive_fields.seen("PixelCNN", side, side, 3, 0), ~after & (c - middle <= middle - r)
    )
    np.testing.assert_array_equal(receptive_fields.seen("Gated PixelCNN", side, side, 3, 0), ~after)


def few_images(levels, count=30):
    """Images of two classes: noise in the upper half, or in the lower."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, levels, (count, 6, 6, 1))
    y = np.arange(count) % 2
    x[y == 0, 3:], x[y == 1, :3] = 0, 0
    kind = np.uint8 if levels <= 256 else np.int64
    return Dataset(x.astype(kind), levels, "image", [str(i) for i in range(count)], y, ("up", "down"), "few")


def small_chain(symbols=2):
    """A chain of two classes, as random numbers have made it."""
    torch.manual_seed(0)
    chain = GatedPixelCNN(symbols, classes=2, width=4, layers=1, head=4, **pixelwise.PLAIN)
    with torch.no_grad():
        for p in chain.parameters():
            p.mul_(3)
    return chain.double().eval()


def test_what_is_expected_follows_from_the_joint_distribution():
    chain = small_chain()
    every = np.array([[int(bit) for bit in f"{i:06b}"] for i in range(64)]).reshape(64, 2, 3, 1)
    with torch.inference_mode():
        logs = [chain.log_prob(torch.from_numpy(every), torch.full((64,), c)) for c in range(2)]
    joint = torch.stack(logs).exp().numpy() / 2  # (classes, images)
    assert joint.sum() == pytest.approx(1)
    flat, x = every.reshape(64, 6), every[37]
    view = pixelwise.expected(chain, x)
    assert view.levels.shape == (2, 3, 1, 2)
    assert view.classes.shape == (2, 3, 1, 2)
    assert view.classes[0, 0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert np.ptp(view.classes[..., 0]) > 0.05  # classes differ
    for i in range(6):
        same = (flat[:, :i] == x.reshape(6)[:i]).all(1)
        levels = np.array([joint[:, same & (flat[:, i] == k)].sum() for k in range(2)]) / joint[:, same].sum()
        classes = joint[:, same].sum(1) / joint[:, same].sum()
        np.testing.assert_allclose(view.levels.reshape(6, 2)[i], levels, rtol=1e-6)
        np.testing.assert_allclose(view.classes.reshape(6, 2)[i], classes, rtol=1e-6)
    assert view.bits.sum() == pytest.approx(-np.log2(joint[:, 37].sum()), rel=1e-6)


def test_completions_keep_what_is_given(monkeypatch):
    drawn, chain, few = {}, small_chain().float(), few_images(2)
    monkeypatch.setattr(pixelwise, "learned", lambda *a: chain)
    monkeypatch.setattr(occlusions, "load", lambda name, split: few)
    monkeypatch.setattr(plots, "image_columns", lambda groups, *a, **k: drawn.update(groups))
    rows = occlusions.draw(lambda *a: None, 0, "few", 4, 1, 0, images=2, completions=5)["rows"]
    found = drawn["completed"]
    assert found.shape == (2, 5, 6, 6, 1)
    assert (found[:, :, :3] == drawn["as it was"][:, :, :3]).all()
    assert len({one.tobytes() for one in found[0]}) > 1
    for row in rows:
        given, x = few.classes.index(row["class"]), few.x[row["image"]]
        view = pixelwise.expected(chain, x)
        assert row["belief"] == pytest.approx(view.classes[3, 0, 0, given])
        assert row["bits"] == pytest.approx(view.bits[3:].sum())
        assert set(row["drawn"].split()) <= {"up", "down"}


def test_samples_are_of_the_class_that_was_asked_for(tmp_path):
    facts = lecture("class-samples", tmp_path, size="tiny")
    found = np.mean([row["recognised"] for row in facts["rows"]])
    assert found > 0.3  # 0.1 by chance
    assert np.mean([row["recognised_real"] for row in facts["rows"]]) > 0.9
    assert 0 < facts["bits_per_dim"] < np.log2(17)


def test_a_training_image_is_its_own_neighbour():
    few = few_images(17)
    x, y = np.asarray(few.x), few.context
    near = class_samples.Nearest(few, 0)
    _, away = near.judge(x, y)
    assert away.max() < 1e-9
    moved = x[:1].copy()
    moved[0, 0, 0, 0] = (int(x[0, 0, 0, 0]) + 8) % 17
    _, away = near.judge(moved, y[:1])
    assert away[0] == pytest.approx(((int(moved[0, 0, 0, 0]) - int(x[0, 0, 0, 0])) / 16) ** 2, rel=1e-4)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_next_pixel_of_any_levels(levels, monkeypatch):
    few, kept = few_images(levels), {}
    for module in (pixelwise, next_pixel):
        monkeypatch.setattr(module, "load", lambda name, split="train": few)
    facts = next_pixel.draw(kept.__setitem__, 0, {"few": {"width": 4, "layers": 1, "steps": 2}})
    assert list(kept) == ["next-pixel-few"]
    rows, image = facts["rows"], facts["images"]["few"]
    assert len({(row["row"], row["column"]) for row in rows}) == 4
    x = few.x[image["image"]]
    for row in rows:
        assert row["level"] == x[row["row"], row["column"], 0]
        assert row["bits"] == pytest.approx(-np.log2(row["p"]))
        assert 0 < row["p_ink"] < 1
    assert image["bits"] > max(row["bits"] for row in rows)


def test_the_pixels_that_are_marked():
    x = np.zeros((16, 16), int)
    x[4, 4:9] = 1
    levels = np.tile([0.9, 0.1], (16, 16, 1))
    levels[4, 4:9] = 0.2, 0.8
    levels[4, 8], levels[12, 12], levels[4, 9] = (0.01, 0.99), (0.5, 0.5), (0.95, 0.05)
    x[12, 2] = 1  # with a chance of 0.1
    bits = -np.log2(np.take_along_axis(levels, x[:, :, None], 2)[:, :, 0])
    found = {mark.why: mark[1:] for mark in next_pixel.marked(x, levels, bits)}
    assert found["most surprised"] == (12, 2)
    assert found["cannot tell"] == (12, 12)
    assert found["expects ink"] == (4, 8)
    assert found["expects blank"] == (4, 9)  # there is none that lies further from the others
    assert next_pixel.ink(np.array([[[0.1, 0.2, 0.3, 0.4]]]))[0, 0] == pytest.approx(0.7)


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


def test_a_listener_hears_how_far_a_training_is(tmp_path):
    heard = []
    lecture("class-samples", tmp_path, "tiny", listen=lambda *told: heard.append(told))
    steps = pixelwise.SIZES["tiny"]["steps"]
    assert heard == [("gated-pixelcnn of digits", done, steps) for done in range(1, steps + 1)]


def test_every_image_chain_and_codec_is_in_the_table_of_bits(tmp_path):
    facts = lecture("bits-a-byte", tmp_path, size="tiny")
    rows = {row["by"]: row for row in facts["rows"]}
    images = {name for name in CHAINS if "image" in store.resolve(name, CHAINS).KINDS} - {"uniform"}
    assert images == {name for name, row in rows.items() if row["exact_score"] is not None}
    assert {
        "PNG, one sheet",
        "WebP lossless, a file each",
        "JPEG XL, one sheet",
        "xz -9e, one file",
    } <= rows.keys()
    bits = [row["bits_per_byte"] for row in facts["rows"]]
    assert bits == sorted(bits)
    assert all(
        row["with_model"] > row["bits_per_byte"] for row in rows.values() if row["with_model"] is not None
    )


@pytest.mark.parametrize("name", bits_a_byte.SMALLER)
def test_a_chain_is_made_smaller_by_options_that_it_has(name):
    cls = store.resolve(name, CHAINS)
    images = Dataset(np.zeros((2, 3, 3, 1), np.uint8), 256, "image")
    args = {**cls.SIZES["laptop"], **cls.configure(images), **bits_a_byte.SMALLER[name]}
    small, large = (
        store.build(name, {**args, **more}, CHAINS)
        for more in ({}, {"hidden": cls.SIZES["laptop"]["hidden"]})
    )
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())


# ---- sound ---------------------------------------------------------------------------------------------


def test_wavenets_are_heard_beside_what_is_real(tmp_path):
    facts = lecture("wavenet", tmp_path, size="tiny", settings={"count": 3})
    real, said, *made = facts["rows"]
    assert [row["by"] for row in made] == ["WaveNet, from features", "WaveNet, from class"]
    assert [row["recordings"] for row in facts["rows"]] == [
        8,
        8,
        8,
        12,
    ]  # there are two to take features from
    assert real["digit_heard"] == real["speaker_heard"] == said["digit_heard"] == said["speaker_heard"] == 1
    assert all(0 < row["bits_per_sample"] <= 8.1 for row in made)
    test = spoken.spoken(spoken.digits(spoken.MADE_UP, "test"))
    wanted = test.sounds[test.classes.index("0 high")]
    with wave.open(str(tmp_path / "0-high-recorded.wav")) as file:
        found = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
    np.testing.assert_array_equal(found, wanted)


def test_wavenets_that_are_there_are_taken(tmp_path):
    learn = spoken.digits(spoken.MADE_UP, "train", bits=16)
    options = {"size": "tiny", "steps": 1, "holdout": 0, "bits": 16}
    low = wavenet.of_speakers(learn, ["low"])
    fit(learn, "wavenet", out=tmp_path / "class", conditional=True, **options)
    fit(learn, "wavenet", out=tmp_path / "frames", frames=True, **options)
    fit(learn, "wavenet", out=tmp_path / "free", **options)
    fit(low, "wavenet", out=tmp_path / "low", conditional=True, **options)
    given = [wavenet.of_run(str(tmp_path / name), spoken.MADE_UP, 0) for name in ("class", "frames")]
    assert [one.told for one in given] == ["class", "features"]
    for one in given:
        assert one.sound == learn.sound == one.test.sound
        made, speed = wavenet.made_by(one, 1, 0)
        assert made.classes == list(learn.classes)
        assert speed > 0
    with pytest.raises(ChainruleError, match=r"free holds no model of sound .* --frames, or --conditional"):
        wavenet.of_run(str(tmp_path / "free"), spoken.MADE_UP, 0)
    with pytest.raises(ChainruleError, match="low was fitted on other classes than those of made-up"):
        wavenet.of_run(str(tmp_path / "low"), spoken.MADE_UP, 0)


def test_what_a_network_is_told_has_a_frame_for_every_sample():
    rows = [np.full((n, 2), float(n), np.float32) for n in (2, 4)]
    chain = type("", (), {"frames": 2, "args": {"hop": 80}})()
    found = spoken.conditions(chain, rows, 230)
    assert found.shape == (2, 3, 2)
    assert (found[0] == 2).all()
    chain = type("", (), {"frames": 0})()
    assert spoken.conditions(chain, [3, 1], 9).tolist() == [3, 1]


def test_recordings_are_drawn_by_class_each_with_its_own_random_numbers(monkeypatch):
    data = spoken.digits(spoken.MADE_UP, bits=8)
    classes = np.array([3, 0, 2, 1, 3])
    lengths = spoken.lengths_of(data, classes, 0)
    assert all(n in data.lengths()[data.context == k] for n, k in zip(lengths, classes, strict=True))
    told, heard = [], []

    def sample(chain, n, event, context, *, first, tick, **settings):
        told.extend((first + i, event, int(k)) for i, k in enumerate(context))
        tick(event[0])
        return np.repeat(context.numpy()[:, None], event[0], 1) + 200  # a level for each class

    monkeypatch.setattr(spoken, "sample", sample)
    monkeypatch.setattr(spoken, "TOGETHER", 2)
    chain = type("", (), {"frames": 0})()
    found = spoken.drawn(chain, data.sound, classes, lengths, tick=lambda *done: heard.append(done))
    assert [len(x) for x in found] == lengths.tolist()
    for x, k in zip(found, classes, strict=True):
        assert (x == data.sound.samples(np.array([200 + k]))).all()
    assert sorted(first for first, _, _ in told) == list(range(5))
    assert heard[-1][0] == heard[-1][1] >= lengths.sum()


def test_speakers_are_picked_with_their_classes():
    data = spoken.digits(spoken.MADE_UP)
    few = wavenet.of_speakers(data, ["low"])
    assert few.classes == ("0 low", "1 low")
    names = [few.classes[k] for k in few.context]
    assert names == [name for name in (data.classes[k] for k in data.context) if name.endswith("low")]
    assert wavenet.of_speakers(data, []).classes == data.classes


def test_a_probe_does_not_hear_loudness_nor_silence_around():
    sounds, classes = spoken.spoken(spoken.digits(spoken.MADE_UP, bits=16))
    probe = spoken.Probe(8000).fit(sounds, classes)
    moved = [np.concatenate([np.zeros(500, np.int16), x // 2, np.zeros(900, np.int16)]) for x in sounds]
    assert probe.accuracy(moved, classes) == 1
    assert probe.accuracy(sounds, classes[1:] + classes[:1]) == 0
    assert probe.names([]) == []
    assert np.isfinite(probe.rows([np.zeros(1, np.int16), np.zeros(0, np.int16)])).all()


def test_bands_add_up_and_a_tone_is_in_its_own():
    weights = spoken.triangles(512, 8000)
    np.testing.assert_allclose(weights.sum(0), 1)
    tone = 9000 * np.sin(2 * np.pi * 1000 * np.arange(1600) / 8000)
    loudest = spoken.log_mel(tone, 8000)[5:-5].mean(0).argmax()
    edges = vocoder.of_mel(np.linspace(0, 1, spoken.BANDS + 2), 8000)
    assert edges[loudest] < 1000 < edges[loudest + 2]
    np.testing.assert_allclose(spoken.log_mel(tone, 8000)[3:-3].max(1).std(), 0, atol=0.05)


def test_real_digits_are_heard(real_data, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DATA", str(real_data))
    learn, test = (spoken.digits("fsdd", split, bits=16) for split in ("train", "test"))
    sounds, classes = spoken.spoken(test.select(slice(0, 300, 7)))
    few = spoken.spoken(learn.select(slice(0, 2700, 5)))
    digits = [name.split()[0] for name in classes]
    probe = spoken.Probe(8000).fit(few.sounds, few.saying(0))
    assert probe.accuracy(sounds, digits) > 0.85  # from a fifth of the recordings; chance is 0.1
    assert probe.accuracy(spoken.again(sounds, 8000), digits) > 0.85
