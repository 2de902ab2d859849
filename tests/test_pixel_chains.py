"""PixelCNN, PixelRNN and RIDE: equal to plain loops over pixels, and seeing exactly what they should."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from chainrule import complete, sample, store, walk
from chainrule.chains import CHAINS
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.layers import recurrence
from chainrule.layers.conv import Causal
from chainrule.layers.pixels import scaled
from contracts import (
    both,
    check_causality,
    check_gradients,
    check_items_are_independent,
    check_samples,
    check_store,
    check_sums_to_one,
    check_walk,
    events,
    everything_before,
    mixed,
    randomised,
    reorder_weights,
)
from reach import REACH

NAMES = ["pixelcnn", "row-lstm", "diagonal-bilstm", "ride"]
RECURRENT = ["row-lstm", "diagonal-bilstm"]
LARGE = [((27, 29, 1), 2), ((27, 29, 3), 3), ((11, 30, 1), 4), ((30, 11, 3), 2)]


def tiny(name, event, symbols=3, classes=0, **settings):
    cls = store.resolve(name, CHAINS)
    options = {**cls.SIZES["tiny"], "symbols": symbols, "channels": event[2], "classes": classes, **settings}
    return randomised(cls(**options), event)


# ---- the equations, pixel by pixel ------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def image_planes(x, symbols):
    """The levels from -1 to 1 and a one, (H, W, C + 1)."""
    return np.concatenate([x * 2 / (symbols - 1) - 1, np.ones_like(x[..., :1], float)], -1)


def at(maps, r, c):
    """What stands at a pixel, zeros outside."""
    height, width, depth = maps.shape
    return maps[r, c] if 0 <= r < height and 0 <= c < width else np.zeros(depth)


def masked(maps, r, c, n, own, weight, bias):
    """A masked convolution at one pixel: weight (out, in, taps) for the places in reading order."""
    total = bias.copy()
    places = [(i, j) for i in range(-(n // 2), 1) for j in range(-(n // 2), n // 2 + 1)]
    places = [(i, j) for i, j in places if i < 0 or j < 0 or (own and j == 0)]
    for tap, (i, j) in enumerate(places):
        total = total + weight[:, :, tap] @ at(maps, r + i, c + j)
    return total


def by_loops(chain, x, layer):
    """Logits (H, W, C, K) of one image by loops; `layer` is one pass over a layer, by loops too."""
    planes, args = image_planes(x, chain.symbols), chain.args
    height, width, _ = x.shape
    first = arrays(chain.net.first)
    h = np.array(
        [
            [masked(planes, r, c, args["first_kernel"], False, **first) for c in range(width)]
            for r in range(height)
        ]
    )
    for module in chain.net.layers:
        h = layer(arrays(module), h, planes, args)
    return np.array([[head(chain.net.head, h[r, c], x[r, c]) for c in range(width)] for r in range(height)])


def head(module, known, levels):
    """The logits (C, K) of one pixel: each channel given those before it."""
    hidden, channels = module.hidden, module.channels
    past = (
        module.from_past.weight.detach().numpy() @ np.maximum(known, 0)
        + module.from_past.bias.detach().numpy()
    )
    tables = [table.table().detach().numpy() for table in module.from_channel]  # (K, later channels · hidden)
    out, found = module.out.table().detach().numpy(), []
    for c in range(channels):
        a = past[c * hidden : (c + 1) * hidden].copy()
        for d in range(c):
            a += tables[d][levels[d]][(c - 1 - d) * hidden : (c - d) * hidden]
        weight = out[:, c * hidden : (c + 1) * hidden]
        found.append(weight @ np.maximum(a, 0) + module.out_bias[c].detach().numpy())
    return np.array(found)


def one_by_one(weight, bias, x):
    """A 1 × 1 convolution at one pixel."""
    return weight[:, :, 0, 0] @ x + bias


def pixelcnn_layer(w, h, planes, args):
    height, width, _ = h.shape
    down = np.array(
        [[one_by_one(w["down.weight"], w["down.bias"], np.maximum(v, 0)) for v in row] for row in h]
    )
    down, new = np.maximum(down, 0), h.copy()
    for r in range(height):
        for c in range(width):
            mid = masked(down, r, c, args["kernel"], True, w["causal.weight"], w["causal.bias"])
            new[r, c] += one_by_one(w["up.weight"], w["up.bias"], np.maximum(mid, 0))
    return new


def row_lstm_layer(w, h, planes, args):
    """Equation 3 of van den Oord et al. 2016a at every pixel."""
    height, width, _ = h.shape
    units, reach = args["width"], args["kernel"] // 2
    cell, hidden, new = np.zeros((height, width, units)), np.zeros((height, width, units)), h.copy()
    for r in range(height):
        for c in range(width):
            gates = w["inputs.bias"].copy()
            for tap in range(reach + 1):  # the row, up to the pixel
                gates += w["inputs.weight"][:, :, 0, tap] @ at(h, r, c - reach + tap)
            for tap in range(-reach, reach + 1):  # the states of the row above
                gates += at(hidden, r - 1, c + tap) @ w["states"][tap + reach]
            i, f, g, o = np.split(gates, 4)
            cell[r, c] = sigmoid(f) * at(cell, r - 1, c) + sigmoid(i) * np.tanh(g)
            hidden[r, c] = sigmoid(o) * np.tanh(cell[r, c])
            new[r, c] += one_by_one(w["up.weight"], w["up.bias"], hidden[r, c])
    return new


def diagonal(inputs, states, columns, step):
    """One LSTM over all pixels, from the left (step 1) or from the right (step -1)."""
    height, width, units = *inputs.shape[:2], states.shape[1]
    cell, hidden = np.zeros((height, width, units)), np.zeros((height, width, units))
    for r in range(height):
        for c in columns:
            before, above = at(hidden, r, c - step), at(hidden, r - 1, c)
            i, f, g, o = np.split(inputs[r, c] + before @ states[0] + above @ states[1], 4)
            cell[r, c] = sigmoid(f) * at(cell, r, c - step) + sigmoid(i) * np.tanh(g)
            hidden[r, c] = sigmoid(o) * np.tanh(cell[r, c])
    return hidden


def diagonal_bilstm_layer(w, h, planes, args):
    """Both LSTMs, the one from the right a row above."""
    height, width, _ = h.shape
    told = np.concatenate([h, planes], -1)
    left = np.array([[one_by_one(w["left.weight"], w["left.bias"], v) for v in row] for row in h])
    right = np.array([[one_by_one(w["right.weight"], w["right.bias"], v) for v in row] for row in told])
    left = diagonal(left, w["states"][0], range(width), 1)
    right = diagonal(right, w["states"][1], range(width - 1, -1, -1), -1)
    new = h.copy()
    for r in range(height):
        for c in range(width):
            new[r, c] += one_by_one(w["up.weight"], w["up.bias"], left[r, c] + at(right, r - 1, c))
    return new


def ride_layer(w, h, planes, args):
    """Equations 6 and 7 of Theis & Bethge 2015 at every pixel."""
    height, width, _ = h.shape
    units = args["width"]
    cell, hidden, new = np.zeros((height, width, units)), np.zeros((height, width, units)), h.copy()
    for r in range(height):
        for c in range(width):
            gates = one_by_one(w["inputs.weight"], w["inputs.bias"], h[r, c])
            gates += at(hidden, r, c - 1) @ w["states"][0] + at(hidden, r - 1, c) @ w["states"][1]
            g, o, i, f_r, f_c = np.split(gates, 5)
            kept = sigmoid(f_c) * at(cell, r, c - 1) + sigmoid(f_r) * at(cell, r - 1, c)
            cell[r, c] = sigmoid(i) * np.tanh(g) + kept
            hidden[r, c] = np.tanh(cell[r, c] * sigmoid(o))
            new[r, c] = one_by_one(w["up.weight"], w["up.bias"], hidden[r, c])
    return new


LOOPS = {
    "pixelcnn": pixelcnn_layer,
    "row-lstm": row_lstm_layer,
    "diagonal-bilstm": diagonal_bilstm_layer,
    "ride": ride_layer,
}


@pytest.mark.parametrize("event", [(5, 7, 1), (7, 4, 3), (1, 6, 1), (6, 1, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_a_chain_equals_a_loop_over_pixels(name, event):
    chain = tiny(name, event, symbols=4)
    x = events(chain, event, 2)
    for image, logits in zip(x.numpy(), both(chain, x, None).numpy(), strict=True):
        expected = by_loops(chain, image, LOOPS[name]).reshape(logits.shape)
        np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 5])
@pytest.mark.parametrize("name", ["pixelcnn", "row-lstm"])
def test_other_kernels_equal_the_loop_too(name, kernel):
    chain = tiny(name, (6, 7, 1), kernel=kernel, first_kernel=5)
    x = events(chain, (6, 7, 1), 1)
    logits = both(chain, x, None)[0].numpy()
    np.testing.assert_allclose(
        logits, by_loops(chain, x[0].numpy(), LOOPS[name]).reshape(logits.shape), atol=1e-12
    )
    check_causality(chain, (6, 7, 1), REACH[name])


# ---- large images -----------------------------------------------------------------------------------------


def places(event, generator):
    """Symbols at corners, borders, in the middle and anywhere."""
    height, width, channels = event
    rows, columns = (0, height // 2, height - 2, height - 1), (0, 1, width // 2, width - 1)
    index = np.arange(height * width * channels).reshape(event)
    chosen = {int(index[r, c, k]) for r in rows for c in columns for k in (0, channels - 1)}
    return np.array(sorted(chosen | set(generator.integers(index.size, size=8).tolist())))


@pytest.mark.parametrize("training", [False, True], ids=["in use", "in training"])
@pytest.mark.parametrize(("event", "symbols"), LARGE, ids=str)
@pytest.mark.parametrize("name", [*NAMES, "gated-pixelcnn"])
def test_on_large_odd_images_a_symbol_reaches_what_it_should_and_nothing_else(name, event, symbols, training):
    from test_chains import neighbourhood

    plain = {"memory": 0, "copies": 0} if name == "gated-pixelcnn" else {}
    chain = tiny(name, event, symbols, classes=2, **plain).train(training)
    changed, size = places(event, np.random.default_rng(0)), int(np.prod(event))
    found = np.zeros((size, len(changed)), bool)
    for trial in range(4):
        reorder_weights(chain, trial)
        x = events(chain, event, 1, seed=trial).reshape(1, size).repeat(len(changed), 1)
        other = (
            x.clone()
        )  # row n differs at position changed[n]; an item is compared with itself: its place counts
        for row, j in enumerate(changed):
            other[row, j] = (x[row, j] + 1) % symbols
        context = torch.zeros(len(x), dtype=torch.long)
        before, after = (both(chain, rows.reshape(-1, *event), context) for rows in (x, other))
        found |= (before != after).any(-1).numpy().T
    wanted = REACH.get(name, neighbourhood)(chain, event)[:, changed]
    assert not (found & ~wanted).any(), "a symbol reaches what it should not"
    if name in ("pixelcnn", "gated-pixelcnn"):  # what an LSTM knows from far away fades below the last bit
        assert not (wanted & ~found).any(), f"{found.sum()} of {wanted.sum()} are reached"


@pytest.mark.parametrize("training", [False, True], ids=["in use", "in training"])
@pytest.mark.parametrize(("event", "symbols"), LARGE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_on_large_odd_images_features_know_the_pixels_that_they_should(name, event, symbols, training):
    """The gradient of a pixel's features by the levels: it may be as small as a double can be, but not zero."""
    chain = tiny(name, event, symbols).train(training)
    height, width, _ = event
    corners = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    inside = [(height // 2, width // 2), (1, width - 1), (height - 1, width // 3), (height // 2, 0)]
    wanted = REACH[name](chain, event).reshape(*event, *event)[:, :, 0, :, :, -1]  # of pixels
    known = {place: np.zeros((height, width), bool) for place in corners + inside}
    for trial in range(4):
        reorder_weights(chain, trial)
        levels = events(chain, event, 1, seed=trial)
        image = scaled(levels, symbols, chain.net.first.weight).requires_grad_()
        h = chain.net.first(image)
        for layer in chain.net.layers:
            h = layer(h, image)
        for r, c in known:
            feature = h[0, :, r, c].sum()
            (gradient,) = torch.autograd.grad(feature, image, retain_graph=True, allow_unused=True)
            known[r, c] |= (gradient[0] != 0).any(0).numpy() if gradient is not None else False
    for r, c in known:
        np.testing.assert_array_equal(known[r, c], wanted[r, c], err_msg=f"what the features at {r, c} know")


# ---- the blind spot ---------------------------------------------------------------------------------------


def seen(chain, event, centre):
    """(H, W): the pixels that the conditional at the centre depends on."""
    size = int(np.prod(event))
    found = np.zeros(size, bool)
    for trial in range(6):
        reorder_weights(chain, trial)
        x = events(chain, event, 1, seed=trial).reshape(1, size).repeat(size, 1)
        other = x.clone()
        other.diagonal().add_(1).remainder_(chain.symbols)
        before, after = (both(chain, rows.reshape(-1, *event), None) for rows in (x, other))
        i = np.ravel_multi_index((*centre, 0), event)
        found |= (before[:, i] != after[:, i]).any(-1).numpy()
    return found.reshape(event[:2])


def test_the_pixelcnn_has_a_blind_spot_and_the_gated_one_has_none():
    """A stack of masked 3 × 3 windows never sees (r - i, c + j) with j > i; two stacks see the whole rectangle."""
    event, centre, layers = (11, 13, 1), (8, 6), 4
    plain = seen(tiny("pixelcnn", event, first_kernel=3, layers=layers), event, centre)
    options = {"memory": 0, "copies": 0, "position": False}
    gated = seen(tiny("gated-pixelcnn", event, first_kernel=3, layers=layers, **options), event, centre)
    row, column = np.indices(event[:2])
    up, right, reach = centre[0] - row, column - centre[1], layers + 1
    before = (up > 0) | ((up == 0) & (right < 0))
    window = before & (up <= reach) & (abs(right) <= reach)
    blind = window & (right > up)
    assert blind.sum() >= 10
    assert not plain[blind].any(), "the blind spot is seen"
    np.testing.assert_array_equal(plain, window & ~blind)
    assert gated[blind & (up > 0)].all(), "the gated network has a blind spot"
    assert not gated[~before].any()


# ---- sizes ------------------------------------------------------------------------------------------------


def parameters(name, **settings):
    cls = store.resolve(name, CHAINS)
    with torch.device("meta"):
        return sum(p.numel() for p in cls(**{**cls.SIZES["paper"], **settings}).parameters())


def ends(h, head, channels, symbols, taps=24):
    """Parameters of the first convolution (levels and a plane of ones) and of the head."""
    first = (channels + 1) * taps * 2 * h + 2 * h
    tables = sum(symbols * (channels - 1 - c) * head for c in range(channels - 1))
    return first + channels * head * (2 * h + 1) + tables + channels * symbols * (head + 1)


# Parameters of a layer, from figure 5 and equation 3 of the paper; 5 and 2 are the taps that a mask leaves.
PER_LAYER = {
    "pixelcnn": lambda h, channels: (2 * h * h + h) + (5 * h * h + h) + (2 * h * h + 2 * h),
    "row-lstm": lambda h, channels: 4 * h * (2 * 2 * h + 1) + 3 * h * 4 * h + (2 * h * h + 2 * h),
    "diagonal-bilstm": lambda h, channels: (
        2 * (4 * h * (2 * h + 1) + 2 * h * 4 * h) + 4 * h * (channels + 1) + (2 * h * h + 2 * h)
    ),
}


@pytest.mark.parametrize(("name", "layers"), [("pixelcnn", 15), ("row-lstm", 12), ("diagonal-bilstm", 12)])
def test_the_paper_sizes_have_the_layers_of_table_1(name, layers):
    """CIFAR-10: h = 128, 1024 features in the head. MNIST: seven layers with h = 16 (section 5.2)."""
    expected = ends(128, 1024, 3, 256) + layers * PER_LAYER[name](128, 3)
    assert parameters(name, channels=3, symbols=256) == expected
    small = {"channels": 1, "symbols": 2, "width": 16, "layers": 7, "head": 32}
    assert parameters(name, **small) == ends(16, 32, 1, 2) + 7 * PER_LAYER[name](16, 1)


def test_the_gated_pixelcnn_of_the_paper_has_a_residual_on_the_horizontal_stack_only():
    """Section 3.1 (ImageNet): 20 layers, 384 maps, 5 × 5; figure 2: a residual around the horizontal stack."""
    p, n, layers, head, first = 384, 5, 20, 1024, 7
    rows, columns = n // 2 + 1, n // 2 + 1
    layer = (rows * n * p * 2 * p + 2 * p) + (columns * p * 2 * p + 2 * p) + (2 * p * p + 2 * p) + (p * p + p)
    firsts = (
        (first // 2 + 1) * first * 4 * p + p + (first // 2 + 1) * 4 * p + p
    )  # levels and a plane of ones in
    ending = 3 * head * (p + 1) + 256 * 2 * head + 256 * head + 3 * 256 * (head + 1)
    assert parameters("gated-pixelcnn", channels=3, symbols=256) == firsts + layers * layer + ending
    chain = tiny("gated-pixelcnn", (4, 5, 1), vertical_residual=False, memory=0, copies=0)
    assert not chain.layers[0].vertical_residual
    v, h = torch.zeros(2, 1, 4, 4, 5, dtype=torch.float64)
    layer = chain.layers[0]
    with torch.no_grad():
        layer.vertical.weight.zero_()
        layer.vertical.bias.zero_()
        assert (layer(v + 1, h, None)[0] == 0).all(), "what the vertical stack was given is added"


# ---- multi-scale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("event", [(5, 6, 1), (4, 5, 3)])
@pytest.mark.parametrize("name", RECURRENT)
def test_multi_scale_is_a_chain_whose_small_image_comes_first(name, event, scale):
    chain = tiny(name, event, classes=2, scale=scale)
    rank = chain.order(event)
    small = np.arange(rank.size).reshape(event)[::scale, ::scale].ravel()
    assert rank[small].tolist() == list(range(len(small)))
    assert sorted(rank) == list(range(len(rank)))
    check_causality(chain, event, None)
    check_causality(chain, event, None, training=True)
    check_walk(chain, event)
    check_gradients(chain, event)
    check_items_are_independent(chain, event)
    check_store(chain.float(), event, CHAINS)
    assert program_of(chain) is None


@pytest.mark.parametrize("name", RECURRENT)
def test_multi_scale_probabilities_add_up_and_samples_follow_them(name):
    chain = tiny(name, (2, 3, 1), symbols=3, scale=2)
    check_sums_to_one(chain, (2, 3, 1))
    check_samples(chain, (2, 3, 1))


@pytest.mark.parametrize("name", RECURRENT)
def test_in_multi_scale_the_other_pixels_see_small_ones_that_come_later(name):
    event = (6, 6, 1)
    chain = tiny(name, event, scale=2)
    from contracts import influence

    found = influence(chain, event).reshape(6, 6, 6, 6)
    assert found[3, 3, 4, 4], "a pixel does not see the small image below and to the right"
    assert not found[2, 2, 3, 3]
    assert not found[2, 2, 2, 1], "the small image depends on a pixel that comes after it"
    assert not (found.reshape(36, 36) & ~everything_before(chain, event)).any()


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_and_images_are_refused_in_one_line(name):
    cls = store.resolve(name, CHAINS)
    for option in ("width", "layers", "head", "channels", "symbols", "scale"):
        if option in inspect.signature(cls).parameters:
            with pytest.raises(ChainruleError, match=f"{option}(=| is )0"):
                cls(**{**cls.SIZES["tiny"], option: 0})
    with pytest.raises(ChainruleError, match="a kernel of 4 has no centre"):
        cls(**{**cls.SIZES["tiny"], "first_kernel": 4})
    with pytest.raises(ChainruleError, match="a kernel of 1 has no pixel but its own"):
        cls(**{**cls.SIZES["tiny"], "first_kernel": 1})
    chain = tiny(name, (4, 4, 1), classes=2)
    with pytest.raises(
        ChainruleError, match=r"images have shape \(2, 4, 4, 3\), the model takes \(n, H, W, 1\)"
    ):
        chain.logits(torch.zeros(2, 4, 4, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ChainruleError, match="conditioned on 2 classes"):
        chain.logits(torch.zeros(2, 4, 4, 1, dtype=torch.long))


# ---- damaged chains are caught ----------------------------------------------------------------------------


def caught(name, event, message, **settings):
    with pytest.raises(AssertionError, match=message):
        check_causality(tiny(name, event, **settings), event, REACH[name])


def test_a_first_convolution_that_sees_its_own_pixel_is_caught(monkeypatch):
    made = Causal.__init__
    monkeypatch.setattr(Causal, "__init__", lambda self, c_in, c_out, n, own=True: made(self, c_in, c_out, n))
    for name in NAMES:
        caught(name, (5, 5, 1), "leaks into")


def test_a_diagonal_lstm_whose_states_from_the_right_are_not_moved_down_is_caught(monkeypatch):
    from chainrule.chains import diagonal_bilstm

    monkeypatch.setattr(diagonal_bilstm, "down", lambda x: x)
    caught("diagonal-bilstm", (5, 5, 1), "leaks into")


def test_a_skew_that_goes_the_other_way_is_caught(monkeypatch):
    """An even kernel padded to the wrong side reads the row below."""
    from chainrule.chains import diagonal_bilstm, ride

    def scan(inputs, weight, offsets, *more, **options):
        return recurrence.scan(inputs, weight, [-o for o in offsets], *more, **options)

    for module, name in ((diagonal_bilstm, "diagonal-bilstm"), (ride, "ride")):
        monkeypatch.setattr(module, "scan", scan)
        caught(name, (5, 5, 1), "leaks into|must reach")


def test_a_row_lstm_that_looks_along_the_whole_row_is_caught(monkeypatch):
    from chainrule.layers import conv

    def ahead(self, x):
        n = self.kernel_size[1]
        return nn.Conv2d.forward(self, nn.functional.pad(x, (n - 2, 1)))

    monkeypatch.setattr(conv.LeftOf, "forward", ahead)
    caught("row-lstm", (5, 5, 1), "leaks into")


def test_a_row_lstm_without_states_from_above_is_caught():
    chain = tiny("row-lstm", (6, 6, 1))
    with torch.no_grad():
        for layer in chain.net.layers:
            layer.states.zero_()
    with pytest.raises(AssertionError, match="must reach"):
        check_causality(chain, (6, 6, 1), REACH["row-lstm"])


# ---- skewing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_straight_undoes_skewed(height, width):
    x = torch.arange(2 * height * width * 3).reshape(2, height, width, 3)
    skew = recurrence.skewed(x)
    assert skew.shape == (height + width - 1, height, 2, 3)
    for r in range(height):
        for c in range(width):
            assert (skew[r + c, r] == x[:, r, c]).all()
    assert (recurrence.straight(skew, width) == x).all()
    spans = recurrence.diagonals(height, width)
    assert [(d, r) for d, span in enumerate(spans) for r in range(*span)] == sorted(
        (r + c, r) for r in range(height) for c in range(width)
    )


@pytest.mark.parametrize("name", NAMES)
def test_images_are_drawn_and_completed(name):
    chain = tiny(name, (5, 6, 3), classes=2).float()
    context = mixed(chain, 3)
    drawn = sample(chain, 3, (5, 6, 3), context)
    known = np.zeros((5, 6, 3), bool)
    known[:2] = True
    ends = complete(chain, drawn[0], known, 3, context)
    assert (ends[:, known] == drawn[0][known]).all()
    assert sum(1 for _ in walk(chain, lambda i, logits: logits.argmax(-1), (5, 6, 3), 3, context)) == 90
