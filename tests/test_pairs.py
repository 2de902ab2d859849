"""Parallel text: from two files or a table to pairs, from pairs to batches, and through every verb."""

import gzip
import json
import lzma
import os
import tracemalloc
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from chainrule import Dataset, cli, fit, load, open_run, score
from chainrule.data import BYTES, batches, named, padded, pairs, parallel, train_holdout, train_test
from chainrule.data.batches import POOL, check_pairs
from chainrule.data.parallel import LONGEST, Lines, aligned, columns, dataset_of, lines_of, texts
from chainrule.data.tokens import learn
from chainrule.errors import ChainruleError
from chainrule.model import Chain, pick
from chainrule.models import TABLE, can_be_read
from chainrule.verbs.compress import compress
from chainrule.verbs.fit import first_symbols
from chainrule.verbs.score import context_of, same_length
from chainrule.verbs.training import training_options

NAME = "word-for-word"
QUICK = {"steps": 4, "size": "tiny", "batch": 4, "save_every": 1000.0}


class WordForWord(Chain):
    """p(x_t | x_(t-1), s_t): the source is read symbol by symbol. The least that is conditioned on one."""

    SIZES = {"tiny": {}, "laptop": {}}
    KINDS = ("text",)
    TRAINING = {"batch": 8, "lr": 0.1, "window": 8, "carry": False, "compile": False}

    def __init__(self, symbols: int = 256, source: int = 0):
        super().__init__()
        self.symbols, self.source = symbols, source
        self.before = nn.Embedding(symbols + 1, symbols)
        self.given = nn.Embedding(source + 1, symbols) if source else None

    @classmethod
    def configure(cls, data):
        return {"symbols": data.levels, **({} if data.sources is None else {"source": data.levels})}

    def logits(self, x, context=None):
        before = F.pad(x[:, :-1].long(), (1, 0), value=-1)
        found = self.before(torch.where(before < 0, self.symbols, before))
        if self.given is None:
            return found
        here = F.pad(context, (0, max(0, x.shape[1] - context.shape[1])), value=-1)[:, : x.shape[1]]
        return found + self.given(torch.where(here < 0, self.source, here))

    def log_probs(self, x, context=None):
        return pick(self.logits(x, context), x.clamp(min=0)) * (x >= 0)

    def loss(self, x, context=None):
        return F.cross_entropy(self.logits(x, context).flatten(0, 1), x.flatten().long(), ignore_index=-1)


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch):
    monkeypatch.setitem(TABLE, NAME, f"{__name__}:WordForWord")


def both(data):
    """[(target, source)] as bytes."""
    return [
        (BYTES.decode(x), BYTES.decode(source))
        for x, source in zip(data.in_alphabet(BYTES).x, data.in_alphabet(BYTES).sources, strict=True)
    ]


def made(count, seed=0, longest=30):
    """So many pairs that know who they are: every symbol of both sides of pair i is i."""
    rng = np.random.default_rng(seed)
    x, sources = ([np.full(rng.integers(1, longest), i) for i in range(count)] for _ in range(2))
    return Dataset(x, max(2, count), "text", [f"pair {i}" for i in range(count)], sources=sources)


def belong_together(data):
    """Whether every event of what `made` gave has its own name and source."""
    return all(
        {*x.tolist(), *source.tolist()} == {int(name.removeprefix("pair "))}
        for name, x, source in zip(data.names, data.x, data.sources, strict=True)
    )


def few(count=12):
    """Pairs of letters: a target is its source in capitals."""
    lines = [bytes(97 + (3 * i + j) % 26 for j in range(4 + i % 5)) for i in range(count)]
    return dataset_of([(line.upper(), line) for line in lines], ("", ""), "few")


def written(folder, data=None):
    """The files few.de and few.en, and both as the table few.tsv."""
    of = both(data or few())
    (folder / "few.de").write_bytes(b"".join(x for x, _ in of))
    (folder / "few.en").write_bytes(b"".join(source for _, source in of))
    (folder / "few.tsv").write_bytes(b"".join(source[:-1] + b"\t" + x for x, source in of))
    return folder / "few.de", folder / "few.en", folder / "few.tsv"


