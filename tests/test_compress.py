"""Compressing: everything comes back, at about its ideal length, or it is an error; never something else."""

import json
import math
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chainrule import archive as container
from chainrule.archive import FILE, LZMA, MODEL, STORED, Archive, Item, inspect
from chainrule.chains import CHAINS
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.counting import ContextMixing
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.chains.uniform import Uniform
from chainrule.data import Dataset, Sound, load
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.models import TABLE
from chainrule.packing import summary
from chainrule.store import build, resolve
from chainrule.verbs import coders
from chainrule.verbs.compress import compress, decompress, extract, verify
from chainrule.verbs.lanes import Lanes
from chainrule.verbs.unpack import outputs
from test_archive import put_together, taken_apart

WRONG = "(decodes to something else than was written|cannot be decoded with this model: the coded stream is damaged)"


class Markov(Chain):
    """Each symbol depends on the one before it (and on the class): a table of random logits."""

    def __init__(self, symbols: int = 8, classes: int = 0, spread: float = 1.5, seed: int = 0):
        super().__init__()
        self.symbols, self.classes = symbols, classes
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(max(1, classes), symbols + 1, symbols, generator=generator) * spread
        self.table = torch.nn.Parameter(table)

    def logits(self, x, context=None):
        flat = x.reshape(len(x), -1).long()
        before = torch.cat([torch.full_like(flat[:, :1], self.symbols), flat[:, :-1]], 1)
        row = torch.zeros(len(x), dtype=torch.long) if context is None else context
        return self.table[row[:, None], before].reshape(*x.shape, self.symbols)

    def start(self, batch, event, context=None):
        row = torch.zeros(batch, dtype=torch.long) if context is None else context
        return row, torch.full((batch,), self.symbols)

    def step(self, state, symbol=None):
        row, before = state
        before = before if symbol is None else symbol
        return self.table[row, before], (row, before)


class Holding(coders.NativeCoder):
    """Puts these bytes into an archive in place of the model."""

    def __init__(self, chain: Chain, blob: bytes):
        super().__init__(chain)
        self.blob = blob

    def model(self) -> bytes:
        return self.blob


class Fixed(Chain):
    """The same logits everywhere, with the general slow `step`; the chain's order runs backwards."""

    def __init__(self, values):
        super().__init__()
        self.symbols, self.values = len(values), torch.tensor(values)

    def order(self, event):
        return np.arange(math.prod(event))[::-1]

    def logits(self, x, context=None):
        return self.values.expand(*x.shape, self.symbols)


def events(shapes, symbols=8, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(symbols, size=shape, dtype=np.uint8) for shape in shapes]


def dataset(x, levels=8, kind="array", **more) -> Dataset:
    names = more.pop("names", [f"item {i}" for i in range(len(x))])
    return Dataset(x, levels, kind, names, **more)


def packed(path: Path, chain: Chain, data: Dataset, **more):
    if isinstance(more.get("embed"), bytes):
        more |= {"embed": True, "coder": Holding(chain, more["embed"])}
    return compress(chain, data, path, **{"embed": False} | more)


def unpacked(path: Path, chain: Chain, **more) -> dict[str, np.ndarray]:
    return {name: x for name, x, _ in decompress(path, chain, **more)}


def check_round_trip(path: Path, chain: Chain, data: Dataset, **more):
    report = packed(path, chain, data, force=True, **more)
    found = unpacked(path, chain)
    assert set(found) == set(data.names)
    for name, x in zip(data.names, data.x, strict=True):
        assert found[name].shape == np.shape(x)
        assert (found[name] == x).all()
    assert report.archive_bytes == path.stat().st_size
    bound = report.ideal_bits + 64 * report.blocks[MODEL] + 0.002 * report.symbols
    assert report.coded_bits <= max(bound, 8 * report.items)  # a byte an item is the least
    return report


@contextmanager
def one_line(match: str):
    with pytest.raises(ChainruleError, match=match) as caught:
        yield
    assert len(str(caught.value).splitlines()) == 1


def drawn(chain: Chain, shape, n: int, seed=0) -> np.ndarray:
    from chainrule.verbs.walk import sample

    return sample(chain, n, shape, seed=seed).astype(np.uint8)


def ideal(chain: Chain, x: np.ndarray) -> float:
    """−log₂ p(x) of all events."""
    return -float(chain.log_prob(torch.from_numpy(x.astype(np.int64))).detach().sum()) / math.log(2)


# ------------------------------------------------------------------------------------------- round trips

