"""The step engine: programs mean what they say, in both executors, and in the strict one to the last bit."""

import hashlib
import json
import math
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy import special
from torch.nn import functional as F

from chainrule import engine
from chainrule.coding import frequencies
from chainrule.engine import Builder, dump, identity, layout, parse, strict, validate
from chainrule.engine.device import Device
from chainrule.engine.program import OPS, Op, Program, Read, Value, clocks
from chainrule.engine.strict import ANSWER, Strict, known_answer, known_line, known_program, log_softmax
from chainrule.errors import ChainruleError
from programs import random_case, seeds
from reference import DOUBLE, SINGLE, Reference, TooEarly

LANES = 3
FOUND = (Phase.explicit, Phase.reuse, Phase.generate)  # a smaller seed is no simpler program
QUIET = settings(deadline=None, phases=FOUND, suppress_health_check=list(HealthCheck), print_blob=True)


def inputs(program, event, lanes=LANES, seed=0):
    """Random symbols (lanes, N), classes and features of a program."""
    rng, n = np.random.default_rng(seed), math.prod(event)
    pixels = math.prod(program.geometry(event))
    return (
        rng.integers(program.symbols, size=(lanes, n)),
        rng.integers(program.classes, size=lanes) if program.classes else None,
        rng.normal(size=(lanes, pixels, program.features)).astype(np.float32) if program.features else None,
    )


def stepped(run, symbols):
    """The logits (lanes, N, K) that an executor gives along these symbols."""
    met = []
    for t in range(symbols.shape[1]):
        met.append(np.asarray(run.logits()))
        run.tell(symbols[:, t])
    return np.stack(met, 1)


def strictly(program, event, given_, **options):
    symbols, classes, features = given_
    return stepped(Strict(program, event, len(symbols), classes, features, **options), symbols)


def same_bits(a, b, message="other bits"):
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.float32
    assert (a.view(np.int32) == b.view(np.int32)).all(), f"{message}: they differ by {abs(a - b).max()}"


# ---- what operations mean -----------------------------------------------------------------------------------


@given(seeds())
@settings(QUIET, max_examples=120)
def test_the_strict_executor_has_the_bits_of_the_specification(seed):
    program, event = random_case(seed)
    data = inputs(program, event, seed=seed)
    wanted = Reference(program, event, *data).run()
    same_bits(strictly(program, event, data), wanted, str(program))


@given(seeds())
@settings(QUIET, max_examples=80)
def test_the_device_executor_computes_the_formulas(seed):
    program, event = random_case(seed)
    symbols, classes, features = data = inputs(program, event, seed=seed)
    wanted = Reference(program, event, *data, math=DOUBLE).run()
    run = Device(program, event, len(symbols), classes, features, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, symbols), wanted, rtol=1e-9, atol=1e-9, err_msg=str(program))


def test_the_known_program_has_the_bits_of_the_specification():
    for event in [(3, 4, 2), (2, 3, 3, 2)]:
        program = known_program(math.prod(event[:-1]))
        data = inputs(program, event)
        same_bits(strictly(program, event, data), Reference(program, event, *data).run())
    data = inputs(known_line(), (24,))
    same_bits(strictly(known_line(), (24,), data), Reference(known_line(), (24,), *data).run())


def passes(program):
    """Whether nothing in a program, which is sound otherwise, is read too early."""
    try:
        validate(program)
    except ChainruleError as error:
        why = str(error)
    else:
        return True
    assert "before it is written" in why
    return False


def at_all_clocks():
    """Two operations, at any clocks, at any two densities, in any order, and a read of one by the other."""
    for writer in (*clocks(1), "carried"):
        for reader in clocks(1):
            for first in (True, False):
                for every in (1, 2) if writer in ("row", "pixel") else (1,):
                    for own in (1, 2) if reader in ("row", "pixel") else (1,):
                        yield writer, reader, first, every, own


@pytest.mark.parametrize(("writer", "reader", "first", "every", "own"), list(at_all_clocks()))
def test_what_passes_is_never_read_too_early_and_what_does_not_would_be(writer, reader, first, every, own):
    """`validate` against an interpreter that notices, on events of several shapes."""
    clock, carried = ("pixel", True) if writer == "carried" else (writer, False)
    events = [(2, 4, 4, 1), (3, 3, 1)]
    for place in np.ndindex(3, 3, 3):
        frames, rows, columns = (int(i) - 1 for i in place)
        values = (Value(1, clock, every, carried), Value(1, reader, own), Value(2, "pixel"))
        write = Op("constant", 0, (), ("a",))
        read = Op("concat", 1, (Read(0, frames, rows, columns, 0, 1),))
        logits = Op("constant", 2, (), ("b",))
        weights = {"a": np.ones(1, np.float32), "b": np.ones(2, np.float32)}
        ops = (write, read, logits) if first else (read, write, logits)
        program = Program("grid", 1, 2, 0, 0, values, ops, (Read(2, width=2),), weights)
        allowed = passes(program)
        try:
            for event in events:
                data = inputs(program, event)
                bits = Reference(program, event, *data).run()
                if allowed:
                    same_bits(strictly(program, event, data), bits)
            possible = True
        except TooEarly:
            possible = False
        assert possible or not allowed, f"{program} is allowed"
        moved = bool(frames or rows or columns)
        exact = every == own == 1 and writer not in ("once", "carried") and reader != "once" and frames <= 0
        assert allowed or not possible or not exact or (frames == 0 and rows < 0 and reader == "frame"), (
            f"{program} is refused, {moved}"
        )


def line_of(make, symbols=4, width=6):
    """A program over a line whose input x is a random vector of the symbol before; logits read what is made."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(symbols + 1, width)).astype(np.float32)
    p = Builder(symbols)
    x = p.embed(table, columns=-1, outside=symbols, clock="pixel")
    made = make(p, x)
    out = rng.normal(size=(made.width, symbols)).astype(np.float32)
    return p.finish([p.dense(made, weight=out)]), torch.tensor(table), torch.tensor(out)


def before(symbols, k):
    """What an embedding of the symbol before looks up: (lanes, T)."""
    return torch.cat([torch.full((len(symbols), 1), k), torch.tensor(symbols[:, :-1])], 1)


def check_line(make, formula):
    """Both executors against `formula(x (lanes, T, width)) -> (lanes, T, n)` in torch, float64."""
    program, table, out = line_of(make)
    symbols = inputs(program, (19,))[0]
    with torch.no_grad():
        wanted = (formula(table.double()[before(symbols, 4)]) @ out.double()).numpy()
    np.testing.assert_allclose(strictly(program, (19,), (symbols, None, None)), wanted, rtol=2e-5, atol=2e-5)
    run = Device(program, (19,), LANES, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, symbols), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("carried", [False, True])
def test_an_lstm_is_that_of_torch(carried):
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(6, 5)

    def make(p, x):
        cell, hidden = (p.memory(5, carried=carried) for _ in range(2))
        last = hidden if carried else p.at(hidden, columns=-1)
        weight = torch.cat([theirs.weight_ih, theirs.weight_hh], 1).T
        return p.lstm(p.dense(x, last, weight=weight, bias=theirs.bias_ih + theirs.bias_hh), cell, hidden)

    def formula(x):
        cell, state, met = torch.nn.LSTMCell(6, 5).double(), None, []
        cell.load_state_dict(theirs.state_dict())
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            met.append(state[0])
        return torch.stack(met, 1)

    with torch.no_grad():  # torch adds the two biases one after the other
        theirs.bias_hh.zero_()
    check_line(make, formula)


def test_an_lstm_may_start_from_any_cell():
    """`before` of a Row LSTM is the cell above; on one line that is nothing, so no cell is kept."""
    w = torch.randn(6, 20, generator=torch.Generator().manual_seed(4))

    def make(p, x):
        cell, hidden = p.memory(5), p.memory(5)
        return p.lstm(p.dense(x, weight=w), cell, hidden, before=p.at(cell, rows=-1))

    def formula(x):
        i, _, g, o = (x @ w.double()).chunk(4, -1)
        return o.sigmoid() * (i.sigmoid() * g.tanh()).tanh()

    check_line(make, formula)


@pytest.mark.parametrize("event", [(4, 5, 1), (1, 4, 1), (3, 1, 1), (2, 3, 4, 1)])
def test_an_lstm_goes_back_along_the_row_above(event):
    """Row by row from the last column to the first, as torch's does on the row turned round."""
    torch.manual_seed(5)
    theirs = torch.nn.LSTM(3, 4, batch_first=True)
    table, out = torch.randn(3, 3), torch.randn(4, 3)
    p = Builder(3, axes="grid")
    cell, hidden = p.memory(4, "back"), p.memory(4, "back")
    x = p.embed(table, rows=-1, clock="back")  # nothing above the first row
    with torch.no_grad():
        theirs.bias_hh_l0.zero_()
        weight = torch.cat([theirs.weight_ih_l0, theirs.weight_hh_l0], 1).T
        gates = p.dense(x, p.at(hidden, columns=1), weight=weight, bias=theirs.bias_ih_l0)
        p.lstm(gates, cell, hidden, before=p.at(cell, columns=1))
        program = p.finish([p.dense(p.at(hidden, columns=-1), weight=out, clock="pixel")])
        data = inputs(program, event)
        frames, rows, columns = program.geometry(event)
        image = torch.tensor(data[0]).view(LANES, frames, rows, columns)
        seen = torch.zeros(LANES, frames, rows, columns, 3, dtype=torch.double)
        seen[:, :, 1:] = table.double()[image[:, :, :-1]]
        turned = theirs.double()(seen.view(-1, columns, 3).flip(1))[0].flip(1)
        left = F.pad(turned, (0, 0, 1, 0))[:, :-1]
        wanted = (left @ out.double()).reshape(LANES, -1, 3).numpy()
    same_bits(strictly(program, event, data), Reference(program, event, *data).run())
    run = Device(program, event, LANES, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, data[0]), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("carried", [False, True])