# ---- from files to pairs -------------------------------------------------------------------------------------

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
LINE = st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"").rstrip(b"\r"))
CELL = LINE.map(lambda cell: cell.replace(b"\t", b""))
PAIRS = st.lists(st.tuples(LINE, LINE), min_size=1, max_size=12)


def file_of(path, lines, end, last):
    """Write lines with their ends, the last one only if `last`; packed as the name of the file says."""
    text = end.join(lines) + (end if last else b"")
    path.write_bytes(PACK.get(path.suffix, bytes)(text))
    return path


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(sorted(PACK)), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_two_files_come_back_as_their_pairs(tmp_path_factory, expected, packed, end, last):
    folder = tmp_path_factory.mktemp("pairs")
    last = last or not all(expected[-1])  # an empty line is one only when it ends
    target, source = (
        file_of(folder / f"train.{side}{packed}", lines, end, last)
        for side, lines in zip(("de", "en"), zip(*expected, strict=True), strict=True)
    )
    if not any(map(all, expected)):
        with pytest.raises(ChainruleError, match="holds no pair of texts"):
            load(target, sources=source)
        return
    data = load(target, sources=source)
    kept = [i for i, pair in enumerate(expected) if all(pair)]
    assert both(data) == [(expected[i][0] + b"\n", expected[i][1] + b"\n") for i in kept]
    assert list(data.names) == [str(i + 1) for i in kept]
    assert [name for name, _ in data.skipped] == [
        f"line {i + 1}" for i in range(len(expected)) if i not in kept
    ]
    assert len(data.reduced) == (2 if end == b"\r\n" and (last or len(expected) > 1) else 0)
    assert (data.kind, data.levels, data.source, data.context) == ("text", 256, str(target), None)
    assert data.x[0].flags.writeable


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(CELL, CELL), min_size=1, max_size=12),
    st.sampled_from([1, 2]),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_a_table_comes_back_as_its_pairs(tmp_path_factory, rows, column, end, last):
    path = file_of(tmp_path_factory.mktemp("pairs") / "pairs.tsv", map(b"\t".join, rows), end, last)
    expected = [(row[2 - column] + b"\n", row[column - 1] + b"\n") for row in rows if all(row)]
    if not expected:
        with pytest.raises(ChainruleError, match="holds no pair of texts"):
            load(path, sources=column)
        return
    assert both(load(path, sources=column)) == expected


def test_lines_end_at_line_feeds_and_nowhere_else(tmp_path):
    odd = "a\x0b\x0c\x1c\x85\u2028b \xff\t".encode("latin-1", "replace")
    target = file_of(tmp_path / "a", [odd, b" \r \r", b"c\r\r"], b"\n", True)
    source = file_of(tmp_path / "b", [b"x", b"\xff\xfe", b"\0"], b"\n", False)
    data = load(target, sources=source)
    assert both(data) == [(odd + b"\n", b"x\n"), (b" \r \n", b"\xff\xfe\n"), (b"c\r\n", b"\0\n")]
    assert data.reduced == ((str(target), "a carriage return at the end of 2 lines"),)


def test_pairs_with_an_empty_side_are_skipped_and_listed(tmp_path):
    target = file_of(tmp_path / "a", [b"1", b"", b"3", b"", b"5"], b"\n", True)
    source = file_of(tmp_path / "b", [b"x", b"y", b"", b"\r", b"z"], b"\n", True)
    data = load(target, sources=str(source))
    assert both(data) == [(b"1\n", b"x\n"), (b"5\n", b"z\n")]
    assert list(data.names) == ["1", "5"]
    assert data.skipped == (
        ("line 2", f"is empty in {target}"),
        ("line 3", f"is empty in {source}"),
        ("line 4", f"is empty in {target} and {source}"),
    )
    table = file_of(tmp_path / "c.tsv", [b"1\tx", b"\ty"], b"\n", True)
    assert load(table, sources=2).skipped == (("line 2", "is empty in column 1"),)


def refused(match, call, *args, **options):
    with pytest.raises(ChainruleError, match=match) as error:
        call(*args, **options)
    assert len(str(error.value).splitlines()) == 1


