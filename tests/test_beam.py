"""Beam search: as wide as there are texts it is exact, one wide it is greedy, and its nats are those of the chain."""

import itertools
import math

import numpy as np
import pytest
import torch

from chainrule import beam, sample, store
from chainrule.chains import CHAINS
from chainrule.chains.bytenet import ByteNet
from chainrule.chains.gpt import GPT
from chainrule.chains.uniform import Uniform
from chainrule.engine.device import Device
from chainrule.engine.strict import Strict
from chainrule.errors import ChainruleError
from chainrule.verbs.beam import best
from contracts import conditionals, randomised
from test_chains import takes, tiny

LENGTH, SYMBOLS = 4, 3
TEXTS = [name for name in CHAINS if "text" in store.resolve(name, CHAINS).KINDS]
CASES = [(name, classes) for name in TEXTS for classes in ((0, 2) if takes(name, "classes") else (0,))]
every = pytest.mark.parametrize(("name", "classes"), CASES)


def ready(name, classes=0, symbols=SYMBOLS):
    """A chain over texts in single precision, and what a text of it is conditioned on."""
    chain = randomised(tiny(name, "text", (LENGTH,), symbols, classes), (LENGTH,)).float()
    return chain, torch.tensor([1]) if classes else None


def translator(source=(2, 0, 1)):
    """A ByteNet over a source, and the source."""
    torch.manual_seed(3)
    chain = ByteNet(symbols=SYMBOLS, source=4, **ByteNet.SIZES["tiny"]).eval()
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_(std=0.4)
    return chain, torch.tensor([source])


def texts_of(length, symbols, end=None, prefix=()):
    """All texts that begin so, as long as can be or ended."""
    for text in itertools.product(range(symbols), repeat=length):
        first = text.index(end) + 1 if end in text else length
        if not any(text[first:]) and (end is None or end in text):
            yield (*prefix, *text[:first])


def nats_of(chain, context, text, given=0):
    """ln p of a text after its first symbols."""
    text = torch.tensor([text])
    log_p = conditionals(chain, text, context)
    return float(np.take_along_axis(log_p, text[..., None].numpy(), -1)[0, given:].sum())


def check_exact(chain, context=None, end=None, prefix=(), normalise=0.0, width=SYMBOLS**LENGTH):
    """A beam as wide as there are texts finds the most probable one; its nats, and those of all others, are right."""
    given = len(prefix)
    scores = {
        text: nats_of(chain, context, text, given) / (len(text) - given) ** normalise
        for text in texts_of(LENGTH, chain.symbols, end, prefix)
    }
    found = beam(chain, LENGTH, width, context, end=end, prefix=prefix, normalise=normalise)
    assert tuple(found[0][0]) == max(scores, key=scores.get), "another text is more probable"
    sizes = [len(text) - given for text, _ in found]
    reached = [nats / size**normalise for (_, nats), size in zip(found, sizes, strict=True)]
    np.testing.assert_allclose(
        reached, [scores[tuple(t)] for t, _ in found], rtol=1e-5, atol=1e-5, err_msg="other nats"
    )
    assert reached == sorted(reached, reverse=True), "they are not sorted"


@every
def test_a_beam_as_wide_as_there_are_texts_is_exact(name, classes):
    chain, context = ready(name, classes)
    check_exact(chain, context)
    check_exact(chain, context, end=0)
    check_exact(chain, context, end=2, prefix=(1, 2, 1))
    check_exact(chain, context, end=2, normalise=0.7)


@pytest.mark.parametrize("source", [(2, 0, 1), (3,), (1, 1, 2, 0, 3, 3, 0)])
def test_a_beam_over_a_source_is_exact(source):
    chain, context = translator(source)
    check_exact(chain, context, end=0)
    check_exact(chain.double(), context, end=0, prefix=(1,))


@every
def test_in_double_precision_it_finds_the_same(name, classes):
    chain, context = ready(name, classes)
    check_exact(chain.double(), context, end=1)


def greedy(chain, context, end=None):
    """The most probable symbol each time, to the first that ends it."""
    text = sample(chain, 1, (LENGTH,), context, temperature=0)[0].tolist()
    return text[: text.index(end) + 1] if end in text else text


@every
def test_one_wide_it_is_greedy(name, classes):
    chain, context = ready(name, classes)
    for end in (None, 0, 1, 2):
        (text, _), *others = beam(chain, LENGTH, 1, context, end=end)
        assert text.tolist() == greedy(chain, context, end)
        assert not others


@every
def test_a_wider_beam_finds_a_text_that_is_as_probable(name, classes):
    """Not always true of beam search; with these weights it is, and worse would mean that lanes are mixed up."""
    chain, context = ready(name, classes)
    reached = [beam(chain, LENGTH, width, context)[0][1] for width in (1, 3, 9, 27, 81)]
    assert (np.diff(reached) >= 0).all()
    assert all(len(beam(chain, LENGTH, width, context)) == width for width in (1, 3, 27))


@pytest.mark.parametrize("broken", [Strict, Device])
def test_a_search_whose_lanes_do_not_branch_is_caught(broken, monkeypatch):
    chain, _ = ready("char-lstm")
    chain = chain.double() if broken is Device else chain
    check_exact(chain)
    monkeypatch.setattr(broken, "reorder", lambda run, parents: None)
    with pytest.raises(AssertionError):
        check_exact(chain)