SHAPES = {
    "images": [(4, 5, 3)] * 9 + [(2, 2, 1), (4, 5, 3), (3, 7, 3)],
    "texts": [(100,), (3,), (57,), (100,), (1,)],
    "one symbol": [(1, 1, 1)] * 5,
    "empty": [(0,), (0,), (0, 4, 3), (3, 0, 1)],
    "empty text among others": [(0,), (5,), (0,)],
    "no axes": [()] * 3,
    "clip": [(2, 3, 3, 1)] * 2,
}
CHAIN = {
    "markov": Markov(),
    "backwards": Fixed([0.0, 1, 2, 3, -1, -2, -3, 0]),
    "improbable": Fixed([0.0, -1e30, 80, -np.inf, -800, -1e4, -np.inf, -3e38]),
    "uniform": Uniform(8),
}


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("chain", CHAIN)
@pytest.mark.parametrize("values", ["random", "constant"])
def test_everything_comes_back(tmp_path, shapes, chain, values):
    x = events(SHAPES[shapes])
    x = x if values == "random" else [np.full_like(event, 2) for event in x]
    check_round_trip(tmp_path / "x.chain", CHAIN[chain], dataset(x))


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=3).map(tuple), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shapes_in_blocks_of_any_size(tmp_path, shapes, block_items, seed):
    data = dataset(events(shapes, seed=seed))
    check_round_trip(tmp_path / "x.chain", CHAIN["markov"], data, block_items=block_items)


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_of_the_table(tmp_path, name):
    """decompress(compress(x)) = x with the `tiny` size of each, fitted or not."""
    cls = resolve(name, CHAINS)
    kind = cls.KINDS[0]
    shapes = [(5, 4, 3)] * 6 if kind == "image" else [(40,), (25,), (40,)]
    x = events(shapes, 256, seed=1)
    sound = Sound(8000, "mu-law") if kind == "sound" else None
    data = dataset(np.stack(x) if kind == "image" else x, 256, kind, sound=sound)
    chain = build(name, cls.configure(data) | cls.SIZES["tiny"], TABLE)
    report = packed(tmp_path / "x.chain", chain, data)
    found = unpacked(tmp_path / "x.chain", chain)
    assert all((found[name] == event).all() for name, event in zip(data.names, x, strict=True))
    assert report.bits_per_dim < 8 + 8 * 1200 / report.symbols


def test_one_symbol_alphabet(tmp_path):
    data = dataset([np.zeros((3, 4), np.uint8)] * 2, levels=1)
    report = check_round_trip(tmp_path / "x", Uniform(1), data)
    assert report.payload_bytes <= 3


def test_many_levels_take_two_bytes(tmp_path):
    x = np.random.default_rng(0).integers(0, 1000, (4, 50))
    report = check_round_trip(tmp_path / "x", Uniform(1000), dataset(x, 1000))
    assert report.raw_bytes == 2 * report.symbols
    assert report.blocks[MODEL] == 1


def test_the_size_is_the_ideal_and_the_ideal_is_minus_log_p(tmp_path):
    chain = Markov(symbols=17, spread=2)
    x = drawn(chain, (10, 10, 1), 60)
    report = check_round_trip(tmp_path / "x", chain, dataset(x, 17, "image"))
    bits = ideal(chain, x)
    assert report.blocks == {MODEL: 1, LZMA: 0, STORED: 0}
    assert report.ideal_bits == pytest.approx(bits, rel=1e-12)
    assert report.ideal_bits - 1 <= report.coded_bits <= report.ideal_bits + 64 + 1e-3 * report.symbols
    assert report.bits_per_dim < 8 * report.xz_bytes / report.symbols


def test_uniform_is_exactly_eight_bits(tmp_path):
    data = dataset(np.random.default_rng(0).integers(0, 250, (40, 9, 9), dtype=np.uint8), 256)
    report = packed(tmp_path / "x", Uniform(256), data)
    assert report.blocks[STORED] == 1  # nothing is gained over the bytes themselves
    assert report.coded_bits == report.ideal_bits == 0
    x = np.random.default_rng(0).integers(0, 128, (40, 9, 9), dtype=np.uint8)
    report = packed(tmp_path / "z", Uniform(128), dataset(x, 128))
    assert report.ideal_bits == 7 * x.size


def test_where_modelling_does_not_pay_it_is_not_used(tmp_path):
    chain = Markov()
    good, bad = drawn(chain, (50, 3), 8), np.stack(events([(50, 2)] * 8))
    constant = np.full((8, 70, 2), 3, np.uint8)
    report = check_round_trip(tmp_path / "x", chain, dataset([*good, *bad, *constant]))
    assert report.blocks == {MODEL: 1, LZMA: 2, STORED: 0}
    assert report.ideal_bits == pytest.approx(ideal(chain, good))


def test_a_block_that_the_coder_makes_longer_is_stored(tmp_path):
    """21 bits are less than 3 bytes, but the stream of a range coder has whole words."""
    report = check_round_trip(tmp_path / "x", Uniform(128), dataset([np.array([5, 77, 127])], 128))
    assert report.blocks == {MODEL: 0, LZMA: 0, STORED: 1}
    assert report.payload_bytes == 3