def test_what_does_not_pair_up_is_one_line_with_both_numbers(tmp_path):
    three, two = (file_of(tmp_path / str(n), [b"a"] * n, b"\n", True) for n in (3, 2))
    refused(r"3 has 3 lines, .*2 has 2", load, three, sources=two)
    (tmp_path / "empty").write_bytes(b"")
    refused(r"empty has 0 lines, .*2 has 2", load, tmp_path / "empty", sources=two)
    refused("holds no pair", load, tmp_path / "empty", sources=tmp_path / "empty")
    for row, tabs in ((b"no tab", 0), (b"one\ttwo\tthree", 2), (b"", 0)):
        table = file_of(tmp_path / "t.tsv", [b"a\tb", row], b"\n", True)
        refused(rf"line 2 of .*t.tsv has {tabs} tabs: a pair is two texts with 1 tab", load, table, sources=1)


@pytest.mark.parametrize("column", [0, 3, -1, True])
def test_a_table_has_columns_1_and_2(tmp_path, column):
    table = file_of(tmp_path / "t.tsv", [b"a\tb"], b"\n", True)
    refused(f"2 columns, and {column} is asked for", load, table, sources=column)


def test_a_line_has_a_limit(tmp_path):
    source = file_of(tmp_path / "b", [b"x", b"y"], b"\n", True)
    for length in (LONGEST, LONGEST + 1):
        target = file_of(tmp_path / "a", [b"1", b"2" * length], b"\r\n", True)
        if length == LONGEST:
            assert len(load(target, sources=source).x[1]) == LONGEST + 1  # with its end
        else:
            refused(r"line 2 of .*a has 65,537 bytes, a line at most 65,536", load, target, sources=source)


def test_sources_are_read_beside_a_file(tmp_path):
    source = file_of(tmp_path / "b", [b"x"], b"\n", True)
    refused("named set", load, "shakespeare", sources=source)
    refused("named set", load, "multi30k:test", sources=source)
    refused("beside a file", load, few(), sources=source)
    refused("beside a file", load, np.zeros((2, 3), np.uint8), sources=1)
    refused("no classes", load, source, sources=source, classes=True)
    refused("cannot be read: no such file", load, source, sources=tmp_path / "nothing")
    refused("cannot be read: no such file", load, tmp_path / "nothing", sources=source)
    refused("is a folder", load, tmp_path, sources=source)
    refused("cannot be read", load, "x" * 5000, sources=1)
    refused("values from", load, source, sources=source, levels=8)
    os.mkfifo(tmp_path / "pipe")
    refused("pipe", load, source, sources=tmp_path / "pipe")


@pytest.mark.parametrize("packed", [".gz", ".xz"])
def test_a_packed_file_is_whole_and_not_too_large(tmp_path, monkeypatch, packed):
    text = b"".join(b"%d\n" % i for i in range(5000))
    source = file_of(tmp_path / "b", text.split(b"\n"), b"\n", False)
    target, whole = tmp_path / f"a{packed}", PACK[packed](text)
    target.write_bytes(whole)
    assert len(load(target, sources=source)) == 5000
    for damaged in (whole[:-9], whole[: len(whole) // 2], whole[:3], b"junk" + whole, whole + b"junk"):
        target.write_bytes(damaged)
        refused(rf"a{packed} cannot be read", load, target, sources=source)
    target.write_bytes(PACK[packed](b"\n" * 40_000_000))
    monkeypatch.setattr(parallel, "UNPACKED", 1 << 21)
    tracemalloc.start()
    refused("unpacks to more than 2,097,152 bytes: unpack it first", load, target, sources=source)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    monkeypatch.setattr(parallel, "UNPACKED", 1000)
    refused("at most 1,000 are read", load, target, sources=source)


def test_a_file_has_a_limit_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "LINES", 3)
    source = file_of(tmp_path / "b", [b"x"] * 4, b"\n", True)
    refused("has 4 lines, at most 3 are read", load, source, sources=source)


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=80),
    st.sampled_from(["x.tsv", "x.gz", "x.xz"]),
    st.sampled_from(["as it is", "packed"]),
)
def test_any_bytes_are_pairs_or_one_line(tmp_path_factory, data, name, how):
    path = tmp_path_factory.mktemp("pairs") / name
    path.write_bytes(PACK.get(path.suffix, bytes)(data) if how == "packed" else data)
    for sources in (1, path):
        with suppress(ChainruleError):
            found = both(load(path, sources=sources))
            assert all(x.endswith(b"\n") and x.count(b"\n") == 1 for pair in found for x in pair)


