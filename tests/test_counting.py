"""Context mixing: its arithmetic against plain Python, what `fit` makes of a text, and how such texts are coded."""

import bz2
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule import compress, decompress, fit, score, store
from chainrule.archive import Archive
from chainrule.chains import CHAINS
from chainrule.chains.counting import ContextMixing
from chainrule.data import Dataset
from chainrule.data.batches import BEFORE, passage, passages
from chainrule.engine import Builder, dump, identity, parse, program_of
from chainrule.engine.mixing import LONGEST, SCAN, SIZE, Mixer, curves, memories, plan_of
from chainrule.engine.program import Program
from chainrule.errors import ChainruleError
from chainrule.verbs.coders import NativeCoder
from reference import SQUASH, STRETCH
from reference import Mixer as Reference

TEXT = Path(__file__).read_bytes()  # of some length, and with repetitions
WORDS = b"the cat sat on the mat, the bat sat on the hat; A CAT and a bat\xc3\xa9 sat!"


def text(data, times=1):
    return Dataset(
        [np.frombuffer(data, np.uint8)] * times, 256, "text", tuple(f"{i}.txt" for i in range(times))
    )


def symbols(data, K=256):
    return (np.frombuffer(data, np.uint8).astype(np.int32) % K)[None]


def bits(chain, data):
    return score(chain, text(data)).bits_per_dim


# ---- the arithmetic ------------------------------------------------------------------------------------------


def test_the_tables_are_the_functions():
    exact = curves(np.float64)
    assert exact.squash.tolist() == SQUASH
    assert exact.stretch.tolist() == STRETCH
    assert exact.pace.tolist() == [int(65536 / (n + 1.1)) for n in range(64)]
    logs = np.log(np.arange(1, 65536) / 65536)
    np.testing.assert_allclose(exact.logs[1:], logs, rtol=1e-14, atol=1e-16)
    assert (curves().logs[1:] == logs.astype(np.float32)).all()


@pytest.mark.parametrize("hostile", [False, True], ids=["new", "anything in memory"])
@pytest.mark.parametrize(
    ("K", "bits", "words", "orders"),
    [
        (256, 10, 2, (1, 2, 4)),
        (129, 8, 2, (1, 3, 9)),
        (17, 9, 1, (2, 5)),
        (3, 8, 0, (1, 2, 32)),
        (1, 8, 2, (1, 2)),
    ],
)
def test_the_kernels_have_the_bits_of_the_specification(K, bits, words, orders, hostile):
    plan, x = plan_of(K, bits, words, orders), symbols(WORDS, K)
    counts = np.zeros(plan[SIZE], np.int32)
    if hostile:
        counts = np.random.default_rng(0).integers(-(2**31), 2**31, len(counts), dtype=np.int32)
    reference, mixer = Reference(K, bits, words, orders, counts), Mixer(plan, counts, x)
    for t in range(x.shape[1]):
        before = x[0, :t].tolist()
        logits = mixer.logits(t, t + 1)[0, 0]
        assert (mixer.counts == reference.memory).all(), f"at symbol {t} something else was learned"
        if t % 9 == 0 or t == x.shape[1] - 1:
            assert (logits == np.array(reference.predict(before, np.float32))).all()
        reference.learn(before, int(x[0, t]))


def test_a_memory_of_anything_still_gives_probabilities():
    chain = ContextMixing(5, bits=8, orders=(1, 2)).double()
    chain.counts.copy_(
        torch.randint(-(2**31), 2**31, chain.counts.shape, generator=torch.Generator().manual_seed(0))
    )
    p = chain.logits(torch.arange(40)[None] % 5).exp().sum(-1)
    np.testing.assert_allclose(p.numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": 257}, "symbols is 257: take 1 to 256"),
        ({"bits": 7}, "bits is 7: take 8 to 28"),
        ({"words": 3}, "words is 3: take 0 to 2"),
        ({"orders": (1,)}, "number of orders is 1: take 2 to 12"),
        ({"orders": (2, 1)}, r"the orders are \[2, 1\]: take rising ones"),
        ({"orders": (1, 33)}, "from 1 to 32"),
        ({"orders": (1, 2.5)}, "not whole numbers"),
    ],
)
def test_mixers_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(ChainruleError, match=message):
        store.build("counting", options, CHAINS)


# ---- as an operation of the engine ---------------------------------------------------------------------------


def programs():
    p = Builder(symbols=3)
    yield p.finish([p.mix(8, 1, (1, 2))])
    yield program_of(primed(WORDS, bits=9, orders=(1, 2)))


def primed(data, **options):
    chain = ContextMixing(**options)
    chain.learn(torch.from_numpy(symbols(data)), torch.tensor(0), 0.0)
    return chain


def test_programs_with_a_memory_are_stored_and_identified_by_it():
    for program in programs():
        data = dump(program)
        assert dump(parse(data)) == data
        assert identity(parse(data)) == identity(program)
    changed = {name: array.copy() for name, array in program.weights.items()}
    changed["w0"][5] += 1
    other = Program(**{**vars_of(program), "weights": changed})
    assert identity(other) != identity(program)


def vars_of(program):
    return {name: getattr(program, name) for name in Program.__dataclass_fields__}


