"""Gabor functions are found again, each parameter as it was, and noise is none."""

import numpy as np
import pytest
import torch

from chainrule.errors import ChainruleError
from chainrule.layers.gabor import GaborFits, Grid, bounded, fit_gabors, gabor, improve, with_wave


def atom(x, y, orientation, frequency, phase, width_across, width_along, amplitude, height=12, width=12):
    """A Gabor function as the documentation states it, one pixel at a time."""
    image = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            # anticlockwise as one sees it: up is minus y
            offset = complex(column - x, -(row - y)) * np.exp(-1j * orientation)
            t, s = offset.real, -offset.imag
            window = np.exp(-((s / width_across) ** 2) / 2 - (t / width_along) ** 2 / 2)
            image[row, column] = amplitude * window * np.cos(2 * np.pi * frequency * s + phase)
    return image


def drawn(n, seed=0, height=12, width=12):
    """n sets of parameters, and their atoms."""
    rng = np.random.default_rng(seed)
    low = [2.5, 2.5, 0, 0.1, -np.pi, 1.0, 1.0, 0.2]
    high = [width - 3.5, height - 3.5, np.pi, 0.4, np.pi, 2.5, 3.5, 5]
    params = rng.uniform(low, high, (n, 8))
    return params, np.stack([atom(*p, height, width) for p in params])


def same(found, wanted):
    """Equal parameters (K, 8), where a half turn reverses the phase and phases are on a circle."""
    found, wanted = found.copy(), wanted.copy()
    turns = np.round((found[:, 2] - wanted[:, 2]) / np.pi)
    found[:, 2] -= turns * np.pi
    found[:, 4] *= np.where(turns % 2, -1, 1)
    found[:, 4] -= 2 * np.pi * np.round((found[:, 4] - wanted[:, 4]) / (2 * np.pi))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def as_rows(fits):
    names = ("x", "y", "orientation", "frequency", "phase", "width_across", "width_along", "amplitude")
    return np.stack([getattr(fits, name) for name in names], 1)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 16)])
def test_known_functions_are_found_with_all_their_parameters(height, width):
    params, atoms = drawn(30, height=height, width=width)
    fits = fit_gabors(atoms)
    assert fits.r2.min() > 0.999
    same(as_rows(fits), params)


def test_a_fit_draws_what_the_documentation_states():
    params, atoms = drawn(20)
    fits = GaborFits(*params.T, r2=np.ones(20))
    np.testing.assert_allclose(fits.draw(12, 12), atoms, atol=1e-12)


def test_parameters_are_in_their_ranges():
    rng = np.random.default_rng(0)
    atoms = np.concatenate([drawn(40)[1], rng.normal(size=(20, 12, 12)), np.ones((1, 12, 12))])
    fits = fit_gabors(atoms)
    assert len(fits) == 61
    assert (fits.orientation >= 0).all()
    assert (fits.orientation < np.pi).all()
    assert (np.abs(fits.phase) <= np.pi).all()
    assert (
        min(fits.frequency.min(), fits.width_across.min(), fits.width_along.min(), fits.amplitude.min()) >= 0
    )
    assert (fits.frequency * fits.width_across >= 0.1 - 1e-9).all()
    assert fits.r2.max() <= 1


def test_a_plain_edge_has_a_frequency_that_can_be_seen():
    right = np.arange(12) - 5.5
    edge = np.tile(right * np.exp(-(right**2) / 8), (12, 1)) * np.exp(-(right[:, None] ** 2) / 18)
    fits = fit_gabors(edge[None])
    assert fits.r2[0] > 0.99
    assert fits.frequency[0] * fits.width_across[0] == pytest.approx(0.1)
    u = np.linspace(0, 3, 1000)  # the highest points of both functions are equally high
    height = fits.amplitude[0] * (np.sin(2 * np.pi * 0.1 * u) * np.exp(-(u**2) / 2)).max()
    assert height == pytest.approx(2 * np.exp(-0.5), rel=0.02)
    assert abs(fits.phase[0]) == pytest.approx(np.pi / 2, abs=1e-3)
    assert fits.orientation[0] == pytest.approx(np.pi / 2, abs=1e-3)


def test_r2_is_the_share_of_variance_that_the_drawn_fit_explains():
    rng = np.random.default_rng(0)
    atoms = drawn(10)[1]
    atoms += 0.6 * atoms.std((1, 2), keepdims=True) * rng.normal(size=atoms.shape) + 0.1
    fits = fit_gabors(atoms)
    error = ((fits.draw(12, 12) - atoms) ** 2).sum((1, 2))
    np.testing.assert_allclose(fits.r2, 1 - error / (atoms.var((1, 2)) * 144), atol=1e-9)
    assert ((fits.r2 > 0.3) & (fits.r2 < 0.99)).all()


def test_noise_is_no_gabor_function():
    fits = fit_gabors(np.random.default_rng(0).normal(size=(30, 12, 12)))
    assert fits.r2.max() < 0.5
    assert np.median(fits.r2) < 0.25