# ---- pairs stay together -------------------------------------------------------------------------------------


def test_whatever_is_selected_keeps_its_source():
    data = made(25)
    assert belong_together(data)
    assert not belong_together(replace(data, sources=data.sources[::-1]))  # the check sees it
    for index in (slice(3, 9), np.array([7, 3, 3]), np.arange(25) % 2 == 0, []):
        assert belong_together(data.select(index))
    assert belong_together(first_symbols(data, 40))
    learned, held = train_holdout(data)
    assert belong_together(learned)
    assert belong_together(held)
    assert (len(learned), len(held)) == (23, 2)
    assert made(3).select([1]).sources[0].tolist() == made(3).sources[1].tolist()


def test_nothing_is_cut_off_from_a_few_pairs():
    for count in (1, 9):
        learned, held = train_holdout(few(count), 0.3)
        assert held is None
        assert both(learned) == both(few(count))
    text = Dataset([np.arange(100, dtype=np.uint8)], 256, "text")
    assert train_holdout(text)[1] is not None  # of a text without a source the end is held out


def test_sources_are_in_the_same_alphabet():
    data = few(40)
    tokens = learn((BYTES.decode(text) for text in (*data.x, *data.sources)), 270)
    spelled = data.in_alphabet(tokens)
    assert spelled.levels == 270
    assert sum(map(len, spelled.sources)) < sum(map(len, data.sources))
    assert both(spelled) == both(data)
    assert spelled.in_alphabet(BYTES).sources[3].tolist() == data.sources[3].tolist()


def test_a_file_is_divided_in_whole_pairs(tmp_path):
    target, source, _ = written(tmp_path)
    learned, test, divided = train_test(target, sources=source)
    assert not divided
    assert sorted(both(learned) + both(test)) == sorted(both(few()))


# ---- from pairs to batches -----------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
def test_padded_rows_are_the_rows_and_nothing_beyond(rows):
    found = padded([np.array(row, np.uint8) for row in rows])
    assert found.dtype == np.int64
    assert found.shape == (len(rows), max(map(len, rows), default=0))
    for row, line in zip(rows, found.tolist(), strict=True):
        assert line == row + [-1] * (len(line) - len(row))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (12, 4), (230, 2), (5, 50)])