def test_the_report_says_when_the_model_has_paid_for_itself(tmp_path):
    """From `break_even` such items on the archive with its model is smaller than xz, and not before."""
    chain = Markov()
    x = drawn(chain, (20, 20), 400)

    def report_on(n: int):
        return packed(tmp_path / f"{n}", chain, dataset(x[:n]), embed=bytes(3000), verify=False)

    report = report_on(100)
    assert 100 < report.break_even < 320
    for n in (round(report.break_even * 0.8), round(report.break_even * 1.25)):
        there = report_on(n)
        assert (there.archive_bytes < there.xz_bytes) == (n > report.break_even)
    assert report.model_bytes == 3000
    assert report.with_model == pytest.approx(report.bits_per_dim + 24_000 / report.symbols)
    assert report.payload_bytes < report.archive_bytes - 3000
    worse = packed(tmp_path / "y", Uniform(8), dataset(np.zeros((3, 4), np.uint8)), embed=bytes(10))
    assert worse.break_even is None


# ------------------------------------------------------------------------------------------- blocks and lanes


def test_a_long_text_is_cut_into_lanes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["chainrule.verbs.compress"], "LANE", 100)
    chain, steps = Markov(), []
    x = [drawn(chain, (n,), 1, seed=n)[0] for n in (400, 205, 80, 199, 10)]
    data = dataset(x, kind="text")
    report = check_round_trip(tmp_path / "x", chain, data, progress=lambda *a: steps.append(a))
    assert report.blocks[MODEL] == 1
    assert report.ideal_bits == pytest.approx(sum(ideal(chain, event[None]) for event in x), rel=0.02)
    # 400 in 4 lanes of 100, 205 in 2 of 103 and 102, the others in one: 199 steps
    assert sum(what == "compress" for what, *_ in steps) == 199
    with Archive(tmp_path / "x") as archive:
        lanes = Lanes(archive.blocks[0].items, archive.header)
    assert [item.size for item in lanes.items] == [400, 205, 199, 80, 10]
    assert list(lanes.length) == [199, 103, 102, 100, 100, 100, 100, 80, 10]
    assert list(lanes.owner) == [2, 1, 1, 0, 0, 0, 0, 3, 4]


def test_the_context_rule_is_what_was_done(tmp_path, monkeypatch):
    """A text in lanes costs what its lanes cost, each from the beginning; one that is not cut, or learns, its score."""
    monkeypatch.setattr(sys.modules["chainrule.verbs.compress"], "LANE", 100)
    lstm = CharLSTM(16, **CharLSTM.SIZES["tiny"])
    with torch.no_grad():
        for i, weights in enumerate(lstm.parameters()):
            weights.normal_(generator=torch.Generator().manual_seed(i))
    for chain, cut in ((lstm, True), (ContextMixing(16, bits=10), False)):
        text = drawn(chain, (250,), 1, seed=1)[0]
        whole = packed(tmp_path / "short", chain, dataset([text[:120]], 16, "text"), force=True)
        assert whole.context_rule == chain.context_rule() == "carried state: all symbols before it"
        report = packed(tmp_path / "long", chain, dataset([text], 16, "text"), force=True)
        rule = "lanes of at least 100 symbols, each from the beginning (carried state: all symbols before it)"
        assert summary(report)["context rule"] == report.context_rule
        assert report.context_rule == (rule if cut else chain.context_rule())
        pieces = [text[:125], text[125:]] if cut else [text]
        assert report.ideal_bits == pytest.approx(sum(ideal(chain, x[None]) for x in pieces), rel=1e-4)
        assert (report.ideal_bits == pytest.approx(ideal(chain, text[None]), rel=1e-4)) != cut


@pytest.fixture(params=["counting", "mlstm", "mixture"])
def of_texts(request):
    """A chain of bytes that tells texts apart from noise, or not: what it says does not matter."""
    return build(request.param, resolve(request.param, CHAINS).SIZES["tiny"] | {"symbols": 256}, TABLE)


@pytest.mark.parametrize("sizes", [(3000,), (900, 7, 1500, 0, 333, 64)])
def test_whole_texts_are_the_same_bytes_with_any_number_of_threads(tmp_path, monkeypatch, of_texts, sizes):
    module = sys.modules["chainrule.verbs.compress"]
    monkeypatch.setattr(module, "LANE", 500)
    monkeypatch.setattr(module, "without_model", lambda raw, items: (STORED, raw + raw + b"longer"))
    words = np.frombuffer(b"It is a far, far better thing that I do, than I have ever done; " * 50, np.uint8)
    data = dataset([words[i : i + size] for i, size in enumerate(sizes)], 256, "text")
    written = set()
    for threads in (1, 2, 3):
        path = tmp_path / f"{threads}"
        report = packed(path, of_texts, data, block_items=2 if len(sizes) > 1 else None, threads=threads)
        assert report.blocks[MODEL] == sum(report.blocks.values()) >= len(sizes) // 2
        written.add(path.read_bytes())
        found = unpacked(path, of_texts, threads=threads)
        for name, x in zip(data.names, data.x, strict=True):
            assert found[name].tobytes() == x.tobytes()
    assert len(written) == 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 8), st.integers(0, 20))