@pytest.mark.parametrize("name", ["char-lstm", "gpt"])
def test_without_a_program_states_are_copied(name, monkeypatch):
    chain, _ = ready(name)
    wanted = beam(chain, LENGTH, 5, end=1, prefix=[2])
    monkeypatch.setattr("chainrule.verbs.beam.program_of", lambda *given: None)
    found = beam(chain, LENGTH, 5, end=1, prefix=[2])
    assert [text.tolist() for text, _ in found] == [text.tolist() for text, _ in wanted]
    np.testing.assert_allclose([nats for _, nats in found], [nats for _, nats in wanted], rtol=1e-5)


def test_of_equal_texts_the_first_ones_stay():
    found = beam(Uniform(symbols=3), 3, 4)
    assert [text.tolist() for text, _ in found] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    assert len({nats for _, nats in found}) == 1


def test_the_largest_come_first_and_of_equal_ones_the_first():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        values = rng.integers(4, size=size).astype(float)
        values[rng.random(size) < 0.2] = -np.inf
        order = [i for i in np.argsort(-values, kind="stable") if values[i] > -np.inf]
        for most in (1, 3, size, 2 * size):
            assert best(values, most).tolist() == order[:most]


class Turning(Uniform):
    """A first symbol that ends at once at 40 %, or one that leads to an end which is certain."""

    def logits(self, x, context=None):
        ways = torch.tensor([[0.25, 0.35, 0.4], [1e-6, 1 - 2e-6, 1e-6]]).log()
        return ways[(torch.arange(x.shape[1]) > 0).long()].expand(len(x), -1, -1)

    program = None


def test_what_ended_waits_for_what_could_be_more_probable():
    """0 goes on; 2 ends, 1 ends: greedy takes 2 at once; normalised by length the longer one wins."""
    chain = Turning(symbols=3)
    chain.program = lambda p: None
    ends = [text.tolist() for text, _ in beam(chain, 3, 3, end=(1, 2))]
    assert ends[:2] == [[2], [1]]
    assert beam(chain, 3, 3, end=(1, 2), normalise=1.0)[0][0].tolist() == [0, 1]
    assert beam(chain, 3, 3, end=1)[0][0].tolist() == [2, 1], "the first one to end is not the most probable"


def test_without_an_end_within_the_length_the_open_ones_are_given():
    chain, _ = ready("char-lstm", symbols=5)
    with torch.no_grad():
        chain.out.bias[4] = -1e4
    texts = beam(chain, LENGTH, 3, end=4)
    assert [len(text) for text, _ in texts] == [LENGTH] * 3
    assert [text.tolist() for text, _ in texts] == [text.tolist() for text, _ in beam(chain, LENGTH, 3)]


def test_it_stops_when_nothing_can_become_better():
    told = []
    chain, _ = ready("char-lstm")
    with torch.no_grad():
        chain.out.bias[1] = 1e4
    assert beam(chain, 1000, 4, end=1, tick=told.append)[0][0].tolist() == [1]
    assert told == [1]


def test_as_many_as_are_wanted_are_the_most_probable():
    chain, _ = ready("char-lstm")
    scores = sorted((nats_of(chain, None, text) for text in texts_of(LENGTH, SYMBOLS, 1)), reverse=True)
    for count in (1, 2, 5, 15):
        found = beam(chain, LENGTH, 81, end=1, count=count)
        np.testing.assert_allclose([nats for _, nats in found[:count]], scores[:count], rtol=1e-5)


def test_no_length_is_the_prefix():
    chain, _ = ready("gpt")
    assert [(text.tolist(), nats) for text, nats in beam(chain, 0, 3, prefix=[1, 2])] == [([1, 2], 0.0)]


def test_its_nats_are_those_of_a_long_text():
    torch.manual_seed(0)
    chain = GPT(symbols=7, **GPT.SIZES["tiny"])
    for text, nats in beam(chain, 60, 5, prefix=[3, 1]):
        with torch.no_grad():
            every = chain.log_probs(torch.from_numpy(text)[None])[0]
        assert math.isclose(nats, float(every[2:].sum()), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "the beam is 0 wide"),
        ({"count": 3}, "3 texts are wanted of a beam of 2"),
        ({"end": 3}, "end with symbol 3, the model knows 0 to 2"),
        ({"end": [0, -1]}, "end with symbol -1"),
        ({"context": None}, "each of 1 items, none were given"),
        ({"context": torch.tensor([0, 1])}, "each of 1 items, 2 were given"),
        ({"length": -1}, "cannot have shape"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(options, message):
    chain, context = ready("char-lstm", classes=2)
    with pytest.raises(ChainruleError, match=message):
        beam(chain, **{"length": 4, "width": 2, "context": context, **options})


def test_a_chain_that_does_not_go_from_left_to_right_is_refused():
    chain = tiny("nade", "array", (4,), 3)
    if (np.diff(chain.order((4,))) > 0).all():
        chain.order = lambda event: np.array([1, 0, 2, 3])
    with pytest.raises(ChainruleError, match="left to right"):
        beam(chain, 4, 2)