def test_a_multiplicative_lstm_is_that_of_the_paper(carried):
    """Krause et al. 2016, equations 16 to 20, with the output gate before the tanh of the cell."""
    g = torch.Generator().manual_seed(2)
    n, (w_mx, w_mh, w_m, w_x) = (
        5,
        (torch.randn(s, generator=g) / 2 for s in [(6, 5), (5, 5), (5, 20), (6, 20)]),
    )

    def make(p, x):
        state = [p.memory(n, carried=carried) for _ in range(2)]
        direct = p.dense(x, weight=w_x)
        return p.multiplicative_lstm(x, *state, to_x=w_mx, to_h=w_mh, mixed=w_m, direct=direct)

    def formula(x):
        h = c = torch.zeros(len(x), n, dtype=torch.double)
        met = []
        for t in range(x.shape[1]):
            m = (x[:, t] @ w_mx.double()) * (h @ w_mh.double())
            i, f, u, o = (x[:, t] @ w_x.double() + m @ w_m.double()).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * u.tanh()
            h = o.sigmoid() * c.tanh()
            met.append(h)
        return torch.stack(met, 1)

    check_line(make, formula)


FUNCTIONS = {
    "relu": F.relu,
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_are_those_of_torch(kind):
    check_line(lambda p, x: p.pointwise(kind, x), FUNCTIONS[kind])


def test_gates_and_norms_are_those_of_torch():
    check_line(lambda p, x: p.gate(x), lambda x: x[..., :3].tanh() * x[..., 3:].sigmoid())
    w, b = torch.tensor([1.5, -1, 0, 2, 3, 1]), torch.arange(6.0)
    check_line(lambda p, x: p.norm(x, w, b), lambda x: F.layer_norm(x, (6,), w.double(), b.double(), 1e-5))


def seen(how, length, summary, window, heads, t):
    """(heads, T, T) bool: pixel i looks at pixel j, Child et al. 2019."""
    h, i, j = torch.arange(heads)[:, None, None], torch.arange(t)[:, None], torch.arange(t)[None]
    causal = (j <= i) & (i // (window or t) == j // (window or t))
    i, j = i % (window or t), j % (window or t)
    end = length - summary * (h % max(1, length // max(1, summary)))
    return causal & {
        "full": causal,
        "local": i - j < length,
        "strided": (i - j) % length == 0,
        "fixed": (i // length == j // length) | (j % length >= length - summary),
        "spread": (i // length == j // length) | (j % length >= end - summary) & (j % length < end),
    }[how].expand(heads, t, t)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "length", "summary"),
    [
        ("full", 1, 0),
        ("local", 1, 0),
        ("local", 5, 0),
        ("strided", 4, 0),
        ("fixed", 4, 1),
        ("fixed", 5, 0),
        ("fixed", 3, 9),
        ("spread", 4, 1),
        ("spread", 5, 2),
        ("spread", 4, 0),
        ("spread", 3, 9),
    ],
)
@pytest.mark.parametrize("window", [0, 1, 6, 7])
def test_attention_is_masked_softmax_attention(how, length, summary, window, heads):
    g = torch.Generator().manual_seed(3)
    w = [torch.randn(6, 6, generator=g) for _ in range(3)]

    def make(p, x):
        return p.attend(*(p.dense(x, weight=m) for m in w), heads, how, length, summary, window)

    def formula(x):
        q, k, v = ((x @ m.double()).unflatten(-1, (heads, -1)).transpose(1, 2) for m in w)
        mask = seen(how, length, summary, window, heads, x.shape[1])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    check_line(make, formula)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 40])
def test_attention_that_knows_the_distance_is_its_formula(length, heads):
    g = torch.Generator().manual_seed(4)
    w, table = [torch.randn(6, 6, generator=g) for _ in range(4)], torch.randn(length, 6, generator=g)

    def make(p, x):
        return p.attend_near(*(p.dense(x, weight=m) for m in w), table, heads)

    def formula(x):
        q, far, k, v = ((x @ m.double()).unflatten(-1, (heads, -1)) for m in w)
        rows, y = table.double().unflatten(-1, (heads, -1)), torch.zeros_like(v)
        for b, t, h in np.ndindex(*v.shape[:3]):
            near = range(max(0, t - length + 1), t + 1)
            scores = [q[b, t, h] @ k[b, j, h] + far[b, t, h] @ rows[t - j, h] for j in near]
            shares = torch.softmax(torch.stack(scores) / (6 / heads) ** 0.5, 0)
            y[b, t, h] = sum(share * v[b, j, h] for share, j in zip(shares, near, strict=True))
        return y.flatten(2)

    check_line(make, formula)


@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("event", [(5, 1, 1), (1, 5, 1), (2, 3, 1, 1), (3, 1, 1, 1), (2, 2, 3, 1)])
def test_attention_that_knows_the_distance_counts_pixels_of_images_and_clips(event, length):
    p, rng = Builder(3, axes="grid"), np.random.default_rng(6)
    x = p.embed(rng.normal(size=(4, 3)), columns=-1, outside=3, clock="pixel")
    x = p.add(x, p.dense(p.position(), weight=np.ones((2, 3))))
    program = p.finish([p.attend_near(x, x[:3], x, x, rng.normal(size=(length, 3)))])
    data = inputs(program, event)
    same_bits(strictly(program, event, data), Reference(program, event, *data).run())
    run = Device(program, event, LANES, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, data[0]), Reference(program, event, *data, math=DOUBLE).run())


@pytest.mark.parametrize("event", [(5, 1, 1), (1, 5, 1), (2, 3, 1, 1), (3, 1, 1, 1), (2, 2, 3, 1)])
def test_attention_sees_every_pixel_of_images_and_clips_of_any_shape(event):
    p = Builder(3, axes="grid")
    x = p.embed(np.random.default_rng(6).normal(size=(4, 3)), columns=-1, outside=3, clock="pixel")
    x = p.add(x, p.dense(p.position(), weight=np.ones((2, 3))))
    program = p.finish([p.attend(x, x, x, length=2)])
    data = inputs(program, event)
    same_bits(strictly(program, event, data), Reference(program, event, *data).run())
    run = Device(program, event, LANES, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, data[0]), Reference(program, event, *data, math=DOUBLE).run())


def test_delays_longer_than_the_event_read_zeros():
    for far in (1, 6, 7, 8, 1000, 65536):
        p = Builder(3)
        x = p.embed(np.eye(3), columns=-1, outside=-1, clock="pixel")
        program = p.finish([p.add(p.at(x, columns=-far), x)])
        data = inputs(program, (20,))
        same_bits(strictly(program, (20,), data), Reference(program, (20,), *data).run())


@pytest.mark.parametrize(
    "place", [{"rows": -1}, {"frames": -1}, {"rows": -1, "columns": 2}, {"rows": -3, "columns": -2}]
)
def test_above_a_line_there_is_nothing(place):
    p = Builder(3, 2)
    x = p.embed(np.eye(3), columns=-1, clock="pixel")
    y = p.add(p.at(x, **place), x)
    program = p.finish([y, p.embed(np.eye(3), channel=0, onto=y, clock="channel 1")])
    data = inputs(program, (12,))
    same_bits(strictly(program, (12,), data), Reference(program, (12,), *data).run())


def test_a_frame_is_seen_from_all_sides_before_its_first_pixel():
    """Convolutions over given features read rows below and pixels to the right, several layers deep."""
    p = Builder(3, 1, features=2, axes="grid")
    x = p.given_features()
    for _ in range(3):
        x = p.concat(*p.taps(x, (-1, 0, 1), (-1, 0, 1)))[:7]
        x = p.add(x, p.at(x, rows=1, columns=1))
    program = p.finish([p.concat(x[:3], clock="channel 0")])
    for event in [(3, 4, 1), (2, 3, 3, 1)]:
        data = inputs(program, event)
        same_bits(strictly(program, event, data), Reference(program, event, *data).run())
        run = Device(program, event, LANES, None, data[2], dtype=torch.float64)
        np.testing.assert_allclose(stepped(run, data[0]), Reference(program, event, *data, math=DOUBLE).run())


def nade(pixels, symbols=3, width=20, direct=True):
    """Every pixel has weights of its own: h = σ(Σ_j<t W_j[x_j]), logits_t = b_t + c_t + h V_t (Larochelle & Murray)."""
    rng = np.random.default_rng(7)
    w, v, b, c = (
        rng.normal(size=(pixels, *s)).astype(np.float32)
        for s in [(symbols, width), (width, symbols), (symbols,), (symbols,)]
    )
    p = Builder(symbols, axes="grid")
    total = p.memory(width, "done", carried=True)
    x = p.embed(np.eye(symbols), clock="done")
    if direct:
        p.dense_here(x, weight=torch.tensor(w), onto=total, into=total)
    else:
        p.write(total, p.dense_here(x, weight=w, onto=total))
    h = p.pointwise("sigmoid", total, clock="pixel")
    start = p.add(p.constant_here(b), p.here(p.constant(c.ravel()), pixels))
    return p.finish([p.dense_here(h, weight=v, onto=start)]), (w, v, b + c)