def test_an_epoch_sees_every_pair_once(count, size):
    data, steps = made(count), -(-count // size)
    for epoch in range(3):
        seen = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            x, sources = pairs(data, size, seed=5, step=step)
            assert x.dtype == sources.dtype == np.int64
            for target, source in zip(x, sources, strict=True):
                i = int(target[0])
                assert target[target >= 0].tolist() == data.x[i].tolist()
                assert source[source >= 0].tolist() == data.sources[i].tolist()
                seen[i] += 1
        assert seen == Counter(range(count))


def test_a_batch_is_a_pure_function_of_seed_and_step():
    data = made(60)
    first = [pairs(data, 8, 1, step)[0].tolist() for step in range(16)]
    assert [pairs(made(60), 8, 1, step)[0].tolist() for step in reversed(range(16))] == first[::-1]
    assert first[:8] != first[8:]  # another epoch
    assert first != [pairs(data, 8, 2, step)[0].tolist() for step in range(16)]


def test_pairs_of_about_one_length_go_together_in_random_order():
    data = made(3000, longest=200)
    steps = [pairs(data, 10, 0, step) for step in range(300)]

    def full(batch_at):
        """The share of places that hold a symbol."""
        rows = [row for batch in map(batch_at, range(300)) for row in batch]
        return sum((row >= 0).sum() for row in rows) / sum(row.size for row in rows)

    def at_random(step):
        index = range(10 * step, 10 * step + 10)
        return padded([data.x[i] for i in index]), padded([data.sources[i] for i in index])

    assert full(steps.__getitem__) > 0.7 > 0.6 > full(at_random)
    lengths = np.array([max(x.shape[1], sources.shape[1]) for x, sources in steps])
    assert abs(np.corrcoef(lengths[1:], lengths[:-1])[0, 1]) < 0.2  # the length says nothing about the next
    assert lengths[:100].mean() == pytest.approx(lengths[200:].mean(), rel=0.15)
    assert len({int(x[0, 0]) // (10 * POOL) for x, _ in steps[:30]}) > 3  # a pool is no stretch of the file


def test_what_are_no_pairs_is_refused_in_one_line():
    images = Dataset(np.zeros((4, 2, 2, 1), np.uint8), 2, "image")
    refused("has no sources", pairs, replace(few(), sources=None), 2, 0, 0)
    refused("no sources", pairs, load("digits"), 2, 0, 0)
    refused("is image", check_pairs, replace(images, sources=[np.zeros(1)] * 4))
    gray = Dataset(np.zeros((4, 2), np.uint8), 2, "array", binarise=True, sources=[np.zeros(1)] * 4)
    refused("is array", pairs, gray, 2, 0, 0)
    refused("12 texts and 11 sources", pairs, replace(few(), sources=few().sources[:-1]), 2, 0, 0)
    refused("0 texts and 0 sources", pairs, few().select([]), 2, 0, 0)
    refused("take 1 or more", pairs, few(), 0, 0, 0)


# ---- learning and scoring ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder with few.de, few.en and few.tsv, a run in it): word for word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLE, NAME, f"{__name__}:WordForWord")
        folder = tmp_path_factory.mktemp("word for word")
        target, source, _ = written(folder, few(40))
        fit(target, NAME, sources=source, out=folder / "run", **{**QUICK, "steps": 60}, holdout=0.1)
    return folder, folder / "run"


def test_options_of_a_training_on_pairs():
    assert training_options(NAME, {"source": 256})["window"] is None
    assert not training_options("char-lstm", {"source": 256})["carry"]
    assert training_options(NAME, {"source": 0})["window"] == 8
    assert training_options("char-lstm", {})["carry"]


def test_what_is_learned_is_the_target_given_the_source(trained):
    _, run = trained
    info = json.loads((run / "run.json").read_text())
    assert info["args"] == {"symbols": 256, "source": 256}
    assert info["held_out"]["items"] == 4  # whole pairs
    assert info["held_out"]["bits_per_dim"] < 4  # from 8
    data = few(40)
    chain = open_run(run).chain
    other = replace(data, sources=data.sources[1:] + data.sources[:1])
    assert score(chain, data).bits_per_dim < score(chain, other).bits_per_dim - 0.5


def test_a_training_step_is_a_batch_of_pairs(tmp_path, monkeypatch):
    seen = []

    def loss(self, x, context=None):
        seen.append((x.clone(), context.clone()))
        return WordForWord.logits(self, x, context).sum() * 0

    monkeypatch.setattr(WordForWord, "loss", loss)
    fit(few(), NAME, out=tmp_path / "run", **QUICK, holdout=0)
    for step, (x, context) in enumerate(seen):
        expected = pairs(few(), 4, 0, step)
        np.testing.assert_array_equal(x, expected[0])
        np.testing.assert_array_equal(context, expected[1])
    assert len(seen) == 4


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    target, source, table = written(tmp_path)
    whole = fit(table, NAME, sources=1, out=tmp_path / "whole", **QUICK)

    def stop(event):
        if event["event"] == "step" and event["training"].step == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        fit(table, NAME, sources=1, out=tmp_path / "run", **{**QUICK, "save_every": 0}, listen=stop)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["reading"] == {"split": "train", "classes": False, "sources": 1}
    resumed = fit(None, out=tmp_path / "run", resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    same = fit(target, NAME, sources=source, out=tmp_path / "files", **QUICK)
    assert json.loads((tmp_path / "files" / "run.json").read_text())["reading"]["sources"] == str(source)
    assert torch.equal(same.model.given.weight, whole.model.given.weight)
    table.write_bytes(table.read_bytes().replace(b"a", b"q"))  # sources only: the targets are capitals
    (tmp_path / "run" / "model.safetensors").unlink()
    refused("crc32", fit, None, out=tmp_path / "run", resume=True)


def test_how_data_were_read_is_text_or_numbers():
    assert can_be_read({"sources": "train.en"})
    assert can_be_read({"sources": 2, "split": "train"})
    for wrong in (True, None, 1.0, ["train.en"]):
        assert not can_be_read({"sources": wrong})


def test_a_model_without_sources_takes_them_only_when_none_were_asked_for(tmp_path):
    target, source, _ = written(tmp_path)
    refused(
        "--source .*few.en: char-lstm, .* leave it out",
        fit, target, "char-lstm", sources=source, out=tmp_path / "a", steps=1, size="tiny",
    )  # fmt: skip
    off = {"settings": {"source": 0}}
    refused("--source", fit, target, NAME, sources=source, out=tmp_path / "a", **off, **QUICK)
    assert not (tmp_path / "a").exists()
    run = fit(few(), "char-lstm", out=tmp_path / "b", steps=2, size="tiny")
    alone = fit(
        replace(few(), sources=None), "char-lstm", out=tmp_path / "c", steps=2, size="tiny", holdout=0.05
    )
    assert run.info["crc32"] == alone.info["crc32"]
    assert fit(few(), NAME, out=tmp_path / "d", **off, **QUICK).model.given is None


def test_texts_with_sources_are_for_bytenet_by_default(tmp_path):
    target, source, _ = written(tmp_path)
    run = fit(target, sources=source, out=tmp_path / "run", **QUICK)
    assert (run.info["model"], run.model.source, run.info["training"]["window"]) == ("bytenet", 256, None)
    found = score(run.chain, few())
    assert found.nats == pytest.approx([score(run.chain, few().select([i])).nats[0] for i in range(12)])
    alone = fit(target, "bytenet", out=tmp_path / "alone", **QUICK)
    assert (alone.model.source, alone.info["training"]["window"]) == (0, 256)


def test_tokens_are_learned_from_both_sides(tmp_path):
    target, source, _ = written(tmp_path, few(40))
    run = fit(target, NAME, sources=source, tokens=280, out=tmp_path / "run", **QUICK, holdout=0)
    assert any(len(piece) > 1 and piece.islower() for piece in run.alphabet.pieces)
    assert any(len(piece) > 1 and piece.isupper() for piece in run.alphabet.pieces)
    assert run.model.source == run.model.symbols == 280
    found = score(run.chain, load(target, sources=source, alphabet=run.alphabet))
    assert found.symbols.sum() == sum(map(len, few(40).x))


def test_a_score_is_that_of_every_pair_alone(trained):
    chain, data = open_run(trained[1]).chain, few(40)
    heard = {}
    found = score(chain, data, hear=lambda i, nats: heard.update({i: nats}))
    quiet = score(chain, data)
    for i in range(len(data)):
        alone = score(chain, data.select([i]))
        assert found.nats[i] == pytest.approx(alone.nats[0], abs=1e-5)
        assert heard[i].shape == data.x[i].shape
        assert heard[i].sum() == pytest.approx(found.nats[i])
    np.testing.assert_allclose(found.nats, quiet.nats)
    np.testing.assert_array_equal(context_of(chain, data, [3, 0]), padded([data.sources[3], data.sources[0]]))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 90)), max_size=70))
