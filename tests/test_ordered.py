"""Chains over events of one fixed shape: FVBN, NADE and MADE, beyond the contract that every chain keeps.

B batch, N symbols of an event, F numbers that stand for a level, H hidden units
"""

import copy
import json
import math

import numpy as np
import pytest
import torch

import chainrule
from chainrule import complete, sample, store
from chainrule.chains import CHAINS, nade
from chainrule.chains.made import Stairs
from chainrule.chains.nade import Autoregress
from chainrule.cli import main
from chainrule.data import Dataset
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.layers.levels import smooth_basis
from chainrule.layers.ordered import LONGEST, Line, visits
from chainrule.verbs.score import score
from contracts import (
    agree,
    check_causality,
    check_classes,
    check_complete,
    check_engine,
    check_gradients,
    check_samples,
    check_store,
    check_sums_to_one,
    check_walk,
    events,
    influence,
    mixed,
    randomised,
)

NAMES = ["fvbn", "nade", "made"]
ORDERS = [3, 70, "backwards"]
every = pytest.mark.parametrize("name", NAMES)


def built(name, event, symbols=3, classes=0, order="raster", **settings):
    """The tiny chain, with random weights in float64; "backwards" is the last position first."""
    if order == "backwards":
        order = list(reversed(range(math.prod(event))))
    args = {"symbols": symbols, "event": event, "classes": classes, "order": order}
    return randomised(
        store.build(name, {**store.resolve(name, CHAINS).SIZES["tiny"], **args, **settings}, CHAINS), event
    )


def stepped(chain, x, context):
    """The logits (B, N, K) of the chain's own steps along the events x."""
    flat, met = x.reshape(len(x), -1), np.empty((len(x), x[0].numel(), chain.symbols))
    state, symbol = chain.start(len(x), tuple(x.shape[1:]), context), None
    with torch.inference_mode():
        for place in np.argsort(chain.order(tuple(x.shape[1:]))):
            logits, state = chain.step(state, symbol)
            met[:, place], symbol = logits.numpy(), flat[:, place]
    return met


# ---- the equations of the papers, symbol by symbol ----------------------------------------------------------


def numbers(chain, x):
    """ψ of every symbol in the order of the chain (N, F)."""
    basis, length = smooth_basis(chain.symbols).numpy(), np.float32(max(1, chain.symbols / 8))
    np.testing.assert_allclose((basis[:, 1] ** 2).mean(), length**2, rtol=1e-6)
    basis, order = basis[:, 1 : 1 + chain.line.width], np.argsort(chain.order(chain.event))
    return ((basis - basis[0]) / length)[x.reshape(-1)[order]].astype(np.float64)


def of(parameter):
    return parameter.detach().numpy()


def by_fvbn(chain, phi, y):
    n, f = phi.shape
    weight, said, pair = of(chain.weight), np.zeros((n, f)), 0
    for j in range(n):
        for i in range(j + 1, n):
            said[i] += phi[j] @ weight[pair]
            pair += 1
    return said + of(chain.bias) + (0 if y is None else of(chain.condition.weight)[y].reshape(n, f))


def by_nade(chain, phi, y):
    total, said = of(chain.bias) + (0 if y is None else of(chain.condition.weight)[y]), []
    for i in range(len(phi)):
        h = 1 / (1 + np.exp(-total))
        said.append(of(chain.leave)[i] @ h + of(chain.out_bias)[i])
        total = total + phi[i] @ of(chain.enter)[i]
    return np.array(said)