@pytest.mark.parametrize("event", [(3, 4, 1), (12, 1, 1), (1, 12, 1), (2, 2, 3, 1), (1, 1, 1)])
def test_every_pixel_may_have_weights_of_its_own(event):
    program, (w, v, b) = nade(math.prod(event))
    data = inputs(program, event, 7)
    said = np.take_along_axis(w[None], data[0][:, :, None, None], 2)[:, :, 0].astype(float)
    h = special.expit(said.cumsum(1) - said)
    wanted = b + np.einsum("btw,twk->btk", h, v.astype(float))
    run = Device(program, event, 7, dtype=torch.float64)
    np.testing.assert_allclose(stepped(run, data[0]), wanted, rtol=1e-6, atol=1e-6)
    bits = Reference(program, event, *data).run()
    for group in (1, 2, 7):
        same_bits(strictly(program, event, data, group=group), bits)
    copied, _ = nade(math.prod(event), direct=False)
    assert len(copied.ops) == len(program.ops) + 1
    same_bits(strictly(copied, event, data), bits, "another way to write the sum")


@pytest.mark.parametrize("place", [(0, -1), (-1, 0), (-1, 1)])
@pytest.mark.parametrize("kind", ["dense onto", "dense here onto"])
def test_a_sum_may_go_on_from_what_it_was_at_an_earlier_pixel(kind, place):
    """Only a carried sum that begins with itself stands where it is to be written."""
    p, weights = Builder(3), np.random.default_rng(0)
    symbol, total = p.embed(weights.normal(size=(3, 2)), columns=-1, clock="pixel"), p.memory(3, "pixel")
    to = {"onto": p.at(total, rows=place[0], columns=place[1]), "into": total}
    if kind == "dense onto":
        p.dense(symbol, weight=weights.normal(size=(2, 3)), **to)
    else:
        p.dense_here(symbol, weight=weights.normal(size=(12, 2, 3)), **to)
    program, event = p.finish([total]), (3, 4, 1)
    data = inputs(program, event)
    same_bits(strictly(program, event, data), Reference(program, event, *data).run())


def test_a_program_with_weights_of_the_pixel_takes_events_of_one_size():
    program, _ = nade(12)
    assert (program.pixels, line_program()[0].pixels) == (12, 0)
    for make in (Strict, Device):
        for event, found in [((4, 4, 1), 16), ((2, 3, 4, 1), 24), ((0, 3, 1), 0), ((11, 1, 1), 11)]:
            with pytest.raises(ChainruleError, match=f"^the event has {found} pixels, the model takes 12$"):
                make(program, event, 2)
    p = Builder(3, 2)
    x = p.constant_here(np.ones((5, 3)))
    program = p.finish([x, p.concat(x, clock="channel 1")])
    assert Strict(program, (10,), 1).logits().tolist() == [[1, 1, 1]]
    with pytest.raises(ChainruleError, match="the event has 4 pixels, the model takes 5"):
        Strict(program, (8,), 1)


# ---- the arithmetic -----------------------------------------------------------------------------------------


def test_no_multiplication_is_fused_with_an_addition():
    """(1 + 2⁻¹²)² - (1 + 2⁻¹¹) is 2⁻²⁴, and 0 when the product is rounded first, in every kernel's shape."""
    a, b = np.float32(1 + 2**-12), np.float32(1 + 2**-11)
    for n in (1, 16, 17, 32, 48, 64, 65, 130):
        for lanes in (1, 2, 3, 4, 5, 8, 11):
            p = Builder(2)
            x = p.constant([a])
            y = p.dense(x, weight=np.full((1, n), a), bias=np.full(n, -b))
            z = p.dense(x, weight=np.full((1, n), -a), onto=p.constant(np.full(n, b)))
            w = np.ones((2 * n, 2))
            program = p.finish([p.dense(y, z, weight=w, clock="channel 0")])
            assert (Strict(program, (1,), lanes).logits() == 0).all(), f"{n} outputs, {lanes} lanes"


def test_levels_and_norms_are_not_fused():
    a, b = np.float32(1 + 2**-12), np.float32(1 + 2**-11)
    p = Builder(2, 1)
    x = p.levels(a, -b)  # of symbol 1: a - b, exactly; what is added to it is rounded first
    once = p.constant([a, -a])
    normed = p.norm(p.constant([1.0, -1.0]), [a, a], [-b, b])
    program = p.finish(
        [p.add(p.multiply(once, once), p.add(normed, p.concat(p.at(x, columns=-1), once[:1])), clock="pixel")]
    )
    data = inputs(program, (5,))
    same_bits(strictly(program, (5,), data), Reference(program, (5,), *data).run())


def everything():
    """Programs with all there is, and events for them."""
    return [(known_program(18), (2, 3, 3, 2)), line_program(), (known_line(), (24,)), delayed_program()]


def test_the_known_programs_have_every_operation_and_every_clock():
    program = known_program()
    assert {op.kind for op in (*program.ops, *known_line().ops)} == OPS.keys()
    assert all(program.sections.values())


def line_program():
    p = Builder(5, 2, classes=2)
    rng = np.random.default_rng(8)
    x = p.embed(rng.normal(size=(6, 17)), columns=-1, channel=1, outside=5, clock="pixel")
    x = p.add(x, p.one_of_classes(rng.normal(size=(2, 17))))
    cell, hidden = p.memory(17), p.memory(17)
    gates = p.dense(p.at(hidden, columns=-1), p.at(x, columns=-4), x, weight=rng.normal(size=(51, 68)) / 4)
    h = p.lstm(gates, cell, hidden)
    first = p.dense(h, weight=rng.normal(size=(17, 5)))
    return p.finish([first, p.embed(rng.normal(size=(5, 5)), channel=0, onto=first, clock="channel 1")]), (
        20,
    )


def delayed_program():
    """Sums that begin with what is known some columns before, in all ways in which few lanes may compute it ahead."""
    p = Builder(4, classes=2, features=3)
    rng = np.random.default_rng(9)

    def product(width, *inputs, **more):
        return p.dense(*inputs, weight=rng.normal(size=(sum(x.width for x in inputs), width)) / 4, **more)

    given = p.given_features()
    x = p.embed(rng.normal(size=(5, 17)), columns=-1, outside=4, clock="pixel")
    sides = p.at(x, columns=-3), p.at(given, columns=2), given  # of another width: a second product
    y = product(20, *sides, x, onto=p.one_of_classes(rng.normal(size=(2, 20))))
    again = p.memory(17)
    product(17, p.at(again, columns=-5), p.at(x, columns=-13), y, bias=rng.normal(size=17), into=again)
    waves = p.gate(product(34, p.at(y, columns=-21), p.at(y, columns=-2), p.at(again, columns=-1)))
    said = product(4, given, onto=product(4, given, clock="frame"), clock="channel 0")
    late = product(9, p.at(waves, columns=-3), clock="done")
    return p.finish([product(4, p.at(late, columns=-2), waves, again, onto=p.at(said, columns=-6))]), (47,)


@pytest.mark.parametrize("most", [1, 2, 4, 8, 32, 128])
def test_what_few_lanes_compute_ahead_has_the_bits_of_the_specification(most, monkeypatch):
    monkeypatch.setattr(layout, "AHEAD", most)
    for program, event in (delayed_program(), line_program()):
        data = inputs(program, event, 3)
        wanted = Reference(program, event, *data).run()
        for group in (1, 2, 3):
            same_bits(strictly(program, event, data, group=group), wanted, f"{most} columns ahead")


def test_sums_of_what_is_not_known_yet_would_be_others(monkeypatch):
    program, event = delayed_program()
    data = inputs(program, event, 1)
    wanted = Reference(program, event, *data).run()
    known_for = layout.known_for
    monkeypatch.setattr(layout, "known_for", lambda program, read: known_for(program, read) + 2)
    with pytest.raises(AssertionError, match="differ"):
        same_bits(strictly(program, event, data), wanted)


@pytest.mark.parametrize("group", [1, 2, 3, 7, 64])
def test_lanes_and_groups_change_no_bit(group):
    for program, event in everything():
        data = inputs(program, event, 9)
        whole = strictly(program, event, data)
        same_bits(strictly(program, event, data, group=group), whole, "another group")
        for lanes in (1, 2, 5):
            part = tuple(None if x is None else x[4 : 4 + lanes] for x in data)
            same_bits(strictly(program, event, part, group=group), whole[4 : 4 + lanes], "another batch")


