"""Muon: orthogonal steps of matrices, Adam for the rest, and a state that can be kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from chainrule.chains.gpt import GPT
from chainrule.muon import Muon, between_layers, orthogonal
from chainrule.train import Plan, Training


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_directions_stay_and_singular_values_come_near_1(count, rows, columns, seed):
    x = random(count, rows, columns, seed=seed)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    found = u.mT @ orthogonal(x) @ v.mT  # diagonal, if the directions are those of x
    torch.testing.assert_close(found, torch.diag_embed(found.diagonal(dim1=1, dim2=2)), atol=1e-9, rtol=0)
    large = found.diagonal(dim1=1, dim2=2)[s > 0.05 * s.norm(dim=1, keepdim=True)]
    assert ((large > 0.6) & (large < 1.25)).all()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_steps_are_those_of_pytorch(shape):
    ours, theirs = (nn.Parameter(random(*shape).float()) for _ in range(2))
    other = nn.Parameter(torch.zeros(3))
    settings = {"lr": 0.1, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = (
        Muon([ours], [other], half=True, lr=0.1),
        torch.optim.Muon([theirs], momentum=0.95, **settings),
    )
    for step in range(3):
        for w, optimizer in zip((ours, theirs), optimizers, strict=True):
            w.grad = random(*shape, seed=step).float()
            optimizer.step()
            optimizer.zero_grad()
            assert w.grad is None
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)  # theirs is in bfloat16, too


def test_matrices_of_one_shape_do_not_meet():
    alone, first, second = (nn.Parameter(torch.zeros(4, 3)) for _ in range(3))
    for matrices in ([alone], [first, second]):
        optimizer = Muon(matrices, [nn.Parameter(torch.zeros(1))], lr=0.1)
        for seed, w in enumerate(matrices):
            w.grad = random(4, 3, seed=seed).float()
        optimizer.step()
    torch.testing.assert_close(alone, first)
    assert (first != second).all()


def test_only_what_lies_between_layers_is_a_matrix():
    chain = GPT(symbols=5, tied=False, **GPT.SIZES["tiny"])
    names = {name for name, p in chain.named_parameters() if any(p is m for m in between_layers(chain))}
    wanted = {f"layers.{i}.{part}.weight" for i in range(2) for part in ("ask", "answer", "up", "down")}
    assert names == wanted
    assert not between_layers(nn.Linear(2, 2))


def test_the_state_is_whole_from_the_start_and_a_training_goes_on_from_it():
    def training():
        torch.manual_seed(1)
        chain = GPT(symbols=5, **GPT.SIZES["tiny"])

        def batch_at(step):
            x = torch.randint(5, (2, 8), generator=torch.Generator().manual_seed(step))
            return x, torch.cat([torch.full((2, 1), -1), x[:, :-1]], 1)

        return Training(chain, batch_at, Plan(steps=6, muon=True), chain.rest(2))

    whole, first, second = training(), training(), training()
    assert training().arrays()[0].keys() == whole.arrays()[0].keys()
    assert any(name.endswith("momentum") for name in whole.arrays()[0])
    for _ in whole:
        pass
    for state in first:
        if state.step == 3:
            break
    second.restore(*first.arrays())
    for _ in second:
        pass
    for name, tensor in whole.arrays()[0].items():
        assert torch.equal(tensor, second.arrays()[0][name]), name
