"""The entropy coder: big integers, a decoder in plain Python, and constriction agree with it to the last bit.

constriction's range coder is the oracle: with our frequencies its streams are ours, and ours are its.
"""

import math
import re
from contextlib import suppress
from pathlib import Path

import constriction
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.coding import (
    TOTAL,
    Decoder,
    Encoder,
    frequencies,
    information,
    largest,
    weigh,
    words_of,
)
from chainrule.errors import ChainruleError

WORD, STATE = 1 << 32, 1 << 64


class PlainDecoder:
    """The decoder in plain Python integers: enough to read an archive without the package."""

    def __init__(self, stream: bytes) -> None:
        stream += bytes(-len(stream) % 4)
        self.words = [int.from_bytes(stream[i : i + 4], "big") for i in range(0, len(stream), 4)]
        self.low, self.range, self.point = 0, STATE - 1, 0
        for _ in range(2):
            self.point = self.point * WORD + self.next_word()

    def next_word(self) -> int:
        return self.words.pop(0) if self.words else 0

    def get(self, table: np.ndarray) -> list[int]:
        return [self.one([int(f) for f in row]) if len(row) > 1 else 0 for row in table]

    def one(self, frequencies: list[int]) -> int:
        share = self.range // TOTAL
        target = (self.point - self.low) % STATE // share
        symbol, below = 0, 0
        while below + frequencies[symbol] <= target:
            below += frequencies[symbol]
            symbol += 1
        self.low = (self.low + share * below) % STATE
        self.range = share * frequencies[symbol]
        if self.range < WORD:
            self.low, self.range = self.low * WORD % STATE, self.range * WORD
            self.point = (self.point * WORD + self.next_word()) % STATE
        return symbol


def random_tables(rng: np.random.Generator, batch: int, symbols: int, steps: int) -> list[np.ndarray]:
    spread = rng.choice([0.0, 1.0, 10.0, 1e4])
    return [frequencies(rng.normal(size=(batch, symbols)) * spread) for _ in range(steps)]


def drawn(rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    return np.array([rng.choice(len(row), p=row / TOTAL) for row in table.astype(float)])


HARD = {
    "underflow": [0.0, -800.0, -1e30, -np.inf],
    "huge": [1e30, -1e30, 1e30, 0.0],
    "largest": [np.finfo(float).max, np.finfo(float).min, 0.0, 1.0],
    "float32": np.array([3e38, -3e38, 0, -np.inf], np.float32),
    "equal": [7.0] * 256,
    "one certain": [0.0] + [-np.inf] * 255,
    "two": [0.0, -np.inf],
    "one symbol": [-5.0],
    "tiny": [5e-324, 0.0, -5e-324],
    "65,536 equal": np.zeros(65536),
    "65,536 steep": -np.arange(65536.0),
    "65,535 odd": np.sin(np.arange(65535.0)) * 9,
}


@pytest.mark.parametrize("name", HARD)
def test_frequencies_are_positive_and_add_up(name):
    table = frequencies(np.array([HARD[name], HARD[name]]))
    assert table.dtype == np.int32
    assert table.min() >= 1
    assert (table.sum(1, dtype=np.int64) == TOTAL).all()
    assert (table[0] == table[1]).all()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 30.0, 1e20]))
@settings(max_examples=60, deadline=None)
def test_frequencies_follow_the_probabilities(symbols, seed, spread):
    logits = np.random.default_rng(seed).normal(size=(3, symbols)) * spread
    table = frequencies(logits)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert (table.sum(1, dtype=np.int64) == TOTAL).all()
    others = np.arange(symbols) != logits.argmax(1)[:, None]
    expected = 1 + p * (TOTAL - symbols)
    # floor takes up to 1, the rounding of weights to 2^-32 up to 2^-8, exp 1e-9 of it
    assert np.all(np.abs(table - expected)[others] <= 1.005 + 1e-8 * expected[others])


