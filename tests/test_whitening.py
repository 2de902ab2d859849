"""White is white: covariances, responses to waves, and what comes back, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from chainrule.codes.contrast import ContrastNormalization
from chainrule.codes.olshausen import OlshausenFilter
from chainrule.codes.whitening import Whitening
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError

both_ways = pytest.mark.parametrize("rotate", [False, True])
shares = pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])


def correlated(n=300, d=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.linspace(3, 0.5, d) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def matrix_of(white):
    """The whitening matrix (d, d), measured: what becomes of unit vectors on top of the mean."""
    return white.transform(np.eye(white.n_features_in_) + white.mean_)


# ---- whitening by the covariance -----------------------------------------------------------------------


@both_ways
def test_whitened_events_have_mean_0_and_covariance_1(rotate):
    z = Whitening(share=0, rotate=rotate).fit_transform(correlated())
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(z.T), np.eye(9), atol=1e-10)


@pytest.mark.parametrize("share", [0.01, 0.1, 2.0])
def test_the_share_damps_every_eigenvalue_by_the_same_amount(share):
    x = correlated()
    values = np.linalg.eigvalsh(np.cov(x.T))
    damped = values / (values + share * values.mean())
    plain, rotated = (np.cov(Whitening(share, rotate).fit_transform(x).T) for rotate in (False, True))
    np.testing.assert_allclose(np.linalg.eigvalsh(plain), damped, atol=1e-10)
    np.testing.assert_allclose(rotated, np.diag(damped[::-1]), atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_zca_is_symmetric_positive_and_the_inverse_root_of_the_covariance(share):
    x = correlated()
    matrix, covariance = matrix_of(Whitening(share).fit(x)), np.cov(x.T)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > 0
    damped = covariance + share * np.trace(covariance) / 9 * np.eye(9)
    np.testing.assert_allclose(matrix @ damped @ matrix, np.eye(9), atol=1e-10)


def test_of_all_whitenings_zca_moves_events_least():
    x = correlated()
    z = Whitening(share=0).fit_transform(x)
    centred = x - x.mean(0)
    moved = ((z - centred) ** 2).sum()
    rng = np.random.default_rng(1)
    for size in (1e-3, 0.1, 10):  # rotations near and far: all of them whiten too
        for _ in range(5):
            turn = np.linalg.qr(np.eye(9) + size * rng.normal(size=(9, 9)))[0]
            turn *= np.sign(np.diag(turn)) if size < 1 else 1
            np.testing.assert_allclose(np.cov((z @ turn).T), np.eye(9), atol=1e-10)
            assert ((z @ turn - centred) ** 2).sum() > moved
    assert ((Whitening(share=0, rotate=True).fit_transform(x) - centred) ** 2).sum() > moved


def test_pca_whitening_is_zca_in_the_principal_axes():
    x = correlated()
    zca, pca = Whitening().fit(x), Whitening(rotate=True).fit(x)
    np.testing.assert_allclose(zca.axes_ @ zca.axes_.T, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(pca.transform(x), zca.transform(x) @ zca.axes_.T, atol=1e-10)
    assert (np.diff(zca.variances_) <= 0).all()


@given(
    n=st.integers(2, 30),
    d=st.integers(1, 12),
    rank=st.integers(0, 12),
    share=st.sampled_from([0.0, 1e-6, 0.1]),
    rotate=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_the_inverse_is_exact_for_all_events_whatever_was_fitted(n, d, rank, share, rotate, scale, seed):
    rng = np.random.default_rng(seed)
    x = scale * (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + rng.normal(size=d))
    white = Whitening(share, rotate).fit(x)
    others = np.concatenate([x, scale * rng.normal(size=(5, d))])  # outside of the span, too
    z = white.transform(others)
    assert np.isfinite(z).all()
    widths = np.linalg.svd(matrix_of(white), compute_uv=False)
    rounding = 8 * d * np.finfo(float).eps * (widths.max() / widths.min()) * np.abs(others).max()
    assert widths.max() / widths.min() < 1.1e7  # no direction narrower than this is taken for one
    np.testing.assert_allclose(white.inverse_transform(z), others, rtol=0, atol=rounding)


@both_ways
def test_the_unit_of_the_data_does_not_matter(rotate):
    x, others = correlated(), correlated(seed=1)
    x[:, 2] = 7  # a dead pixel, that lives in the others
    for share in (0, 0.1):
        once, thousand = (
            Whitening(share, rotate).fit(unit * x).transform(unit * others) for unit in (1, 1024)
        )
        np.testing.assert_allclose(once, thousand, atol=1e-9)


@pytest.mark.parametrize("number", [0.0, 0.1, 1e9 / 3])
def test_equal_events_have_no_directions_to_whiten(number):
    x = np.full((10, 4), number)
    np.testing.assert_allclose(Whitening(share=0).fit_transform(x), 0, atol=1e-6)
    np.testing.assert_allclose(Whitening(share=0.1).fit_transform(x), 0, atol=1e-6)


def test_a_dead_pixel_stays_as_it_is():
    x = correlated()
    x[:, 4] = 0.1
    z = Whitening(share=0).fit_transform(x)
    np.testing.assert_allclose(z[:, 4], 0, atol=1e-6)
    alive = np.delete(z, 4, 1)
    np.testing.assert_allclose(np.cov(alive.T), np.eye(8), atol=1e-8)


@shares
@pytest.mark.parametrize("cls", [Whitening, ContrastNormalization])
def test_what_is_no_share_is_refused(cls, share):
    with pytest.raises(ChainruleError, match=f"share is {share}"):
        cls(share=share).fit(correlated())


def test_a_grid_search_over_a_pipeline_tries_every_share():
    x, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(ContrastNormalization(), Whitening(), LogisticRegression(max_iter=50, tol=1e-2))
    search = GridSearchCV(pipeline, {"whitening__share": [0.1, 1e9]}, cv=2).fit(x[:400], y[:400])
    good, flattened = search.cv_results_["mean_test_score"]
    assert good > 0.85
    assert flattened < good  # so large a share leaves next to nothing of the events
    assert search.best_params_ == {"whitening__share": 0.1}


# ---- Olshausen's filter --------------------------------------------------------------------------------


def wave(height, width, down, across, phase=0.3):
    """A wave of so many cycles down and across the picture, (H, W, 1)."""
    y, x = np.mgrid[:height, :width]
    return np.cos(2 * np.pi * (down * y / height + across * x / width) + phase)[:, :, None]


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    down=st.integers(-9, 9),
    across=st.integers(-9, 9),
    cutoff=st.sampled_from([0.2, 200 / 512, 5.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_wave_is_multiplied_by_the_published_response(height, width, down, across, cutoff):
    down, across = down % height, across % width
    picture = wave(height, width, down, across)
    f = np.hypot(min(down, height - down) / height, min(across, width - across) / width)  # aliases
    out = OlshausenFilter(cutoff).fit(picture[None]).transform(picture[None])
    np.testing.assert_allclose(
        out.reshape(picture.shape), f * np.exp(-((f / cutoff) ** 4)) * picture, atol=1e-12
    )


def test_the_default_is_200_cycles_in_a_picture_of_512_pixels():
    picture = wave(512, 512, 0, 200)
    out = OlshausenFilter().fit_transform(picture[None])
    np.testing.assert_allclose(out.reshape(picture.shape), 200 / 512 * np.exp(-1) * picture, atol=1e-12)


def test_a_grating_is_filtered_alike_in_pictures_of_all_sizes():
    small, large = wave(8, 16, 2, 4), wave(64, 32, 16, 8)  # the same cycles/pixel
    out = [OlshausenFilter().fit_transform(p[None]).reshape(p.shape) for p in (small, large)]
    np.testing.assert_allclose(out[0], out[1][:8, :16], atol=1e-12)


def test_channels_are_filtered_by_themselves():
    images = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    together = OlshausenFilter().fit_transform(images).reshape(images.shape)
    for c in range(3):
        alone = OlshausenFilter().fit_transform(images[..., c])  # (n, H, W) is an image, too
        np.testing.assert_allclose(together[..., c].reshape(2, -1), alone, atol=1e-14)


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)))
@settings(max_examples=60, deadline=None)
def test_all_comes_back_but_the_mean_of_each_picture(shape):
    rng = np.random.default_rng(0)
    images = rng.normal(size=shape) + 10 * rng.normal(size=(shape[0], 1, 1, shape[3]))
    code = OlshausenFilter(floor=1e-6).fit(images)  # below the response to the finest pattern that there is
    back = code.inverse_transform(code.transform(images))
    own, of_all = images.mean((1, 2), keepdims=True), images.mean((0, 1, 2))
    np.testing.assert_allclose(back, images - own + of_all, atol=1e-7)


def test_the_mean_of_a_picture_is_not_in_its_code():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
    code = OlshausenFilter().fit(images)
    np.testing.assert_allclose(code.transform(images + 5), code.transform(images), atol=1e-12)


def test_frequencies_below_the_floor_are_lost_and_others_come_back():
    coarse, finest = wave(16, 16, 3, 5), wave(16, 16, 8, 8, phase=0)
    code = OlshausenFilter().fit((coarse + finest)[None])
    back = code.inverse_transform(code.transform((coarse + finest)[None]))[0]
    np.testing.assert_allclose(back, coarse, atol=1e-10)
    keeps = OlshausenFilter(floor=1e-6).fit((coarse + finest)[None])
    back = keeps.inverse_transform(keeps.transform((coarse + finest)[None]))[0]
    np.testing.assert_allclose(back, coarse + finest, atol=1e-10)


def test_one_over_f_becomes_white_below_the_cutoff():
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
    waves = np.exp(2j * np.pi * rng.random((20, *f.shape))) / np.where(f, f, np.inf)
    images = np.fft.irfft2(waves, s=(64, 64))[..., None]
    out = OlshausenFilter().fit_transform(images).reshape(20, 64, 64)
    power = (np.abs(np.fft.rfft2(out)) ** 2).mean(0)[:, 1:-1]  # where waves are free to have any phase
    f = f[:, 1:-1]
    np.testing.assert_allclose(power[f < 0.15], 1, atol=0.05)
    assert power[f > 0.65].max() < 1e-5


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"cutoff": 0}, "cutoff is 0 cycles/pixel"),
        ({"cutoff": float("nan")}, "cutoff is nan"),
        ({"floor": 0}, "floor is 0"),
        ({"floor": 1.0}, "floor is 1.0"),
    ],
)
def test_impossible_filters_are_refused(wrong, why):
    with pytest.raises(ChainruleError, match=why):
        OlshausenFilter(**wrong).fit(np.zeros((2, 4, 4, 1)))


def test_clips_are_no_images():
    with pytest.raises(ChainruleError, match="4 axes, an image at most 3"):
        OlshausenFilter().fit(np.zeros((2, 3, 4, 4, 1)))


@pytest.mark.parametrize("cls", [Whitening, OlshausenFilter, ContrastNormalization])
def test_events_of_several_shapes_are_refused(cls):
    mixed = Dataset([np.zeros((2, 2, 1), int), np.zeros((3, 2, 1), int)], levels=2, kind="image")
    with pytest.raises(ChainruleError, match=f"{cls.__name__} needs events of one shape"):
        cls.configure(mixed)
    assert cls.configure(Dataset(np.zeros((5, 2, 2, 1), np.uint8), levels=2, kind="image")) == {}


# ---- contrast ------------------------------------------------------------------------------------------

events_of = st.builds(
    lambda n, d, spread, level, seed: (
        spread * np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, n + 1)[:, None] + level
    ),
    n=st.integers(1, 8),
    d=st.integers(1, 9),
    spread=st.sampled_from([0.01, 1.0, 50.0]),
    level=st.sampled_from([0.0, 0.1, 100.0]),
    seed=st.integers(0, 99),
)


@given(x=events_of, share=st.sampled_from([0.01, 0.5]))
@settings(max_examples=100, deadline=None)
def test_contrast_is_divided_out_as_far_as_the_constant_lets_it(x, share):
    z = ContrastNormalization(share).fit_transform(x)
    variance, constant = x.var(1), share * x.var(1).mean()
    np.testing.assert_allclose(z.mean(1), 0, atol=1e-9)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(np.where(constant, variance + constant, 1))[:, None]
    np.testing.assert_allclose(z, expected, atol=1e-9)


@given(x=events_of, share=st.sampled_from([0.01, 0.5]))
@settings(max_examples=100, deadline=None)
def test_contrast_comes_back_and_the_mean_does_not(x, share):
    code = ContrastNormalization(share).fit(x)
    back = code.inverse_transform(code.transform(x))
    np.testing.assert_allclose(back, x - x.mean(1, keepdims=True) + x.mean(), rtol=1e-6, atol=1e-9)


def test_without_a_constant_every_event_has_variance_1_and_flat_ones_stay_flat():
    x = correlated(20)
    x[3], x[4] = 0.1, 0
    code = ContrastNormalization(share=0).fit(x)
    z = code.transform(x)
    varied = np.delete(z, [3, 4], 0)
    np.testing.assert_allclose(varied.var(1), 1)
    assert not z[3:5].any()
    np.testing.assert_allclose(code.inverse_transform(z), z + x.mean())


def test_what_rounding_leaves_of_equal_numbers_is_no_contrast():
    x = np.tile(np.random.default_rng(0).normal(size=(200, 1)), 11)
    assert (x - x.mean(1, keepdims=True)).any()  # the mean of equal numbers is not always that number
    assert not ContrastNormalization(share=0).fit_transform(x).any()


def test_codes_of_no_event_come_back_finite():
    code = ContrastNormalization().fit(correlated(20))
    assert np.isfinite(code.inverse_transform(np.full((2, 9), 1e6) * np.linspace(-1, 1, 9))).all()


def test_the_unit_of_the_data_does_not_matter_to_contrast():
    x = correlated()
    once, thousand = (ContrastNormalization().fit_transform(unit * x) for unit in (1, 1024))
    np.testing.assert_allclose(once, thousand, atol=1e-12)


# ---- precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [Whitening(), Whitening(rotate=True), OlshausenFilter(), ContrastNormalization()]
)
def test_single_precision_stays_single_and_is_only_rounded_at_the_end(code):
    single = (np.random.default_rng(0).normal(size=(50, 4, 4, 1)) + 9).astype(np.float32)
    double = single.astype(float)
    one, two = clone(code).fit(single), clone(code).fit(double)
    codes, exact = one.transform(single), two.transform(double)
    assert codes.dtype == one.inverse_transform(codes).dtype == np.float32
    assert exact.dtype == two.inverse_transform(exact).dtype == np.float64
    np.testing.assert_allclose(codes, exact, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(one.inverse_transform(codes), two.inverse_transform(exact), rtol=1e-5)
