"""The Sparse Transformer, and the attention that it is made of: what a query looks at, and what that costs."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from chainrule import fit, sample, score, store
from chainrule.chains import CHAINS
from chainrule.chains import sparse_transformer as sparse_transformer_module
from chainrule.chains.sparse_transformer import SparseTransformer
from chainrule.data import Dataset, load
from chainrule.engine import program_of
from chainrule.engine.kernels import run_of, runs_of
from chainrule.engine.layout import layout
from chainrule.engine.program import FIXED, LOCAL, SPREAD, STRIDED
from chainrule.errors import ChainruleError
from chainrule.layers import sparse_attention
from chainrule.layers.sparse_attention import Fixed, Strided
from chainrule.model import pick
from chainrule.verbs.compress import compress
from chainrule.verbs.training import training_options
from chainrule.verbs.unpack import decompress
from contracts import (
    check_causality,
    check_engine,
    check_gradients,
    check_walk,
    everything_before,
    randomised,
)
from reach import sparse_mask, sparse_transformer

# Child et al. 2019: arguments, the number of parameters here, and as published, in millions.
PUBLISHED = {
    "CIFAR-10": (
        {"event": (32, 32, 3), "attention": "strided", "stride": 128, "width": 256, "layers": 128, "heads": 2}
        | {"keys": 128, "inner": 512},
        59_196_928,
        59,
    ),
    "enwik8": (SparseTransformer.SIZES["paper"], 94_949_888, 95),
    "ImageNet 64 x 64": (
        {
            "event": (64, 64, 3),
            "attention": "strided",
            "stride": 128,
            "width": 512,
            "layers": 48,
            "heads": 16,
        },
        151_645_184,
        152,
    ),
    "classical music": (
        {"window": 65536, "attention": "strided", "stride": 128, "width": 512, "layers": 48, "heads": 8},
        151_905_792,
        152,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_their_numbers_of_parameters(name):
    options, count, millions = PUBLISHED[name]
    with torch.device("meta"):
        chain = SparseTransformer(**options)
    assert sum(p.numel() for p in chain.parameters()) == count
    assert round(count / 1e6) == millions


# ---- attention ------------------------------------------------------------------------------------------------


def dense(q, k, v, mask):
    """softmax(q kᵀ / √e) v where `mask` (h, n, n) allows it, of n × n scores: q, k, v (B, n, h, ·)."""
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def numbers(n, heads, e=2, d=3, batch=2, seed=0):
    """Queries, keys, values."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, n, heads, width) for width in (e, e, d)]
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def mask_of(look, n, heads):
    """(h, n, n) bool: where heads look, by the definition."""
    h, t, j = np.arange(heads)[:, None, None], np.arange(n)[:, None], np.arange(n)
    length = look.length
    if isinstance(look, Strided):
        seen = np.where(h < look.rows, t - j < length, (t - j) % length == 0)
    else:
        end = length - look.summary * (h % max(1, length // max(1, look.summary)))
        seen = (t // length == j // length) | (end - look.summary <= j % length) & (j % length < end)
    return torch.from_numpy(seen & (j <= t))


def check_look(look, n, heads, e=2, d=3, batch=2, seed=0):
    """The same numbers and gradients as of n × n scores under a mask."""
    parts = numbers(n, heads, e, d, batch, seed)
    found, wanted = look(*parts), dense(*parts, mask_of(look, n, heads))
    torch.testing.assert_close(found, wanted)
    along = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, a, b in zip(
        "qkv",
        *(torch.autograd.grad(y, parts, along, retain_graph=True) for y in (found, wanted)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"the gradient of {name}: {text}")


@pytest.mark.parametrize("scores", [1, 40, 1 << 19])
@pytest.mark.parametrize("heads", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("n", "length"), [(1, 1), (1, 4), (7, 1), (12, 4), (13, 4), (11, 4), (9, 20), (2, 3)]
)
def test_gathered_attention_is_masked_attention(monkeypatch, n, length, heads, scores):
    monkeypatch.setattr(sparse_attention, "SCORES", scores)  # few: `fixed` goes row by row
    for rows in {0, 1, heads // 2, heads} if scores == 1 else ():
        check_look(Strided(length, rows), n, heads)
    for summary in (0, 1, 2, 4, 9):
        check_look(Fixed(length, summary), n, heads)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1, 200, 1 << 19]),
    st.data(),
)
def test_gathered_attention_is_masked_attention_at_any_size(n, length, summary, heads, e, d, scores, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_attention, "SCORES", scores)
        check_look(Strided(length, data.draw(st.integers(0, heads))), n, heads, e, d, batch=1)
        check_look(Fixed(length, summary), n, heads, e, d, batch=1)


def test_no_item_at_all_is_no_error():
    for batch, n in [(0, 5), (2, 0), (0, 0)]:
        parts = [torch.zeros(batch, n, 2, 3) for _ in range(3)]
        for look in (Strided(2, 1), Fixed(2, 1)):
            assert look(*parts).shape == (batch, n, 2, 3)


@pytest.mark.parametrize("size", [1e3, 1e18])
def test_first_rows_are_numbers_whatever_the_scores(size):
    """A query looks at itself at least, so no softmax is empty; forward and backward."""
    for look in (Strided(4, 1), Fixed(4, 1)):
        parts = [(size * z.detach().float()).requires_grad_() for z in numbers(11, 2)]
        seen = look(*parts)
        assert torch.equal(seen[:, 0], parts[2][:, 0])
        seen.sum().backward()
        assert all(z.grad.isfinite().all() for z in parts)


class Largest(TorchDispatchMode):
    """Within it, the numbers of the largest tensor that any operation gave."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            self.size = max(self.size, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return found


def cost(look, n, monkeypatch):
    """(scores that are computed, numbers of the largest tensor), forward and backward, of one head of one number."""
    scores, plain = [], F.scaled_dot_product_attention

    def counted(q, k, *more, **options):
        scores.append(q.numel() // q.shape[-1] * k.shape[-2])
        return plain(q, k, *more, **options)

    with monkeypatch.context() as patch, Largest() as largest:
        patch.setattr(F, "scaled_dot_product_attention", counted)
        look(*(torch.zeros(1, n, 1, 1, requires_grad=True) for _ in range(3))).sum().backward()
    return sum(scores), largest.size


LOOKS = {
    "row": lambda length: Strided(length, 1),
    "column": lambda length: Strided(length, 0),
    "fixed": lambda length: Fixed(length, 2),
}


@pytest.mark.parametrize("name", LOOKS)
def test_time_and_memory_grow_as_n_to_the_three_halves(name, monkeypatch):
    monkeypatch.setattr(sparse_attention, "SCORES", 1 << 12)
    (few, small), (many, large) = (cost(LOOKS[name](1 << s), 1 << 2 * s, monkeypatch) for s in (4, 8))
    assert many <= 1.05 * 4096 * few, "16² positions to 256²: their number to 3/2 is 4,096 times as large"
    assert large <= 1.05 * 4096 * small
    assert large <= 4 * 256**2, "more is kept at a time than some numbers a position"


# ---- the two patterns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 8])
@pytest.mark.parametrize("attention", ["strided", "fixed"])
def test_two_layers_reach_every_position_before(attention, heads):
    for n in (1, 2, 7, 24, 25):
        for stride in (1, 2, 5, 7, 30):
            for summary in (1, 2, 4):
                options = {"attention": attention, "stride": stride, "summary": summary, "width": heads}
                chain = SparseTransformer(3, layers=2, heads=heads, window=n, **options)
                first, second = (
                    np.any([sparse_mask(chain, head, layer, n) for head in range(heads)], 0)
                    for layer in range(2)
                )
                assert (second @ first == np.tri(n, dtype=bool)).all()


def test_one_layer_does_not():
    for attention in ("strided", "fixed"):
        chain = SparseTransformer(3, (6, 4, 1), attention=attention, layers=1, heads=2, width=2, summary=1)
        seen = np.any([sparse_mask(chain, head, 0, 24) for head in range(2)], 0)
        assert not (seen == np.tri(24, dtype=bool)).all()
        assert chain.context_rule() == "whole event: the symbols before it, as far as one layer looks"


@pytest.mark.parametrize("pattern", [LOCAL, STRIDED, FIXED, SPREAD])
def test_runs_of_a_step_are_the_pattern_in_the_order_of_time(pattern):
    runs, run = runs_of.py_func, run_of.py_func
    for length in (1, 2, 3, 5):
        for summary in (0, 1, 2, 3, 7):
            looks = {LOCAL: Strided(length, 3), STRIDED: Strided(length, 0), SPREAD: Fixed(length, summary)}
            wanted = mask_of(looks.get(pattern, Fixed(length, summary)), 17, 3)
            for head, t in np.ndindex(3, 17):
                many = runs(pattern, length, summary, t)
                parts = [run(pattern, length, summary, head, t, i) for i in range(many)]
                seen = np.concatenate([first + apart * np.arange(count) for first, count, apart in parts])
                row_of = wanted[0 if pattern == FIXED else head, t]
                assert seen.tolist() == row_of.nonzero()[:, 0].tolist()
                assert many <= t // length + 1


# ---- the chain ------------------------------------------------------------------------------------------------


def small(**more):
    return SparseTransformer(**{"symbols": 5, **SparseTransformer.SIZES["tiny"], **more})


def texts(n, length, symbols=5, seed=0):
    return torch.randint(symbols, (n, length), generator=torch.Generator().manual_seed(seed))


SETTINGS = [
    {"attention": "strided", "heads": 1},
    {"attention": "strided", "heads": 3, "width": 9, "keys": 9, "classes": 2},
    {"attention": "strided", "stride": 20, "layers": 1},
    {"attention": "strided", "stride": 1, "layers": 1},
    {"attention": "fixed", "heads": 4, "stride": 4, "keys": 8},
    {"attention": "fixed", "layers": 1, "summary": 2},
    {"attention": "fixed", "summary": 0, "classes": 2},
    {"attention": "fixed", "summary": 9, "stride": None},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("shape", "more"),
    [((4, 3, 2), {"event": (4, 3, 2)}), ((30,), {"window": 13}), ((4, 5), {"window": 7})],
    ids=["image", "text", "array"],
)
def test_contracts_hold_past_several_strides_in_all_settings(shape, more, options):
    chain = randomised(small(**options, **more), shape)
    check_causality(chain, shape, sparse_transformer)
    check_engine(chain, shape)
    check_gradients(chain.double(), shape)


@pytest.mark.parametrize("attention", ["strided", "fixed"])
def test_an_image_is_seen_whole_and_a_text_in_blocks(attention):
    image = randomised(small(event=(5, 4, 1), attention=attention), (5, 4, 1))
    check_causality(image, (5, 4, 1), everything_before)
    check_walk(image, (5, 4, 1))
    assert image.context_rule() == "whole event: the symbols before it"
    text = randomised(small(attention=attention), (20,))
    i, j = np.indices((20, 20))
    check_causality(text, (20,), lambda chain, event: (j < i) & (j >= i // 7 * 7 - 1))
    check_walk(text, (20,))
    assert text.context_rule().startswith("blocks of 7: ")


def test_a_window_of_training_is_a_block():
    chain, x = randomised(small(), (18,)), texts(3, 18)
    with torch.no_grad():
        whole = chain.logits(x)
        for first in (0, 7, 14):
            part = x[:, first : first + 7]
            before = torch.cat(
                [x[:, first - 1 : first] if first else torch.full((3, 1), -1), part[:, :-1]], 1
            )
            loss, _ = chain.loss_from(chain.rest(3), part, before)
            assert math.isclose(loss, float(-pick(whole[:, first : first + 7], part).mean()), rel_tol=1e-6)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_text_that_begins_within_a_window_is_a_text_of_its_own(classes):
    chain, x = randomised(small(classes=classes), (7,)), texts(2, 7)
    before = torch.cat([torch.full((2, 1), 3), x[:, :-1]], 1)
    before[0, 4] = before[1, 2] = before[1, 3] = -1
    cuts = [(0, 0, 4, 1), (0, 4, 7, 0), (1, 0, 2, 0), (1, 2, 3, 1), (1, 3, 7, 1)]
    context = torch.zeros(2, 7, dtype=torch.long)
    alone = 0.0
    with torch.no_grad():
        for item, first, end, label in cuts:
            context[item, first:end] = label
            part, its = x[item : item + 1, first:end], before[item : item + 1, first:end]
            given = torch.full((1, end - first), label) if classes else None
            alone += float(chain.loss_from(chain.rest(1), part, its, given)[0]) * (end - first)
        loss, _ = chain.loss_from(chain.rest(2), x, before, context if classes else None)
    assert math.isclose(loss, alone / x.numel(), rel_tol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 7, 64])
def test_stretches_are_the_logits(size):
    chain, x = randomised(small(classes=2), (18,)), texts(3, 18)
    context = torch.tensor([0, 1, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.cat(list(chain.stretches(x, context, size)), 1), chain.logits(x, context)
        )


@pytest.mark.parametrize("attention", ["strided", "fixed"])
def test_a_long_text_takes_no_more_memory_than_a_block(attention):
    program = program_of(small(attention=attention, window=32).float())
    sizes = [int(layout(program, (n,), 1).dims[-1]) for n in (32, 1000, 1_000_000)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_weights_begin_with_the_sizes_of_the_paper_but_for_one_factor():
    torch.manual_seed(0)
    chain = SparseTransformer(event=(8, 8, 3), attention="strided", width=64, layers=8, inner=128)
    assert torch.equal(chain.out.weight, torch.zeros(256, 64)), "the first guess is that all levels are alike"
    layer = chain.layers[3]
    for weight, std in [
        (chain.embed.weight, 8 * 0.125 / 8),
        (torch.cat([table.weight for table in chain.places.tables]), 8 * 0.125 / 8 / math.sqrt(3)),
        (layer.ask.weight, 0.125 / 8),
        (layer.up.weight, 0.125 / 8),
        (layer.answer.weight, 8 * 0.125 / 8 / 4),  # / √(2 · 8)
        (layer.down.weight, 8 * 0.125 / math.sqrt(128) / 4),
    ]:
        assert math.isclose(float(weight.detach().std()), std, rel_tol=0.06)
    assert not any(layer.ask.bias)


def test_the_factor_changes_nothing_at_the_start(monkeypatch):
    found = []
    for larger in (1, 8):
        monkeypatch.setattr(sparse_transformer_module, "LARGER", larger)
        chain = store.build(
            "sparse-transformer", {**SparseTransformer.SIZES["tiny"], "symbols": 5}, CHAINS, seed=1
        )
        with torch.no_grad():
            found.append(chain.double()._run(texts(3, 7), None))
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)  # the norms add 10⁻⁵ to the variance


def test_the_hidden_units_are_those_of_the_paper():
    layer, u = small().layers[0].double(), torch.randn(2, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        seen = layer.look(
            *(z.unflatten(-1, (2, -1)) for z in layer.ask(layer.ask_norm(u)).split([4, 4, 8], -1))
        )
        a = layer.answer(seen.flatten(2))  # H, a, b and ff of section 5.2
        z = layer.up(layer.up_norm(u + a))
        b = layer.down(z * torch.sigmoid(1.702 * z))
        torch.testing.assert_close(layer(u), u + a + b)


def test_places_are_rows_columns_and_channels():
    image, text = small(event=(4, 3, 2)).places, small(window=8).places
    with torch.no_grad():
        for places, sides in [(image, (4, 3, 2)), (text, (3, 3))]:
            table = places.table(8)
            for t in range(8):
                at = np.unravel_index(t, sides)
                wanted = sum(side.weight[i] for side, i in zip(places.tables, at, strict=True))
                torch.testing.assert_close(table[t], wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "a width of 9 cannot be shared by 2 heads"),
        ({"keys": 3}, "a key width of 3 cannot be shared by 2 heads"),
        ({"keys": 10}, "keys is 10: take no more than the width, 8"),
        ({"attention": "dense"}, "no attention 'dense': choose from strided, fixed"),
        ({"stride": 0}, "stride is 0"),
        ({"summary": -1}, "summary is -1"),
        ({"window": 0}, "window is 0"),
        ({"inner": 0}, "inner is 0"),
        ({"event": (3, -1, 1)}, "event is"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ChainruleError, match=message):
        small(**options)


def test_images_of_another_shape_are_refused():
    chain = small(event=(4, 3, 1))
    for use in (chain.logits, chain.log_probs, lambda x: next(chain.stretches(x)), chain.loss):
        with pytest.raises(ChainruleError, match=r"shape \(3, 4, 1\), the model takes \(4, 3, 1\)"):
            use(torch.zeros(2, 3, 4, 1, dtype=torch.long))
    with pytest.raises(ChainruleError, match=r"shape \(3, 4, 1\)"):
        chain.order((3, 4, 1))
    several = Dataset([np.zeros((2, 3, 1), np.uint8), np.zeros((3, 3, 1), np.uint8)], 5, "image")
    with pytest.raises(ChainruleError, match="needs events of one shape"):
        SparseTransformer.configure(several)


def test_images_are_learned_from_whole_and_texts_in_windows():
    image = training_options("sparse-transformer", {"event": [8, 8, 1], "window": 48})
    assert (image["window"], image["carry"]) == (None, False)
    text = training_options("sparse-transformer", {"window": 48})
    assert (text["window"], text["carry"]) == (48, True)


def of_texts():
    """Two texts that repeat themselves."""
    return Dataset(
        [np.tile(np.arange(7, dtype=np.uint8), 30), np.tile(np.arange(5, dtype=np.uint8), 40)], 7, "text"
    )


@pytest.mark.parametrize("data", [partial(load, "digits"), of_texts], ids=["images", "texts"])
def test_fitted_it_samples_scores_and_codes(data, tmp_path):
    data = data()
    data = data.select(np.arange(len(data)) < 40) if data.kind == "image" else data
    more = {"steps": 30, "size": "tiny", "settings": {"width": 16, "keys": 16}, "batch": 8}
    run = fit(data, "sparse-transformer", out=tmp_path / "run", holdout=0.3, **more)
    chain = run.chain.eval()
    assert chain.args["attention"] == ("strided" if data.kind == "image" else "fixed")
    again = fit(data, resume=True, out=tmp_path / "run").chain
    assert store.sha256(chain, CHAINS) == store.sha256(again, CHAINS)
    few = data.select(np.arange(len(data)) < 2)
    found = score(chain, few)
    assert found.bits_per_dim < math.log2(data.levels), "it has not learned a thing"
    shape = data.event or (40,)
    assert sample(chain, 3, shape).shape == (3, *shape)
    compress(chain, few, tmp_path / "x.chain")
    for (_, symbols, _), x in zip(decompress(tmp_path / "x.chain"), few.x, strict=True):
        assert (symbols == x).all()
