"""Image Transformer: blocks equal to a dense mask, exact reach in one dimension and two, the published size."""

import inspect

import numpy as np
import pytest
import torch

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.chains import image_transformer as module
from chainrule.chains.image_transformer import Before, ImageTransformer, Near
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from contracts import (
    both,
    check_causality,
    check_engine,
    check_extremes,
    check_gradients,
    check_items_are_independent,
    check_overfits,
    check_padding,
    check_samples,
    check_smallest,
    check_store,
    check_sums_to_one,
    check_walk,
    events,
    randomised,
)
from reach import REACH

REACHED = REACH["image-transformer"]
SHAPES = [(1, 1), (1, 9), (9, 1), (5, 7), (9, 4), (6, 6), (3, 11), (13, 10)]  # few are whole blocks
LOOKS = [Before(n) for n in (1, 2, 5, 16, 1000)]
LOOKS += [Near(rows, columns) for rows in (1, 2, 5) for columns in (1, 3, 20)]


def tiny(event, symbols=3, classes=0, **settings):
    options = {**ImageTransformer.SIZES["tiny"], "symbols": symbols, "channels": event[2], "classes": classes}
    return randomised(ImageTransformer(**{**options, **settings}), event)


# ---- blocks and dense masks -------------------------------------------------------------------------------


def dense_mask(look, height, width):
    """(n, n): which pixels a pixel looks at, from the definitions."""
    t = np.arange(height * width)
    row, column = t // width, t % width
    if isinstance(look, Before):
        return (t[None] <= t[:, None]) & (t[:, None] - t[None] < look.length)
    up, right = row[:, None] - row[None], column[None] - column[:, None]
    return (t[None] <= t[:, None]) & (up <= look.rows) & (abs(right) <= look.columns)


def dense_attention(look, q, k, v):
    """softmax(q kᵀ / √d) v with -inf wherever the mask says no: all n × n scores."""
    height, width = q.shape[1:3]
    q, k, v = (z.flatten(1, 2) for z in (q, k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~torch.from_numpy(dense_mask(look, height, width)), -np.inf)
    return (scores.softmax(-1) @ v).unflatten(1, (height, width))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("size", [1, 1e3, 1e8])
def test_blocks_equal_a_dense_mask_with_gradients_and_large_scores(look, shape, size):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, *shape, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    found, expected = [], []
    for attention, results in ((look, found), (lambda *qkv: dense_attention(look, *qkv), expected)):
        q, k, v = (z.clone().requires_grad_() for z in inputs[:3])
        seen = attention(q * size, k, v)
        results += [seen, *torch.autograd.grad((seen * inputs[3]).sum(), [q, k, v])]
    for a, b in zip(found, expected, strict=True):
        assert a.isfinite().all()
        scale = max(1.0, float(b.detach().abs().max()))
        rounding = 1e-9 * scale + 1e-14 * size  # the gradient of k is a difference of numbers so large
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-8, atol=rounding)


@pytest.mark.parametrize("look", [Before(5), Near(2, 1)], ids=str)
def test_what_comes_later_adds_nothing_however_large(look):
    """In single precision, with scores of 1e30 among what is masked: they would beat a mask of −10,000."""
    q, k, v = torch.randn(3, 2, 5, 7, 4, generator=torch.Generator().manual_seed(1))
    before = look(q, k, v).flatten(1, 2)
    for z in (k, v):
        z.flatten(1, 2)[:, 20:] = 1e30
    after = look(q, k, v).flatten(1, 2)
    assert (after[:, :20] == before[:, :20]).all()


@pytest.mark.parametrize("look", [Before(7), Near(2, 3)], ids=str)
def test_no_block_is_as_long_as_the_image(look, monkeypatch):
    """Scores are n · O(length): never a dense n × n mask."""
    counts = {}

    def counted(q, k, v, mask):
        counts[len(counts)] = q.shape[1] * q.shape[2] * k.shape[2]
        assert mask.shape == (1, q.shape[1], q.shape[2], k.shape[2])
        return q

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", counted)
    for side in (14, 28, 56):
        look(*torch.zeros(3, 1, side, side, 2))
    seen = 7 if isinstance(look, Before) else 3 * 7
    assert all(counts[i] <= 5 * seen * side * side for i, side in enumerate((14, 28, 56)))
    assert counts[2] <= 4.5 * counts[1]


# ---- what a conditional sees ------------------------------------------------------------------------------