@pytest.mark.parametrize("group", [1, 2, 3, 7, 64])
def test_filling_and_coding_walk_as_stepping_does(group, monkeypatch):
    for program, event in everything():
        symbols, classes, features = data = inputs(program, event, 9)
        logits = strictly(program, event, data)
        n = symbols.shape[1]

        def start(program=program, event=event, classes=classes, features=features):
            return Strict(program, event, 9, classes, features, group=group)

        known = np.arange(n) % 3 == 0
        uniforms = np.random.default_rng(1).random((9, n)) + 1e-9
        drawn = start().fill(symbols, known, uniforms).copy()
        for work in (1.0, 4e5, 1e12):
            monkeypatch.setattr("chainrule.engine.strict.GLIMPSE", work)
            parts = list(start().stream(symbols, known, uniforms))
            assert (np.concatenate(parts, 1) == drawn).all()
            assert work != 1.0 or len(parts) == n
        assert (drawn[:, known] == symbols[:, known]).all()
        run = Strict(program, event, 9, classes, features)
        met = stepped(run, drawn)
        greedy = start().fill(symbols, np.zeros(n, bool), np.ones((9, n)), temperature=0.0)
        assert (stepped(start(), greedy).argmax(-1) == greedy).all()
        uniforms = np.random.default_rng(1).random((9, n)) + 1e-9
        weights = np.floor(np.exp(met - met.max(-1, keepdims=True).astype(float)) * 2**32)
        cumulated = weights.cumsum(-1) / weights.sum(-1, keepdims=True)
        inverted = (cumulated < uniforms[..., None] - 1e-6).sum(-1)
        same = inverted == drawn
        assert same[:, ~known].mean() > 0.99, "the symbols drawn do not follow the logits"
        active = (
            np.sort(np.random.default_rng(2).integers(1, 10, n))[::-1].copy()
            if program.axes == "line"
            else np.full(n, 9)
        )
        stream, bits = start().encode(symbols, active)
        there = np.arange(9)[:, None] < active
        tables = frequencies(logits.reshape(-1, program.symbols)).reshape(logits.shape)
        chosen = np.take_along_axis(tables, symbols[..., None], -1)[..., 0]
        log_p = logits.astype(float) - special.logsumexp(logits.astype(float), -1, keepdims=True)
        exact = -np.take_along_axis(log_p, symbols[..., None], -1)[..., 0] / math.log(2)
        np.testing.assert_allclose(bits, np.where(there, exact, 0).sum(1), rtol=1e-7)
        ideal = np.where(
            there, 24 - np.log2(chosen), 0
        ).sum()  # of the integers: no symbol costs more than 24
        assert ideal - 8 <= 8 * len(stream) <= ideal + 16
        assert (start().decode(stream, active) == np.where(there, symbols, 0)).all()
        assert Strict(program, event, 9, classes, features).encode(symbols, active)[0] == stream, (
            "another group, another stream"
        )


@given(seeds(), st.integers(1, 6))
@settings(QUIET, max_examples=30)
def test_groups_change_no_bit_of_any_program(seed, group):
    program, event = random_case(seed)
    data = inputs(program, event, 5)
    same_bits(strictly(program, event, data, group=group), strictly(program, event, data))


def test_twice_in_a_row_and_branches_give_the_same_bits():
    for program, event in everything():
        symbols, classes, features = data = inputs(program, event, 4)
        other = (symbols + 1) % program.symbols
        half = symbols.shape[1] // 2
        other[:, :half] = symbols[:, :half]
        for make in (Strict, Device):
            run, met = make(program, event, 4, classes, features), []
            for t in range(half):
                met.append(np.asarray(run.logits()))
                run.tell(symbols[:, t])
            branch = run.copy()
            one, two = list(met), list(met)
            for t in range(half, symbols.shape[1]):
                for run_, way, found in ((run, symbols, one), (branch, other, two)):
                    found.append(np.asarray(run_.logits()))
                    run_.tell(way[:, t])
            for way, found in ((symbols, one), (other, two)):
                same_bits(
                    np.stack(found, 1), stepped(make(program, event, 4, classes, features), way), "a branch"
                )
        same_bits(strictly(program, event, data), strictly(program, event, data), "a second run")


def exchanged(run, told, symbols, rng):
    """Logits (N, lanes, K) where lanes are exchanged at random, before or after symbols are told; what each was told.

    told (lanes, N), the second result, is what lane i of the end, with those it goes back to, was told.
    """
    met, lanes = [], len(symbols)
    for t in range(symbols.shape[1]):
        met.append(np.asarray(run.logits()).copy())
        for when in range(2):
            parents = rng.integers(lanes, size=lanes) if rng.random() < 0.5 else np.arange(lanes)
            run.reorder(parents)
            told, met = told[parents], [logits[parents] for logits in met]
            if when == 0:
                run.tell(symbols[:, t])
                told[:, t] = symbols[:, t]
    return np.stack(met, 1), told


def check_exchange(program, event, seed, lanes=4):
    """Lanes that go on as others have the logits of runs that were told the symbols of those."""
    symbols, classes, features = inputs(program, event, lanes, seed)
    shared = [x if x is None else np.repeat(x[:1], lanes, 0) for x in (classes, features)]
    given = program, event, lanes, *shared
    run, rng = Strict(*given, group=lanes), np.random.default_rng(seed)
    met, told = exchanged(run, np.zeros_like(symbols), symbols, rng)
    same_bits(met, stepped(Strict(*given), told), str(program))
    run, again = (Device(*given, dtype=torch.float64) for _ in range(2))
    met, told = exchanged(run, np.zeros_like(symbols), symbols, rng)
    np.testing.assert_allclose(met, stepped(again, told), rtol=1e-9, atol=1e-9, err_msg=str(program))


def test_lanes_go_on_as_other_lanes_in_known_programs():
    for program, event in [*everything(), (known_program(6), (3, 2, 2))]:
        check_exchange(program, event, 1)


@given(seeds())
@settings(QUIET, max_examples=60)
def test_lanes_go_on_as_other_lanes_in_any_program(seed):
    check_exchange(*random_case(seed), seed)


@pytest.mark.parametrize("parents", [[0, 1], [0, 1, 3], [0, -1, 1]])
def test_lanes_that_are_not_there_are_refused(parents):
    program, event = line_program()
    run = Strict(program, event, 3, np.zeros(3, int), group=3)
    with pytest.raises(ChainruleError, match="does not name one of 3 lanes for each"):
        run.reorder(parents)
    with pytest.raises(ChainruleError, match="group=lanes"):
        Strict(program, event, 3, np.zeros(3, int), group=2).reorder([0, 1, 2])


def test_log_probabilities_are_those_of_torch():
    logits = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32) * 9
    logits[0, 3] = -np.inf
    wanted = torch.log_softmax(torch.tensor(logits).double(), -1)
    np.testing.assert_allclose(log_softmax(logits), wanted, rtol=1e-6, atol=1e-5)
    for bad in (np.nan, np.inf):
        with pytest.raises(ChainruleError, match="not numbers"):
            log_softmax(np.array([[0.0, bad, 1.0]]))


@pytest.mark.parametrize("event", [(0,), (0, 3, 1), (3, 0, 1), (0, 2, 2, 1), (2, 0, 2, 1)])
def test_events_of_nothing_are_walked(event):
    p = Builder(2, axes="line" if len(event) == 1 else "grid")
    x = p.embed(np.eye(2), columns=-1, clock="pixel")
    program = p.finish([p.add(x, p.at(x, columns=-1, **({} if len(event) == 1 else {"rows": -1})))])
    run = Strict(program, event, 2)
    nothing = np.zeros((2, 0), np.int64)
    assert run.fill(nothing, np.zeros(0, bool), np.zeros((2, 0))).shape == (2, 0)
    stream, bits = Strict(program, event, 2).encode(nothing, np.zeros(0, np.int64))
    assert (stream, bits.tolist()) == (b"", [0, 0])


def test_no_lanes_are_walked():
    p = Builder(2)
    program = p.finish([p.embed(np.eye(2), columns=-1, clock="pixel")])
    assert Strict(program, (3,), 0).fill(np.zeros((0, 3)), np.zeros(3, bool), np.zeros((0, 3))).shape == (
        0,
        3,
    )


def subnormal_program():
    """The weights are below 10⁻³⁸; the logits tell whether they were taken for zero on the way."""
    p = Builder(4, classes=2)
    tiny = p.embed(np.full((5, 4), 3e-39, np.float32), columns=-1, outside=4, clock="pixel")
    tiny = p.add(tiny, p.one_of_classes(np.full((2, 4), 1e-39, np.float32)))
    tiny = p.dense(tiny, weight=np.eye(4), bias=np.arange(4) * np.float32(1e-39))
    return p.finish([p.multiply(tiny, p.constant(np.full(4, 2.0**126)))])


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 32, 33, 71])
@pytest.mark.parametrize("columns", [1, 16, 33, 48, 64, 113])
def test_products_of_any_shape_add_in_order(rows, columns):
    """Blocks of rows, what is left of them, and stripes of columns: each sum is x₀ w₀ + x₁ w₁ + ... in this order."""
    rng = np.random.default_rng(rows)
    left, right = rng.normal(size=(rows, 37)), rng.normal(size=(37, columns))
    left, right = left.astype(np.float32), right.astype(np.float32)
    wanted = np.zeros((rows, columns), np.float32)
    for i in range(37):
        wanted += left[:, i : i + 1] * right[i]
    same_bits(engine.strict.product(left, right), wanted, f"{rows} x {columns}")


def test_flush_to_zero_in_the_caller_or_in_a_thread_changes_nothing():
    program = subnormal_program()
    data = inputs(program, (6,), 5)
    wanted = Reference(program, (6,), *data).run()
    assert (wanted[..., 1:] > wanted[..., :-1]).all()
    answer, found = known_answer(), []

    def work():
        torch.set_flush_denormal(True)
        try:
            found.append((strictly(program, (6,), data), known_answer(), engine.strict.product(*small)))
        finally:
            torch.set_flush_denormal(False)

    small = np.full((2, 2), 1e-20, np.float32), np.full((2, 2), 1e-20, np.float32)
    plain = engine.strict.product(*small)
    assert (plain > 0).all()
    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    pooled = list(strict.in_threads(lambda _: (work(), found.pop())[1], range(4), 2))
    for bits, known, folded in [*found, *pooled]:
        same_bits(bits, wanted, "flush-to-zero")
        assert known == answer == ANSWER
        same_bits(folded, plain, "flush-to-zero in a product")
    assert len(found) + len(pooled) == 6


