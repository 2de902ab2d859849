"""PixelCNN++: a mixture of logistics that is a distribution whatever its parameters, and the published sizes."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import special

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains.pixelcnn_pp import PixelCNNpp
from chainrule.engine import identity, program_of
from chainrule.engine.device import log_mass
from chainrule.errors import ChainruleError
from chainrule.layers.logistic import LogisticHead
from contracts import check_causality, randomised
from reach import pixelcnn_pp

EXTREMES = [0.0, 1.0, -1.0, 0.3, 30.0, -1e4, 1e6]


@pytest.mark.parametrize("symbols", [1, 2, 3, 8, 256])
def test_the_masses_of_all_levels_add_up_to_one(symbols):
    """To 1e-9 in double precision, for means far outside and scales from a spike to flat."""
    means = torch.tensor(EXTREMES, dtype=torch.float64)[:, None, None]
    scales = torch.tensor([-1e3, -7.0, -3.0, 0.0, 2.0, 7.0, 50.0], dtype=torch.float64)[:, None]
    masses = log_mass(torch.arange(symbols), means, scales, symbols).exp()  # (means, scales, K)
    assert masses.shape == (7, 7, symbols)
    np.testing.assert_allclose(masses.sum(-1).numpy(), 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("symbols", [2, 5, 256])
def test_a_mass_is_the_difference_of_the_distribution_function_at_the_edges(symbols):
    """Equation 2 of the paper: half a level to either side, the ends to infinity."""
    for mean in (-0.7, 0.1, 1.2):
        for scale in (-2.0, 0.5):
            levels = np.arange(symbols)
            edges = (2 * levels[:-1] + 1) / (symbols - 1) - 1  # half-width 1/(K - 1)
            below = special.expit((edges - mean) / math.exp(scale))
            expected = np.diff(np.concatenate([[0], below, [1]]))
            mean_, scale_ = torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
            found = log_mass(torch.arange(symbols), mean_, scale_, symbols).exp().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_the_mixture_sums_over_channels_before_it_sums_over_logistics():
    """log Σ_j π_j ∏_c mass_jc, with means moved by the channels before: equation 3, one pixel at a time."""
    torch.manual_seed(0)
    head, j, k = LogisticHead(5, 3, 7, 4).double(), 4, 7
    h, x = torch.randn(2, 3, 1, 5, dtype=torch.float64), torch.randint(k, (2, 3, 1, 3))
    with torch.no_grad():
        said, found = head.out(h).numpy(), head.log_probs(h, x).sum(-1).numpy()
    for place in np.ndindex(2, 3, 1):
        w, *rest = np.split(said[place], said.shape[-1] // j)
        means, scales, (rg, rb, gb) = rest[:3], rest[3:6], np.tanh(rest[6:])
        level = x[place].numpy() * 2 / (k - 1) - 1
        moved = [means[0], means[1] + rg * level[0], means[2] + rb * level[0] + gb * level[1]]
        total = w - special.logsumexp(w)
        for c in range(3):
            t = torch.from_numpy
            total = total + log_mass(x[place][c], t(moved[c]), t(scales[c]), k).numpy()
        np.testing.assert_allclose(found[place], special.logsumexp(total), rtol=1e-12)


def test_the_paper_size_has_53_66_million_parameters():
    with torch.device("meta"):
        chain = PixelCNNpp(symbols=256, channels=3, **PixelCNNpp.SIZES["paper"])
    f, plane = 160, 4
    u, left = (
        6 * 6 * f * f + 6 * f,
        (4 * 2 + 2 + 4 * 4) * f * f + 8 * f,
    )  # W₁, W₃, W₂; a bias and a gain for each map
    up_u, up_left = u + 2 * f * f + 2 * f, left + 2 * f * f
    resample = 2 * (6 + 4) * f * f * 2 + 2 * 2 * 4 * f
    first = (6 + 3 + 2) * plane * f + 6 * f
    expected = 15 * (u + left) + 17 * (up_u + up_left) + resample + first + 100 * (f + 2)
    assert sum(p.numel() for p in chain.parameters()) == expected == 53_659_080


@pytest.mark.parametrize("event", [(9, 11, 1), (7, 6, 3)])
def test_odd_sides_go_down_and_up_again(event):
    options = {**PixelCNNpp.SIZES["tiny"], "layers": 2, "symbols": 3, "channels": event[2]}
    check_causality(randomised(PixelCNNpp(**options), event), event, pixelcnn_pp)


def test_a_coarse_map_that_is_read_too_late_is_caught(monkeypatch):
    """Upsampling that begins a row early would see what comes below."""
    from chainrule.chains import pixelcnn_pp as module

    event = (9, 9, 1)
    forward = module.Grow.forward

    def early(self, u, left, size):
        u, left = forward(self, u, left, size)
        return torch.roll(u, -1, 2), left

    monkeypatch.setattr(module.Grow, "forward", early)
    chain = randomised(PixelCNNpp(**PixelCNNpp.SIZES["tiny"], symbols=3), event)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, event, pixelcnn_pp)


@pytest.mark.parametrize("option", ["mixtures", "layers", "width"])
def test_wrong_sizes_are_refused(option):
    with pytest.raises(ChainruleError, match=f"{option} is 0"):
        store.build("pixelcnn-pp", {**PixelCNNpp.SIZES["tiny"], option: 0}, CHAINS)


IDENTITY = """
import sys
from chainrule import store
from chainrule.chains import CHAINS
from chainrule.engine import identity, program_of
print(identity(program_of(store.parse(open(sys.argv[1], "rb").read(), CHAINS)[0])))
"""


def test_a_file_has_the_same_program_whatever_vectors_pytorch_uses(tmp_path):
    """Its weights are normalised by a sum, which PyTorch adds up as suits the processor."""
    chain = store.build("pixelcnn-pp", {"symbols": 4, **PixelCNNpp.SIZES["laptop"]}, CHAINS)
    with torch.no_grad():
        for p in chain.parameters():
            p += 0.1 * torch.rand(p.shape, generator=torch.Generator().manual_seed(0))
    (tmp_path / "model").write_bytes(store.dump(chain, CHAINS))
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", IDENTITY, str(tmp_path / "model")]
    found = subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout
    assert found.strip() == identity(program_of(chain))