REACHES = [
    {"length": 1},
    {"length": 3, "layers": 3},
    {"length": 6, "layers": 1},
    {"length": 1000},
    {"attention": "2d"},
    {"attention": "2d", "rows": 2, "columns": 1, "layers": 1},
    {"attention": "2d", "rows": 1, "columns": 3},
    {"attention": "2d", "rows": 50, "columns": 50, "layers": 1},
]


@pytest.mark.parametrize("training", [False, True], ids=["in use", "in training"])
@pytest.mark.parametrize("settings", REACHES, ids=str)
@pytest.mark.parametrize("event", [(7, 6, 1), (4, 5, 3)], ids=str)
def test_a_conditional_depends_on_exactly_what_the_layers_reach(event, settings, training):
    check_causality(tiny(event, **settings), event, REACHED, training)


def test_in_one_dimension_reach_grows_by_length_less_one_a_layer():
    """The first window reaches 1 pixel to the left and 1 row up: the rest is arithmetic."""
    event, kernel = (12, 9, 1), 3
    for length, layers in [(4, 1), (4, 3), (7, 2)]:
        chain = tiny(event, length=length, layers=layers, first_kernel=kernel)
        known = REACHED(chain, event)[-1]
        furthest = 9 + 1 + layers * (length - 1)
        assert len(known) - 1 - np.nonzero(known)[0].min() == furthest


ATTENTIONS = pytest.mark.parametrize("attention", ["1d", "2d"])


@ATTENTIONS
@pytest.mark.parametrize("classes", [0, 2])
def test_both_kinds_keep_the_contract_of_a_chain(attention, classes):
    """As `test_chains.py` has it for the tiny size, which is 1d."""
    small, event = (2, 3, 1), (5, 4, 3)
    chain = tiny(small, classes=classes, attention=attention)
    check_sums_to_one(chain, small)
    check_extremes(chain, small)
    check_smallest(chain, small)
    check_samples(chain, small)
    chain = tiny(event, classes=classes, attention=attention)
    check_items_are_independent(chain, event, training=True)
    check_gradients(chain, event)
    check_walk(chain, (2, 3, 3))
    check_store(chain.float(), event, CHAINS)


@ATTENTIONS
def test_both_kinds_can_learn_a_batch_and_tell_padding_from_levels(attention):
    check_padding(tiny((9, 9, 1), attention=attention, units=0, head=32), (9, 9, 1))
    torch.manual_seed(0)
    options = {**ImageTransformer.SIZES["tiny"], "symbols": 4, "attention": attention}
    check_overfits(ImageTransformer(**options), (5, 7, 1))


@ATTENTIONS
def test_dropout_leaks_nothing_and_is_off_in_use(attention):
    event = (5, 6, 1)
    chain, plain = tiny(event, attention=attention, dropout=0.5), tiny(event, attention=attention)
    check_causality(chain, event, None, training=True)
    x = events(chain, event, 2)
    assert torch.equal(both(chain, x, None), both(plain, x, None))
    assert not torch.equal(both(chain.train(), x, None), both(plain, x, None))


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("settings", [{"length": 1}, {"length": 7, "heads": 4}, {"units": 0, "length": 100}])
def test_the_step_program_of_one_dimension_is_the_parallel_network(settings, classes):
    for event in [(6, 5, 1), (3, 4, 3)]:
        check_engine(tiny(event, classes=classes, **settings), event)


def test_two_dimensions_have_no_step_program():
    assert program_of(tiny((4, 4, 1))) is not None
    assert program_of(tiny((4, 4, 1), attention="2d")) is None


def test_the_class_and_the_place_change_the_first_conditional():
    chain, event = tiny((4, 5, 1), classes=2), (4, 5, 1)
    x = events(chain, event, 4)
    first, second = (both(chain, x, torch.full((4,), c)) for c in (0, 1))
    assert (first != second).any(-1).all()
    with torch.no_grad():
        chain.coordinates.out.weight.zero_()
    assert (both(chain, x, torch.zeros(4, dtype=torch.long)) != first).any(-1).all()


# ---- damaged chains are caught ----------------------------------------------------------------------------


def test_a_mask_that_lets_the_next_pixel_through_is_caught(monkeypatch):
    seen = module.seen_before

    def ahead(blocks, size, device):
        return torch.roll(seen(blocks, size, device), 1, -1) | seen(blocks, size, device)

    monkeypatch.setattr(module, "seen_before", ahead)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(tiny((5, 6, 1)), (5, 6, 1), REACHED)


