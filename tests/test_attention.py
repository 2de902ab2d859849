"""Attention of blocks with its gradient written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from chainrule.layers import attention as at
from chainrule.layers.attention import attention

SIZES = st.integers(1, 5)


def asked(rows, heads, size, width, seed=0):
    """Queries, keys, values (R, heads, S, d) in double precision, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, rows, heads, size, width, generator=generator, dtype=torch.float64).requires_grad_()


def masks(rows, size):
    """Random (R, 1, S, S), each position looking at itself at least."""
    drawn = torch.rand(rows, 1, size, size, generator=torch.Generator().manual_seed(1)) < 0.5
    return drawn | torch.eye(size, dtype=torch.bool)


@given(SIZES, SIZES, SIZES, SIZES, st.booleans(), st.integers(1, 40))
def test_it_is_that_of_pytorch_with_its_gradient(rows, heads, size, width, masked, cached):
    x = asked(rows, heads, size, width)
    mask = masks(rows, size) if masked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at, "CACHED", cached)  # rows in pieces
        found = attention(*x, mask)
        wanted = F.scaled_dot_product_attention(*x, mask, is_causal=not masked)
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
        weight = torch.randn_like(found)
        by_found, by_wanted = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted))
        torch.testing.assert_close(by_found, by_wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("masked", [True, False])
def test_the_gradient_is_right_under_dropout(masked):
    def once(*x):
        torch.manual_seed(3)
        return attention(*x, masks(2, 4) if masked else None, 0.4)

    assert torch.autograd.gradcheck(once, asked(2, 3, 4, 2).unbind())


def test_large_scores_beat_no_mask():
    q, k, v = (1e6 * x for x in asked(1, 1, 4, 2).unbind())
    v = v.detach().requires_grad_()
    by = torch.autograd.grad(attention(q, k, v)[:, :, 1].sum(), v)[0]
    assert by[:, :, :2].any()
    assert not by[:, :, 2:].any()


def test_long_blocks_and_other_devices_take_the_attention_of_pytorch(monkeypatch):
    x = asked(1, 2, 9, 4)
    wanted = attention(*x)
    monkeypatch.setattr(at, "LONGEST", 8)
    monkeypatch.setattr(at, "Attention", None)
    torch.testing.assert_close(attention(*x), wanted)