def test_an_empty_memory_takes_no_room_in_a_program():
    assert len(dump(program_of(ContextMixing()))) < 1000


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (lambda p: p._op("mix", 3, (), (), (8, 1, 1, 2), clock="row"), "do not fit"),
        (lambda p: p._op("mix", 2, (), (), (8, 1, 1, 2), clock="pixel"), "do not fit"),
        (lambda p: p._op("mix", 3, (), (), (8,), clock="pixel"), "a mixer has not its numbers"),
        (lambda p: p._op("mix", 3, (), (), (40, 1, 1, 2), clock="pixel"), "bits is 40"),
        (lambda p: p.mix(8, 1, (1, 2), np.zeros(5, np.int32)), "weights have shapes"),
        (lambda p: p.mix(8, 1, (1, 2), np.zeros(5)), "weights of the wrong type"),
    ],
)
def test_programs_with_impossible_mixers_are_refused(mix, message):
    p = Builder(symbols=3)
    with pytest.raises(ChainruleError, match=message):
        p.finish([p.add(mix(p), p.constant(np.zeros(3)))])


# ---- learning ------------------------------------------------------------------------------------------------


def test_passages_are_all_of_the_data_in_order_with_what_comes_before():
    data = Dataset([np.arange(200, dtype=np.uint8), np.arange(7, dtype=np.uint8)], 256, "text")
    assert max(LONGEST, SCAN) <= BEFORE
    seen = []
    for event, begin in passages(data, 90):
        x, first = passage(data, event, begin, 90)
        assert x[0, first] == begin
        assert first == min(begin, BEFORE)
        seen += x[0, first:].tolist()
    assert seen == [*range(200), *range(7)]


def test_fit_reads_a_text_once_whatever_the_passages(tmp_path, monkeypatch):
    whole = primed(TEXT, bits=14)
    monkeypatch.setattr(ContextMixing, "PASSAGE", 500)
    run = fit(text(TEXT), "counting", out=tmp_path / "run", settings={"bits": 14}, holdout=0)
    assert torch.equal(run.model.counts, whole.counts)
    assert run.info["trained"]["steps"] == math.ceil(len(TEXT) / 500)
    loaded, _ = store.parse((tmp_path / "run" / "model.safetensors").read_bytes(), CHAINS)
    assert bits(loaded, TEXT[:500]) == bits(whole, TEXT[:500])


def test_what_was_read_makes_the_rest_cheaper_and_scoring_changes_nothing():
    half = len(TEXT) // 2
    new, chain = ContextMixing(bits=16), primed(TEXT[:half], bits=16)
    assert bits(chain, TEXT[half:]) < 0.9 * bits(new, TEXT[half:])
    before = chain.counts.clone()
    assert bits(chain, TEXT[half:]) == bits(chain, TEXT[half:])
    assert torch.equal(chain.counts, before)


def test_a_text_teaches_its_own_rest():
    each = ContextMixing().log_probs(torch.from_numpy(symbols(TEXT * 2)))[0]
    assert -each[len(TEXT) :].mean() < 0.25 * -each[: len(TEXT)].mean()


def test_an_interrupted_fit_goes_on_to_the_same_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(ContextMixing, "PASSAGE", 1000)
    options = {"settings": {"bits": 12}, "holdout": 0}
    whole = fit(text(TEXT), "counting", out=tmp_path / "whole", **options)

    def stop(event):
        if event["event"] == "step" and event["training"].step == 4:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fit(text(TEXT), "counting", out=tmp_path / "part", listen=stop, save_every=0, **options)
    resumed = fit(text(TEXT), out=tmp_path / "part", resume=True)
    assert torch.equal(resumed.model.counts, whole.model.counts)


@pytest.mark.parametrize("option", [{"minutes": 1.0}, {"steps": 5}, {"batch": 2}, {"lr": 0.1}])
def test_fit_has_no_use_for_a_budget(tmp_path, option):
    with pytest.raises(ChainruleError, match=f"reads the data once.*leave out --{next(iter(option))}"):
        fit(text(TEXT), "counting", out=tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


# ---- coding --------------------------------------------------------------------------------------------------


def test_a_text_is_coded_in_one_piece_with_its_model_smaller_than_by_bzip2(tmp_path):
    data = TEXT * 3
    report = compress(ContextMixing(), text(data), tmp_path / "x.chain")
    assert report.archive_bytes < len(bz2.compress(data))
    ((_, found, _),) = decompress(tmp_path / "x.chain")
    assert found.tobytes() == data
    with Archive(tmp_path / "x.chain") as archive:
        assert archive.header.lane == 0
        assert [len(block.items) for block in archive.blocks] == [1]


def test_the_chain_itself_and_its_program_code_alike(tmp_path):
    chain, data = primed(WORDS, bits=9, orders=(1, 2)), text(WORDS[:30])
    fast = compress(chain, data, tmp_path / "fast.chain")
    native = compress(chain, data, tmp_path / "native.chain", coder=NativeCoder(chain))
    assert abs(fast.ideal_bits - native.ideal_bits) < 1e-3
    for name in ("fast", "native"):
        ((_, found, _),) = decompress(tmp_path / f"{name}.chain")
        assert found.tobytes() == WORDS[:30]


def test_lanes_share_nothing():
    chain = primed(WORDS, bits=9, orders=(1, 2))
    x = symbols(WORDS * 2)
    two = np.concatenate([x, x[:, ::-1]])
    alone = Mixer(chain.plan, memories(chain.counts.numpy(), 1), x).logits(0, 60)
    assert (Mixer(chain.plan, memories(chain.counts.numpy(), 2), two).logits(0, 60)[:1] == alone).all()


def test_shakespeare(real_data, tmp_path):
    """The last tenth given the first nine, exactly, beside 2.026 bits/byte of PPMd (variant I, order 6)."""
    run = fit("shakespeare", "counting", out=tmp_path / "run", holdout=0)
    from chainrule.data import load

    assert score(run.model, load("shakespeare", split="test")).bits_per_dim < 1.96