def test_the_caller_keeps_its_own_flush_to_zero():
    try:
        torch.set_flush_denormal(True)
        known_answer()
        assert float(torch.tensor([1e-39]) * 1.0) == 0, "flush-to-zero was switched off for good"
    finally:
        torch.set_flush_denormal(False)
    known_answer()
    assert float(torch.tensor([1e-39]) * 1.0) > 0


def test_the_answer_is_known():
    assert known_answer() == ANSWER


def test_a_machine_with_another_answer_is_refused(monkeypatch):
    program, event = line_program()
    monkeypatch.setattr(strict, "known_answer", lambda: hashlib.sha256(b"other").hexdigest())
    strict.check_machine.cache_clear()
    try:
        for use in (
            lambda: Strict(program, event, 1, np.zeros(1)),
            lambda: strict.product(np.eye(2), np.eye(2)),
        ):
            with pytest.raises(
                ChainruleError, match=f"this machine's arithmetic gives .{{8}}, {ANSWER[:8]} is right"
            ):
                use()
    finally:
        strict.check_machine.cache_clear()


def test_a_product_adds_up_in_order():
    rng = np.random.default_rng(0)
    for rows, inner, columns in [(1, 1, 1), (5, 3, 17), (4, 70, 65), (9, 16, 33)]:
        left, right = (rng.normal(size=s).astype(np.float32) for s in [(rows, inner), (inner, columns)])
        total = np.zeros((rows, columns), np.float32)
        for i in range(inner):
            total = total + left[:, i : i + 1] * right[i]
        same_bits(strict.product(left, right), total)


# ---- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hidden", [False, True])
def test_weights_that_are_no_numbers_are_one_clear_error(bad, hidden):
    """Also where a function would hide them: tanh and relu of NaN are numbers in the kernels."""
    p = Builder(2)
    table = np.eye(3, 2)
    table[1, 0] = bad
    x = p.embed(table, columns=-1, outside=2, clock="pixel")
    with pytest.raises(ChainruleError, match="not numbers: did training diverge") as error:
        p.finish([p.pointwise("tanh", x) if hidden else x])
    assert "\n" not in str(error.value)


def test_logits_that_are_no_numbers_are_one_clear_error():
    p = Builder(2)
    large = p.constant(np.full(2, 3e38))
    program = p.finish(
        [p.add(p.multiply(large, large), p.multiply(large, p.constant([-3e38, -3e38])), clock="pixel")]
    )
    run = Strict(program, (3,), 2)
    with pytest.raises(ChainruleError, match="logits that are not numbers"):
        run.fill(np.zeros((2, 3), int), np.zeros(3, bool), np.ones((2, 3)))
    with pytest.raises(ChainruleError, match="logits that are not numbers"):
        Strict(program, (3,), 2).encode(np.zeros((2, 3), int), np.full(3, 2))


def test_symbols_that_are_not_in_the_tables_are_refused():
    program, event = line_program()
    good, n = np.zeros((2, 20), int), 20
    for wrong in (-1, 5, 1 << 20):
        bad = good.copy()
        bad[1, 4] = wrong
        run = Strict(program, event, 2, np.zeros(2))
        for use in (
            lambda run=run, bad=bad: run.tell(bad[:, 4]),
            lambda run=run, bad=bad: run.fill(bad, np.ones(n, bool), np.ones((2, n))),
            lambda run=run, bad=bad: run.encode(bad, np.full(n, 2)),
        ):
            with pytest.raises(ChainruleError, match=f"{wrong}.* the model has 0 to 4"):
                use()
        Strict(program, event, 2, np.zeros(2)).fill(bad, np.arange(n) != 4, np.ones((2, n)))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, r"needs classes of shape \(2,\)"),
        ([0], r"\(1,\) was given"),
        ([0, 2], "0 to 1"),
        ([-1, 0], "0 to 1"),
    ],
)
def test_context_that_does_not_fit_is_refused(classes, message):
    program, event = line_program()
    with pytest.raises(ChainruleError, match=message):
        Strict(program, event, 2, None if classes is None else np.array(classes))


def test_features_that_are_missing_are_refused():
    with pytest.raises(ChainruleError, match=r"features of shape \(1, 12, 2\), None was given"):
        Strict(known_program(), (3, 4, 2), 1, np.zeros(1))


def test_events_that_do_not_fit_are_refused():
    program, _ = line_program()
    with pytest.raises(ChainruleError, match="5 symbols, the model takes them 2 at a time"):
        Strict(program, (5,), 1, np.zeros(1))
    for event in [(3, 4), (3, 4, 3), (1, 1, 3, 4, 2)]:
        with pytest.raises(ChainruleError, match=r"events have shape .*, the model takes"):
            Strict(known_program(), event, 1, np.zeros(1))


def test_too_much_memory_is_refused_before_it_is_taken():
    p = Builder(2, axes="grid")
    x = p.embed(np.eye(2), columns=-1, clock="pixel")
    program = p.finish([p.add(x, p.at(x, rows=-60000))])
    with pytest.raises(
        ChainruleError, match=r"events of shape \(70000, 70000, 1\) take .* GiB in 1 lanes, 4 GiB"
    ):
        Strict(program, (70000, 70000, 1), 1)


def test_a_stream_that_ends_too_early_is_damaged_or_gives_symbols():
    program, event = line_program()
    symbols = inputs(program, event, 4)[0]
    active = np.full(20, 4)
    start = [Strict(program, event, 4, np.zeros(4)) for _ in range(60)]
    stream, _ = start.pop().encode(symbols, active)
    with pytest.raises(ChainruleError, match="the coded stream is damaged"):
        start.pop().decode(b"\xff" * 40, active)
    with pytest.raises(ChainruleError, match="the coded stream is damaged"):
        start.pop().decode(b"", active)
    for cut in range(1, 20):
        try:
            found = start.pop().decode(stream[:-cut], active)
        except ChainruleError:
            continue
        assert ((found >= 0) & (found < 5)).all()


# ---- storing ------------------------------------------------------------------------------------------------


def test_the_bytes_and_the_identity_of_a_program_are_the_same_in_every_process():
    program = known_program()
    data, name = dump(program), identity(program)
    assert data == dump(known_program())
    code = (
        "import sys, hashlib; from chainrule.engine import dump, identity; "
        "from chainrule.engine.strict import known_program as k; "
        "print(hashlib.sha256(dump(k())).hexdigest(), identity(k()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert other == [hashlib.sha256(data).hexdigest(), name]
    assert name == identity(parse(data))
    assert dump(parse(data)) == data


def test_every_weight_and_every_number_counts_in_the_identity():
    program, _ = line_program()
    names = {identity(program)}
    for name, array in program.weights.items():
        changed = array.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        names.add(identity(replaced(program, weights=program.weights | {name: changed})))
    names.add(identity(replaced(program, axes="grid")))
    names.add(identity(replaced(program, classes=3)))
    swapped = {
        **program.weights,
        "w0": program.weights["w0"].reshape(-1)[::-1].reshape(program.weights["w0"].shape),
    }
    names.add(identity(replaced(program, weights=swapped)))
    flat = {**program.weights, "w0": program.weights["w0"].reshape(-1)}
    names.add(identity(replaced(program, weights=flat)))
    assert len(names) == len(program.weights) + 5


def replaced(program, **fields):
    return Program(**{f: getattr(program, f) for f in Program.__dataclass_fields__} | fields)


def test_a_stored_program_runs_with_the_same_bits():
    for program, event in everything():
        data = inputs(program, event)
        again = parse(dump(program))
        same_bits(strictly(again, event, data), strictly(program, event, data))
        assert str(again) == str(program)


@given(seeds())
@settings(QUIET, max_examples=30)
def test_every_program_survives_storing(seed):
    program, _ = random_case(seed)
    assert dump(parse(dump(program))) == dump(program)
    assert identity(parse(dump(program))) == identity(program)


def outcome(data):
    """Parse bytes and run what comes out, a little: the error, or None."""
    found = None
    try:
        program = parse(data, "the model")
        event = (2, 2, 3, program.channels) if program.axes == "grid" else (3 * program.channels,)
        context = (
            inputs(program, event, 2) if program.classes + program.features < 100 else (np.zeros((2, 1)),) * 3
        )
        run = Strict(program, event, 2, *context[1:])
        for t in range(context[0].shape[1]):
            run.logits()
            run.tell(context[0][:, t])
        run.copy()
    except ChainruleError as error:
        found = str(error)
    assert "\n" not in (found or "")
    assert len(found or "") < 500, f"a long line: {found[:100]}"
    return found


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(layout, "LIMIT", 1 << 22)


@pytest.fixture(scope="module")
def files():
    return [dump(program) for program, _ in [line_program(), (known_program(), None)]]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("which", [0, 1])
def test_flipped_bits_are_an_error_or_another_program(files, which):
    data, rng = files[which], np.random.default_rng(which)
    size = 8 + int.from_bytes(data[:8], "little")
    good = 0
    for trial in range(400):
        place, bit = int(rng.integers(size if trial % 4 else len(data))), int(rng.integers(8))
        good += outcome(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]) is None
    assert 0 < good < 400