def test_equal_logits_give_equal_frequencies_in_any_batch():
    logits = np.random.default_rng(0).normal(size=(50, 97)).astype(np.float32) * 5
    whole = frequencies(logits)
    rows = np.concatenate([frequencies(row[None]) for row in logits])
    strided = frequencies(np.asfortranarray(logits)[::-1])[::-1]
    assert (whole == rows).all()
    assert (whole == strided).all()


def test_frequencies_have_golden_values():
    """They are part of the format: a change of arithmetic must not go unnoticed."""
    table = frequencies(np.array([[0.0, 1.0, -1.0, 2.5, -20.0], [0.1, 0.2, 0.3, -0.4, 5.0]], np.float32))
    assert table.tolist() == [
        [1031260, 2803255, 379380, 12563320, 1],
        [121378, 134144, 148252, 73620, 16299822],
    ]


@pytest.mark.parametrize(
    "row",
    [[0.0, np.nan], [np.nan, np.nan], [0.0, np.inf], [-np.inf, -np.inf]],
    ids=["nan", "nans", "inf", "-infs"],
)
def test_no_distribution_is_an_error(row):
    with pytest.raises(ChainruleError, match="no symbol can be coded"):
        frequencies(np.array([[0.0, 0.0], row]))


def test_too_many_symbols_are_an_error():
    with pytest.raises(ChainruleError, match="65537"):
        frequencies(np.zeros((1, 65537)))


@numba.njit(error_model="numpy")
def weights_of(z):
    weights = np.empty(len(z))
    return weigh(z, 0.0, 1.0, weights), weights


@numba.njit(error_model="numpy")
def bits_of(logit, top, total):
    return information(logit, top, total)


@numba.njit(error_model="numpy")
def best_of(logits):
    return largest(logits)


def test_weights_are_those_of_the_real_exponential():
    z = -np.linspace(0, 32, 100001)
    total, weights = weights_of(z)
    exact = np.exp(z) * 2.0**32
    assert np.abs(weights - exact).max() <= 2  # the floor takes one, and 2e-10 of 2^32 is another
    assert (weights == np.floor(weights)).all()
    assert weights[0] == 2.0**32
    assert total == sum(map(int, weights))
    assert weights_of(np.array([-32.0, -33.0, -1e300, -np.inf]))[1].tolist() == [0] * 4


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 65535, 65536])
def test_weights_add_up_exactly(count):
    total, weights = weights_of(-np.random.default_rng(count).random(count) * 9)
    assert int(total) == sum(map(int, weights))


def test_the_largest_logit_is_the_first_of_its_kind():
    assert best_of(np.array([1.0, 3.0, -np.inf, 3.0])) == (3.0, 1)
    assert best_of(np.array([-0.0, 0.0], np.float32)) == (0.0, 0)
    for bad in ([np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0], [-np.inf, -np.inf]):
        assert np.isnan(best_of(np.array(bad))[0])


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 8.0]))
@settings(max_examples=60, deadline=None)
def test_information_is_the_exact_logarithm(symbols, seed, spread):
    """−log₂ p in bits against Python's log2 of the exact quotient of integers."""
    logits = np.random.default_rng(seed).normal(size=symbols) * spread
    top = logits.max()
    total, _ = weights_of(logits - top)
    for logit in logits[:9]:
        exact = math.log2(int(total)) - 32 - (logit - top) / math.log(2)
        assert abs(bits_of(logit, top, total) - exact) <= 1e-9
    for total in (2.0**32, 2.0**33 - 1, 2.0**47 + 1, 3.0 * 2**40, 2.0**48):
        assert abs(bits_of(0.0, 0.0, total) - (math.log2(total) - 32)) <= 1e-9


# ---- big integers -------------------------------------------------------------------------------------------


