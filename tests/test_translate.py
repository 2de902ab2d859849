"""Translations: what comes of one source does not depend on the others, and is what sampling and beam search give."""

import numpy as np
import pytest
import torch

from chainrule import beam, complete, stream_translation, translate
from chainrule.chains.bytenet import ByteNet
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.seq2seq import Seq2Seq
from chainrule.errors import ChainruleError
from chainrule.verbs import translate as module
from chainrule.verbs.translate import searched, side_by_side

RNG = np.random.default_rng(5)
SOURCES = [RNG.integers(4, size=size) for size in (3, 9, 1, 6, 6, 2, 14, 5, 0)]
WAYS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "seed": 3},
    {"top_k": 2, "temperature": 2.0},
]


@pytest.fixture(scope="module", params=[ByteNet, Seq2Seq])
def chain(request):
    torch.manual_seed(3)
    chain = request.param(symbols=5, source=4, **request.param.SIZES["tiny"]).eval()
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_(std=0.3)
    return chain


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def lists(texts):
    return [text.tolist() for text in texts]


def cut(text, ends, given):
    """A text to the first symbol that ends it, after what is given."""
    stop = [i + 1 for i, symbol in enumerate(text) if symbol in ends and i >= given]
    return text[: stop[0]] if stop else text


def check_translations(chain, way, prefix=()):
    """Every translation is the completion of its prefix with the random numbers of its own, to its end or limit."""
    found = translate(chain, SOURCES, end=(0, 4), prefix=prefix, first=7, **way)
    filters = {"temperature": 0.0, **{k: v for k, v in way.items() if k != "seed"}}
    for i, source in enumerate(SOURCES):
        n = len(prefix) + 2 * len(source) + 50
        x, known = np.zeros(n, np.int64), np.arange(n) < len(prefix)
        x[known] = prefix
        many = side_by_side([source]).expand(8 + i, -1)  # the last one is drawn with the numbers of 7 + i
        drawn = complete(chain, x, known, 8 + i, many, seed=way.get("seed", 0), **filters)[-1].tolist()
        assert found[i].tolist() == cut(drawn, (0, 4), len(prefix)), "another translation than alone"


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("prefix", [(), (4, 2)], ids=str)
def test_one_alone_is_one_of_many(chain, way, prefix, threads):
    check_translations(chain, way, prefix)


def test_random_numbers_of_another_source_are_caught(chain, monkeypatch):
    own = module.uniform_stream
    monkeypatch.setattr(module, "uniform_stream", lambda seed, item, n: own(seed, 7, n))
    with pytest.raises(AssertionError, match="than alone"):
        check_translations(chain, {"temperature": 1.0})


@pytest.mark.parametrize("together", [1, 3, 32])
def test_groups_change_nothing(chain, together, monkeypatch):
    wanted = [translate(chain, SOURCES, end=0, **way) for way in (*WAYS, {"beam": 3})]
    monkeypatch.setattr(module, "GROUP", together)
    monkeypatch.setattr(module, "TOGETHER", together)
    found = [translate(chain, SOURCES, end=0, **way) for way in (*WAYS, {"beam": 3})]
    assert list(map(lists, found)) == list(map(lists, wanted))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("prefix", [(), (4, 2)], ids=str)
def test_a_stream_is_the_translation(chain, way, prefix, monkeypatch):
    monkeypatch.setattr("chainrule.engine.strict.GLIMPSE", 4e4)
    for source in SOURCES:
        given = {"temperature": 0.0, "end": 0, "prefix": prefix, **way}
        parts = list(stream_translation(chain, source, **given))
        assert np.concatenate(parts).tolist() == translate(chain, [source], **given)[0].tolist()


@pytest.mark.parametrize("width", [1, 4])
def test_beam_search_of_many_is_that_of_each(chain, width, threads):
    given = {"end": (0, 4), "prefix": (2,), "normalise": 0.5}
    found = searched(chain, SOURCES, width=width, **given)
    for source, texts in zip(SOURCES, found, strict=True):
        wanted = beam(chain, 2 * len(source) + 50, width, side_by_side([source]), **given)
        assert [(text.tolist(), nats) for text, nats in texts] == [
            (text.tolist(), nats) for text, nats in wanted
        ]
    best = translate(chain, SOURCES, beam=width, **given)
    assert lists(best) == [texts[0][0].tolist() for texts in found]


def test_in_double_precision_and_without_a_program_translations_are_the_same(chain, monkeypatch):
    ways = {"temperature": 1.0}, {"beam": 2}
    wanted = [translate(chain, SOURCES, end=0, **way) for way in ways]
    double = type(chain)(**chain.args).double()
    double.load_state_dict({name: value.double() for name, value in chain.state_dict().items()})
    assert [lists(translate(double, SOURCES, end=0, **way)) for way in ways] == list(map(lists, wanted))
    for place in ("translate", "walk", "beam"):
        monkeypatch.setattr(f"chainrule.verbs.{place}.program_of", lambda *given: None)
    assert [lists(translate(chain, SOURCES[:3], end=0, **way)) for way in ways] == [
        lists(w[:3]) for w in wanted
    ]


def test_lengths_are_limits(chain):
    for length in (0, 1, 5):
        for way in ({}, {"beam": 2}, {"temperature": 1.0}):
            found = translate(chain, SOURCES, end=0, length=length, prefix=(1,), **way)
            assert all(1 <= len(text) <= 1 + length and text[0] == 1 for text in found)
    assert translate(chain, SOURCES, end=(), length=7)[0].shape == (7,)


def test_what_has_ended_is_not_waited_for(chain, monkeypatch):
    told, stretches = [], module.stretches

    def counted(*given):
        for part in stretches(*given):
            told.append(part.shape[1])
            yield part

    monkeypatch.setattr("chainrule.engine.strict.GLIMPSE", 1)
    monkeypatch.setattr(module, "stretches", counted)
    found = translate(chain, SOURCES[:4], end=range(5))
    assert lists(found) == [text[:1] for text in lists(found)]
    assert sum(told) == 1


def test_no_sources_are_translated(chain):
    assert translate(chain, [], end=0) == translate(chain, [], end=0, beam=3) == []


def test_progress_is_told_in_sources(chain):
    for way in ({}, {"beam": 2}):
        told = []
        translate(chain, SOURCES, end=0, tick=told.append, **way)
        assert told == sorted(told)
        assert told[-1] == len(SOURCES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 5}, "end with symbol 5, the model knows 0 to 4"),
        ({"beam": -1}, "the beam is -1 wide"),
        ({"temperature": -1}, "temperature is -1"),
        ({"sources": [[4]]}, "source 1 has symbols 0 to 4, the model knows 0 to 3"),
        ({"sources": [[1], [-1]]}, "source 2 has symbols -1 to 0"),
        ({"prefix": [7]}, "7"),
        ({"prefix": [7], "beam": 2}, "7"),
        ({"length": -1}, "-1"),
        ({"chain": CharLSTM(symbols=5, **CharLSTM.SIZES["tiny"])}, "has learned no translations"),
    ],
)
def test_translations_that_cannot_be_are_refused_in_one_line(chain, options, message):
    given = {"chain": chain, "sources": SOURCES, "end": 0, **options}
    with pytest.raises(ChainruleError, match=message):
        translate(given.pop("chain"), given.pop("sources"), **given)