@pytest.mark.usefixtures("little_memory")
def test_truncated_and_foreign_bytes_are_an_error(files):
    data = files[0]
    for cut in [*range(0, 400, 7), *range(400, len(data), 97)]:
        assert outcome(data[:cut]) is not None
    for other in (b"", b"\0" * 8, b"\xff" * 40, b"PK\x03\x04" * 9, data + b"\0", data[1:]):
        assert outcome(other) is not None


def rebuilt(header, data):
    """The bytes of a program file with another header."""
    size = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + size])
    outer["__metadata__"]["program"] = header if isinstance(header, str) else json.dumps(header)
    text = json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def header_of(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["program"])


def paths(tree, path=()):
    """Every place in a tree of JSON."""
    yield path
    for key, branch in (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield from paths(branch, (*path, key))


def changed(tree, path, new):
    if not path:
        return new
    copy = tree.copy()
    copy[path[0]] = changed(tree[path[0]], path[1:], new)
    return copy


ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    4,
    16,
    17,
    65535,
    65536,
    65537,
    1 << 20,
    1 << 31,
    1 << 32,
    1 << 63,
    1 << 64,
]
ODD += [
    -2,
    -65536,
    -65537,
    -(1 << 63),
    10**400,
    1.5,
    1e308,
    "",
    "x",
    "w0",
    "pixel",
    "row",
    "back",
    "dense",
    "here",
    "dense here onto",
    "attend",
    [],
    {},
]
ODD += [
    [0],
    [[]],
    "a" * 100000,
    "a\nb",
    [0] * 1000,
    {"a": 1},
    [[0, 0, 0, 0, 0, 1]],
    "grid",
    "done",
    "once",
    "channel 99",
]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("which", [0, 1])
@given(seed=seeds())
@settings(QUIET, max_examples=150)
def test_edited_headers_are_an_error_or_a_program_that_runs(files, which, seed):
    data, choice = files[which], random.Random(seed)
    header = header_of(data)
    for _ in range(choice.choice([1, 1, 1, 2, 4])):
        places = list(paths(header))[1:]
        path = choice.choice(places)
        parent = header
        for key in path[:-1]:
            parent = parent[key]
        old = parent[path[-1]]
        kind = choice.randrange(6)
        if kind == 0 and isinstance(parent, list):  # gone, twice, or exchanged with another
            header = changed(header, path[:-1], parent[: path[-1]] + parent[path[-1] + 1 :])
        elif kind == 1 and isinstance(parent, list):
            header = changed(header, path[:-1], [*parent, old])
        elif kind == 2 and isinstance(parent, list):
            other = choice.randrange(len(parent))
            swapped = list(parent)
            swapped[path[-1]], swapped[other] = swapped[other], old
            header = changed(header, path[:-1], swapped)
        elif kind == 3 and type(old) is int:
            header = changed(header, path, old + choice.choice([-1, 1, -2, 2]))
        else:
            header = changed(header, path, choice.choice(ODD))
        if not isinstance(header, dict) or not header:
            break
    outcome(rebuilt(header, data))


@pytest.mark.usefixtures("little_memory")
def test_every_field_of_a_header_with_every_oddity(files):
    data = files[0]
    header = header_of(data)
    for path in paths(header):
        for odd in ODD[::3] if len(path) > 2 else ODD:
            outcome(rebuilt(changed(header, path, odd), data))
    for text in ("", "[]", "null", "{", "[" * 100000, "9" * 5000, '"a"', "NaN", "1e999"):
        assert outcome(rebuilt(text, data)) is not None
    assert "format 2, this version reads 1" in str(outcome(rebuilt(header | {"format": 2}, data)))


def test_weights_of_another_type_or_shape_are_an_error():
    import safetensors.numpy

    program, _ = line_program()
    text = json.dumps(header_of(dump(program)))
    for name, array in program.weights.items():
        for other in (
            array.astype(np.float64),
            array.astype(np.int32),
            array.reshape(1, *array.shape),
            array.ravel()[:-1],
            array.ravel()[0],
        ):
            file = safetensors.numpy.save(program.weights | {name: np.asarray(other)}, {"program": text})
            assert outcome(file) is not None, (name, other.dtype, other.shape)
    without = {k: w for k, w in program.weights.items() if k != "w0"}
    for weights in (without, program.weights | {"more": np.ones(1, np.float32)}):
        assert "the weights are not those" in str(outcome(safetensors.numpy.save(weights, {"program": text})))


# ---- validation, rule by rule -------------------------------------------------------------------------------


