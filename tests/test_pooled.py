"""Pooled codes: against plain loops, under shifts, one image or many, and as features of a classifier."""

import argparse
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from chainrule import store
from chainrule.codes import CODES
from chainrule.codes.contrast import ContrastNormalization
from chainrule.codes.olshausen import OlshausenFilter
from chainrule.codes.pca import PCA
from chainrule.codes.pooled import Cells, PooledCode, Pyramid
from chainrule.codes.sparse_coding import Alternating, SparseCoding
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def sparse(atoms=10, **more):
    return SparseCoding(atoms, penalty=0.3, training=Alternating(2), **more)


def two_layers(**more):
    below = PooledCode(side=3, code=sparse(8), prepare=ContrastNormalization(), pooling=Cells(2), samples=200)
    return PooledCode(side=2, code=sparse(), before=below, samples=200, **more)


# ---- the definition ------------------------------------------------------------------------------------


def by_loops(code, image, cells):
    """{cell: features (C,)} of an image (H, W, C), from the words of the documentation.

    `cells(down, across)` gives the cells, each as its rows and columns of places.
    """
    height, width, channels = image.shape
    h, w = min(code.side, height), min(code.side, width)
    down, across = ({*range(0, n - s, code.stride), n - s} for n, s in ((height, h), (width, w)))
    places = {}
    for i, y in enumerate(sorted(down)):
        for j, x in enumerate(sorted(across)):
            row = image[y : y + h, x : x + w].reshape(1, h * w * channels)
            if code.prepare is not None:
                row = code.prepare_.transform(row)
            z = (row if code.code is None else code.code_.transform(row))[0]
            parts = [max(v, 0) for v in z] + [max(-v, 0) for v in z]
            places[i, j] = parts if code.split_signs else [abs(v) for v in z]
    found = []
    for rows, columns in cells(len(down), len(across)):
        inside = np.array([places[i, j] for i in rows for j in columns])
        found.append(inside.mean(0) if code.pooling.mean else inside.max(0))
    return np.array(found)


def pyramid_cells(levels):
    def cells(down, across):
        for level in range(levels):
            parts = 2**level
            for a in range(parts):
                for b in range(parts):
                    yield tuple(
                        [i for i in range(n) if i + 1 > n * part / parts and i < n * (part + 1) / parts]
                        for n, part in ((down, a), (across, b))
                    )

    return cells


def square_cells(side):
    def cells(down, across):
        for y in range(0, down, side):
            for x in range(0, across, side):
                yield range(y, min(y + side, down)), range(x, min(x + side, across))

    return cells


@given(
    shape=st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2)),
    side=st.integers(1, 4),
    stride=st.integers(1, 3),
    split_signs=st.booleans(),
    pooling=st.sampled_from([Pyramid(1), Pyramid(3), Pyramid(2, mean=True), Cells(2), Cells(3, mean=True)]),
)
@settings(max_examples=80, deadline=None)
def test_features_are_those_of_plain_loops(shape, side, stride, split_signs, pooling):
    images = noise(*shape)
    code = PooledCode(side, stride, pooling=pooling, split_signs=split_signs).fit(images)
    found = code.transform(images)
    cells = pyramid_cells(pooling.levels) if isinstance(pooling, Pyramid) else square_cells(pooling.side)
    for image, features in zip(images, found, strict=True):
        expected = by_loops(code, image, cells)
        np.testing.assert_allclose(features.reshape(expected.shape), expected, atol=1e-12)


@pytest.mark.parametrize("pooling", [Pyramid(2), Cells(3)])
def test_patches_are_prepared_and_coded(pooling):
    images = noise(4, 9, 8, 1)
    code = PooledCode(4, 2, sparse(before=PCA(9)), ContrastNormalization(), pooling).fit(images)
    cells = pyramid_cells(2) if isinstance(pooling, Pyramid) else square_cells(3)
    found = code.transform(images)
    assert (found > 0).any()
    expected = np.array([by_loops(code, image, cells) for image in images])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-9)


def test_the_second_layer_is_a_pooled_code_of_the_images_of_the_first():
    images = noise(5, 10, 11, 1)
    code = two_layers().fit(images)
    maps = code.before_.transform(images)
    assert maps.shape == (5, 4, 5, 16)
    alone = PooledCode(side=2, code=sparse(), samples=200).fit(maps)
    np.testing.assert_array_equal(alone.transform(maps), code.transform(images))


