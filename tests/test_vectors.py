"""The vector loops beside NumPy: every length, both precisions, at places that are no multiple of a vector."""

import numpy as np
import pytest

from chainrule import jit
from chainrule.layers import vectors

LENGTHS = pytest.mark.parametrize("count", [1, 5, 7, 8, 9, 16, 31, 64, 200])
KINDS = pytest.mark.parametrize("kind", [np.float32, np.float64])
U = np.uint64


@jit.compiled
def run_axpy(y, at_y, x, at_x, count, factor):
    vectors.axpy(y, at_y, x, at_x, count, factor)


@jit.compiled
def run_xpay(y, at_y, x, at_x, count, factor):
    vectors.xpay(y, at_y, x, at_x, count, factor)


@jit.compiled
def run_copy(y, at_y, x, at_x, count):
    vectors.copy(y, at_y, x, at_x, count)


@jit.compiled
def run_dot(x, at_x, y, at_y, count):
    return vectors.dot(x, at_x, y, at_y, count)


@jit.compiled
def run_product(y, at_y, x, at_x, matrix, at_matrix, count, stride):
    vectors.product(y, at_y, x, at_x, matrix, at_matrix, count, stride)


@jit.compiled
def run_most_violated(c, at_c, z, at_z, g, at_g, count, penalty, both):
    return vectors.most_violated(c, at_c, z, at_z, g, at_g, count, penalty, both)


def drawn(count, kind, seed=0, at=3):
    """A run of `count` numbers that begins at `at`, zeros around it."""
    run = np.zeros(at + count + 32, kind)
    run[at : at + count] = np.random.default_rng(seed).normal(size=count)
    return run


@KINDS
@LENGTHS
def test_sums_of_runs(count, kind):
    y, x, factor = drawn(count, kind), drawn(count, kind, seed=1, at=1), kind(0.3)
    wanted = {
        run_axpy: y[3 : 3 + count] + factor * x[1 : 1 + count],
        run_xpay: x[1 : 1 + count] + factor * y[3 : 3 + count],
    }
    for run, expected in wanted.items():
        out = y.copy()
        run(out, U(3), x, U(1), U(count), factor)
        np.testing.assert_array_equal(
            out[3 : 3 + count], expected
        )  # every product and sum is rounded by itself
        np.testing.assert_array_equal(out[:3], 0)
    run_copy(y, U(3), x, U(1), U(count))
    np.testing.assert_array_equal(y[3 : 3 + count], x[1 : 1 + count])


@KINDS
@LENGTHS
def test_inner_product_in_the_order_that_is_promised(count, kind):
    x, y = drawn(count, kind), drawn(count, kind, seed=1)
    lanes = np.zeros(8, kind)
    for i in range(0, count, 8):
        lanes += x[3 + i : 11 + i] * y[3 + i : 11 + i]
    while len(lanes) > 1:
        lanes = lanes[::2] + lanes[1::2]
    assert run_dot(x, U(3), y, U(3), U(count)) == lanes[0]
    np.testing.assert_allclose(lanes[0], x @ y, rtol=1e-4, atol=1e-5)


@KINDS
@LENGTHS
def test_product_with_a_symmetric_matrix(count, kind):
    stride = (count + 16) // 16 * 16
    half = np.random.default_rng(2).normal(size=(count, count)).astype(kind)
    matrix = np.zeros((count + count % 2, stride), kind)
    matrix[:count, :count] = half + half.T
    x, y = drawn(count, kind), np.zeros(count + 40, kind)
    run_product(y, U(3), x, U(3), matrix.ravel(), U(0), U(count), U(stride))
    expected = matrix[:count, :count].astype(np.float64) @ x[3 : 3 + count]
    tolerance = 100 * np.finfo(kind).eps * np.sqrt(count)
    np.testing.assert_allclose(
        y[3 : 3 + count], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )


@KINDS
@pytest.mark.parametrize("both", [0, 1])
@pytest.mark.parametrize("count", [8, 16, 24, 64, 256])
def test_most_violated_coordinate(count, both, kind):
    rng = np.random.default_rng(count)
    for trial in range(100):
        c = rng.normal(size=count).astype(kind)
        z = (rng.normal(size=count) * (rng.random(count) < 0.3)).astype(kind)
        g = (rng.random(count) * 3 if trial % 2 else np.ones(count)).astype(kind)
        if trial % 5 == 0:
            c[:] = c[rng.integers(count, size=count) // 4]  # equal ones: the first counts
        u = c + g * z
        least = np.minimum(u + kind(0.1), 0) if both else kind(0)
        change = np.abs(np.maximum(u - kind(0.1), 0) + least - g * z)
        found = run_most_violated(c, U(0), z, U(0), g, U(0), U(count), kind(0.1), kind(both))
        assert found == change.argmax()