def tiny(ops, values, channels=1, axes="grid", logits=None, weights=(), **facts):
    """A program of 2 symbols; without `logits` a constant is added for each channel."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in dict(weights).items()}
    ops, values = list(ops), list(values)
    if logits is None:
        logits = []
        for _ in range(channels):
            values.append(Value(2, "once"))
            ops.append(Op("constant", len(values) - 1, (), ("logits",)))
            logits.append(Read(len(values) - 1, width=2))
        arrays["logits"] = np.zeros(2, np.float32)
    facts = {"classes": 0, "features": 0, "symbols": 2} | facts
    return Program(
        axes,
        channels,
        *(facts[k] for k in ("symbols", "classes", "features")),
        tuple(values),
        tuple(ops),
        tuple(logits),
        arrays,
    )


def reading(writer, reader, later=False, **place):
    """A read of a value of one clock by an operation of another."""
    values = [Value(1, writer), Value(1, reader)]
    ops = [Op("constant", 0, (), ("a",)), Op("concat", 1, (Read(0, **place, width=1),))]
    return tiny(ops[::-1] if later else ops, values, weights={"a": 1}, channels=2)


def pixelwise(clock="pixel", second=4, rows=None, weights=None):
    """A constant of each of 4 pixels, and a sum of it with weights of so many."""
    values = [Value(1, clock), Value(1, "done")]
    ops = [Op("constant here", 0, (), ("a",))]
    ops += [Op("dense here onto", 1, (Read(0, width=1),) * 3, ("b",))]
    return tiny(ops, values, weights={"a": (4, 1), "b": (rows or 2 * second, 1)} | (weights or {}))


def parts(width, n, numbers=()):
    """The n numbers of a pixel of a constant."""
    ops = [Op("constant", 0, (), ("a",)), Op("here", 1, (Read(0, width=width),), (), numbers)]
    return tiny(ops, [Value(width, "once"), Value(n, "pixel")], weights={"a": 1 if width > 99 else width})


C1 = {"a": 1}
LOGITS2 = [Read(0, width=2)]
BROKEN = [
    (
        "a later operation of its clock",
        reading("pixel", "pixel", later=True),
        "reads v0 before it is written",
    ),
    ("a later clock", reading("channel 1", "channel 0"), "reads v0 before it is written"),
    ("done before it is", reading("done", "channel 1"), "reads v0 before it is written"),
    (
        "a pixel by a row",
        reading("pixel", "row", columns=-1),
        r"reads v0 at \(0, 0, -1\) before it is written",
    ),
    (
        "a row by a frame",
        reading("row", "frame", rows=-1),
        r"reads v0 at \(0, -1, \+0\) before it is written",
    ),
    ("a row by a pass back", reading("row", "back"), "reads v0 before it is written"),
    ("a pixel by a pass back", reading("pixel", "back", columns=1), r"at \(0, 0, \+1\) before it"),
    ("a pass back by a frame", reading("back", "frame", rows=-1), r"at \(0, -1, \+0\) before it"),
    ("to the left of a pass back", reading("back", "back", columns=-1), r"at \(0, 0, -1\) before it"),
    ("later in a pass back", reading("back", "back", later=True), "reads v0 before it is written"),
    ("the pixel to the right", reading("pixel", "pixel", columns=1), r"reads v0 at \(0, 0, \+1\) before"),
    ("the row below", reading("row", "pixel", rows=1), r"reads v0 at \(0, 1, \+0\) before"),
    ("below and to the left", reading("pixel", "pixel", rows=1, columns=-1), r"at \(0, 1, -1\) before"),
    ("the next frame", reading("frame", "pixel", frames=1, rows=-1), r"at \(1, -1, \+0\) before"),
    ("before all there is", reading("pixel", "once", frames=-1), r"at \(-1, 0, \+0\) before"),
    ("once, elsewhere", reading("once", "pixel", columns=-1), r"at \(0, 0, -1\) before"),
    (
        "state, elsewhere",
        tiny(
            [Op("constant", 0, (), ("a",)), Op("concat", 1, (Read(0, columns=-1, width=1),))],
            [Value(1, "pixel", 1, True), Value(1, "pixel")],
            weights=C1,
        ),
        "before it is written",
    ),
    (
        "the logits too early",
        tiny([Op("constant", 0, (), ("a",))], [Value(2, "done")], logits=LOGITS2, weights={"a": 2}),
        "the logits of channel 0 reads v0 before",
    ),
    (
        "logits elsewhere",
        tiny(
            [Op("constant", 0, (), ("a",))],
            [Value(2, "pixel")],
            logits=[Read(0, columns=-1, width=2)],
            weights={"a": 2},
        ),
        "are not those of the place",
    ),
    (
        "coarse logits",
        tiny([Op("constant", 0, (), ("a",))], [Value(2, "pixel", 2)], logits=LOGITS2, weights={"a": 2}),
        "are not those of the place",
    ),
    (
        "narrow logits",
        tiny(
            [Op("constant", 0, (), ("a",))], [Value(2, "pixel")], logits=[Read(0, width=1)], weights={"a": 2}
        ),
        "the logits of channel 0 are 1, the symbols 2",
    ),
    (
        "no such logits",
        tiny(
            [Op("constant", 0, (), ("a",))], [Value(2, "pixel")], logits=[Read(7, width=2)], weights={"a": 2}
        ),
        "a value read by the logits of channel 0 is 7",
    ),
    (
        "too few logits",
        tiny([Op("constant", 0, (), ("a",))], [Value(2, "pixel")], 2, logits=LOGITS2, weights={"a": 2}),
        "not one reading of logits a channel",
    ),
    ("never written", tiny([], [Value(1, "pixel")]), "not one operation a value"),
    (
        "one written twice, one never",
        tiny(
            [Op("constant", 0, (), ("a",)), Op("constant", 0, (), ("a",))],
            [Value(1, "pixel"), Value(1, "row")],
            weights=C1,
        ),
        r"operation 1 \(constant\) writes v0, which is written already",
    ),
    (
        "two writers",
        tiny([Op("constant", 0, (), ("a",))] * 2, [Value(1, "pixel")], weights=C1),
        "not one operation a value",
    ),
    (
        "no such value",
        tiny([Op("constant", 9, (), ("a",))], [Value(1, "pixel")], weights=C1),
        "the output of an operation is 9",
    ),
    (
        "a value from the end",
        tiny([Op("concat", 0, (Read(-1, width=1),))], [Value(1, "pixel")]),
        r"a value read by operation 0 \(concat\) is -1",
    ),
    (
        "beyond a value",
        tiny(
            [Op("constant", 0, (), ("a",)), Op("concat", 1, (Read(0, first=1, width=1),))],
            [Value(1, "row"), Value(1, "pixel")],
            weights=C1,
        ),
        "a part read by operation 1",
    ),
    (
        "wider than a value",
        tiny(
            [Op("constant", 0, (), ("a",)), Op("concat", 1, (Read(0, width=2),))],
            [Value(1, "row"), Value(2, "pixel")],
            weights=C1,
        ),
        "the width of a part read by operation 1",
    ),
    ("too far away", reading("pixel", "pixel", columns=-65537), "a place read by operation 1"),
    (
        "no weights",
        tiny([Op("constant", 0, (), ("b",))], [Value(1, "pixel")], weights=C1),
        "the weights are not those",
    ),
    ("weights for nothing", tiny([], [], weights=C1), "the weights are not those"),
    (
        "too many weights",
        tiny([Op("constant", 0, (), ("a", "a"))], [Value(1, "pixel")], weights=C1),
        r"operation 0 \(constant\) has 2 weights",
    ),
    (
        "too many reads",
        tiny([Op("constant", 0, (Read(1, width=2),), ("a",))], [Value(1, "pixel")], weights=C1),
        r"\(constant\) has 1 reads",
    ),
    (
        "too many numbers",
        tiny([Op("constant", 0, (), ("a",), (1,))], [Value(1, "pixel")], weights=C1),
        r"\(constant\) has 1 numbers",
    ),
    (
        "weights of another shape",
        tiny([Op("constant", 0, (), ("a",))], [Value(3, "pixel")], weights=C1),
        r"weights have shapes \[\(1,\)\], not \[\(3,\)\]",
    ),
    (
        "weights without a shape",
        tiny([Op("constant", 0, (), ("a",))], [Value(1, "pixel")], weights={"a": ()}),
        r"the weights 'a' have shape \(\)",
    ),
    ("unknown", tiny([Op("divide", 0)], [Value(1, "pixel")]), "there is no operation 'divide'"),
    ("unknown axes", tiny([], [], axes="circle"), "its axes are 'circle', not one of grid, line"),
    ("no channels", tiny([], [], channels=0), "channels is 0, it must be 1 to 64"),
    ("no symbols", tiny([], [], symbols=0), "symbols is 0, it must be 1 to 65536"),
    ("classes below 0", tiny([], [], classes=-1), "classes is -1"),
    ("true is no number", tiny([], [], features=True), "features is True"),
    ("no width", tiny([Op("concat", 0)], [Value(0, "pixel")]), "the width of a value is 0"),
    ("no such clock", tiny([Op("concat", 0)], [Value(1, "noon")]), "there is no clock 'noon'"),
    ("every third", tiny([Op("concat", 0)], [Value(1, "row", 3)]), "every 3 rows: take 1, 2, 4 or 8"),
    (
        "every second channel",
        tiny([Op("concat", 0)], [Value(1, "channel 0", 2)]),
        "only rows and pixels can be skipped",
    ),
    ("a carried row", tiny([Op("concat", 0)], [Value(1, "row", 1, True)]), "a row is carried"),
    ("a carried pass back", tiny([Op("concat", 0)], [Value(1, "back", 1, True)]), "a row is carried"),
    ("every second back", tiny([Op("concat", 0)], [Value(1, "back", 2)]), "only rows and pixels can be skip"),
    *(
        (
            f"weights of the pixel by {clock}",
            pixelwise(clock),
            f"belongs to a pixel, the clock '{clock}' does",
        )
        for clock in ("once", "frame", "back", "row")
    ),
    ("two numbers of pixels", pixelwise(second=5), "for events of 4 pixels and for events of 5"),
    ("weights of half a pixel", pixelwise(rows=9), r"have shapes \[\(9, 1\)\], not \[\(8, 1\)\]"),
    ("weights of no pixel", pixelwise(rows=1), "number of pixels of 'dense here onto' is 0, it must be 1 to"),
    ("flat weights of the pixel", pixelwise(weights={"a": 4}), r"have shapes \[\(4,\)\], not \[\(4, 1\)\]"),
    ("no weights of the pixel", pixelwise(weights={"a": (0, 1)}), "number of pixels of 'constant here' is 0"),
    (
        "weights of too many pixels",
        pixelwise(weights={"a": ((1 << 20) + 1, 1)}),
        "number of pixels of 'constant here' is 1048577, it must be 1 to 1048576",
    ),
    ("wide weights of the pixel", pixelwise(weights={"a": (4, 2)}), r"\(4, 2\)\], not \[\(4, 1\)\]"),
    ("parts that are not equal", parts(12, 5), "its reads do not fit its output of 5"),
    ("parts of more", parts(4, 5), "the number of pixels of 'here' is 0"),
    ("too many parts", parts((1 << 20) + 1, 1), "the width of a value is 1048577"),
    ("parts by two", parts(12, 4, numbers=(3,)), r"\(here\) has 1 numbers"),
    (
        "a sum of pixels of itself",
        tiny(
            [Op("dense here onto", 0, (Read(0, width=1),) * 2, ("a",))],
            [Value(1, "pixel", 1, True)],
            weights={"a": (4, 1)},
        ),
        "reads v0 while it writes it",
    ),
    (
        "a sum of pixels onto nothing",
        tiny([Op("dense here onto", 0, (), ("a",))], [Value(1, "pixel")], weights={"a": (4, 1)}),
        "reads do not fit",
    ),
    (
        "parts that do not fit",
        tiny([Op("concat", 0, (Read(1, width=2),))], [Value(1, "pixel")]),
        "its reads do not fit its output of 1",
    ),
    (
        "a dense of nothing",
        tiny([Op("dense", 0, (), ("a", "b"))], [Value(1, "pixel")], weights={"a": (1, 1), "b": 1}),
        "reads do not fit",
    ),
    (
        "three of four to select",
        tiny([Op("select", 0, (Read(1, width=2),) * 3)], [Value(2, "pixel")]),
        "reads do not fit",
    ),
    ("position on a line", tiny([Op("position", 0)], [Value(2, "pixel")], axes="line"), "reads do not fit"),
    (
        "levels before they are known",
        tiny([Op("levels", 0, (), ("a",))], [Value(1, "pixel")], weights={"a": 2}),
        "reads do not fit",
    ),
    (
        "a class at every pixel",
        tiny([Op("class", 0, (), ("a",))], [Value(1, "pixel")], weights={"a": (2, 1)}, classes=2),
        "reads do not fit",
    ),
    ("features at a pixel", tiny([Op("features", 0)], [Value(3, "pixel")], features=3), "reads do not fit"),
    *(
        (
            f"the symbol at {numbers} by {clock}",
            tiny([Op("embed", 0, (), ("a",), numbers)], [Value(1, clock)], 2, weights={"a": (3, 1)}),
            message,
        )
        for clock, numbers, message in [
            ("pixel", (0, 0, 0, 0, 2), "a symbol is read before"),
            ("channel 0", (0, 0, 0, 0, 2), "a symbol is read before"),
            ("channel 0", (0, 0, 0, 1, 2), "a symbol is read before"),
            ("channel 1", (0, 0, 0, 1, 2), "a symbol is read before"),
            ("channel 1", (0, 0, 1, 0, 2), "a symbol is read before"),
            ("row", (0, 0, -1, 0, 2), "a symbol is read before"),
            ("frame", (0, -1, 0, 0, 2), "a symbol is read before"),
            ("once", (-1, 0, 0, 0, 2), "a symbol is read before"),
            ("done", (0, 1, 0, 0, 2), "the place of a symbol is 1"),
            ("done", (1, 0, 0, 0, 2), "the place of a symbol is 1"),
            ("pixel", (0, 0, -1, 2, 2), "the channel of a symbol is 2"),
            ("pixel", (0, 0, -1, 0, 3), "the row of a table is 3"),
            ("pixel", (0, 0, -1, 0, -2), "the row of a table is -2"),
        ]
    ),
    (
        "a short table",
        tiny([Op("embed", 0, (), ("a",), (0, 0, -1, 0, 2))], [Value(1, "pixel")], weights={"a": (2, 1)}),
        "a table is too short",
    ),
    (
        "a long table",
        tiny([Op("embed", 0, (), ("a",), (0, 0, -1, 0, 2))], [Value(1, "pixel")], weights={"a": (4, 1)}),
        "a table is too short",
    ),
    (
        "a sum of itself",
        tiny(
            [Op("dense", 0, (Read(0, width=1),), ("a", "b"))],
            [Value(1, "pixel", 1, True)],
            weights={"a": (1, 1), "b": 1},
        ),
        "reads v0 while it writes it",
    ),
]


@pytest.mark.parametrize(
    ("program", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_a_program_that_cannot_be_run_is_refused(program, message):
    with pytest.raises(ChainruleError, match=message) as error:
        validate(program)
    assert str(error.value).startswith("the program cannot be run: ")


def test_the_same_programs_without_the_fault_are_accepted():
    validate(reading("pixel", "pixel"))
    validate(reading("channel 0", "channel 1"))
    validate(reading("row", "pixel", columns=1))
    validate(tiny([Op("constant", 0, (), ("a",))], [Value(2, "pixel")], logits=LOGITS2, weights={"a": 2}))
    validate(tiny([Op("add", 0, (Read(0, width=1),) * 2)], [Value(1, "pixel", 1, True)]))
    validate(reading("back", "back", later=True, columns=1))
    validate(reading("back", "row", columns=-1))
    validate(reading("done", "back", rows=-1, columns=1))
    assert validate(pixelwise()).pixels == validate(pixelwise("done", rows=8)).pixels == 4
    assert validate(parts(12, 4)).pixels == 3
    once, total = Value(1, "once"), Value(1, "done", 1, True)
    ops = [Op("constant", 0, (), ("a",))]
    for kind, shape in [("dense onto", (1, 1)), ("dense here onto", (6, 1))]:
        onto = Op(kind, 1, (Read(1, width=1), Read(0, width=1)), ("b",))
        validate(tiny([*ops, onto], [once, total], weights={"a": 1, "b": shape}))


def test_a_small_file_cannot_ask_for_days_of_work_at_one_pixel():
    """Masses of logistics need no weights, and a step is not interrupted."""
    for count, good in [(64, True), (65, False)]:
        p = Builder(symbols=1 << 16)
        x = p.constant(np.zeros(3 * 4))
        y = [p.logistics(x, clock="pixel") for _ in range(count)][-1]
        if good:
            p.finish([y])
        else:
            with pytest.raises(
                ChainruleError, match="it adds up 17039360 masses a pixel, 16777216 are allowed"
            ):
                p.finish([y])


ATTENDED = [
    ({"heads": 4}, "reads do not fit"),
    ({"heads": 0}, "the number of heads is 0"),
    ({"length": 0}, "the length of a pattern is 0"),
    ({"summary": -1}, "the length of a pattern is -1"),
    ({"window": -1}, "the window of an attention is -1"),
    ({"window": 1 << 21}, "the window of an attention is 2097152"),
]


@pytest.mark.parametrize(("options", "message"), ATTENDED)
def test_attention_that_cannot_be_is_refused(options, message):
    p = Builder(2, axes="grid")
    q, k, v = (p.embed(np.zeros((3, 6)), columns=-1, clock="pixel") for _ in range(3))
    with pytest.raises(ChainruleError, match=message):
        p.finish([p.attend(q, k, v, **options)[:2]])
    with pytest.raises(ChainruleError, match="no pattern 'ring'"):
        p.attend(q, k, v, pattern="ring")


ATTENDED_NEAR = [
    ({"heads": 4}, "reads do not fit"),
    ({"heads": 0}, "the number of heads is 0"),
    ({"heads": 7}, "the number of heads is 7"),
    ({"table": np.zeros((0, 6))}, "the length of an attention is 0"),
    ({"table": np.zeros((2, 5))}, "its weights have shapes"),
]


@pytest.mark.parametrize(("options", "message"), ATTENDED_NEAR)
def test_attention_that_knows_the_distance_and_cannot_be_is_refused(options, message):
    p = Builder(2)
    q, far, k, v = (p.embed(np.zeros((3, 6)), columns=-1, clock="pixel") for _ in range(4))
    with pytest.raises(ChainruleError, match=message):
        p.finish([p.attend_near(q, far, k, v, **{"table": np.zeros((2, 6)), **options})[:2]])


def test_queries_of_two_widths_are_refused():
    p = Builder(2)
    q, k, v = (p.embed(np.zeros((3, 6)), columns=-1, clock="pixel") for _ in range(3))
    with pytest.raises(ChainruleError, match="reads do not fit"):
        p.finish([p.attend_near(q, q[:5], k, v, np.zeros((2, 6)))[:2]])


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("wrong", ["keys", "values"])
def test_what_is_attended_to_is_read_only_where_it_stands(wrong, near):
    """It is kept without zeros around it."""
    p = Builder(2, axes="grid")
    q, k, v = (p.embed(np.zeros((3, 2)), columns=-1, clock="pixel") for _ in range(3))
    y = p.attend_near(q, q, k, v, np.zeros((3, 2))) if near else p.attend(q, k, v)
    with pytest.raises(ChainruleError, match="attend to a copy"):
        p.finish([p.add(y, p.at(k if wrong == "keys" else v, columns=-1))])


GOLDEN = """\
program over a grid: 4 symbols, 2 channels, 3 classes
once:
  v0[8] = class(w0[3, 8])
