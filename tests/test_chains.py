"""Every chain in the table keeps the contract of `contracts.py`, at size "tiny", for all its kinds of data.

A new chain is covered by its line in the table `CHAINS`. It needs a line in `REACH` only when it cannot see
everything before a symbol, and one in `PLAIN` when it is told where in the event it is.
"""

import functools
import importlib.resources
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import reach
from chainrule import complete, sample, store
from chainrule.chains import CHAINS
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.codes import CODES
from chainrule.data import Dataset, Sound
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.layers.carried import Carried
from chainrule.layers.pixels import NEIGHBOURS
from chainrule.model import Chain
from contracts import (
    check_carried,
    check_causality,
    check_classes,
    check_complete,
    check_engine,
    check_exchange,
    check_extremes,
    check_gradients,
    check_items_are_independent,
    check_overfits,
    check_padding,
    check_samples,
    check_seed,
    check_smallest,
    check_store,
    check_sums_to_one,
    check_symbol_types,
    check_walk,
    everything_before,
    randomised,
)

# Events so small that all K^N can be listed, by kind of data: (event, K).
SMALL = {
    "image": [((2, 3, 1), 2), ((2, 3, 1), 3), ((1, 2, 3), 2), ((1, 2, 3), 3), ((2, 1, 3), 2)],
    "text": [((4,), 3), ((5,), 2)],
    "sound": [((4,), 3), ((3, 2), 2), ((2, 2), 3)],
    "array": [((4,), 3), ((2, 2), 3)],
}
# Events with odd sides, sides that are not equal, and borders far enough from each other.
WIDE = {
    "image": [((5, 7, 1), 4), ((5, 7, 3), 3), ((6, 4, 1), 2)],
    "text": [((12,), 5)],
    "sound": [((12,), 5), ((7, 2), 4)],
    "array": [((12,), 5), ((3, 5), 4)],
}


def neighbourhood(chain, event):
    """What a Gated PixelCNN sees: rows above in reach of its kernels, pixels to the left, channels before.

    With a memory it sees everything before.
    """
    options = chain.args
    if options["memory"]:
        return everything_before(chain, event)
    wide = options["first_kernel"] // 2 + options["layers"] * (options["kernel"] // 2)  # to either side
    deep = wide + 1  # rows, and pixels to the left: the input is shifted by one
    row, column, channel = np.indices(event).reshape(3, -1)
    up, left = row[:, None] - row[None], column[:, None] - column[None]
    above = (up >= 1) & (up <= deep) & (abs(left) <= wide)
    beside = (up == 0) & (left >= 1) & (left <= deep)
    own, copied = channel[:, None] - channel[None], np.zeros_like(above)
    for r, c in NEIGHBOURS[: options["copies"]]:
        copied |= (up == r) & (left == c) & (own == 0)
    return above | beside | copied | ((up == 0) & (left == 0) & (own > 0))