def by_made(chain, phi, y):
    """With whole matrices and the masks of the documentation."""
    n, f = phi.shape
    u, i = np.arange(chain.hidden) * n // chain.hidden, np.repeat(np.arange(n), f)
    first, last = (0, 0) if y is None else np.split(of(chain.condition.weight)[y], [chain.hidden])
    h = phi.reshape(-1)
    masks = [i[:, None] < u] + [u[:, None] <= u] * (len(chain.bias) - 1)
    for layer, (stairs, bias, mask) in enumerate(zip(chain.stairs, chain.bias, masks, strict=False)):
        h = np.maximum(h @ (whole(stairs) * mask) + of(bias) + (first if layer == 0 else 0), 0)
    said = h @ (whole(chain.stairs[-1]) * (u[:, None] <= i)) + of(chain.out_bias) + last
    if chain.direct is not None:
        said = said + phi.reshape(-1) @ (whole(chain.direct) * (i[:, None] < i))
    return said.reshape(n, f)


def whole(stairs):
    """The matrix of which `stairs` keeps what is seen, with 99 where it keeps nothing."""
    matrix = np.full((stairs.inputs, stairs.outputs), 99.0)
    for rows, end, w in zip(stairs.rows, stairs.ends, stairs.weight, strict=True):
        matrix[:rows, end] = of(w)
    return matrix