frame:
  v1[2] = features()
row:
  v4[8] = dense(v2 at (0, -1, -1), v2 at (0, -1, +0), v2 at (0, -1, +1), v1, v0, w1[16, 8], w2[8])
pixel:
  v5[8] = dense(v2 at (0, 0, -1), v4[0:4], w3[6, 8], w4[8])  at every 2 rows and columns
  v6[4] = concat(v5[4:8])
channel 0:
  v7[4] = dense(v6, w5[4, 4], w6[4])
channel 1:
  v8[4] = embed onto(v7, w7[4, 4], 0, 0, 0, 0, -1)
done:
  v3[2] = levels(w8[2])
  v2[2] = concat(v3)
logits of channel 0: v7
logits of channel 1: v8"""


def test_a_program_reads_like_a_page():
    p = Builder(symbols=4, channels=2, classes=3, features=2, axes="grid")
    c, f, image = p.one_of_classes(np.ones((3, 8))), p.given_features(), p.memory(2, "done")
    levels = p.memory(2, "done")
    row = p.dense(*p.taps(image, (-1,), (-1, 0, 1)), f, c, weight=np.ones((16, 8)), clock="row")
    coarse = p.dense(p.at(image, columns=-1), row[:4], weight=np.ones((6, 8)), clock="pixel", every=2)
    first = p.dense(p.concat(coarse[4:]), weight=np.ones((4, 4)), clock="channel 0")
    second = p.embed(np.ones((4, 4)), onto=first, clock="channel 1")
    p._ops.append(Op("levels", levels.read.value, (), (p._weight([1.0, 0.0]),)))
    p.write(image, levels)
    assert str(p.finish([first, second])) == GOLDEN


def test_multiply_adds_are_counted_for_one_pixel():
    p = Builder(4, 2, axes="grid")
    x = p.constant(np.ones(3))
    coarse = p.dense(x, weight=np.ones((3, 8)), clock="pixel", every=2)
    program = p.finish([p.dense(coarse, weight=np.ones((8, 4)), clock=f"channel {c}") for c in range(2)])
    assert program.multiply_adds() == dict.fromkeys(clocks(2), 0) | {
        "pixel": 6,
        "channel 0": 32,
        "channel 1": 32,
    }

    own = nade(12, 3, 20)[0].multiply_adds()
    assert own == dict.fromkeys(clocks(1), 0) | {"pixel": 60, "done": 60}


def test_a_chain_may_have_no_program_as_it_is_configured():
    class Some(torch.nn.Module):
        symbols, channels, classes, features, AXES = 2, 1, 0, 0, "line"

        def program(self, p):
            return [p.embed(torch.eye(2), columns=-1, clock="pixel")] if self.training else None

    chain = Some()
    assert isinstance(engine.program_of(chain), Program)
    assert engine.program_of(chain.eval()) is None
    assert engine.program_of(torch.nn.Linear(1, 1)) is None


def test_threads_give_results_in_order_and_errors_where_they_are():
    assert list(strict.in_threads(lambda i: i * i, range(50), 3)) == [i * i for i in range(50)]
    results = strict.in_threads(lambda i: 1 // (2 - i), range(9), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_the_specification_itself_is_close_to_mathematics():
    x = np.concatenate([np.linspace(-90, 90, 20001), [-1e30, 1e30]]).astype(np.float32)
    inside = abs(x) < 87
    np.testing.assert_allclose(SINGLE.exp(x[inside]), np.exp(x[inside].astype(float)), rtol=2e-7)
    np.testing.assert_allclose(SINGLE.sigmoid(x), DOUBLE.sigmoid(x.astype(float)), rtol=5e-7, atol=1e-38)
    np.testing.assert_allclose(SINGLE.tanh(x), np.tanh(x.astype(float)), atol=2e-7)
    np.testing.assert_allclose(
        SINGLE.gated(x, x[::-1]), DOUBLE.gated(x.astype(float), x[::-1].astype(float)), atol=3e-7
    )
