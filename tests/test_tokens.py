"""Tokens: any bytes come back, alphabets are learned from the training part alone, archives hold every byte."""

import codecs
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import complete, fit, load, open_run, sample, score, store
from chainrule.archive import Archive, inspect
from chainrule.chains import CHAINS
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.gpt import GPT
from chainrule.chains.uniform import Uniform
from chainrule.data import BYTES, Dataset, alphabets, tokens
from chainrule.data.alphabets import MOST, STRAY, Tokens, from_table
from chainrule.errors import ChainruleError
from chainrule.models import TOKENIZER, Run
from chainrule.report import fit_command, report
from chainrule.report.scored import Watch, surprise_page
from chainrule.verbs.alphabet import alphabet_for
from chainrule.verbs.compress import compress, decompress, extract, verify
from test_cli import _threads as _threads  # a fixture
from test_cli import good

END = "<|endoftext|>"
AWKWARD = (
    "It's the end, isn't it?  We'll see:\n\n\n   Ünïcödé ‘日本語’ \t\r\n "
    "123,456.78 👩‍👩‍👧 \u00a0\u3000\u2028 \x00\x01\x7f "
    f"{END}x  {END} he'll\u0301 1st ﷺ…!?  \n"
)
STRAYS = [
    *[b"\xff\xfe", b"\x80", b"caf\xe9 au lait", "日本".encode()[:-1], "日本".encode()[1:]],
    *[
        b"\xed\xa0\x80 a surrogate",
        b"\xc0\xaf too long",
        b"\xf4\x90\x80\x80 too far",
        bytes(range(256)) * 2,
        b"",
    ],
]


def story(words: int, seed: int = 0) -> bytes:
    """Something like English, with what is rarer in it."""
    known = ["king", "queen's", "said:", "naïve", "1603", "Once", "upon\na", "time,", "日本", "— so"]
    known += [
        a + b + c
        for a in ("", "un", "re")
        for b in ("law", "stand", "ten", "mor")
        for c in ("", "ed", "ing", "ly")
    ]
    return " ".join(np.random.default_rng(seed).choice(known, words)).encode()


@pytest.fixture(scope="module")
def alphabet():
    return tokens.learn([story(3000)], 320)


@pytest.fixture(scope="module")
def published(alphabet):
    """The same with GPT-2's end of text."""
    return Tokens((*alphabet.pieces, END.encode()), alphabet.merges, (320,))


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("a text") / "story.txt"
    path.write_bytes(story(1500, seed=1))
    return path


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    """A GPT over tokens that was fitted for a few steps."""
    return fit(
        text_file, "gpt", tokens=300, steps=40, size="tiny", lr=0.02, out=tmp_path_factory.mktemp("r") / "run"
    )


def rust_ids(alphabet, text: str) -> list[int]:
    return tokens.rust(alphabet).encode(text, add_special_tokens=False).ids


def check_identity(alphabet, text: bytes) -> None:
    symbols = alphabet.encode(text)
    assert alphabet.decode(symbols) == text
    assert alphabet.size(symbols) == len(text)


# ---- encoding ------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=300)
    | st.text(max_size=200).map(str.encode)
    | st.lists(st.sampled_from(STRAYS)).map(b"".join)
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_come_back(alphabet, published, text):
    check_identity(alphabet, text)
    check_identity(published, text)
    check_identity(BYTES, text)


