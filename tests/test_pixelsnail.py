"""PixelSNAIL: attention to all earlier pixels and to no other, and the published size."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains import pixelsnail as module
from chainrule.chains.pixelsnail import Attention, PixelSNAIL, earlier
from chainrule.errors import ChainruleError
from contracts import check_causality, check_engine, check_extremes, check_padding, events, randomised

EVENT = (4, 5, 1)


def tiny(event=EVENT, **settings):
    """The tiny chain with random weights, in float64."""
    options = {**PixelSNAIL.SIZES["tiny"], "symbols": 3, "channels": event[-1], **settings}
    return randomised(PixelSNAIL(**options), event)


def said(key, value, spread=1.0, n=12, batch=3):
    """Random queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    return [
        spread * torch.randn(batch, n, d, generator=generator, dtype=torch.float64) for d in (key, key, value)
    ]


def by_loops(query, keys, values):
    """The formula of `Attention`, a pixel at a time."""
    told = np.zeros(values.shape)
    for b in range(len(query)):
        for t in range(len(query[b])):
            scores = [0.0] + [query[b, t] @ keys[b, j] / np.sqrt(query.shape[-1]) for j in range(t)]
            shares = np.exp(np.array(scores) - max(scores))
            for j in range(t):
                told[b, t] += shares[1 + j] / shares.sum() * values[b, j]
    return told


@pytest.mark.parametrize(("key", "value"), [(4, 4), (3, 7), (5, 2), (1, 1), (16, 128)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_attention_is_a_softmax_over_the_pixels_before(key, value, spread):
    given = said(key, value, spread)
    found = earlier(*given)
    assert found.shape == given[2].shape
    np.testing.assert_allclose(
        found.numpy(), by_loops(*(x.numpy() for x in given)), rtol=1e-9, atol=1e-12 * spread
    )


@pytest.mark.parametrize("n", [1, 2, 12, 784])
def test_the_first_pixel_is_told_zeros_and_has_finite_gradients(n):
    for spread in (1.0, 1e8):
        given = [x.requires_grad_() for x in said(4, 6, spread, n)]
        told = earlier(*given)
        assert (told[:, 0] == 0).all()
        assert told.isfinite().all()
        told.square().sum().backward()
        assert all(x.grad.isfinite().all() for x in given)
        assert (given[0].grad[:, 0] == 0).all()


@pytest.mark.parametrize("spread", [1e3, 1e8])
def test_the_largest_scores_do_not_leak(spread):
    """A pixel whose key fits all queries by far, itself or later: it changes no bit."""
    query, keys, values = said(4, 6)
    query = query.abs() * spread
    for j in range(query.shape[1]):
        louder = keys.clone()
        louder[:, j] = spread
        other = values.clone()
        other[:, j] += 1
        before, after = earlier(query, keys, values), earlier(query, louder, other)
        assert torch.equal(before[:, : j + 1], after[:, : j + 1])
        if j + 1 < query.shape[1]:
            assert (before[:, j + 1 :] != after[:, j + 1 :]).any(-1).all(), "later pixels do not hear it"


def without_mask(query, keys, values):
    return F.scaled_dot_product_attention(query, *(F.pad(x[:, :-1], (0, 0, 1, 0)) for x in (keys, values)))


def of_its_own(query, keys, values):
    return F.scaled_dot_product_attention(query, keys, values, is_causal=True)


def with_a_small_mask(query, keys, values):
    later = torch.ones(query.shape[1], keys.shape[1], dtype=torch.bool).triu(1)
    keys, values = (F.pad(x[:, :-1], (0, 0, 1, 0)) for x in (keys, values))
    scores = query @ keys.transpose(1, 2) / query.shape[-1] ** 0.5 - 1e4 * later
    return scores.softmax(-1) @ values


@pytest.mark.parametrize("broken", [without_mask, of_its_own])
@pytest.mark.parametrize("event", [EVENT, (3, 3, 3)])
def test_attention_to_the_pixel_itself_or_to_later_ones_is_caught(monkeypatch, broken, event):
    monkeypatch.setattr(module, "earlier", broken)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(tiny(event), event)


def test_a_mask_that_large_scores_beat_is_caught(monkeypatch):
    event = (2, 3, 1)
    check_extremes(tiny(event), event)
    monkeypatch.setattr(module, "earlier", with_a_small_mask)
    check_causality(tiny(event), event)
    with pytest.raises(AssertionError, match="leaks into"):
        check_extremes(tiny(event), event)


def test_without_attention_it_knows_a_neighbourhood_only(monkeypatch):
    event = (6, 9, 1)
    check_causality(tiny(event), event)
    monkeypatch.setattr(module, "earlier", lambda query, keys, values: torch.zeros_like(values))
    with pytest.raises(AssertionError, match="must reach, and does not"):
        check_causality(tiny(event), event)


def test_attention_knows_the_pixel_before_whatever_row_it_is_in():
    """Keys and values hold the levels of their own pixel: also those of the last of a row, for the next one's first."""
    attention = Attention(4, 1, 2, 3, 0.0).double()
    h, place = torch.randn(1, 4, 3, 5, dtype=torch.float64), torch.randn(1, 2, 3, 5, dtype=torch.float64)
    levels = torch.randn(1, 1, 3, 5, dtype=torch.float64).requires_grad_()
    told = attention(h, levels, place).flatten(2)  # (1, value, 15)
    for t in range(15):
        (gradient,) = torch.autograd.grad(told[0, :, t].sum(), levels, retain_graph=True)
        assert ((gradient.flatten() != 0) == (torch.arange(15) < t)).all()


@pytest.mark.parametrize("event", [(6, 6, 1), (5, 4, 3)])
def test_padding_is_no_level_without_coordinates_and_attention_either(monkeypatch, event):
    monkeypatch.setattr(
        module, "coordinates", lambda x, like: torch.zeros_like(like[:, :1]).repeat(1, 2, 1, 1)
    )
    monkeypatch.setattr(module, "earlier", lambda query, keys, values: torch.zeros_like(values))
    check_padding(tiny(event), event)


@pytest.mark.parametrize(("key", "value"), [(5, 2), (3, 3), (2, 17)])
def test_the_step_program_has_one_width_for_keys_and_values(key, value):
    check_engine(tiny(key=key, value=value), EVENT)


@pytest.mark.parametrize("settings", [{"blocks": 1, "layers": 3}, {"blocks": 3, "layers": 1}], ids=str)
def test_other_depths(settings):
    chain = tiny((3, 4, 3), classes=2, **settings)
    check_causality(chain, (3, 4, 3))
    check_engine(chain, (3, 4, 3))


def test_mixed_precision_has_the_same_loss_and_gradients():
    torch.manual_seed(0)
    chain = PixelSNAIL(**{**PixelSNAIL.SIZES["tiny"], "symbols": 3})
    x, losses, gradients = events(chain, (8, 8, 1), 4), [], []
    for mixed in (False, True):
        chain.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = chain.loss(x)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in chain.parameters()]))
    assert abs(losses[0] - losses[1]) < 0.02
    assert F.cosine_similarity(*gradients, 0) > 0.98


