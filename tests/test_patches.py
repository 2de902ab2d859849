"""Patches are where they should be, and an image comes back from them exactly."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chainrule.codes.patches import Patches
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError

shapes = st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.integers(1, 3))
sides, strides = st.integers(1, 6), st.integers(1, 6)


def places(length, side, stride):
    """Where patches start, from the words of the documentation."""
    found = [i for i in range(length) if i % stride == 0 and i + side <= length]
    return found if found[-1] + side == length else [*found, length - side]


@given(
    shape=shapes,
    side=sides,
    stride=strides,
    seed=st.integers(0, 9),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=150, deadline=None)
def test_every_patch_is_a_part_of_its_image_and_the_image_comes_back_bit_for_bit(
    shape, side, stride, seed, dtype
):
    assume(stride <= side)
    images = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    n, height, width, channels = shape
    h, w = min(side, height), min(side, width)
    corners = [(y, x) for y in places(height, h, stride) for x in places(width, w, stride)]
    code = Patches(side, stride).fit(images)
    cut = code.transform(images)
    assert cut.shape == (n, len(corners), h, w, channels)
    for i, (y, x) in enumerate(corners):
        np.testing.assert_array_equal(cut[:, i], images[:, y : y + h, x : x + w])
    np.testing.assert_array_equal(code.inverse_transform(cut), images, strict=True)
    np.testing.assert_array_equal(code.inverse_transform(cut.reshape(n, -1)), images, strict=True)


@given(shape=shapes, side=sides, stride=strides, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_patches_that_disagree_are_averaged(shape, side, stride, seed):
    assume(stride <= side)
    rng = np.random.default_rng(seed)
    code = Patches(side, stride).fit(np.zeros(shape))
    cut = rng.normal(size=code.transform(np.zeros(shape)).shape)
    place = code.transform(np.arange(np.prod(shape), dtype=float).reshape(shape)).astype(int)
    total = np.bincount(place.ravel(), cut.ravel(), np.prod(shape))
    count = np.bincount(place.ravel(), minlength=np.prod(shape))
    assert (count > 0).all()  # every pixel is in a patch
    np.testing.assert_allclose(code.inverse_transform(cut).ravel(), total / count, atol=1e-12)


def test_the_average_is_the_nearest_image():
    rng = np.random.default_rng(0)
    code = Patches(side=3).fit(np.zeros((1, 6, 7, 1)))
    cut = rng.normal(size=(1, 20, 3, 3, 1))
    best = code.inverse_transform(cut)
    least = ((code.transform(best) - cut) ** 2).sum()
    for _ in range(20):
        other = best + 0.01 * rng.normal(size=best.shape)
        assert ((code.transform(other) - cut) ** 2).sum() > least


def test_rows_are_images_of_one_line():
    x = np.arange(20.0).reshape(2, 10)
    cut = Patches(side=4, stride=3).fit_transform(x)
    assert cut.shape == (2, 3, 1, 4, 1)
    assert cut[0, :, 0, :, 0].tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_gray_images_need_no_channel_and_one_photograph_is_enough():
    photo = np.random.default_rng(0).normal(size=(1, 20, 30))
    code = Patches().fit(photo)
    assert code.transform(photo).shape == (1, 9 * 19, 12, 12, 1)
    np.testing.assert_array_equal(code.inverse_transform(code.transform(photo)), photo)


def test_a_small_image_is_one_patch():
    images = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    np.testing.assert_array_equal(Patches(side=12).fit_transform(images)[:, 0], images)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"side": 0}, "side is 0: a patch has at least 1 pixel"),
        ({"side": 4, "stride": 0}, "stride is 0, side 4"),
        ({"side": 4, "stride": 5}, "stride is 5, side 4: take 1 to 4"),
    ],
)
def test_impossible_grids_are_refused(options, why):
    with pytest.raises(ChainruleError, match=why):
        Patches(**options).fit(np.zeros((2, 8, 8, 1)))


def test_what_does_not_fit_is_refused():
    code = Patches(side=3).fit(np.zeros((2, 8, 8, 1)))
    with pytest.raises(ChainruleError, match="the codes have 9 numbers, the model's 324"):
        code.inverse_transform(np.zeros((2, 1, 3, 3, 1)))
    with pytest.raises(ChainruleError, match="4 axes, an image at most 3"):
        Patches().fit(np.zeros((2, 3, 8, 8, 1)))
    mixed = Dataset([np.zeros((2, 2, 1), int), np.zeros((3, 2, 1), int)], levels=2, kind="image")
    with pytest.raises(ChainruleError, match="Patches needs events of one shape"):
        Patches.configure(mixed)