def test_a_filter_that_gives_rows_of_pixels_comes_before():
    images = noise(5, 10, 11, 1)
    code = PooledCode(side=3, before=OlshausenFilter()).fit(images)
    filtered = OlshausenFilter().fit_transform(images).reshape(images.shape)
    np.testing.assert_array_equal(PooledCode(side=3).fit(images).transform(filtered), code.transform(images))


# ---- shifts --------------------------------------------------------------------------------------------


def placed(thing, y, x):
    image = np.zeros((1, 24, 24, 1))
    image[0, y : y + 5, x : x + 5] = thing
    return image


def test_cells_move_with_what_they_show():
    images = noise(6, 24, 24, 1)
    code = PooledCode(3, 2, sparse(), pooling=Cells(2)).fit(images)  # a cell is 4 pixels
    thing = noise(5, 5, 1, seed=1)
    here, there = (code.transform(placed(thing, *at))[0] for at in ((8, 4), (12, 12)))
    assert here.any()
    np.testing.assert_array_equal(here[:4, :3], there[1:5, 2:5])
    np.testing.assert_array_equal(np.roll(here, (1, 2), (0, 1)), there)


def test_the_maximum_over_the_whole_image_does_not_know_where():
    images = noise(6, 24, 24, 1)
    code = PooledCode(3, 1, sparse(), pooling=Pyramid(1)).fit(images)
    thing = noise(5, 5, 1, seed=1)
    found = [code.transform(placed(thing, *at)) for at in ((6, 6), (6, 7), (13, 9))]
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)


def test_a_negative_is_the_same_with_the_signs_exchanged():
    images = noise(6, 12, 12, 1)
    code = PooledCode(3, 1, sparse(), pooling=Cells(2)).fit(images)
    found, negative = code.transform(images), code.transform(-images)
    np.testing.assert_allclose(negative[..., :10], found[..., 10:], atol=1e-6)
    np.testing.assert_allclose(negative[..., 10:], found[..., :10], atol=1e-6)
    both = clone(code).set_params(split_signs=False).fit(images)
    np.testing.assert_allclose(both.transform(images), np.maximum(found[..., :10], found[..., 10:]))