def test_what_is_scored_together_fits_into_memory(lengths):
    sides = [[np.zeros(pair[side], np.uint8) for pair in lengths] for side in (0, 1)]
    data = Dataset(sides[0], 256, "text", sources=sides[1])
    found = list(same_length(data, 1 << 13))
    assert sorted(i for index in found for i in index) == list(range(len(data)))
    for index in found:
        longest = max(max(len(data.x[i]), len(data.sources[i])) for i in index)
        assert len(index) == 1 or len(index) * longest << 13 <= 1 << 24


def test_data_without_sources_are_refused_with_the_way_out(trained):
    chain = open_run(trained[1]).chain
    refused(
        r"conditioned on source texts, few has none: .* --source", score, chain, replace(few(), sources=None)
    )
    refused("300 levels, the model", score, chain, replace(few(), levels=300))
    small = WordForWord(256, source=100)
    refused("sources have 256 levels, the model knows 100", score, small, few())
    assert score(WordForWord(256), few()).nats.shape == (12,)  # sources that are not asked for do no harm


def test_an_archive_has_no_place_for_sources(trained, tmp_path):
    refused("no place", compress, open_run(trained[1]).chain, few(), tmp_path / "a.chain")
    assert list(tmp_path.iterdir()) == []


# ---- the command line ----------------------------------------------------------------------------------------