def test_hardly_any_of_many_random_starts_finds_a_better_fit():
    _, first = drawn(40, seed=3)
    _, second = drawn(40, seed=4)
    atoms = unit(
        unit(first) + 0.8 * unit(second) + 0.4 * unit(np.random.default_rng(0).normal(size=first.shape))
    )
    grid, target = Grid.of(12, 12), torch.from_numpy(atoms).flatten(1)
    rng, best = np.random.default_rng(0), np.full(40, -np.inf)
    low, high = [0, 0, 0, 0.05, np.log(0.6), np.log(0.6), 0, 0], [11, 11, np.pi, 0.45, 1.2, 1.2, 0, 0]
    for _ in range(10):
        start = torch.from_numpy(rng.uniform(low, high, (40, 8)))
        _, errors = improve(with_wave(bounded(start, grid), target, grid), target, grid, 40)
        best = np.maximum(best, 1 - errors.numpy() / (atoms.var((1, 2)) * 144))
    missed = best - fit_gabors(atoms).r2
    assert np.mean(missed > 0.01) <= 0.05
    assert missed.max() < 0.1


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=(1, 2), keepdims=True)


def test_with_a_little_noise_the_parameters_stay_near():
    params, atoms = drawn(30, seed=1)
    noise = (
        0.02 * np.abs(atoms).max((1, 2), keepdims=True) * np.random.default_rng(0).normal(size=atoms.shape)
    )
    found = as_rows(fit_gabors(atoms + noise))
    assert np.median(np.abs(found - params)[:, [0, 1, 3]], axis=0) == pytest.approx(0, abs=0.1)


def test_the_same_atoms_give_the_same_bits_and_each_is_fitted_for_itself():
    atoms = drawn(4)[1] + 0.1 * np.random.default_rng(0).normal(size=(4, 12, 12))
    threads = torch.get_num_threads()
    try:
        once = as_rows(fit_gabors(atoms))
        torch.set_num_threads(2)
        np.testing.assert_array_equal(as_rows(fit_gabors(atoms)), once)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(as_rows(fit_gabors(atoms[2:3])), once[2:3], atol=1e-6)


def test_size_and_sign_of_an_atom_change_amplitude_and_phase_alone():
    _, atoms = drawn(10)
    once, other = fit_gabors(atoms), fit_gabors(-1e6 * atoms)
    wanted = as_rows(once)
    wanted[:, 4] += np.pi
    found = as_rows(other)
    np.testing.assert_allclose(other.amplitude, 1e6 * once.amplitude, rtol=1e-6)
    found[:, 7] /= 1e6
    same(found, wanted)


@pytest.mark.parametrize("number", [0.0, 0.1, -3.0])
def test_an_atom_of_one_number_explains_nothing(number):
    fits = fit_gabors(np.full((2, 6, 6), number))
    assert fits.r2.tolist() == [0, 0]
    assert np.isfinite(as_rows(fits)).all()


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 1 + 1, 9), (0, 12, 12)])
def test_small_atoms_and_none_at_all(shape):
    fits = fit_gabors(np.random.default_rng(0).normal(size=shape))
    assert len(fits) == shape[0]
    assert np.isfinite(as_rows(fits)).all()


def test_one_pixel_and_a_checkerboard_are_fitted():
    pixel, board = np.zeros((12, 12)), np.indices((12, 12)).sum(0) % 2 - 0.5
    pixel[5, 7] = 1
    fits = fit_gabors(np.stack([pixel, board]))
    assert fits.r2.min() > 0.95
    assert (fits.x[0], fits.y[0]) == pytest.approx((7, 5), abs=0.2)
    assert fits.frequency[1] == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_a_mask_or_positions_select_fits():
    fits = fit_gabors(drawn(4)[1])
    np.testing.assert_array_equal(fits.select(np.array([False, True, False, True])).x, fits.x[[1, 3]])
    np.testing.assert_array_equal(fits.select([2, 0]).phase, fits.phase[[2, 0]])


def test_the_derivatives_are_those_of_the_function():
    grid = Grid.of(5, 7)
    rng = torch.Generator().manual_seed(0)
    params = torch.randn(3, 8, generator=rng, dtype=torch.float64) * 0.4 + torch.tensor(
        [3.0, 2, 1, 0.2, 0.5, 0.7, 1, -0.5], dtype=torch.float64
    )
    for one in params:
        wanted = torch.autograd.functional.jacobian(lambda p: gabor(p[None], grid)[0][0], one)
        torch.testing.assert_close(gabor(one[None], grid)[1][0], wanted, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    "atoms", [np.zeros((12, 12)), np.zeros((2, 12, 12, 3)), np.zeros((2, 1, 12)), np.full((1, 4, 4), np.nan)]
)
def test_what_is_no_atom_is_refused(atoms):
    with pytest.raises(ChainruleError, match="a Gabor function is fitted to finite numbers"):
        fit_gabors(atoms)