def test_lanes_hold_every_symbol_once(sizes, block_items, lane):
    header = type("Header", (), {"block_items": block_items, "lane": lane, "per_sample": 1})
    items = [Item(str(i), (size,)) for i, size in enumerate(sizes)]
    arrays = [np.arange(size) + 100 * i for i, size in enumerate(sizes)]
    lanes = Lanes(items, header)
    assert sum(lanes.length) == sum(sizes)
    assert list(lanes.length) == sorted(lanes.length, reverse=True)
    assert [sum(lanes.length > i) for i in range(lanes.steps)] == list(lanes.active)
    flat = lanes.gather(arrays)
    for x, back in zip(arrays, lanes.scatter(flat, np.dtype(int)), strict=True):
        assert (x == back).all()


def test_blocks_follow_from_the_data_and_hold_one_shape(tmp_path):
    shapes = [(2, 2, 1), (3, 3, 1)] * 150
    packed(tmp_path / "x", Markov(), dataset(events(shapes), kind="image"))
    with Archive(tmp_path / "x") as archive:
        assert archive.header.block_items == 128
        assert [len(block.items) for block in archive.blocks] == [128, 22, 128, 22]
        assert all(len({item.shape for item in block.items}) == 1 for block in archive.blocks)
    packed(tmp_path / "y", Markov(256), dataset(events([(64, 64, 3)]), 256, "image"))
    assert inspect(tmp_path / "y")["block_items"] == 2**24 // (64 * 64 * 3 * 256)


def test_only_the_blocks_that_are_wanted_are_decoded(tmp_path, monkeypatch):
    data = dataset(drawn(Markov(), (30,), 20))
    packed(tmp_path / "x", Markov(), data, block_items=5)
    read = []
    with Archive(tmp_path / "x") as archive:
        payload = Archive.payload
        monkeypatch.setattr(Archive, "payload", lambda self, n: read.append(n) or payload(self, n))
        wanted = {
            n for n, block in enumerate(archive.blocks) for x in block.items if x.name in ("item 7", "item 9")
        }
    found = list(decompress(tmp_path / "x", Markov(), only={"item 7", "item 9"}))
    assert [name for name, _, _ in found] == ["item 7", "item 9"]
    assert (found[1][1] == data.x[9]).all()
    assert set(read) == wanted != set(range(4))
    with one_line("no item 'item 20'"):
        list(decompress(tmp_path / "x", Markov(), only={"item 20"}))


def test_classes_are_kept_because_decoding_needs_them(tmp_path, monkeypatch):
    chain, context = Markov(classes=3), np.array([0, 1, 2, 1])
    x = np.stack([drawn_class(chain, c) for c in context])
    data = dataset(x, context=context, classes=("a", "b", "c"))
    report = packed(tmp_path / "x", chain, data)
    assert report.blocks[MODEL] == 1
    found = list(decompress(tmp_path / "x", chain))
    assert [c for _, _, c in found] == list(context)
    assert all((y == row).all() for (_, y, _), row in zip(found, x, strict=True))
    with one_line("conditioned on 3 classes"):
        packed(tmp_path / "y", chain, dataset(x))
    monkeypatch.setattr(coders.NativeCoder, "identity", lambda self: inspect(tmp_path / "x")["model_sha256"])
    with one_line("classes"):
        list(decompress(tmp_path / "x", Markov(classes=2)))
    packed(tmp_path / "z", Markov(), data)  # not needed, not kept
    assert inspect(tmp_path / "z")["entries"][0]["class"] is None


def drawn_class(chain, c):
    from chainrule.verbs.walk import sample

    return sample(chain, 1, (60,), torch.tensor([c]), seed=c)[0].astype(np.uint8)