def call(capsys, *words):
    """(exit code, standard output, standard error) of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    done = capsys.readouterr()
    return stop.value.code, done.out, done.err


def test_fit_score_and_report_on_the_command_line(trained, tmp_path, capsys):
    folder, run = trained
    table = tmp_path / "t.tsv"
    table.write_bytes((folder / "few.tsv").read_bytes().replace(b"\n", b"\r\n", 2) + b"x\t\n")
    small = ("--steps", 2, "--size", "tiny", "--model", NAME)
    code, _, told = call(capsys, "fit", table, "--source", 1, *small, "-o", tmp_path / "run", "--json")
    assert code == 0
    assert told.splitlines() == [
        "1 pair left out: line 41 (is empty in column 2)",
        f"1 file with more than the text that is read: {table} (a carriage return at the end of 2 lines)",
    ]
    code, out, _ = call(
        capsys, "score", run, folder / "few.de", "--source", folder / "few.en", "--json",
        "--page", tmp_path / "page.html",
    )  # fmt: skip
    assert code == 0
    total = json.loads(out.splitlines()[0])["total"]
    assert (total["items"], total["exact"]) == (40, True)
    expected = score(open_run(run).chain, load(folder / "few.de", sources=folder / "few.en"))
    assert total["bits_per_dim"] == pytest.approx(expected.bits_per_dim)
    assert "class=s" in (tmp_path / "page.html").read_text()
    code, _, _ = call(capsys, "report", run, "-o", tmp_path / "report")
    assert code == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "depends on a source text" in page
    assert "No codec is told a source text" in page
    assert f"--source {folder / 'few.en'}" in page.replace("&#x27;", "").replace("'", "")


def test_mistakes_on_the_command_line_are_one_line(trained, tmp_path, capsys):
    folder, run = trained
    target, source = folder / "few.de", folder / "few.en"
    plain = fit(few(), "char-lstm", out=tmp_path / "plain", steps=1, size="tiny").path
    small = ("--steps", 1, "--size", "tiny", "-o", tmp_path / "run")
    for words, what in (
        (("score", run, target), "--source"),
        (("score", plain, target, "--source", source), "leave it out"),
        (("compress", run, target, "-o", tmp_path / "a.chain"), "no place"),
        (("fit", target, "--model", NAME, "--source", "nothing.en", *small), "no such file"),
        (("fit", target, "--model", NAME, "--source", "1", *small), "line 1 of"),
        (("fit", target, "--model", NAME, "--source", "7", *small), "take 1 or 2"),
        (("fit", target, "--model", "char-lstm", "--source", source, *small), "char-lstm"),
        (("fit", target, "--model", NAME, "--source", source, "--conditional", *small), "classes"),
    ):
        code, _, told = call(capsys, *words)
        assert (code, len(told.splitlines())) == (1, 1), (words, told)
        assert what in told, told
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "a.chain").exists()


def test_chainrule_data_lists_the_set(capsys):
    code, out, _ = call(capsys, "data", "--json")
    row = next(row for row in map(json.loads, out.splitlines()) if row["name"] == "multi30k")
    assert code == 0
    assert {k: row[k] for k in ("kind", "train", "test", "licence", "event")} == {
        "kind": "text", "train": 29000, "test": 1000, "licence": "not stated", "event": None,
    }  # fmt: skip


# ---- multi30k ------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_captions_are_those_of_the_files(real_data):
    counts = {"train": 29000, "validation": 1014, "test": 1000}
    parts = {split: load(f"multi30k:{split}") for split in counts}
    assert {split: len(part) for split, part in parts.items()} == counts
    file = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    for split, part in parts.items():
        for side, language in ((part.x, "de"), (part.sources, "en")):
            path = Path(real_data, "multi30k", f"{file[split]}.{language}.gz")
            lines = gzip.decompress(path.read_bytes()).split(b"\n")[:-1]
            assert [x.tobytes() for x in side] == [line.strip() + b"\n" for line in lines]
        assert (part.kind, part.levels, part.event, part.context, part.skipped) == (
            "text",
            256,
            None,
            None,
            (),
        )
    assert sum(len(x) != len(x.tobytes().strip()) + 1 for x in parts["train"].x) == 0
    assert both(load("multi30k:all")) == [pair for part in parts.values() for pair in both(part)]
    assert load("multi30k", split="validation").source == "multi30k:validation"


@pytest.mark.data
def test_a_run_on_the_named_set(real_data, tmp_path, capsys):
    run = fit("multi30k", NAME, out=tmp_path / "run", **QUICK)
    assert run.info["held_out"]["items"] == 1000  # every 29th pair
    assert "sources" not in run.info["reading"]
    code, out, _ = call(capsys, "score", run.path, "multi30k", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[0])["total"]["items"] == 1000


def multi30k_like(folder, monkeypatch, de, en):
    monkeypatch.setenv("CHAINRULE_DATA", str(folder))
    monkeypatch.setattr(
        named, "MULTI30K_FILES", {split: (name, 2) for split, (name, _) in named.MULTI30K_FILES.items()}
    )
    (folder / "multi30k").mkdir()
    for name, _ in named.MULTI30K_FILES.values():
        for language, text in (("de", de), ("en", en)):
            (folder / "multi30k" / f"{name}.{language}.gz").write_bytes(gzip.compress(text))


def test_white_space_around_captions_is_left_out(tmp_path, monkeypatch):
    multi30k_like(tmp_path, monkeypatch, b"ein  Hund \n\teine Katze\n", b" a dog\na cat")
    assert both(load("multi30k")) == [(b"ein  Hund\n", b"a dog\n"), (b"eine Katze\n", b"a cat\n")]
    assert len(load("multi30k:all")) == 6


@pytest.mark.parametrize(
    ("de", "en", "said"),
    [
        (b"a\nb\nc\n", b"a\nb\n", r"train.de.gz holds 3 captions, not 2"),
        (b"a\nb\n", b"a\n", r"train.en.gz holds 1 captions, not 2"),
        (b"a\nb\n", b"a\n \n", r"train.en.gz holds 1 captions, not 2"),
        (b"", b"a\nb\n", r"train.de.gz holds 0 captions, not 2"),
    ],
)
def test_files_that_only_have_the_names_are_refused(tmp_path, monkeypatch, de, en, said):
    multi30k_like(tmp_path, monkeypatch, de, en)
    refused(said, load, "multi30k")
    refused("there is no split 'dev' of multi30k", load, "multi30k:dev")
    (tmp_path / "multi30k" / "train.de.gz").write_bytes(b"PK\3\4")
    refused("multi30k/train.de.gz cannot be read", load, "multi30k")
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path / "multi30k"))
    refused("multi30k is not here", load, "multi30k")


def test_parsers_are_functions_of_bytes():
    table = lines_of(b"a\tb\r\nc\td", "t")
    assert table == Lines("t", [b"a\tb", b"c\td"], 1)
    assert columns(table, 1) == [(b"b", b"a"), (b"d", b"c")]
    assert aligned(Lines("x", [b"1"]), Lines("y", [b"2"])) == [(b"1", b"2")]
    assert [x.tobytes() for x in texts([b"", b"ab"])] == [b"\n", b"ab\n"]
    assert batches(few(), 2, 0, 0)[1] is None  # for a model without sources