def test_bytes_that_are_no_text_come_back(published):
    for text in (*STRAYS, AWKWARD.encode(), *[bytes([b]) for b in range(256)]):
        check_identity(published, text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_text_in_parts_has_the_same_tokens_as_the_whole(alphabet, published, data):
    words = st.sampled_from(
        ["the", "king's", " ", "  ", "\n", "\n\n", "日本", "é", ",", "12", "\u3000", "\u00a0", END, "\t"]
    )
    text = "".join(data.draw(st.lists(words, max_size=60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alphabets, "PART", data.draw(st.integers(1, 20)))
        for some in (alphabet, published):
            assert some.encode(text.encode()).tolist() == rust_ids(some, text)


def test_a_text_that_is_cut_elsewhere_has_other_tokens(alphabet, monkeypatch):
    import re

    text = story(200)
    monkeypatch.setattr(alphabets, "PART", 5)
    monkeypatch.setattr(alphabets, "CUT", re.compile(b"[!-~](?=[a-z])"))
    assert alphabet.encode(text).tolist() != rust_ids(alphabet, text.decode())


def test_tokens_that_lose_something_are_noticed(alphabet):
    pieces = list(alphabet.pieces)
    place = next(i for i, piece in enumerate(pieces) if piece.startswith(b" ") and len(piece) > 3)
    text, pieces[place] = pieces[place], b"another"
    lossy = Tokens(tuple(pieces), alphabet.merges)
    lossy.__dict__["_tokenizer"] = tokens.rust(alphabet)
    with pytest.raises(ChainruleError, match="spell another text"):
        lossy.encode(text)


def test_an_added_token_with_a_space_in_it_is_never_cut(alphabet, monkeypatch):
    monkeypatch.setattr(alphabets, "PART", 1)
    some = Tokens((*alphabet.pieces, b"<end of text>"), alphabet.merges, (320,))
    assert some.encode(b"a <end of text> b").tolist().count(320) == 1


def test_encoding_takes_a_second_a_megabyte(published):
    import time

    for text in (story(200_000), np.random.default_rng(0).bytes(1 << 18)):
        began = time.process_time()
        published.encode(text)
        assert time.process_time() - began < 10 * len(text) / 1e6  # ten times what it takes alone


def test_values_are_shared_by_the_bytes_of_a_token(alphabet):
    symbols = alphabet.encode(story(50))
    values = np.arange(len(symbols), dtype=float)
    shared = alphabet.shared(symbols, values)
    assert len(shared) == len(story(50))
    assert math.isclose(shared.sum(), values.sum())
    assert BYTES.shared(b"abc", values) is values


# ---- the same as others --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(published, tmp_path_factory):
    """A folder with vocab.json and merges.txt, and transformers' tokenizer of it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder, whole = tmp_path_factory.mktemp("gpt2"), json.loads(tokens.dump(published))
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    lines = ["#version: 0.2", *map(" ".join, whole["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    peer = transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return SimpleNamespace(folder=folder, peer=peer, transformers=transformers)


TEXTS = [
    AWKWARD,
    story(300).decode(),
    "",
    " ",
    "\n\n",
    "\n\nx",
    "  the",
    f"{END}{END}",
    "'s 't're",
    "ﬁ²½" * 3,
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_tokens_as_transformers(theirs, published, text):
    assert published.encode(text.encode()).tolist() == theirs.peer(text)["input_ids"]


def test_their_files_are_the_same_alphabet(theirs, published, tmp_path):
    assert tokens.read(theirs.folder) == published
    theirs.peer.save_pretrained(tmp_path)
    assert tokens.read(tmp_path) == tokens.read(tmp_path / "tokenizer.json") == published


def test_they_read_our_file(theirs, alphabet, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(tokens.dump(alphabet))
    peer = theirs.transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = AWKWARD.replace(END, "")
    assert peer(text)["input_ids"] == alphabet.encode(text.encode()).tolist()
    assert peer.decode(peer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


# ---- learning ------------------------------------------------------------------------------------------------


def test_the_same_texts_give_the_same_bytes_with_any_number_of_threads(alphabet):
    program = (
        "import sys\nfrom chainrule.data import tokens\n"
        "sys.stdout.buffer.write(tokens.dump(tokens.learn([sys.stdin.buffer.read()], 320)))"
    )
    for threads in ("1", "3"):
        more = {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        more["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-c", program]
        found = subprocess.run(command, input=story(3000), capture_output=True, env={**os.environ, **more})
        assert found.stdout == tokens.dump(alphabet), found.stderr.decode()


def test_the_alphabet_has_the_bytes_and_what_comes_often(alphabet):
    assert alphabet.symbols == len(set(alphabet.pieces)) == 320
    assert set(alphabet.pieces) >= {bytes([b]) for b in range(256)}
    assert b" unstand" in alphabet.pieces
    assert not any(b"king queen" in piece for piece in alphabet.pieces)  # no token spans words


def test_it_is_learned_from_the_training_part_only():
    begin, ends = story(1000), (b" zzqqzzqq" * 300, bytes(2700))
    one, other = (Dataset([np.frombuffer(begin + end, np.uint8)], 256, "text", ["t"]) for end in ends)
    share = 2800 / len(one.x[0])
    assert alphabet_for(one, 300, share) == alphabet_for(other, "300", share)
    assert not any(b"zz" in piece for piece in alphabet_for(one, 300, share).pieces)
    assert any(b"zz" in piece for piece in alphabet_for(one, 300, 0.0).pieces)  # the check sees it


def test_of_many_texts_the_held_out_ones_are_left_out():
    texts = [
        np.frombuffer(story(60, seed) + (b" zzqq" * 50 if seed == 9 else b""), np.uint8) for seed in range(10)
    ]
    data = Dataset(texts, 256, "text", [str(i) for i in range(10)])
    assert not any(b"zz" in piece for piece in alphabet_for(data, 280, 0.1).pieces)


@pytest.mark.parametrize("count", [0, 256, MOST + 1])
def test_a_number_of_tokens_that_there_cannot_be(count):
    with pytest.raises(ChainruleError, match="257 to 65,536"):
        tokens.learn([story(10)], count)


def test_a_text_that_has_not_so_many_tokens_says_how_many():
    with pytest.raises(ChainruleError, match="take --tokens ") as caught:
        tokens.learn([story(100)], 5000)
    most = int(str(caught.value).split("--tokens ")[1].split()[0])
    assert tokens.learn([story(100)], most).symbols == most


# ---- files ---------------------------------------------------------------------------------------------------


def test_written_and_read_again_it_is_the_same(alphabet, published):
    for some in (alphabet, published):
        assert tokens.parse(tokens.dump(some), "it") == some
        assert from_table(some.table(), "it").pieces == some.pieces


def test_older_files_say_less(published):
    whole = json.loads(tokens.dump(published))
    whole["model"] = {
        "vocab": whole["model"]["vocab"],
        "merges": [" ".join(m) for m in whole["model"]["merges"]],
    }
    whole["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": None}
    del whole["pre_tokenizer"]["use_regex"]
    whole["pre_tokenizer"]["trim_offsets"] = False
    whole["added_tokens"][0]["rstrip"] = True  # would lose spaces: what is added is found as it is written
    assert tokens.parse(json.dumps(whole).encode(), "it") == published


def changed(*path, to):
    """A change of a JSON document: the value at `path`; None takes it out."""

    def change(whole):
        at = whole
        for key in path[:-1]:
            at = at[key]
        if to is None:
            del at[path[-1]]
        else:
            at[path[-1]] = to(at[path[-1]]) if callable(to) else to

    return change


VOCABULARY = ("model", "vocab")
HOSTILE = {
    "a list": (lambda whole: whole.clear(), "is no tokenizer.json"),
    "no model": (changed("model", to=None), "it has no model"),
    "model of another kind": (changed("model", "type", to="WordPiece"), "of the kind WordPiece"),
    "words of another kind": (changed("pre_tokenizer", "type", to="Whitespace"), "GPT-2's ByteLevel is read"),
    "no words": (changed("pre_tokenizer", to=None), "GPT-2's ByteLevel is read"),
    "words by an expression": (
        changed("pre_tokenizer", to={"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
        "GPT-2's ByteLevel is read",
    ),
    "a space before the first word": (
        changed("pre_tokenizer", "add_prefix_space", to=True),
        "ByteLevel is read",
    ),
    "changed texts": (changed("normalizer", to={"type": "NFC"}), "a normalizer"),
    "chance": (changed("model", "dropout", to=0.1), "kind dropout=0.1"),
    "unknown words": (changed("model", "unk_token", to="?"), "kind unk_token"),
    "no vocabulary": (changed(*VOCABULARY, to=None), "is damaged"),
    "vocabulary of lists": (changed(*VOCABULARY, to=[["a", 1]]), "is damaged"),
    "a hole": (changed(*VOCABULARY, "a", to=999_999_999), "not 0, 1, 2"),
    "one twice": (changed(*VOCABULARY, "a", to=7), "not 0, 1, 2"),
    "no number": (changed(*VOCABULARY, "a", to="b"), "is damaged"),
    "half a number": (changed(*VOCABULARY, "a", to=lambda n: float(n)), "no whole numbers"),
    "a strange character": (changed(*VOCABULARY, to=lambda v: {**v, "€": len(v)}), "is damaged"),
    "nothing": (changed(*VOCABULARY, to=lambda v: {**v, "": len(v)}), "one nothing"),
    "too few": (changed("model", to=lambda m: {**m, "vocab": {"a": 0}, "merges": []}), "has 1 symbols"),
    "too many": (
        changed(*VOCABULARY, to=lambda v: {**v, **{f"{i:05}z": len(v) + i for i in range(MOST)}}),
        "an alphabet has 256 to 65,536",
    ),
    "too long": (changed(*VOCABULARY, to=lambda v: {**v, "a" * 70_000: len(v)}), "too many bytes"),
    "no merges": (changed("model", "merges", to=None), "is damaged"),
    "merges of one": (changed("model", "merges", 0, to="abc"), "is damaged"),
    "merges of numbers": (changed("model", "merges", 0, to=[1, 2]), "is damaged"),
    "an unknown merge": (changed("model", "merges", 0, to=["a", "日"]), "is no symbol"),
    "a merge to nothing known": (changed("model", "merges", 0, to=["z", "z"]), "is merged, and no symbol"),
    "added what": (changed("added_tokens", to=[7]), "is damaged"),
    "added twice": (changed("added_tokens", to=[{"id": 3, "content": "<x>"}]), "not 0, 1, 2"),
    "half a character": (changed("added_tokens", to=[{"id": 300, "content": "\ud800"}]), "is damaged"),
    "a byte that is missing": (
        changed("model", to=lambda m: {"vocab": {"ab" * (i + 1): i for i in range(300)}, "merges": []}),
        "no token for the byte 00",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_alphabet_is_one_line(case, tmp_path):
    change, message = HOSTILE[case]
    whole = json.loads(tokens.dump(tokens.learn([story(100)], 300)))
    change(whole)
    (tmp_path / "x.json").write_text(json.dumps(whole))
    with pytest.raises(ChainruleError, match=message) as caught:
        tokens.read(tmp_path / "x.json")
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path / "x.json") in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"7", b"null", b'{"model": []}'])
def test_what_is_no_json_is_one_line(text):
    with pytest.raises(ChainruleError, match=r"^it is "):
        tokens.parse(text, "it")


def test_a_file_that_is_too_large_or_missing_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ChainruleError, match="cannot be read"):
        tokens.read(tmp_path / "none.json")
    with pytest.raises(ChainruleError, match=r"vocab\.json cannot be read"):
        tokens.read(tmp_path)
    (tmp_path / "large.json").write_bytes(b"{}" * 9)
    monkeypatch.setattr(tokens, "LARGEST", 9)
    with pytest.raises(ChainruleError, match="has 18 bytes, an alphabet at most 9"):
        tokens.read(tmp_path / "large.json")


@given(
    st.binary(max_size=40)
    | st.tuples(st.integers(0, 9), st.binary(max_size=30)).map(lambda t: t[0].to_bytes(4, "little") + t[1])
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_table_is_one_line_or_a_table(raw):
    try:
        found = from_table(raw, "it")
    except ChainruleError as error:
        assert str(error).startswith("it is damaged")  # noqa: PT017
    else:
        assert found.table() == raw


def test_without_the_package_texts_are_decoded_and_nothing_is_encoded(alphabet, monkeypatch):
    symbols = alphabet.encode(b"the king")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert from_table(alphabet.table(), "it").decode(symbols) == b"the king"
    with pytest.raises(ChainruleError, match=r'pip install "chainrule\[text\]"'):
        replace(alphabet).encode(b"the king")


# ---- runs ----------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_alphabet_and_opens_with_it(run):
    assert tokens.read(run.path / TOKENIZER) == run.alphabet
    again = open_run(run.path)
    assert again.alphabet == run.alphabet
    assert again.chain.symbols == again.alphabet.symbols == 300
    assert open_run(run.path / "model.safetensors").alphabet == run.alphabet
    assert "--tokens 300" in fit_command(again)


def test_the_alphabet_of_a_file(run, text_file, tmp_path):
    second = fit(
        text_file, "char-lstm", tokens=run.path / TOKENIZER, steps=1, size="tiny", out=tmp_path / "run"
    )
    assert second.alphabet == run.alphabet
    assert (tmp_path / "run" / TOKENIZER).read_bytes() == (run.path / TOKENIZER).read_bytes()


def test_resumed_it_ends_with_the_same_bits(text_file, tmp_path, monkeypatch):
    plan = {"model": "gpt", "tokens": 280, "size": "tiny", "save_every": 0.0}
    whole = fit(text_file, **plan, steps=6, out=tmp_path / "whole")

    def stop(event):
        if event["event"] == "step" and event["training"].step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(text_file, **plan, steps=6, out=tmp_path / "part", listen=stop)
    monkeypatch.setattr(tokens, "learn", None)  # it is read, not learned again
    part = fit(None, resume=True, out=tmp_path / "part")
    assert store.sha256(part.chain, CHAINS) == store.sha256(whole.chain, CHAINS)
    assert part.alphabet == whole.alphabet
    assert part.info["held_out"] == whole.info["held_out"]


def test_another_alphabet_or_none_is_one_line(run, text_file, tmp_path):
    import shutil

    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / TOKENIZER).write_bytes(tokens.dump(tokens.learn([story(900, 5)], 300)))
    with pytest.raises(ChainruleError, match="another alphabet than the model learned with"):
        open_run(tmp_path / "run")
    (tmp_path / "run" / TOKENIZER).unlink()
    with pytest.raises(ChainruleError, match=r"tokenizer\.json cannot be read"):
        open_run(tmp_path / "run")


def test_a_text_that_is_read_as_bytes_is_refused(run, text_file, tmp_path):
    for refused in (score, lambda chain, data: compress(chain, data, tmp_path / "x.chain")):
        with pytest.raises(
            ChainruleError, match=r"is read as bytes: give load the alphabet of the model's run"
        ):
            refused(run.chain, load(text_file))
    with pytest.raises(ChainruleError, match="only texts are made of tokens"):
        load("digits", alphabet=run.alphabet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digits"}, "--tokens 300 is for texts of bytes, digits is image"),
        ({"model": "pca"}, "--tokens is for chains"),
        ({"model": "counting"}, "take 1 to 256"),
        ({"tokens": "nowhere.json"}, r"nowhere\.json cannot be read"),
    ],
)
def test_what_cannot_have_tokens_is_one_line(options, message, text_file, tmp_path):
    data = options.pop("data", text_file)
    with pytest.raises(ChainruleError, match=message):
        fit(data, **{"tokens": 300, "size": "tiny", "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_a_loss_is_written_in_bits_a_byte(run, text_file):
    last = run.metrics()[-1]
    assert (
        0.5 < last["loss_bits"] < 8
    )  # a token of these takes more than 8 bits at first, and has several bytes
    assert last["loss_bits"] < 2 * last["val_bits"]
    assert math.isclose(last["val_bits"], run.info["held_out"]["bits_per_dim"], rel_tol=1e-6)


# ---- scores --------------------------------------------------------------------------------------------------


def test_bits_a_byte_are_the_nats_of_the_tokens(run, text_file):
    data = load(text_file, alphabet=run.alphabet)
    found = score(run.chain, data)
    with torch.no_grad():
        nats = -float(run.chain.log_prob(torch.from_numpy(data.x[0].astype(np.int64))[None]))
    size = text_file.stat().st_size
    assert math.isclose(found.nats[0], nats, rel_tol=1e-9)
    assert found.symbols.tolist() == [size]
    assert found.tokens.tolist() == [len(data.x[0])]
    assert math.isclose(found.bits_per_dim, nats / math.log(2) / size, rel_tol=1e-9)


def test_uniform_tokens_cost_their_logarithm(alphabet):
    texts = [np.frombuffer(text, np.uint8) for text in (story(40), b"caf\xe9", b"")]
    data = Dataset(texts, 256, "text", ["a", "b", "c"]).in_alphabet(alphabet)
    found = score(Uniform(320), data)
    np.testing.assert_allclose(found.nats, [len(x) * math.log(320) for x in data.x])
    assert found.symbols.tolist() == [len(x) for x in texts]


def test_large_alphabets_are_scored_in_parts_with_the_same_result(monkeypatch):
    for chain in (GPT(symbols=300, **GPT.SIZES["tiny"]), CharLSTM(symbols=300, **CharLSTM.SIZES["tiny"])):
        x = torch.randint(300, (2, 50), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            whole = chain.log_probs(x)
            with monkeypatch.context() as patch:
                for place in ("blocks", "carried"):
                    patch.setattr(f"chainrule.layers.{place}.LOGITS", 900)
                torch.testing.assert_close(chain.log_probs(x), whole)


def test_a_page_shows_the_text_and_says_that_it_is_a_bound(run, text_file):
    data = load(text_file, alphabet=run.alphabet)
    watch = Watch(data)
    found = score(run.chain, data, None, watch)
    (excerpt,) = watch.beginnings()
    assert len(excerpt.bits) == text_file.stat().st_size
    assert math.isclose(excerpt.bits.sum(), found.nats[0] / math.log(2), rel_tol=1e-9)
    html = surprise_page(run, data, found, watch, ["chainrule"])
    assert "so an upper bound for the text" in html
    assert f"{found.bits_per_dim:.4f} bits/byte" in html
    assert "divided evenly among its bytes" in html


def test_a_report_speaks_of_tokens(run, tmp_path):
    html = report(run, tmp_path).read_text()
    assert "an alphabet of 300 tokens" in html
    assert "Written by the model, a token at a time" in html
    assert "upper bound" in html
    assert "xz" in html


# ---- archives ------------------------------------------------------------------------------------------------


def documents(alphabet) -> Dataset:
    """Texts of all kinds, in tokens."""
    texts = [story(100), b"", AWKWARD.encode(), np.random.default_rng(0).bytes(100), *STRAYS[:5]]
    names = [f"{i}.txt" for i in range(len(texts))]
    return Dataset([np.frombuffer(t, np.uint8) for t in texts], 256, "text", names).in_alphabet(alphabet)


@pytest.fixture(scope="module")
def coded(run):
    """A run whose model codes what it wrote itself better than anything else, and such texts beside others."""
    chain = CharLSTM(symbols=300, width=12, embed=6, layers=2)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.8)
    written = sample(chain, 1, (3000,), seed=1)[0].astype(np.uint16)
    data = documents(run.alphabet)
    data = replace(data, x=[*data.x, written], names=[*data.names, "written.txt"])
    return SimpleNamespace(chain=chain, alphabet=run.alphabet, data=data)


def contents(data: Dataset) -> dict[str, bytes]:
    return {name: data.alphabet.decode(x) for name, x in zip(data.names, data.x, strict=True)}


@pytest.mark.parametrize("embed", [True, False])
def test_an_archive_gives_back_every_byte(coded, embed, tmp_path):
    data, path = coded.data, tmp_path / "x.chain"
    made = compress(coded.chain, data, path, embed=embed)
    known = {} if embed else {"chain": coded.chain, "alphabet": coded.alphabet}
    found = {name: x.tobytes() for name, x, _ in decompress(path, **known)}
    assert found == contents(data)
    assert made.blocks["model"]
    assert made.symbols == made.raw_bytes == sum(map(len, found.values()))
    assert made.archive_bytes == path.stat().st_size
    assert verify(path, deep=True, **known)
    for written in extract(path, tmp_path / "out", **known):
        assert written.read_bytes() == found[written.name]
    with Archive(path) as archive:
        held = archive.header.model_bytes + archive.header.tokens_bytes
        assert made.model_bytes == held
        assert bool(archive.table()) == embed
        assert archive.table() in (None, coded.alphabet.table())


def test_an_archive_needs_no_package_to_be_read(coded, tmp_path, monkeypatch):
    data, path = coded.data, tmp_path / "x.chain"
    compress(coded.chain, data, path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert {name: x.tobytes() for name, x, _ in decompress(path)} == contents(data)


def test_a_long_text_is_cut_into_lanes_of_tokens(coded, tmp_path, monkeypatch):
    monkeypatch.setattr("chainrule.verbs.compress.LANE", 50)
    data = coded.data.select([-1])
    made = compress(coded.chain, data, tmp_path / "x.chain")
    assert made.context_rule.startswith("lanes of at least 50 symbols")
    assert made.blocks["model"] == 1
    assert [x.tobytes() for _, x, _ in decompress(tmp_path / "x.chain")] == [*contents(data).values()]


def test_its_header_is_counted_and_shown(coded, tmp_path):
    compress(coded.chain, coded.data, tmp_path / "x.chain")
    shown = inspect(tmp_path / "x.chain")
    assert shown["symbols"] == 300
    assert shown["tokens_bytes"] > 0
    assert [row["tokens"] <= row["shape"][0] for row in shown["entries"]] == [True] * 10
    assert shown["symbols_total"] == sum(row["shape"][0] for row in shown["entries"])


def test_an_archive_of_bytes_is_as_it_was(tmp_path):
    data = Dataset([np.frombuffer(story(30), np.uint8)], 256, "text", ["a"])
    compress(Uniform(256), data, tmp_path / "x.chain")
    assert not [key for key in inspect(tmp_path / "x.chain") if key.startswith("tokens")]
    assert (tmp_path / "x.chain").read_bytes()[10:12] == b"\0\0"


def test_a_missing_or_another_alphabet_is_one_line(coded, alphabet, tmp_path):
    compress(coded.chain, coded.data, tmp_path / "x.chain", embed=False)
    for other in (BYTES, alphabet, coded.alphabet.padded(301)):
        with pytest.raises(ChainruleError, match=r"needs the tokens .*: give the run it was made with"):
            list(decompress(tmp_path / "x.chain", coded.chain, alphabet=other))


def test_damage_of_the_table_is_one_line(coded, tmp_path):
    compress(coded.chain, coded.data, tmp_path / "x.chain")
    data = (tmp_path / "x.chain").read_bytes()
    with Archive(tmp_path / "x.chain") as archive:
        begin, size = archive._table_offset, archive.header.tokens_bytes
    for at in range(begin, begin + size, max(1, size // 20)):
        (tmp_path / "y.chain").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ChainruleError, match="the checksum of its table of tokens is wrong") as caught:
            verify(tmp_path / "y.chain")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("symbols", [257, MOST])
def test_alphabets_of_any_size_can_be_coded(symbols, tmp_path):
    pieces = [bytes([b]) for b in range(256)] + [b"%05d" % i for i in range(symbols - 256)]
    some = Tokens(tuple(pieces))
    x = np.random.default_rng(0).integers(0, symbols, 40).astype(np.uint16)
    x[-1] = symbols - 1
    chain = CharLSTM(symbols=symbols, width=4, embed=2, layers=1)
    data = Dataset([x], symbols, "text", ["a"], alphabet=some)
    compress(chain, data, tmp_path / "x.chain", coder=None)
    assert [x.tobytes() for _, x, _ in decompress(tmp_path / "x.chain")] == [some.decode(x)]
    known = np.arange(50) < 40
    drawn = complete(chain, np.pad(x, (0, 10)).astype(np.int64), known, 2, top_k=50)
    assert (drawn[:, :40] == x).all()
    assert drawn.max() < symbols


# ---- folders of GPT-2, and the hub ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(published, tmp_path_factory):
    """A folder as transformers writes it, with some more symbols than the alphabet has."""
    folder = tmp_path_factory.mktemp("models") / "small-gpt2"
    torch.manual_seed(0)
    GPT(symbols=330, width=8, layers=1, heads=2, window=16, begin=320).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokens.dump(published))
    return folder


def test_a_folder_of_gpt2_is_a_run(gpt2, published, text_file, tmp_path):
    run = open_run(gpt2)
    assert isinstance(run.chain, GPT)
    assert run.alphabet == published.padded(330)
    assert run.alphabet.decode([329]) == b""
    text = good(f"sample '{gpt2}' --prompt 'the king' --length 20")
    assert text.startswith("the king")
    good(f"score '{gpt2}' '{text_file}'")
    good(f"compress '{gpt2}' '{text_file}' -o '{tmp_path}/x.chain'")
    good(f"decompress '{tmp_path}/x.chain' -o '{tmp_path}'")
    assert (tmp_path / text_file.name).read_bytes() == text_file.read_bytes()
    assert "an alphabet of 330 tokens" in report(run, tmp_path / "report").read_text()


def test_a_folder_without_its_alphabet_is_one_line(gpt2, published, tmp_path):
    torch.manual_seed(0)
    GPT(symbols=310, width=8, layers=1, heads=2, window=16, begin=0).save_pretrained(tmp_path)
    with pytest.raises(ChainruleError, match=r"vocab\.json cannot be read"):
        open_run(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokens.dump(published))
    with pytest.raises(ChainruleError, match="the alphabet has 321 symbols, the model 310"):
        open_run(tmp_path)


def test_a_run_begins_from_a_folder(gpt2, text_file, tmp_path):
    plan = {"start": gpt2, "size": "tiny", "save_every": 0.0}
    begun = fit(text_file, **plan, steps=0, out=tmp_path / "nothing")
    assert all(
        map(torch.equal, begun.chain.state_dict().values(), open_run(gpt2).chain.state_dict().values())
    )
    assert begun.info["training"]["lr"] == pytest.approx(GPT.TRAINING["lr"] / 10)
    assert tokens.read(tmp_path / "nothing" / TOKENIZER).padded(330) == open_run(gpt2).alphabet
    more = fit(text_file, **plan, steps=30, out=tmp_path / "more")
    held = [run.info["held_out"]["bits_per_dim"] for run in (begun, more)]
    assert held[1] < held[0]
    assert score(more.chain, load(text_file, alphabet=more.alphabet)).bits_per_dim < 8
    assert f"--start {gpt2}" in fit_command(more)
    assert "--tokens" not in fit_command(more)


def test_a_run_begins_from_a_run_of_any_kind(tmp_path):
    first = fit("digits", "fvbn", size="tiny", steps=5, out=tmp_path / "first")
    second = fit("digits", start=first.path, steps=0, out=tmp_path / "second")
    assert store.sha256(second.chain, CHAINS) == store.sha256(first.chain, CHAINS)


def test_a_resumed_run_has_begun_from_the_same(gpt2, text_file, tmp_path):
    plan = {"start": gpt2, "save_every": 0.0}
    whole = fit(text_file, **plan, steps=4, out=tmp_path / "whole")

    def stop(event):
        if event["event"] == "step":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(text_file, **plan, steps=4, out=tmp_path / "part", listen=stop)
    part = fit(None, resume=True, out=tmp_path / "part")
    assert store.sha256(part.chain, CHAINS) == store.sha256(whole.chain, CHAINS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 300}, "has its alphabet already"),
        ({"model": "mlstm"}, "holds gpt, leave --model out"),
        ({"settings": {"width": 12}}, "does not fit these settings: leave out --set"),
        ({"start": "nowhere"}, "there is no run at nowhere"),
        ({"data": "digits"}, "digits is image"),
    ],
)
def test_what_cannot_be_begun_from_is_one_line(options, message, gpt2, text_file, tmp_path):
    data = options.pop("data", text_file)
    with pytest.raises(ChainruleError, match=message):
        fit(data, **{"start": gpt2, "steps": 1, "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_hub_is_fetched_without_its_pickles(gpt2, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(gpt2)

    monkeypatch.setattr(hub, "snapshot_download", download)
    run = open_run("hub:somebody/small-gpt2")
    assert run.alphabet == open_run(gpt2).alphabet
    assert run.folder == Path("runs") / "small-gpt2"
    assert good("sample hub:small-gpt2 --prompt 'the king' --length 5").startswith("the king")
    assert isinstance(GPT.from_pretrained("gpt2"), GPT)
    assert [name for name, _ in asked] == ["somebody/small-gpt2", "small-gpt2", "gpt2"]
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"]
    assert all(patterns == wanted for _, patterns in asked)


def test_what_is_here_is_never_asked_for(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(gpt2.parent)
    assert isinstance(GPT.from_pretrained("small-gpt2"), GPT)
    with pytest.raises(ChainruleError, match=r"is missing|cannot read"):
        GPT.from_pretrained(gpt2.parent / "none")


def test_without_the_package_or_a_network_it_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(name, allow_patterns):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    for line in (lambda: open_run("hub:gpt2"), lambda: GPT.from_pretrained("gpt2")):
        with pytest.raises(ChainruleError, match="gpt2 is no folder here, and cannot be fetched") as caught:
            line()
        assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ChainruleError, match=r'pip install "chainrule\[hub\]"'):
        open_run("hub:gpt2")


# ---- the command line ----------------------------------------------------------------------------------------


def test_from_a_text_to_an_archive_and_back(text_file, tmp_path):
    at = {"story": text_file, "run": tmp_path / "run", "tmp": tmp_path}
    said = good(
        "fit {story} --model gpt --tokens 280 --steps 3 --size tiny --threads 1 --json -o {run}", **at
    )
    held = json.loads(said.splitlines()[-1])["held_out"]["bits_per_dim"]
    total = json.loads(good("score {run} {story} --json", **at).splitlines()[0])["total"]
    assert not total["exact"]
    assert total["symbols"] == text_file.stat().st_size
    assert total["bits_per_dim"] * total["symbols"] * math.log(2) == pytest.approx(
        total["nats_per_token"] * total["tokens"]
    )
    assert 1 < held < 8
    people = good("score {run} {story} --page {tmp}/page.html", **at)
    assert "bits/byte" in people
    assert "(at most;" in people
    assert "other tokens spell the same bytes" in people
    good("compress {run} {story} -o {tmp}/a.chain", **at)
    good("verify {tmp}/a.chain", **at)
    good("compress {run} {story} -o {tmp}/b.chain --no-embed", **at)
    good("decompress {tmp}/b.chain --run {run} -o {tmp}/out", **at)
    assert (tmp_path / "out" / text_file.name).read_bytes() == text_file.read_bytes()
    good("report {run}", **at)


def test_a_prompt_is_encoded_and_what_is_written_decoded(run, tmp_path):
    shown = good(f"sample '{run.path}' --prompt 'the queén' --length 30 --seed 3")
    start = run.alphabet.encode("the queén".encode())
    x = np.pad(start.astype(np.int64), (0, 30))
    drawn = complete(run.chain, x, np.arange(len(x)) < len(start), 1, seed=3)[0]
    assert shown == run.alphabet.decode(drawn).decode(errors="replace") + "\n"
    good(f"sample '{run.path}' --prompt 'the' --length 7 -n 2 -o '{tmp_path}/two.npy'")
    ids = np.load(tmp_path / "two.npy")
    assert ids.dtype == np.uint16
    assert run.alphabet.decode(ids[0]).startswith(b"the")
    good(f"sample '{run.path}' --prompt 'the' --length 7 -n 2 -o '{tmp_path}/two.txt'")
    assert (tmp_path / "two.txt").read_bytes() == b"\n\n".join(map(run.alphabet.decode, ids))


def test_a_text_is_completed(run, text_file):
    shown = good(f"complete '{run.path}' '{text_file}' --keep top:0.5 --length 5 -n 1")
    data = load(text_file, alphabet=run.alphabet).x[0]
    given = run.alphabet.decode(data[: round(0.5 * len(data))])
    assert shown.encode().startswith(given[:-3])  # its last character may be torn


def test_a_character_of_several_tokens_is_held_back(run, monkeypatch):
    """What a token leaves of a character is shown with the next one."""
    parts = [np.array([run.alphabet.pieces.index(bytes([b]))]) for b in "é日".encode()]
    printed = []
    monkeypatch.setattr("chainrule.output.stream", lambda *_, **__: iter(parts))
    monkeypatch.setattr("builtins.print", lambda text="", **_: printed.append(text))
    from chainrule.output import show_as_it_comes

    show_as_it_comes(run, np.zeros(5, np.int64), 0, None, 1.0, 1.0, 0, 0)
    assert printed == ["", "é", "", "", "日", ""]


def test_cells_and_probes_see_tokens(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("good", "bad"):
        (tmp_path / "reviews" / name).mkdir(parents=True)
        for i in range(20):
            words = [*rng.choice(["it", "was", "a", "film"], 6), name]
            (tmp_path / "reviews" / name / f"{i}.txt").write_text(" ".join(words))
    at, rows = {"data": tmp_path / "reviews", "tmp": tmp_path}, []
    for name, option in (("bytes", ""), ("tokens", "--tokens 262")):
        at["run"] = tmp_path / name
        good(f"fit {{data}} --model mlstm {option} --steps 3 --size tiny --threads 1 --json -o {{run}}", **at)
        said = good("probe {run} {data} --labels 16 --seeds 2 --json", **at)
        rows.append([json.loads(row) for row in said.splitlines()])
    good("encode {run} {data} -o {tmp}/codes.npy", **at)
    assert len(np.load(tmp_path / "codes.npy")) == 40
    words = [[row["accuracy"] for row in found if row["features"] == "words"] for found in rows]
    assert words[0] == words[1]  # those of the texts, however they are coded


def test_an_incremental_decoder_joins_what_tokens_tear(alphabet):
    text = AWKWARD.encode()
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    shown = "".join(decode(alphabet.decode([symbol])) for symbol in alphabet.encode(text))
    assert shown + decode(b"", final=True) == AWKWARD


def test_the_alphabet_of_a_run_of_bytes_is_bytes():
    assert Run(None, None, {}).alphabet is BYTES
    assert BYTES.decode(BYTES.encode(b"\xff\0a")) == b"\xff\0a"
    assert STRAY.split(b"a\xffb".decode("utf-8", "surrogateescape")) == ["a", "\udcff", "b"]