def test_progress_counts_symbols_and_ends_at_all(tmp_path):
    told = []
    data = dataset([*drawn(Markov(), (60, 4), 5), *events([(9,), (0,)])])
    packed(tmp_path / "x", Markov(), data, progress=lambda *a: told.append(a))
    assert list(dict.fromkeys(what for what, *_ in told)) == ["compress", "verify"]
    for name in ("compress", "verify"):
        done = [d for what, d, _, _ in told if what == name]
        assert done == sorted(done)
        assert done[-1] == data.symbols_total
        assert {total for what, _, total, _ in told if what == name} == {data.symbols_total}
        assert all(left >= 0 for *_, left in told)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An archive of a few hundred bytes of which the model coded a part, and its chain."""
    monkeypatch.setattr(coders.NativeCoder, "identity", lambda self: "0" * 64)  # any model may try
    chain = Markov()
    x = [*drawn(chain, (12, 2), 9), np.zeros((4, 4, 4), np.uint8)]
    packed(tmp_path / "small", chain, dataset(x))
    assert inspect(tmp_path / "small")["blocks"] == {MODEL: 1, LZMA: 1}
    return tmp_path / "small", chain


def refuses(path: Path, chain: Chain, match: str = ".") -> None:
    with one_line(match):
        list(decompress(path, chain))


def test_wrong_weights_are_refused(small):
    path, chain = small
    refuses(path, Markov(seed=1), f"block 1 of 2 of .* {WRONG}")
    refuses(path, Markov(symbols=9), "has 8 symbols, the model 9")
    with torch.no_grad():
        chain.table[0, 3, 3] += 0.3
    refuses(path, chain, WRONG)


def test_another_model_is_refused_before_anything_is_decoded(tmp_path):
    x = dataset(drawn(Markov(), (30,), 5))
    for chain, other in ((Markov(), Markov(seed=1)), (CharLSTM(8, 5), CharLSTM(8, 6))):
        packed(tmp_path / "x", chain, x, force=True)
        if inspect(tmp_path / "x")["blocks"].get(MODEL):
            refuses(tmp_path / "x", other, "needs the model .*, this one is")
            with one_line("does not hold its model: give it with --run"):
                list(decompress(tmp_path / "x"))


def test_a_model_that_fails_is_an_error_that_names_the_block(small):
    path, _ = small

    class Broken(Markov):
        def step(self, state, symbol=None):
            raise IndexError("index 9 is out\nof bounds")

    refuses(path, Broken(), "block 1 of 2 of .* cannot be decoded with this model: index 9 is out of bounds")
    chain = Markov()
    chain.event = (12, 3)
    refuses(path, chain, "has items of shape")


def test_truncation_at_every_byte_is_an_error(small):
    path, chain = small
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        refuses(path, chain)


def test_every_changed_byte_is_an_error(small):
    path, chain = small
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        refuses(path, chain)
    path.write_bytes(data)
    assert verify(path, chain, deep=True) == 2


def test_a_spliced_block_with_the_right_checksum_is_not_decoded_to_something_else(small, tmp_path):
    path, chain = small
    x = [*drawn(chain, (12, 2), 9, seed=5), np.zeros((4, 4, 4), np.uint8)]
    packed(tmp_path / "other", chain, dataset(x))
    header, middle, index = taken_apart(path.read_bytes())
    _, foreign, foreign_index = taken_apart((tmp_path / "other").read_bytes())
    start = 0
    size, other = index["blocks"][0]["bytes"], foreign_index["blocks"][0]["bytes"]
    block = foreign[start : start + other]
    spliced = middle[:start] + block + middle[start + size :]
    index["blocks"][0].update(bytes=other, crc32=zlib.crc32(block))
    path.write_bytes(put_together(header, spliced, index))
    assert verify(path) == 2  # every checksum is right
    refuses(path, chain, "something else than was written")


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        ({"arithmetic": "strict-1"}, "needs 'strict-1' arithmetic .* update it"),
        ({"coder": "ans"}, "coder 'ans'"),
        ({"symbols": 9}, "has 9 symbols, the model 8"),
        ({"environment": {}}, "written with None threads"),
        ({"block_items": 1}, "has 9 items, 1 lanes at most"),
        ({"block_items": 10}, ""),
        ({"lane": 1}, ""),
    ],
)
def test_a_lying_header_never_gives_something_else(small, lie, match):
    path, chain = small
    x = [event.tobytes() for event in unpacked(path, chain).values()]
    header, middle, index = taken_apart(path.read_bytes())
    path.write_bytes(put_together(header | lie, middle, index))
    if match:
        refuses(path, chain, match)
    else:
        assert [event.tobytes() for event in unpacked(path, chain).values()] == x


@pytest.mark.parametrize("threads", [0, -1, 10**9, "2", 1.5])
def test_impossible_threads_are_refused(small, threads):
    path, chain = small
    header, middle, index = taken_apart(path.read_bytes())
    header["environment"]["threads"] = threads
    path.write_bytes(put_together(header, middle, index))
    refuses(path, chain)


@pytest.mark.parametrize("key", ["torch", "processor", "capability", "machine", "system"])
def test_another_environment_is_refused_and_said_why(small, monkeypatch, key):
    path, chain = small
    real = coders.environment()
    monkeypatch.setattr(coders, "environment", lambda: real | {key: "something else"})
    refuses(path, chain, f"only there it can be decoded: it needs {key} .*here 'something else'")
    assert container.verify(path) == 2  # whole it is all the same


def test_another_number_of_threads_is_no_reason_to_refuse(small):
    path, _ = small
    before = torch.get_num_threads()
    seen = []

    class Watching(Markov):
        def step(self, state, symbol=None):
            seen.append(torch.get_num_threads())
            return super().step(state, symbol)

    try:
        torch.set_num_threads(before + 1)
        assert len(unpacked(path, Watching())) == 10
        assert set(seen) == {before}
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_chain_that_does_not_repeat_itself_is_found_before_the_file_has_its_name(tmp_path):
    class Noisy(Markov):
        def step(self, state, symbol=None):
            logits, state = super().step(state, symbol)
            return logits + torch.rand_like(logits), state

    with one_line(WRONG):
        packed(tmp_path / "x", Noisy(), dataset(drawn(Markov(), (50, 4), 9)))
    assert list(tmp_path.iterdir()) == []


def test_no_distribution_is_an_error_and_leaves_nothing(tmp_path):
    with one_line("no symbol can be coded"):
        packed(tmp_path / "x", Fixed([math.nan] * 8), dataset(events([(9, 9)])))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_and_the_old_file(tmp_path):
    class Interrupted(Markov):
        def step(self, state, symbol=None):
            raise KeyboardInterrupt

    (tmp_path / "x").write_bytes(b"precious")
    data = dataset(drawn(Markov(), (50, 4), 9))
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "x", Interrupted(), data, force=True)
    with one_line("--force"):
        packed(tmp_path / "x", Markov(), data)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"precious")]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (dataset([]), "is empty"),
        (dataset(np.zeros((2, 3)), 8), "float64, only whole numbers"),
        (dataset(np.full((2, 3), 8), 8), "symbols from 8 to 8, the model knows 0 to 7"),
        (dataset(np.full((2, 3), -1), 8), "symbols from -1"),
        (dataset(np.zeros((2, 3), int), 9), "9 levels, the model has 8"),
        (dataset(np.zeros((2, 3), np.uint8), 2, binarise=True), "compress a fixed split"),
        (dataset(events([(2,), (3,)]), names=["a", "a"]), "stands twice"),
        (dataset([np.broadcast_to(np.uint8(0), (1 << 28, 2))]), "has 536870912 symbols, at most 268435456"),
        (dataset(events([(2,)]), names=["../a"]), "a part of it is '..'; rename it"),
        (dataset(events([(2,)]), names=["\ud800"]), "cannot be written"),
    ],
)
def test_what_cannot_be_compressed_is_said_at_once(tmp_path, data, match):
    with one_line(match):
        packed(tmp_path / "x", Markov(), data)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- the same arithmetic


def test_a_settled_chain_is_aligned_and_shares_no_memory():
    chain = GatedPixelCNN(16, 3, **GatedPixelCNN.SIZES["tiny"])
    with torch.no_grad():
        for p in chain.parameters():
            p.data = torch.empty(p.numel() + 1)[1:].view(p.shape).copy_(p)  # 4 bytes off
    for mine, theirs in zip(chain.parameters(), coders.settled(chain).parameters(), strict=True):
        assert (mine == theirs).all()
        assert theirs.is_contiguous()
        assert theirs.data_ptr() % 64 == 0 != mine.data_ptr() % 64
        assert theirs.untyped_storage().data_ptr() != mine.untyped_storage().data_ptr()


@pytest.mark.parametrize("image", [True, False])
def test_how_weights_lie_in_memory_changes_nothing(tmp_path, image):
    """A chain as training leaves it, and as a file may give it: unaligned, in C order, in training mode."""

    def make():
        return GatedPixelCNN(16, 3, **GatedPixelCNN.SIZES["tiny"]) if image else CharLSTM(16, 24)

    torch.manual_seed(0)
    chain = make()
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(torch.randn_like(p))
    x = drawn(chain, (6, 5, 3) if image else (60,), 7)
    report = packed(tmp_path / "x", chain, dataset(x, 16, "image" if image else "text"))
    assert report.blocks[MODEL] == 1
    other = make()
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), chain.parameters(), strict=True):
            memory = torch.empty(mine.numel() + 1)[1:]  # 4 bytes off
            mine.data = memory.view(theirs.shape).copy_(theirs)
    other.train()
    assert (np.stack(list(unpacked(tmp_path / "x", other).values())) == x).all()
    assert other.training


# ----------------------------------------------------------------------------------- what comes back as files


@pytest.fixture
def folder(tmp_path):
    """Pictures of every sort, and what each must come back as."""
    root, rng = tmp_path / "my photos", np.random.default_rng(0)
    (root / "été").mkdir(parents=True)

    def noise(*shape):
        return rng.integers(0, 256, shape, dtype=np.uint8)

    def save(name, x, **more):
        Image.fromarray(x).save(root / name, **more)

    smooth = np.add.outer(np.arange(32) * 3, np.arange(32) * 2).astype(np.uint8)
    save("a.png", noise(6, 7, 3))
    save("a.bmp", noise(6, 7, 3))
    save("A.gif", noise(5, 5))
    save("été/ä 1.bmp", noise(6, 7, 3))
    save("gray.png", noise(6, 7))
    save("gray as rgb.png", np.repeat(noise(4, 4, 1), 3, 2))
    save("black and white.png", noise(6, 7) > 99)
    save("alpha.png", noise(6, 7, 4))
    save("deep.png", rng.integers(0, 65536, (6, 7), dtype=np.uint16))
    save("smooth.jpg", np.repeat(smooth[..., None], 3, 2) // 2 + noise(1, 1, 3) // 2, quality=60)
    frames = [Image.fromarray(noise(5, 5, 3)) for _ in range(2)]
    frames[0].save(root / "moves.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    save("turned.png", noise(6, 9, 3), exif=turned)
    palette = Image.fromarray(noise(6, 7)).convert("P")
    palette.putpalette(list(rng.permutation(768) % 256))
    palette.save(root / "palette.png")
    return root


WHOLE = {"alpha.png", "deep.png", "smooth.jpg", "moves.gif", "turned.png"}
RENAMED = {
    "a.bmp": "a.bmp.png",
    "A.gif": "A.gif.png",
    "été/ä 1.bmp": "été/ä 1.png",
    "smooth.jpg": "smooth.png",
}
RENAMED |= {"moves.gif": "moves.png"}


def test_what_a_picture_would_not_show_is_kept_whole(tmp_path, folder):
    data = load(str(folder))
    originals = {name: folder / name for name in data.names}
    report = packed(tmp_path / "x", Uniform(256), data, originals=originals)
    entries = inspect(tmp_path / "x")["entries"]
    whole = {entry["name"] for entry in entries if entry["form"] == FILE}
    smaller = {n for n, x in zip(data.names, data.x, strict=True) if originals[n].stat().st_size <= x.size}
    assert "smooth.jpg" in smaller
    assert not {"a.png", "a.bmp", "palette.png"} & smaller
    assert whole == WHOLE | smaller
    assert report.files == len(whole)
    written = extract(tmp_path / "x", tmp_path / "out", Uniform(256))
    assert len(written) == len(data) == 13
    for name in whole:
        assert (tmp_path / "out" / name).read_bytes() == originals[name].read_bytes()
    assert same_pixels(load(str(tmp_path / "out")), data)


def same_pixels(one: Dataset, other: Dataset) -> bool:
    return sorted(x.tobytes() for x in one.x) == sorted(x.tobytes() for x in other.x)


def test_pictures_come_back_as_their_pixels(tmp_path, folder):
    data = load(str(folder))
    check_round_trip(tmp_path / "x", Uniform(256), data)
    assert len(extract(tmp_path / "x", tmp_path / "out", Uniform(256))) == 13
    for name, pixels in zip(data.names, data.x, strict=True):
        with Image.open(tmp_path / "out" / RENAMED.get(name, name)) as image:
            gray = (pixels == pixels[..., :1]).all()
            assert (image.format, image.mode) == ("PNG", "L" if gray else "RGB")
            assert (np.asarray(image.convert("RGB")) == pixels).all()
    assert same_pixels(load(str(tmp_path / "out")), data)


def test_an_original_that_has_changed_meanwhile_is_an_error_or_kept_whole(tmp_path, folder):
    data = load(str(folder))
    (folder / "a.png").write_bytes(b"no picture any more")
    (folder / "gray.png").unlink()
    originals = {name: folder / name for name in data.names}
    with one_line("cannot read .*gray.png"):
        packed(tmp_path / "x", Uniform(256), data, originals=originals)
    del originals["gray.png"]
    packed(tmp_path / "x", Uniform(256), data, originals=originals)
    assert unpacked(tmp_path / "x", Uniform(256))["a.png"].tobytes() == b"no picture any more"


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a.jpg"], ["a.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png"]),
        (["a.jpg", "a.gif"], ["a.png", "a.gif.png"]),
        (["a.jpg", "A.PNG"], ["a.jpg.png", "A.png.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg-2.png", "a.png", "a.jpg.png"]),
        (["b/a.jpg", "a.jpg"], ["b/a.png", "a.png"]),
        (["a", "b"], ["a.png", "b.png"]),
        (["a.png/x.png", "a.jpg"], ["a.png/x.png", "a.jpg.png"]),
        (["e\u0301.jpg", "\u00e9.png"], ["e\u0301.jpg.png", "\u00e9.png"]),
        (["v1.2"], ["v1.png"]),
    ],
)
def test_names_of_pictures_never_collide(names, files):
    header = type("Header", (), {"kind": "image", "symbols": 256})
    found = outputs([Item(name, (2, 2, 3)) for name in names], header)
    if names == ["a.jpg", "A.PNG"]:
        files = ["a.png", "A.PNG.png"]
    assert list(found.values()) == files
    assert len({name.casefold() for name in found.values()}) == len(names)


def test_texts_come_back_byte_for_byte(tmp_path):
    root = tmp_path / "texts"
    (root / "b").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"to be or not to be\r\n" * 30)
    (root / "b" / "ü.txt").write_bytes("Straße".encode() * 40)
    data = load(str(root))
    originals = {name: root / name for name in data.names}
    torch.manual_seed(0)
    chain = CharLSTM(256, 8)
    packed(tmp_path / "x", chain, data, originals=originals)
    extract(tmp_path / "x", tmp_path / "out", chain)
    for name in data.names:
        assert (tmp_path / "out" / name).read_bytes() == (root / name).read_bytes()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", ">i4", "uint16"])
def test_an_array_comes_back_as_one_array(tmp_path, dtype):
    x = (np.arange(7 * 6).reshape(7, 2, 3) % 2).astype(dtype)
    data = Dataset(x, 2, "array", [str(i) for i in range(7)])
    packed(tmp_path / "some array.chain", Uniform(2), data, block_items=2)
    (path,) = extract(tmp_path / "some array.chain", tmp_path / "out", Uniform(2))
    assert path == tmp_path / "out" / "some array.npy"
    back = np.load(path)
    assert back.dtype == np.dtype(dtype).newbyteorder("<")
    assert (back == x).all()
    (path,) = extract(tmp_path / "some array.chain", tmp_path / "out2", Uniform(2), only=["3", "5"])
    assert (np.load(path) == x[[3, 5]]).all()


def test_events_with_names_that_are_no_pictures_come_back_as_arrays(tmp_path):
    data = dataset(events([(3, 2), (4,)]), names=["a.csv", "b.png"])
    packed(tmp_path / "x", Uniform(8), data)
    extract(tmp_path / "x", tmp_path / "out", Uniform(8))
    assert (np.load(tmp_path / "out" / "a.npy") == data.x[0]).all()
    assert (np.load(tmp_path / "out" / "b.npy") == data.x[1]).all()


def test_nothing_is_overwritten_and_nothing_leaves_the_folder(tmp_path):
    data = dataset(events([(9,), (9,)]), kind="text", names=["a", "sub/b"])
    packed(tmp_path / "x", Uniform(8), data)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").mkdir()
    (out / "sub" / "b").write_bytes(b"precious")

    def unpack(**more):
        return extract(tmp_path / "x", out, Uniform(8), **more)

    with one_line("b exists"):
        unpack()
    assert not (out / "a").exists()
    assert (out / "sub" / "b").read_bytes() == b"precious"
    assert len(unpack(force=True)) == 2
    assert (out / "sub" / "b").read_bytes() == data.x[1].tobytes()
    (out / "sub" / "b").unlink()
    (out / "sub").rmdir()
    (out / "sub").symlink_to(elsewhere)
    with one_line("leads out of"):
        unpack(force=True)
    assert list(elsewhere.iterdir()) == []
    (out / "sub").unlink()
    (out / "sub").write_bytes(b"a file where a folder must be")
    with one_line("cannot make the folder"):
        unpack(force=True)


def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path):
    packed(tmp_path / "x", Uniform(8), dataset(events([(9,)]), kind="text", names=["a"]))
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "out" / "a").symlink_to(tmp_path / "victim")
    extract(tmp_path / "x", tmp_path / "out", Uniform(8), force=True)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "out" / "a").is_symlink()


def test_an_array_of_lies_is_refused(tmp_path):
    packed(tmp_path / "x", Uniform(8), dataset(events([(9,), (8,)]), kind="text"))
    header, middle, index = taken_apart((tmp_path / "x").read_bytes())
    (tmp_path / "x").write_bytes(put_together(header | {"layout": "array"}, middle, index))
    with one_line("do not make one array"):
        extract(tmp_path / "x", tmp_path / "out", Uniform(8))
    assert list((tmp_path / "out").iterdir()) == []


def test_small_files_that_are_kept_whole_share_a_block(tmp_path):
    sizes, x = [10, 70_000, 20, 30, 66_000, 40], []
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * size)
        x.append(np.zeros((4, 4, 3), np.uint8))
    data = dataset(x, 256, "image", names=[f"{i}" for i in range(6)])
    originals = {name: tmp_path / name for name in data.names}
    packed(tmp_path / "x", Uniform(256), data, originals=originals)
    with Archive(tmp_path / "x") as archive:
        assert [len(block.items) for block in archive.blocks] == [1, 1, 2, 1, 1]
    for i, (name, found) in enumerate(unpacked(tmp_path / "x", Uniform(256)).items()):
        assert name == f"{i}"
        assert found.tobytes() == bytes([i]) * sizes[i]


def test_verify_decodes_when_it_is_told_to(small):
    path, chain = small
    assert verify(path) == verify(path, deep=False) == 2
    assert verify(path, chain, deep=True) == 2
    with one_line(WRONG):
        verify(path, Markov(seed=1), deep=True)
    with one_line("does not hold its model: give it with --run"):
        verify(path, deep=True)


def test_what_inspect_says_is_json(small):
    facts = inspect(small[0])
    assert json.loads(json.dumps(facts)) == facts
    assert not facts["embedded"]
    assert facts["environment"] == coders.environment()