def gated(width, taps=1, skip=0):
    """Parameters of a gated residual layer: W₁, W₂ and W₃; a bias and a gain for each map."""
    return 3 * taps * width**2 + 6 * width + (skip * width + 2 * width if skip else 0)


def normalised(c_in, c_out):
    """Parameters of a 1 × 1 convolution with a bias and a gain for each map."""
    return c_in * c_out + 2 * c_out


def test_the_paper_size_has_46_2_million_parameters():
    """With plain elu(x). With elu(x, -x), the default of the authors' code, there would be 91.7 million."""
    with torch.device("meta"):
        chain = PixelSNAIL(symbols=256, channels=3, **PixelSNAIL.SIZES["paper"])
    f, key, value, levels, place = 256, 16, 128, 3, 2 * 3
    content, question = levels + f + place, f + place
    attention = (
        gated(content) + normalised(content, key + value) + gated(question) + normalised(question, key)
    )
    block = 4 * gated(f, taps=4) + attention + gated(f, skip=value)
    first = (3 + 2) * (levels + 1) * f + 2 * 2 * f
    expected = first + 12 * block + normalised(f, 10 * 10)
    assert sum(p.numel() for p in chain.parameters()) == expected == 46_180_788


@pytest.mark.parametrize("option", ["width", "blocks", "layers", "key", "value", "mixtures"])
def test_wrong_sizes_are_refused(option):
    with pytest.raises(ChainruleError, match=f"{option} is 0"):
        store.build("pixelsnail", {**PixelSNAIL.SIZES["tiny"], option: 0}, CHAINS)