def blocks(chain, event):
    """What a chain in blocks sees: the symbol before its block, and what comes before in the block."""
    i, j = np.indices((math.prod(event),) * 2)
    return (j < i) & (j >= i // chain.window * chain.window - 1)


def remembered(chain, event):
    """What a Transformer-XL sees: in each layer so many positions, each of which knows the symbol before it."""
    i, j = np.indices((math.prod(event),) * 2)
    return (j < i) & (j >= i - 1 - len(chain.layers) * chain.memory)


def dilated(chain, event):
    """What a ByteNet sees: the places that its taps add up to, each of which knows the symbol before it."""
    taps = [np.array(block.conv.at) for block in chain.decoder]
    far = functools.reduce(lambda seen, at: np.unique(seen[:, None] - at), taps, np.zeros(1, int)) + 1
    assert far.max() == chain.reach == 1 + sum(int(-at.min()) for at in taps)
    i, j = np.indices((math.prod(event),) * 2)
    return np.isin(i - j, far)


def waves(chain, event):
    """What a WaveNet sees: the samples that its taps add up to, each of which knows the one before; the high byte."""
    taps = [np.arange(-chain.first.past, 1), *(np.array(layer.at) for layer in chain.layers)]
    far = functools.reduce(lambda seen, at: np.unique(seen[:, None] - at), taps, np.zeros(1, int)) + 1
    assert far.max() == chain.reach
    i, j = np.indices((math.prod(event),) * 2)
    ago = i // chain.channels - j // chain.channels
    return np.isin(ago, far) | ((ago == 0) & (j < i))


def nothing(chain, event):
    """No symbol depends on another."""
    return np.zeros((math.prod(event),) * 2, bool)


REACH = {
    "uniform": nothing,
    "gated-pixelcnn": neighbourhood,
    "gpt": blocks,
    "deep-attention": blocks,
    "transformer-xl": remembered,
    "bytenet": dilated,
    "wavenet": waves,
    **reach.REACH,
}  # the others: everything before
PLAIN = {
    "gated-pixelcnn": {"position": False, "width": 8, "head": 16, "mix": 16},
    "image-transformer": {"units": 0, "head": 32},
    "gpt": {"window": 1},
    "deep-attention": {"window": 1},
    "sparse-transformer": {"window": 1},
}  # settings in which only padding can tell a border
BLOCKS = "blocks of {}: the symbols of its block before it, and the last one before the block"
RULES = {  # of chains that see less than everything before
    "gpt": BLOCKS.format(4),
    "deep-attention": BLOCKS.format(4),
    "sparse-transformer": BLOCKS.format(7),
    "bytenet": "the 7 symbols before it",
    "wavenet": "the 5 samples before it",
    "transformer-xl": "carried memory of 3 in 2 layers: the 7 symbols before it",
}
UNTRAINED = {"uniform", "counting"}  # chains without parameters


def data_of(kind, event, symbols, classes):
    """A dataset of one such event."""
    x = np.zeros((1, *event), np.uint8)
    sound = Sound(8000, "16 bit" if len(event) == 2 else "mu-law") if kind == "sound" else None
    if not classes:
        return Dataset(x, levels=symbols, kind=kind, sound=sound)
    return Dataset(
        x,
        levels=symbols,
        kind=kind,
        sound=sound,
        context=np.zeros(1, int),
        classes=tuple("abcdefg"[:classes]),
    )


def arguments(name, kind, event, symbols, classes=0, **settings):
    """Constructor arguments of the tiny size for such data."""
    cls = store.resolve(name, CHAINS)
    return {**cls.SIZES["tiny"], **cls.configure(data_of(kind, event, symbols, classes)), **settings}


def tiny(name, kind, event, symbols, classes=0, **settings):
    """The tiny chain for such data, as it is built."""
    return store.build(name, arguments(name, kind, event, symbols, classes, **settings), CHAINS)


def takes(name, option):
    """Whether a chain has such an option."""
    return option in inspect.signature(store.resolve(name, CHAINS)).parameters


def every(spaces, classes=(0, 2)):
    """Parametrise over all chains, their kinds of data, and the events of these; with classes and without."""
    cases = []
    for name in CHAINS:
        for kind in store.resolve(name, CHAINS).KINDS:
            for event, symbols in spaces[kind]:
                for count in classes if takes(name, "classes") else (0,):
                    label = f"{name}-{kind}-{'x'.join(map(str, event))}-K{symbols}-classes{count}"
                    cases.append(pytest.param(name, kind, event, symbols, count, id=label))
    return pytest.mark.parametrize(("name", "kind", "event", "symbols", "classes"), cases)


FIRST = {kind: spaces[:1] for kind, spaces in SMALL.items()}
SOME = {"image": [((2, 3, 1), 3), ((1, 2, 3), 2)], "text": [((4,), 3)], "array": [((2, 2), 3)]}
SOME["sound"] = [((4,), 3), ((3, 2), 3)]
EDGES = {
    "image": [((9, 9, 1), 3), ((9, 9, 3), 3), ((9, 9, 1), 2)],
    "text": [((12,), 3)],
    "sound": [((12,), 3), ((8, 2), 3)],
    "array": [((12,), 3)],
}


@every(SMALL)
def test_probabilities_of_all_events_add_up_to_one(name, kind, event, symbols, classes):
    check_sums_to_one(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every(SOME)
def test_extreme_weights_are_survived(name, kind, event, symbols, classes):
    factor = (
        1e3 if name == "wavenet" and len(event) == 2 else 1e4
    )  # its means are linear in its weights, and so large
    check_extremes(randomised(tiny(name, kind, event, symbols, classes), event), event, factor)


@every(
    {
        "image": [((3, 2, 1), 256), ((2, 2, 3), 256)],
        "text": [((5,), 256)],
        "sound": [((5,), 256), ((3, 2), 256)],
        "array": [((2, 3), 256)],
    },
    (0,),
)
def test_bytes_are_numbers_up_to_255(name, kind, event, symbols, classes):
    chain = randomised(
        tiny(name, kind, event, symbols, classes), event, spread=1e3
    )  # of a logistic they reach far
    check_symbol_types(chain, event)


@every(FIRST)
def test_empty_and_one_symbol_events(name, kind, event, symbols, classes):
    check_smallest(randomised(tiny(name, kind, event, symbols, classes), event), event)


@pytest.mark.parametrize("training", [False, True], ids=["in use", "in training"])
@every(WIDE)
def test_a_symbol_reaches_all_that_follows_and_nothing_else(name, kind, event, symbols, classes, training):
    chain = randomised(tiny(name, kind, event, symbols, classes), event)
    check_causality(chain, event, REACH.get(name, everything_before), training)
    check_items_are_independent(chain, event, training)


@every(WIDE)
def test_dropout_adds_no_leak(name, kind, event, symbols, classes):
    if takes(name, "dropout"):
        chain = randomised(tiny(name, kind, event, symbols, classes, dropout=0.3), event)
        check_causality(chain, event, None, training=True)


@every(EDGES)
def test_padding_is_no_level(name, kind, event, symbols, classes):
    if name in UNTRAINED:
        return
    settings = PLAIN.get(name, {})
    chain = randomised(tiny(name, kind, event, symbols, classes, **settings), event)
    if chain.event is not None:
        return  # every position has weights of its own: there is no outside
    check_padding(chain, event)
    gains = {id(m.weight) for m in chain.modules() if isinstance(m, nn.LayerNorm)}
    with torch.no_grad():  # what a bias adds to the inside alone would tell it from the outside, too
        for p in chain.parameters():
            if p.ndim == 1 and id(p) not in gains:
                p.zero_()
    check_padding(chain, event)


@every(WIDE)
def test_every_class_has_its_own_conditionals(name, kind, event, symbols, classes):
    check_classes(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every({**WIDE, "image": [((3, 5, 1), 4), ((2, 3, 3), 3)]})
def test_the_walk_meets_the_parallel_logits(name, kind, event, symbols, classes):
    check_walk(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every({**WIDE, "image": [((3, 5, 1), 4), ((2, 3, 3), 3), ((5, 1, 1), 2), ((1, 1, 3), 2)]})
def test_the_step_program_gives_the_parallel_logits_and_codes_with_them(name, kind, event, symbols, classes):
    chain = randomised(tiny(name, kind, event, symbols, classes), event)
    if program_of(chain) is not None:
        check_engine(chain, event)


@every({**WIDE, "image": [((3, 5, 1), 4), ((2, 3, 3), 3), ((5, 1, 1), 2)]})
def test_lanes_go_on_as_other_lanes(name, kind, event, symbols, classes):
    chain = randomised(tiny(name, kind, event, symbols, classes), event)
    if program_of(chain) is not None:
        check_exchange(chain, event)


@every({**WIDE, "image": []}, (0, 2))
def test_streams_are_read_like_the_events_that_they_are_made_of(name, kind, event, symbols, classes):
    if issubclass(store.resolve(name, CHAINS), Carried):
        check_carried(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every(SOME)
def test_samples_follow_p(name, kind, event, symbols, classes):
    check_samples(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every(SOME)
def test_completions_follow_the_conditional(name, kind, event, symbols, classes):
    check_complete(randomised(tiny(name, kind, event, symbols, classes), event), event)


@every(WIDE)
def test_gradients_reach_every_parameter_and_are_right(name, kind, event, symbols, classes):
    chain = randomised(tiny(name, kind, event, symbols, classes), event)
    assert (name in UNTRAINED) == (not list(chain.parameters()))
    if name not in UNTRAINED:
        check_gradients(chain, event)


@every({**WIDE, "image": [((5, 7, 1), 4), ((3, 4, 3), 3)]})
def test_one_batch_can_be_overfitted(name, kind, event, symbols, classes):
    if name not in UNTRAINED:
        check_overfits(tiny(name, kind, event, symbols, classes), event)


@every(WIDE)
def test_a_file_gives_the_same_bits(name, kind, event, symbols, classes):
    check_store(tiny(name, kind, event, symbols, classes), event, CHAINS)


@every(FIRST)
def test_seeds_decide_and_no_global_number_is_drawn(name, kind, event, symbols, classes):
    noisy = {"dropout": 0.3} if takes(name, "dropout") else {}
    check_seed(name, arguments(name, kind, event, symbols, classes, **noisy), CHAINS, event)


@every(FIRST)
def test_samples_have_no_dropout_even_from_a_chain_in_training(name, kind, event, symbols, classes):
    if takes(name, "dropout"):
        chain = randomised(tiny(name, kind, event, symbols, classes, dropout=0.5), event)
        check_samples(chain.train(), event, lambda chain, *args, **more: sample(chain.train(), *args, **more))


@pytest.mark.parametrize("size", ["laptop", "paper"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_large_sizes_have_logits_of_the_right_shape(name, size):
    cls = store.resolve(name, CHAINS)
    for kind in cls.KINDS:
        event = {"image": (3, 5, 3), "text": (7,), "sound": (7,), "array": (7,)}[kind]
        with torch.device("meta"):
            chain = store.build(
                name, {**cls.configure(data_of(kind, event, 256, 0)), **cls.SIZES[size]}, CHAINS
            )
            assert chain.logits(torch.zeros(2, *event, dtype=torch.long)).shape == (2, *event, 256)


@pytest.mark.parametrize("table", [CHAINS, CODES], ids=["chains", "codes"])
def test_every_model_file_is_in_its_table(table):
    package = next(iter(table.values())).partition(":")[0].rpartition(".")[0]
    files = {f.name[:-3] for f in importlib.resources.files(package).iterdir() if f.name.endswith(".py")} - {
        "__init__"
    }
    assert files == {dotted.partition(":")[0].rpartition(".")[2] for dotted in table.values()}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_says_what_it_is(name):
    cls = store.resolve(name, CHAINS)
    assert issubclass(cls, Chain)
    assert set(cls.SIZES) == {"tiny", "laptop", "paper"}
    assert cls.KINDS
    assert set(cls.KINDS) <= set(SMALL)
    assert not any(
        p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in inspect.signature(cls).parameters.values()
    )
    assert all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
    carries = hasattr(cls, "rest") or cls.ADAPTS
    rule = "carried state: all symbols before it" if carries else "whole event: the symbols before it"
    assert store.build(name, cls.SIZES["tiny"], CHAINS).context_rule() == RULES.get(name, rule)


@pytest.mark.parametrize(("kernel", "first_kernel", "layers"), [(3, 7, 1), (5, 3, 2), (1, 5, 2), (3, 1, 3)])
def test_gated_pixelcnn_sees_exactly_the_reach_of_its_kernels(kernel, first_kernel, layers):
    settings = {"kernel": kernel, "first_kernel": first_kernel, "layers": layers, "memory": 0, "copies": 0}
    chain = randomised(tiny("gated-pixelcnn", "image", (9, 11, 1), 3, **settings), (9, 11, 1))
    check_causality(chain, (9, 11, 1), neighbourhood)


PARTS = [{"memory": 0, "copies": 8}, {"memory": 0, "copies": 0}, {"mix": 0}, {"embedding": 0}, {"copies": 8}]


@pytest.mark.parametrize("settings", PARTS, ids=str)
@pytest.mark.parametrize("event", [(5, 6, 1), (4, 3, 3)])
def test_gated_pixelcnn_without_what_it_has_beyond_the_paper(event, settings):
    chain = randomised(tiny("gated-pixelcnn", "image", event, 3, classes=2, **settings), event)
    check_causality(chain, event, neighbourhood)
    check_gradients(chain, event)
    check_store(chain.float(), event, CHAINS)


@pytest.mark.parametrize("option", ["mix", "embedding", "memory", "copies"])
def test_gated_pixelcnn_refuses_less_than_nothing(option):
    with pytest.raises(ChainruleError, match=f"{option} is -1: take 0 for none"):
        GatedPixelCNN(**{option: -1})


@pytest.mark.parametrize("option", ["kernel", "first_kernel"])
@pytest.mark.parametrize("n", [0, 2, 4, -3])
def test_gated_pixelcnn_refuses_kernels_without_a_centre(option, n):
    with pytest.raises(ChainruleError, match=f"{n}"):
        GatedPixelCNN(**{option: n})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"event": (2, -2, 1)}, "cannot have shape"),
        ({"event": None}, "say which with event"),
        ({"context": torch.tensor([0, 1])}, "each of 3 items, 2 were given"),
        ({"context": None}, "each of 3 items, none were given"),
        ({"context": torch.tensor([0, 1, 2])}, "0 to 2, the model knows 0 to 1"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused_in_one_line(options, message):
    for name, kind, event in [("gated-pixelcnn", "image", (2, 2, 1)), ("char-lstm", "text", (4,))]:
        chain = tiny(name, kind, event, 3, classes=2)
        with pytest.raises(ChainruleError, match=message):
            sample(chain, 3, **{"event": event, "context": torch.tensor([0, 1, 0]), **options})


def test_completions_that_cannot_be_drawn_are_refused_in_one_line():
    chain, x, known = (
        tiny("char-lstm", "text", (4,), 3),
        np.zeros(4, np.int64),
        np.array([True, True, False, False]),
    )
    with pytest.raises(ChainruleError, match=r"the mask has shape \(3,\), the event \(4,\)"):
        complete(chain, x, known[:3])
    for wrong in (3, -1):
        with pytest.raises(ChainruleError, match=f"{wrong}.*the model knows 0 to 2"):
            complete(chain, np.array([0, wrong, 0, 0]), known)
    assert complete(chain, np.array([0, 1, -1, 3]), known).shape == (4, 4)  # what is unknown does not matter


def test_a_model_that_diverged_draws_nothing():
    chain = tiny("char-lstm", "text", (4,), 3)
    torch.nn.init.constant_(chain.out.bias, math.nan)
    with pytest.raises(ChainruleError, match="not numbers"):
        sample(chain, 2, (4,))


def test_the_smallest_temperatures_are_greedy():
    chain = randomised(tiny("char-lstm", "text", (4,), 3), (4,))
    assert (sample(chain, 5, (4,), temperature=1e-310) == sample(chain, 5, (4,), temperature=0)).all()


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("option", ["symbols", "width", "layers", "head", "channels", "dropout", "classes"])
def test_sizes_that_cannot_be_are_refused(name, option):
    for value in {"dropout": [-0.1, 1.0, 2.0], "classes": [-1]}.get(option, [0, -1]):
        if takes(name, option):
            with pytest.raises(ChainruleError, match=f"{option}(=| is ){value}"):
                store.build(name, {**store.resolve(name, CHAINS).SIZES["tiny"], option: value}, CHAINS)


def test_char_lstm_at_paper_size_has_one_layer_of_1000_cells_over_one_hot_characters():
    with torch.device("meta"):
        chain = store.build(
            "char-lstm", {"symbols": 49, **store.resolve("char-lstm", CHAINS).SIZES["paper"]}, CHAINS
        )
    gates, outputs = 4 * 1000 * (49 + 1 + 1000 + 2), 49 * (1000 + 1)
    assert sum(p.numel() for p in chain.parameters()) == gates + outputs