EQUATIONS = {"fvbn": by_fvbn, "nade": by_nade, "made": by_made}


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize(("event", "symbols"), [((2, 3, 1), 2), ((2, 2, 3), 4), ((5,), 7)])
@pytest.mark.parametrize("order", ["raster", *ORDERS])
@every
def test_the_logits_are_those_of_the_equations(name, order, event, symbols, classes):
    chain = built(name, event, symbols, classes, order, features=3)
    x, context = events(chain, event, 4), mixed(chain, 4)
    with torch.no_grad():
        logits = chain.logits(x, context).reshape(4, -1, symbols).numpy()
    phi = smooth_basis(symbols).double().numpy()[:, 1:4]
    for b in range(4):
        said = EQUATIONS[name](
            chain, numbers(chain, x[b].numpy()), None if context is None else int(context[b])
        )
        np.testing.assert_allclose(logits[b], (said @ phi.T)[chain.order(event)], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hidden", [1, 3, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("stripes", [1, 2, 5, 40])
@pytest.mark.parametrize("layers", [1, 3])
def test_made_of_any_width_is_that_of_the_equations(hidden, stripes, layers):
    event = (2, 3, 1)
    chain = built("made", event, 3, 2, hidden=hidden, stripes=stripes, layers=layers)
    x, context = events(chain, event, 3), mixed(chain, 3)
    phi = smooth_basis(3).double().numpy()[:, 1:]
    said = np.stack([by_made(chain, numbers(chain, x[b].numpy()), int(context[b])) for b in range(3)])
    with torch.no_grad():
        found = chain.logits(x, context).reshape(3, 6, 3).numpy()
    np.testing.assert_allclose(found, said @ phi.T, rtol=1e-9, atol=1e-9)
    agree(stepped(chain, x, context), chain, x, context)
    check_causality(chain, event)
    check_engine(chain, event)


def test_made_without_direct_connections_reaches_everything_with_a_unit_for_every_symbol():
    for event in ((3, 3, 1), (2, 2, 3)):
        check_causality(built("made", event, 3, direct=False, hidden=math.prod(event) * 6), event)
    narrow = built("made", (9,), 3, direct=False, hidden=3)  # degrees 0, 3, 6
    assert not (influence(narrow, (9,)) & (np.arange(9) >= 3 * (np.arange(9)[:, None] // 3))).any()


# ---- orders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("classes", [0, 2])
@every
def test_in_another_order_it_is_a_distribution_that_is_sampled_and_completed(name, classes, order):
    for event, symbols in (((2, 3, 1), 2), ((2, 2), 3)):
        chain = built(name, event, symbols, classes, order)
        check_sums_to_one(chain, event)
        check_samples(chain, event)
        check_complete(chain, event)
        check_walk(chain, event)


@pytest.mark.parametrize("event", [(5, 7, 1), (3, 4, 3), (11,)])
@pytest.mark.parametrize("order", ORDERS)
@every
def test_in_another_order_a_symbol_reaches_what_comes_later_and_nothing_else(name, order, event):
    chain = built(name, event, 3, 2, order)
    check_causality(chain, event)
    check_causality(chain, event, training=True)
    check_classes(chain, event)
    check_gradients(chain, event)


@pytest.mark.parametrize("event", [(5, 7, 1), (2, 3, 3), (11,)])
@pytest.mark.parametrize("order", ["raster", *ORDERS])
@pytest.mark.parametrize("classes", [0, 2])
@every
def test_the_own_steps_meet_the_parallel_logits(name, classes, order, event):
    chain = built(name, event, 3, classes, order)
    for batch in (1, 3):
        x, context = events(chain, event, batch), mixed(chain, batch)
        agree(stepped(chain, x, context), chain, x, context)


def test_an_order_is_what_it_says():
    assert visits("raster", 4).tolist() == [0, 1, 2, 3]
    assert visits([2, 0, 1], 3).tolist() == [2, 0, 1]
    assert visits(0, 8).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]  # the same everywhere: files hold the seed alone
    chain = built("nade", (3,), order=[2, 0, 1])
    assert chain.order((3,)).tolist() == [1, 2, 0]
    for order in (visits(7, 6).tolist(), 7):
        check_store(built("nade", (2, 3, 1), order=order).float(), (2, 3, 1), CHAINS)


@every
def test_only_the_order_of_the_engine_has_a_program(name):
    for order, stated in (("raster", True), ([0, 1, 2, 3], True), (4, False), ([1, 0, 2, 3], False)):
        assert (program_of(built(name, (4,), order=order)) is not None) == stated


WRONG = [
    ("spiral", "order is 'spiral': take raster"),
    (True, "order is True: take raster"),
    (None, "order is None: take raster"),
    (1.5, "order is 1.5"),
    (-1, "order is -1: take a seed from 0 to 65535"),
    (1 << 16, "order is 65536: take a seed"),
    ([0, 1, 2], "order lists 3 positions: it must have each of 0 to 3 exactly once"),
    ([0, 1, 2, 2], "order lists 4 positions"),
    ([0, 1, 2, 4], "order lists 4 positions"),
    ([0, 1, 2, 3, 3], "order lists 5 positions"),
    ([0, 1, 2, "3"], "order lists 4 positions"),
    ([0, 1, 2, [3]], "order lists 4 positions"),
    ([0, 1, 2, 3.0], "order lists 4 positions"),
    ([False, True, 2, 3], "order lists 4 positions"),
    ({"a": 1}, "order is {'a': 1}"),
]


@pytest.mark.parametrize(("order", "message"), WRONG, ids=str)
@every
def test_an_order_that_is_none_is_refused_in_one_line(name, order, message):
    with pytest.raises(ChainruleError, match=r"^[^\n]*$") as refused:
        store.build(name, {"event": (4,), "order": order}, CHAINS)
    assert message in str(refused.value)


# ---- shapes and sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", [(), (0,), (-1, 4), (2, 3.0), (True, 3), ("3",), (1 << 20, 2), ([3],)], ids=str
)
@every
def test_a_shape_that_cannot_be_is_refused_in_one_line(name, event):
    with pytest.raises(
        ChainruleError, match=r"^[^\n]*event is [^\n]*: (take a shape|there is room for)[^\n]*$"
    ):
        store.build(name, {"event": list(event)}, CHAINS)


@every
def test_sizes_that_cannot_be_are_refused_in_one_line(name):
    for option in ("hidden", "features", "stripes", "symbols"):
        if option in store.options(store.resolve(name, CHAINS)):
            for value in (0, -3):
                with pytest.raises(ChainruleError, match=f"{option} is {value}: take 1 or more"):
                    store.build(name, {"event": (4,), option: value}, CHAINS)
    with pytest.raises(ChainruleError, match="symbols is 5000: 1 to 4096"):
        store.build(name, {"event": (4,), "symbols": 5000}, CHAINS)
    with pytest.raises(ChainruleError, match=f"room for {LONGEST}"):
        store.build(name, {"event": (1024, 1024), "symbols": 256, "features": 4}, CHAINS)


@every
def test_a_single_symbol_that_is_always_the_same(name):
    chain = store.build(
        name, {"event": (3,), "symbols": 1, **store.resolve(name, CHAINS).SIZES["tiny"]}, CHAINS
    )
    assert sample(chain, 2).tolist() == [[0, 0, 0]] * 2
    assert chain.log_prob(torch.zeros(2, 3, dtype=torch.long)).tolist() == [0, 0]


@every
def test_data_of_another_shape_are_refused_in_one_line(name, tmp_path):
    chain = store.build(name, {"event": (4, 4, 1), **store.resolve(name, CHAINS).SIZES["tiny"]}, CHAINS)
    for shape in ((4, 3, 1), (5, 5, 1), (4, 4, 3)):
        data = Dataset(np.zeros((2, *shape), np.uint8), levels=2, kind="image")
        message = rf"shape {shape}, the model takes \(4, 4, 1\)".replace("shape (", r"shape \(").replace(
            "),", r"\),"
        )
        with pytest.raises(ChainruleError, match=message):
            score(chain, data)
        with pytest.raises(ChainruleError, match=message):
            chainrule.compress(chain, data, tmp_path / "x.chain")
        with pytest.raises(ChainruleError, match=message):
            chain.order(shape)
        with pytest.raises(ChainruleError, match="model's events have shape"):
            sample(chain, 1, shape)
        with pytest.raises(ChainruleError, match="model's events have shape"):
            complete(chain, np.zeros(shape, np.uint8), np.ones(shape, bool))
    mixed_shapes = [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 5, 1), np.uint8)]
    with pytest.raises(
        ChainruleError, match=f"{name} needs events of one shape, and these differ: resize or crop"
    ):
        chainrule.fit(Dataset(mixed_shapes, 2, "image", ("0", "1")), name, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


@every
def test_a_class_is_asked_for(name):
    chain = built(name, (4,), classes=2)
    for act in (lambda: chain.logits(torch.zeros(1, 4)), lambda: chain.start(1, (4,))):
        with pytest.raises(ChainruleError, match="conditioned on 2 classes: give one for each event"):
            act()


# ---- levels as numbers --------------------------------------------------------------------------------------


def test_two_levels_are_one_number_of_size_one():
    line = Line((2,), "raster", 2, 16)
    assert line.phi.tolist() == [[-1], [1]]
    assert line.psi.tolist() == [[0], [2]]


@pytest.mark.parametrize("symbols", [2, 3, 17])
@every
def test_with_all_features_every_softmax_can_be_said(name, symbols):
    chain = built(name, (2,), symbols, features=symbols)
    wanted = torch.randn(2, symbols, generator=torch.Generator().manual_seed(0)).double()
    phi = chain.line.phi
    said = torch.linalg.lstsq(torch.cat([phi, torch.ones_like(phi[:, :1])], 1), wanted.T).solution[:-1].T
    with torch.no_grad():
        for p in chain.parameters():
            p.zero_()
        (chain.bias if name == "fvbn" else chain.out_bias).copy_(
            said.reshape(getattr(chain, "out_bias", said).shape)
        )
        logits = chain.logits(torch.zeros(1, 2))[0]
    torch.testing.assert_close(logits.softmax(-1), wanted.softmax(-1), rtol=1e-9, atol=1e-12)


# ---- parameters ---------------------------------------------------------------------------------------------


def count(name, **args):
    with torch.device("meta"):
        return sum(p.numel() for p in store.build(name, args, CHAINS).parameters())


def paper(name):
    return store.resolve(name, CHAINS).SIZES["paper"]


def test_the_paper_sizes_have_the_parameters_of_the_publications():
    n, h = 28 * 28, 500
    binary = {"symbols": 2, "event": (28, 28, 1)}
    assert count("fvbn", **binary, **paper("fvbn")) == n * (n - 1) // 2 + n
    assert count("nade", **binary, **paper("nade")) == 2 * n * h + n + h  # W and V, b, c
    h = 8000  # whole matrices, of which the masks hide half
    assert count("made", **binary, **paper("made")) == n * h + h * h + h * n + n * n + 2 * h + n


@pytest.mark.parametrize(("symbols", "features", "f"), [(2, 16, 1), (256, 16, 16), (5, 16, 4), (17, 3, 3)])
def test_parameters_with_more_levels_and_classes(symbols, features, f):
    event, n, y = (4, 5, 3), 60, 7
    facts = {"symbols": symbols, "event": event, "classes": y, "features": features}
    assert count("fvbn", **facts) == n * (n - 1) // 2 * f * f + n * f + y * n * f
    assert count("nade", **facts, hidden=9) == 2 * n * f * 9 + n * f + 9 + y * 9
    h, w = 60, 60 * f
    assert count(
        "made", **facts, hidden=h, layers=3, stripes=1
    ) == 2 * h * w + 2 * h * h + w * w + 3 * h + w + y * (h + w)
    assert count(
        "made", **facts, hidden=h, layers=3, stripes=1, direct=False
    ) == 2 * h * w + 2 * h * h + 3 * h + w + y * (h + w)


def test_stripes_save_what_no_unit_sees():
    """In stripes of one output there is nothing to mask; in fewer a part of each is."""
    counts = np.repeat(np.arange(6), 2)
    kept = {n: sum(w.numel() for w in Stairs(6, counts, n).weight) for n in (1, 2, 5, 10, 99)}
    assert kept == {1: 72, 2: 40, 5: 30, 10: 30, 99: 30}
    assert int(counts.sum()) == 30
    for n in kept:
        stairs = Stairs(6, counts, n).double()
        x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()
        seen = torch.arange(6)[:, None] < torch.from_numpy(counts)
        torch.testing.assert_close(stairs(x), x @ (torch.from_numpy(whole(stairs)) * seen))
        torch.testing.assert_close(stairs(x), x @ stairs.matrix(x))


# ---- NADE's own derivative ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 12, 24, 36, 1000])  # 1, 1, 2, 3 and all positions at a time
def test_the_gradient_of_nade_is_the_slope(monkeypatch, at_once):
    monkeypatch.setattr(nade, "AT_ONCE", at_once)
    random = torch.Generator().manual_seed(0)
    n, b, f, h = 7, 3, 2, 4
    draw = [
        torch.randn(shape, generator=random).double() for shape in [(n, b, f), (b, h), (n, f, h), (n, f, h)]
    ]
    assert torch.autograd.gradcheck(Autoregress.apply, [draw[0], *(t.requires_grad_() for t in draw[1:])])


@pytest.mark.parametrize(("rows", "at_once"), [(1, 1), (2, 30), (3, 1 << 17), (64, 60)])
def test_nade_computes_the_same_in_pieces_of_any_size(monkeypatch, rows, at_once):
    def run():
        chain = built("nade", (3, 5, 1), 4, 2)
        x, context = events(chain, (3, 5, 1), 7), mixed(chain, 7)
        loss = chain.loss(x, context)
        loss.backward()
        return [loss.detach(), *(p.grad for p in chain.parameters())]

    expected = run()
    monkeypatch.setattr(nade, "ROWS", rows)
    monkeypatch.setattr(nade, "AT_ONCE", at_once)
    for found, wanted in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


# ---- the verbs --------------------------------------------------------------------------------------------


@every
def test_from_the_command_line_to_an_archive_and_back(name, tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 3, (20, 3, 4, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    settings = {"fvbn": ["features=1"], "nade": ["hidden=7"], "made": ["hidden=24", "layers=1"]}[name]
    options = [part for pair in settings for part in ("--set", pair)]
    run, packed = str(tmp_path / "run"), str(tmp_path / "x.chain")
    for command in (
        ["fit", str(tmp_path / "x.npy"), "--model", name, *options, "--steps", "3", "-o", run],
        ["score", run, str(tmp_path / "x.npy"), "--json"],
        ["sample", run, "-n", "3", "-o", str(tmp_path / "drawn.npy")],
        ["compress", run, str(tmp_path / "x.npy"), "-o", packed],
        ["verify", packed],
        ["decompress", packed, "-o", str(tmp_path / "back")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0, capsys.readouterr().err
    args = json.loads((tmp_path / "run" / "run.json").read_text())["args"]
    assert args["event"] == [3, 4, 1]
    assert [f"{key}={args[key]}" for key in (pair.partition("=")[0] for pair in settings)] == settings
    assert (np.load(next((tmp_path / "back").glob("*.npy"))) == x).all()


@every
def test_archives_in_another_order_are_of_this_machine(name, tmp_path):
    x = np.random.default_rng(0).integers(0, 3, (5, 2, 3, 1)).astype(np.uint8)
    data = Dataset(x, levels=3, kind="image", names=tuple("01234"))
    chain = copy.deepcopy(built(name, (2, 3, 1), order=5)).float()
    chainrule.compress(chain, data, tmp_path / "x.chain")
    back = {item: event for item, event, _ in chainrule.decompress(tmp_path / "x.chain")}
    assert all((back[str(i)] == x[i]).all() for i in range(5))


@every
def test_the_same_steps_give_the_same_bits(name, tmp_path):
    x = np.random.default_rng(0).integers(0, 3, (30, 3, 4, 1)).astype(np.uint8)
    data = Dataset(x, levels=3, kind="image")
    settings = {} if name == "fvbn" else {"hidden": 12}
    whole = chainrule.fit(data, name, out=tmp_path / "a", steps=6, settings=settings)
    again = chainrule.fit(data, name, out=tmp_path / "b", steps=6, settings=settings)
    for p, q in zip(whole.chain.parameters(), again.chain.parameters(), strict=True):
        assert torch.equal(p, q)


@every
def test_in_mixed_precision_the_loss_is_much_the_same(name):
    chain = built(name, (4, 5, 1), 5, 2).float()
    x, context = events(chain, (4, 5, 1), 16), mixed(chain, 16)
    exact = float(chain.loss(x, context).detach())
    with torch.autocast("cpu", torch.bfloat16):
        rough = chain.loss(x, context)
    rough.backward()
    assert rough.dtype == torch.float32
    assert abs(float(rough.detach()) - exact) < 0.02 * exact


@every
def test_a_damaged_file_takes_no_memory(name):
    chain = store.build(name, {"event": (4,), **store.resolve(name, CHAINS).SIZES["tiny"]}, CHAINS)
    for wrong in (
        {"event": [1 << 30, 1 << 30]},
        {"event": [65536, 65536]},
        {"event": [65536]},
        {"features": 60000, "symbols": 400},
    ):
        chain.args = {**chain.args, **wrong}
        with pytest.raises(ChainruleError):
            store.parse(store.dump(chain, CHAINS), CHAINS)
        chain.args = {**chain.args, "event": (4,), "features": 4, "symbols": 2}


@pytest.mark.parametrize("layers", range(40, 90, 7))
def test_a_file_that_asks_for_more_and_more_layers_is_refused_in_one_line(layers):
    """Some are refused while the network is built, some when it is, and none with another error."""
    chain = store.build("made", {"event": (4,), **store.resolve("made", CHAINS).SIZES["tiny"]}, CHAINS)
    chain.args = {**chain.args, "layers": layers}
    with pytest.raises(ChainruleError, match=r"many more arrays than its file|a made with its arguments has"):
        store.parse(store.dump(chain, CHAINS), CHAINS)