# ---- the same bits, bounded memory ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_image_has_the_same_bits_alone_and_among_others_by_any_number_of_threads(dtype):
    images = noise(7, 14, 13, 1).astype(dtype)
    code = two_layers().fit(images)
    whole, threads = code.transform(images), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            np.testing.assert_array_equal(code.transform(images), whole, strict=True)
            np.testing.assert_array_equal(clone(code).fit(images).transform(images), whole)
    finally:
        torch.set_num_threads(threads)
    for size in (1, 2, 3):
        parts = [code.transform(images[i : i + size]) for i in range(0, 7, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole, strict=True)


def test_memory_does_not_grow_with_the_patches():
    images = noise(60, 32, 32, 1).astype(np.float32)  # 841 patches of 16 numbers, and 30 coefficients of each
    code = PooledCode(4, code=sparse(30), pooling=Pyramid(1), samples=500).fit(images)
    tracemalloc.start()
    try:
        code.transform(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * 841 * 30 * 4 / 4, f"{peak:,} bytes"


def test_patches_to_learn_from_are_drawn_from_all_images():
    images = np.arange(8.0)[:, None, None, None] + np.zeros((8, 9, 9, 1))
    class_means = [PooledCode(3, prepare=PCA(1), samples=200, random_state=s).fit(images) for s in (0, 0, 1)]
    first, again, other = (float(code.prepare_.mean_[0]) for code in class_means)
    assert first == again != other
    assert abs(first - 3.5) < 0.6
    everything = PooledCode(3, prepare=PCA(1), samples=10**6).fit(images)
    assert float(everything.prepare_.mean_[0]) == 3.5


# ---- use -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [two_layers(), PooledCode(2, pooling=Cells(2))], ids=["two layers", "cells"])
def test_layers_pass_every_check_of_scikit_learn(code, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    results = check_estimator(code, on_skip=None, on_fail=None)
    assert [r["check_name"] for r in results if r["status"] != "passed"] == []
    assert len(results) >= 45


def test_layers_come_back_from_their_file():
    images = noise(6, 12, 12, 1)
    code = two_layers(pooling=Pyramid(2, mean=True)).fit(images)
    rebuilt, _ = store.parse(store.dump(code, CODES), CODES)
    np.testing.assert_array_equal(rebuilt.transform(images), code.transform(images), strict=True)
    assert rebuilt.pooling == Pyramid(2, mean=True)
    assert rebuilt.before_.pooling == Cells(2)


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_digits_are_told_apart_better_than_by_pixels():
    x, y = load_digits(return_X_y=True)
    learn, test = (x[:400].reshape(-1, 8, 8, 1), y[:400]), (x[1000:1400].reshape(-1, 8, 8, 1), y[1000:1400])
    code = PooledCode(3, code=sparse(12), prepare=ContrastNormalization(), pooling=Pyramid(2), samples=1_000)
    grid = {"pooledcode__pooling": [Pyramid(1), Pyramid(2)], "pooledcode__code__n_components": [12]}
    search = GridSearchCV(make_pipeline(code, RidgeClassifier(alpha=1.0)), grid, cv=2).fit(*learn)
    assert search.best_params_["pooledcode__pooling"] == Pyramid(2)
    pixels = RidgeClassifier(alpha=1.0).fit(learn[0].reshape(400, -1), learn[1])
    assert search.score(*test) > pixels.score(test[0].reshape(400, -1), test[1])


def test_the_command_line_takes_sparse_codes():
    images = Dataset(np.zeros((4, 8, 8, 1), np.uint8), levels=256, kind="image")
    code = store.build("pooled", PooledCode.configure(images), CODES)
    assert isinstance(code.code, SparseCoding)
    assert code.code.before is not None
    assert isinstance(code.prepare, ContrastNormalization)
    mixed = Dataset([np.zeros((2, 2, 1), int), np.zeros((3, 2, 1), int)], levels=2, kind="image")
    with pytest.raises(ChainruleError, match="PooledCode needs events of one shape"):
        PooledCode.configure(mixed)


# ---- hostile inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"side": 0}, "side is 0: take 1 or more"),
        ({"stride": 0}, "stride is 0: take 1 or more"),
        ({"samples": 0}, "samples is 0: take 1 or more"),
        ({"pooling": Pyramid(0)}, "a pyramid of 0 levels: take 1 to 8"),
        ({"pooling": "max"}, "pooling is 'max': take one of Pyramid, Cells"),
        ({"pooling": Pyramid(99)}, "a pyramid of 99 levels: take 1 to 8"),
        ({"pooling": Cells(0)}, "side is 0: take 1 or more"),
    ],
)
def test_impossible_options_are_refused(options, why):
    with pytest.raises(ChainruleError, match=why):
        PooledCode(**options).fit(noise(2, 8, 8, 1))


def test_wrong_images_are_refused():
    images = noise(3, 8, 8, 1)
    code = PooledCode(3, code=sparse()).fit(images)
    with pytest.raises(ChainruleError, match=r"events have shape \(8, 9, 1\), the code was fitted on"):
        code.transform(noise(2, 8, 9, 1))
    with pytest.raises(ChainruleError, match="4 axes, an image at most 3"):
        PooledCode().fit(noise(2, 3, 8, 8, 1))
    for bad in (np.nan, np.inf):
        images[1, 2, 3] = bad
        for use in (code.transform, code.fit):
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                use(images)
    with pytest.raises(ValueError, match="0 sample"):
        code.transform(images[:0])


def test_constant_images_and_one_image_are_no_trouble():
    flat = np.full((3, 9, 9, 1), 7.0)
    code = PooledCode(3, code=sparse(), prepare=ContrastNormalization()).fit(flat)
    assert not code.transform(flat).any()
    one = noise(1, 9, 9, 1)
    assert PooledCode(3, code=sparse()).fit_transform(one).shape == (1, 21 * 20)


# ---- the benchmark -------------------------------------------------------------------------------------


def test_the_benchmark_of_caltech101_measures(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import caltech101

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 30)
    images = [rng.integers(0, 99, (10 + i % 3, 12, 1)).astype(np.uint8) for i in range(60)]
    for image in images[30:]:
        image[::2] += 120  # stripes
    photos = [rng.integers(0, 255, (40, 40, 1)).astype(np.uint8)]
    found = {
        "caltech101:all": Dataset(images, 256, "image", context=labels),
        "bsds:all": Dataset(photos, 256, "image"),
    }
    monkeypatch.setattr(caltech101, "load", found.__getitem__)
    train, test = caltech101.split(labels, seed=0)
    assert sorted([*train, *test]) == list(range(60))
    assert np.bincount(labels[train]).tolist() == [15, 15]
    monkeypatch.setattr(caltech101, "codes", lambda *_: {"tiny": two_layers()})
    options = argparse.Namespace(crops=8, side=12, atoms=(8, 8), splits=2)
    monkeypatch.setattr(caltech101, "PCA", lambda n: PCA(5))
    rows = list(caltech101.measured(options))
    assert [row["features"] for row in rows] == ["pixels", "PCA of images", "tiny"]
    assert rows[2]["accuracy"] > 90