def big_integer_stream(coded):
    """The stream of (below, frequency) pairs: an interval in the numbers of any length, never cut into words.

    Of the points in the last interval the stream is one with the fewest bytes after the whole words.
    """
    low, width, length = 0, STATE - 1, 64  # the interval is low, low + 1, ... / 2^length
    for below, frequency in coded:
        share = width // TOTAL
        low, width = low + share * below, share * frequency
        if width < WORD:
            low, width, length = low * WORD, width * WORD, length + 32
    for count in range(9):
        unit = 1 << (64 - 8 * count)
        point = -(-low // unit) * unit
        if point < low + width:
            return (point >> (64 - 8 * count)).to_bytes((length - 64) // 8 + count, "big")
    raise AssertionError


def pairs(tables, rows):
    return [
        (int(table[i, :symbol].sum()), int(table[i, symbol]))
        for table, row in zip(tables, rows, strict=True)
        for i, symbol in enumerate(row)
    ]


def ours(tables, rows):
    encoder = Encoder()
    for table, row in zip(tables, rows, strict=True):
        encoder.put(table, np.asarray(row))
    return encoder.bytes()


@given(st.integers(1, 5), st.sampled_from([2, 17, 256]), st.integers(0, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_streams_are_those_of_big_integers(batch, symbols, steps, seed):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, batch, symbols, steps)
    rows = [rng.integers(symbols, size=batch) if rng.random() < 0.5 else drawn(rng, t) for t in tables]
    assert ours(tables, rows) == big_integer_stream(pairs(tables, rows))


@pytest.mark.parametrize("words", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("carry", [True, False])
def test_a_carry_goes_through_all_words_of_ones(words, carry):
    """Symbols close below a power of two write words of ones; the last one pushes the point over it, or not.

    A table of two is bisected: each symbol keeps the half that holds the target, as exactly as 2^24 allows.
    """
    target, coded, tables, rows = 0x8000_0000 << 32 * (words + 2), [], [], []
    low, width, length = 0, STATE - 1, 64

    def take(below, frequency, table, symbol):
        nonlocal low, width, length
        coded.append((below, frequency))
        tables.append(np.array([table], np.int32))
        rows.append([symbol])
        share = width // TOTAL
        low, width = low + share * below, share * frequency
        if width < WORD:
            low, width, length = low * WORD, width * WORD, length + 32

    while length < 32 * (words + 3):
        goal = target << length >> 32 * (words + 3)  # the first number that begins with a one
        place = min(TOTAL - 2, max(1, (goal - low) // (width // TOTAL)))
        take(place, 1, [place, 1, TOTAL - place - 1], 1)
    beginning = low >> (length - 32)
    assert beginning == 0x7FFF_FFFF, "the interval has left the place it was meant for"
    take(*((TOTAL - 1, 1, [TOTAL - 1, 1], 1) if carry else (0, 1, [1, TOTAL - 1], 0)))
    stream = ours(tables, rows)
    assert stream == big_integer_stream(coded)
    assert stream[:4] == (b"\x80\0\0\0" if carry else b"\x7f\xff\xff\xff")
    zeros = stream[4 : 4 * words]
    assert zeros == (b"\0" if carry else b"\xff") * len(zeros)
    decoder = Decoder(stream)
    assert [decoder.get(table).tolist() for table in tables] == rows


# ---- constriction -------------------------------------------------------------------------------------------


def model_of(row):
    """constriction's distribution with exactly these frequencies.

    Of weights w it makes 1 + ⌊w (2^24 - K) / Σw⌋: the frequencies less one add up to 2^24 - K, so they are kept.
    """
    return constriction.stream.model.Categorical((row - 1).astype(np.float32), perfect=False)


@given(st.sampled_from([2, 17, 256]), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_constriction_reads_our_streams_and_we_read_its(symbols, steps, seed):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, 1, symbols, steps)
    rows = [drawn(rng, table) for table in tables]
    theirs = constriction.stream.queue.RangeEncoder()
    for table, row in zip(tables, rows, strict=True):
        theirs.encode(int(row[0]), model_of(table[0]))
    stream = theirs.get_compressed().astype(">u4").tobytes()
    decoder = Decoder(stream)
    assert [decoder.get(table).tolist() for table in tables] == [row.tolist() for row in rows]
    reader = constriction.stream.queue.RangeDecoder(words_of(ours(tables, rows)))
    assert [[int(reader.decode(model_of(table[0])))] for table in tables] == [row.tolist() for row in rows]
    assert len(ours(tables, rows)) <= len(stream)


# ---- there and back -----------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.sampled_from([1, 2, 17, 256]), st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out_and_plain_python_reads_it(batch, symbols, steps, seed):
    """Probable and improbable symbols alike; the plain decoder works with the integers alone."""
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, batch, symbols, steps)
    given_ = [rng.integers(symbols, size=batch) if rng.random() < 0.5 else drawn(rng, t) for t in tables]
    encoder = Encoder()
    for table, row in zip(tables, given_, strict=True):
        encoder.put(table, row)
    stream = encoder.bytes()
    for decoder in (Decoder(stream), PlainDecoder(stream), Decoder(stream + b"\0" * 7)):
        for table, row in zip(tables, given_, strict=True):
            assert list(decoder.get(table)) == row.tolist()


def test_the_decoder_printed_in_the_specification_decodes():
    text = (Path(__file__).parent.parent / "docs" / "archive-format.md").read_text(encoding="utf-8")
    (program,) = re.findall("```python\n(.*?)```", text, re.S)
    rng = np.random.default_rng(4)
    tables = random_tables(rng, 3, 17, 50)
    rows = [drawn(rng, table) for table in tables]
    encoder = Encoder()
    for table, row in zip(tables, rows, strict=True):
        encoder.put(table, row)
    plain = PlainDecoder(encoder.bytes())
    space = {"first_two_words": plain.point, "next_word": plain.next_word}
    exec(program, space)
    for table, row in zip(tables, rows, strict=True):
        assert [space["symbol"]([int(f) for f in frequencies]) for frequencies in table] == row.tolist()


def test_streams_have_golden_bytes():
    """Archives outlive the version of the coder that wrote them."""
    table = frequencies(np.array([[0.0, 1.0, -1.0, 2.5, -20.0], [0.1, 0.2, 0.3, -0.4, 5.0]]))
    rows = [[3, 4], [1, 4], [4, 0], [0, 2], [3, 4]]
    encoder = Encoder()
    for row in rows:
        encoder.put(table, np.array(row))
    stream = bytes.fromhex("70523da84f53")
    assert encoder.bytes() == stream
    for same in (stream, bytes.fromhex("70523da84f528921")):  # the other is constriction's: two whole words
        for decoder in (PlainDecoder(same), Decoder(same)):
            assert [list(decoder.get(table)) for _ in rows] == rows


def test_the_order_of_a_table_in_memory_changes_nothing():
    table = frequencies(np.random.default_rng(3).normal(size=(8, 5)))
    row = np.array([0, 1, 2, 3, 4, 0, 1, 2])
    streams = []
    for same in (table, np.asfortranarray(table), table[::-1].copy()[::-1]):
        encoder = Encoder()
        encoder.put(same, row)
        streams.append(encoder.bytes())
        assert PlainDecoder(streams[-1]).get(table) == row.tolist()
        assert Decoder(streams[0]).get(same).tolist() == row.tolist()
    assert streams == streams[:1] * 3


def test_plain_python_reads_a_large_alphabet():
    """65,536 symbols, where there is least room."""
    rng = np.random.default_rng(1)
    table = frequencies(np.concatenate([rng.normal(size=(6, 65536)) * 4, np.zeros((1, 65536))]))
    row = np.array([0, 65535, 1, 40000, 65534, 12345, 65535])
    encoder = Encoder()
    encoder.put(table, row)
    assert PlainDecoder(encoder.bytes()).get(table) == row.tolist()
    assert Decoder(encoder.bytes()).get(table).tolist() == row.tolist()


def test_one_count_off_loses_the_stream():
    """Why exactness matters, and that these tests would notice."""
    rng = np.random.default_rng(2)
    tables = [frequencies(rng.normal(size=(64, 16)))] * 20
    rows = [drawn(rng, t) for t in tables]
    encoder = Encoder()
    for table, row in zip(tables, rows, strict=True):
        encoder.put(table, row)
    wrong = tables[0].copy()
    wrong[:, 0] += 1
    wrong[:, 1] -= 1
    decoder, found = Decoder(encoder.bytes()), []
    for _ in rows:
        try:
            found.append(decoder.get(wrong).tolist())
        except ChainruleError:
            break
    assert found != [row.tolist() for row in rows]


@pytest.mark.parametrize("symbols", [2, 17, 256])
def test_the_excess_over_the_ideal_is_small(symbols, capsys):
    rng = np.random.default_rng(symbols)
    logits = rng.normal(size=(200, symbols)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    encoder, ideal, count = Encoder(), 0.0, 0
    table = frequencies(logits)
    for _ in range(60):
        row = np.array([rng.choice(symbols, p=q) for q in p])
        encoder.put(table, row)
        ideal -= np.log2(p[np.arange(len(p)), row]).sum()
        count += len(row)
    excess = (8 * len(encoder.bytes()) - ideal) / count
    with capsys.disabled():
        print(f"\n{symbols} symbols: {excess:.6f} bits/symbol above {ideal / count:.4f}", end="")
    assert 8 * len(encoder.bytes()) <= ideal + 64 + 1e-3 * count


def test_nothing_and_one_symbol_alphabets_take_no_bits():
    encoder = Encoder()
    encoder.put(frequencies(np.zeros((0, 5))), np.zeros(0, int))
    encoder.put(frequencies(np.zeros((9, 1))), np.zeros(9, int))
    assert encoder.bytes() == b""
    assert Decoder(b"").get(frequencies(np.zeros((9, 1)))).tolist() == [0] * 9


def test_damaged_streams_decode_to_symbols_or_are_an_error():
    table = frequencies(np.random.default_rng(0).normal(size=(4, 256)))
    for seed in range(300):
        decoder = Decoder(np.random.default_rng(seed).bytes(seed % 17))
        with suppress(ChainruleError):
            for _ in range(10):
                found = decoder.get(table)
                assert ((found >= 0) & (found < 256)).all()
    with pytest.raises(ChainruleError, match="damaged"):
        Decoder(b"\xff" * 16).get(table)


@pytest.mark.parametrize("length", range(14))
def test_a_decoder_that_runs_past_its_stream_is_an_error(length):
    """A symbol takes bits, and nothing was written that far: two words after the end there is no symbol left."""
    table = np.array([[TOTAL // 2, TOTAL // 2]], np.int32)
    decoder, count = Decoder(bytes(length)), 0
    message = "the coded stream is damaged: no symbol has this code"
    with pytest.raises(ChainruleError, match=message):  # noqa: PT012  how many come before it is not fixed
        for _ in range(8 * length + 129):
            decoder.get(table)
            count += 1
    assert 8 * length < count <= 8 * length + 128


def test_every_symbol_of_a_whole_stream_is_found():
    """The bound on what may be read is not too small: streams of every length, to their last symbol."""
    rng = np.random.default_rng(7)
    for steps in range(120):
        tables = [frequencies(rng.normal(size=(1, 3)) * 3) for _ in range(steps)]
        rows = [rng.integers(3, size=1).tolist() for _ in tables]
        decoder = Decoder(ours(tables, rows))
        assert [decoder.get(table).tolist() for table in tables] == rows