def test_a_mask_that_lets_the_row_right_of_a_pixel_through_is_caught(monkeypatch):
    seen = module.seen_near
    monkeypatch.setattr(module, "seen_near", lambda *args: torch.ones_like(seen(*args)))
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(tiny((5, 6, 1), attention="2d"), (5, 6, 1), REACHED)


@pytest.mark.parametrize("attention", ["1d", "2d"])
def test_a_mask_that_sees_too_little_is_caught(monkeypatch, attention):
    def own(look, q, k, v):
        return v

    monkeypatch.setattr(Before if attention == "1d" else Near, "__call__", own)
    with pytest.raises(AssertionError, match="must reach"):
        check_causality(tiny((5, 6, 1), attention=attention), (5, 6, 1), REACHED)


def test_an_input_that_is_not_shifted_is_caught(monkeypatch):
    made = module.Causal.__init__
    monkeypatch.setattr(
        module.Causal, "__init__", lambda self, c_in, c_out, n, own=True: made(self, c_in, c_out, n)
    )
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(tiny((5, 6, 1)), (5, 6, 1), REACHED)


def test_a_program_with_another_length_is_caught(monkeypatch):
    step = Before.program
    monkeypatch.setattr(Before, "program", lambda look, *args: step(Before(look.length + 1), *args))
    with pytest.raises(AssertionError, match="differ"):
        check_engine(tiny((5, 6, 1)), (5, 6, 1))


# ---- sizes and refusals -----------------------------------------------------------------------------------


def parameters(symbols, channels, width, layers, inner, first_kernel, embedding, units, head, classes=0):
    """Of the embeddings, the first window, the coordinates, the layers and the head."""
    first = (channels + 1 + embedding) * (first_kernel**2 // 2) * width + width
    start = channels * symbols * embedding + first + 3 * units + units * width + classes * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width
    tables = sum(symbols * (channels - 1 - c) * head for c in range(channels - 1))
    ending = channels * head * (width + 1) + tables + channels * symbols * (head + 1)
    return start + layers * layer + ending


@pytest.mark.parametrize("size", ["tiny", "laptop", "paper"])
@pytest.mark.parametrize("settings", [(2, 1, 0), (256, 3, 10)], ids=str)
def test_the_sizes_have_the_parameters_of_the_formula(size, settings):
    symbols, channels, classes = settings
    with torch.device("meta"):
        chain = ImageTransformer(symbols, channels, classes, **ImageTransformer.SIZES[size])
    counted = set(inspect.signature(parameters).parameters)
    expected = parameters(**{name: value for name, value in chain.args.items() if name in counted})
    assert sum(p.numel() for p in chain.parameters()) == expected


def test_the_paper_size_has_the_layers_of_the_publication():
    """Twelve layers of 512 numbers with four heads, feed-forward 2048: 37.8 million weights in the layers."""
    with torch.device("meta"):
        chain = ImageTransformer(channels=3, **ImageTransformer.SIZES["paper"])
    assert (len(chain.layers), chain.layers[0].heads, chain.layers[0].look) == (12, 4, Before(256))
    assert sum(p.numel() for p in chain.layers.parameters()) == 12 * (4 * 512 * 513 + 2 * 512 * 2048 + 2560)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({name: 0}, f"{name} is 0: take 1 or more") for name in ("length", "rows", "columns", "heads")],
        *[({name: -1}, f"{name} is -1: take 1 or more") for name in ("inner", "embedding", "head", "layers")],
        ({"units": -1}, "units is -1: take 0 or more"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"heads": 3}, "a width of 8 cannot be shared by 3 heads: take a multiple"),
        ({"attention": "3d"}, "there is no attention '3d': choose from 1d, 2d"),
        ({"first_kernel": 4}, "a kernel of 4 has no centre"),
        ({"first_kernel": 1}, "a kernel of 1 has no pixel but its own"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, message):
    with pytest.raises(ChainruleError, match=message) as caught:
        store.build("image-transformer", {**ImageTransformer.SIZES["tiny"], **options}, CHAINS)
    assert "\n" not in str(caught.value)


def test_wrong_images_are_refused_in_one_line():
    chain = tiny((4, 4, 1), classes=2)
    with pytest.raises(ChainruleError, match=r"shape \(2, 4, 4, 3\), the model takes \(n, H, W, 1\)"):
        chain.logits(torch.zeros(2, 4, 4, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ChainruleError, match="conditioned on 2 classes"):
        chain.logits(torch.zeros(2, 4, 4, 1, dtype=torch.long))
