"""The container: what was written comes back, and nothing else is ever taken for it."""

import json
import lzma
import os
import signal
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainrule import archive as container
from chainrule.archive import (
    END,
    FILE,
    FOOTER,
    LZMA,
    MAGIC,
    MODEL,
    PREFIX,
    STORED,
    Archive,
    Header,
    Item,
    Writer,
    atomic,
    digest,
    filters,
    inspect,
    squeeze,
    verify,
)
from chainrule.errors import ChainruleError

HEADER = Header(
    kind="image",
    symbols=256,
    layout="files",
    dtype="|u1",
    source="photos/",
    block_items=64,
    lane=8192,
    model_sha256="ab" * 32,
    model_bytes=5,
    model_crc32=zlib.crc32(b"model"),
    environment={"torch": "2.6", "threads": 2},
    arithmetic="native",
    coder="range24",
    writer="chainrule 0.1.0",
)

MANY = replace(HEADER, block_items=1 << 16)


def write(path: Path, header: Header, model: bytes, blocks, force: bool = True) -> Path:
    """blocks: (coding, items, parts, payload or None)"""
    with atomic(path, force) as file:
        writer = Writer(file, header, model)
        for coding, items, parts, payload in blocks:
            raw = b"".join(parts)
            packed = {STORED: raw, LZMA: squeeze(raw), MODEL: payload}[coding]
            writer.add(coding, packed, items, digest(header, items, parts))
        assert writer.finish() == file.tell()
    return path


def sample(path: Path, tone: int = 7) -> Path:
    """A small archive with blocks of every kind."""
    pictures = [Item("a/ä 1.png", (2, 3, 1)), Item("a/b.png", (2, 3, 1), context=3)]
    blocks = [
        (STORED, [Item("photo.jpg", (4,), FILE)], [bytes([tone, 1, 2, 3])], None),
        (LZMA, pictures, [bytes([tone]) * 6, bytes(6)], None),
        (MODEL, [Item("c.png", (4, 4, 3)), Item("d.png", (4, 4, 3))], [bytes(48), bytes(48)], b"stream!!"),
    ]
    return write(path, HEADER, b"model", blocks)


def read(path: Path) -> dict:
    """Everything that an archive gives."""
    with Archive(path) as archive:
        raw = {n: archive.raw(n) for n, block in enumerate(archive.blocks) if block.coding != MODEL}
        model = {n: archive.payload(n) for n, block in enumerate(archive.blocks) if block.coding == MODEL}
        return {"header": archive.header, "items": archive.items, "model": archive.model()} | raw | model


def taken_apart(data: bytes) -> tuple[dict, bytes, dict]:
    """(header, model and blocks, index)"""
    _, _, _, size, _ = PREFIX.unpack(data[: PREFIX.size])
    packed, raw = FOOTER.unpack(data[-FOOTER.size :])[:2]
    end = len(data) - FOOTER.size - packed
    index = lzma.decompress(data[end : end + packed], lzma.FORMAT_RAW, filters=filters(raw))
    start = PREFIX.size + size
    return json.loads(data[PREFIX.size : start]), data[start:end], json.loads(index)


def put_together(header, middle: bytes, index, *, version=1, flags=0, claims=None) -> bytes:
    """An archive whose checksums are all right, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw = index if isinstance(index, bytes) else json.dumps(index).encode()
    start = PREFIX.pack(MAGIC, version, flags, len(text), 0)[:-4]
    crc = zlib.crc32(start + text)
    packed = squeeze(raw)
    size = PREFIX.size + len(text) + len(middle) + len(packed) + FOOTER.size
    values = {"packed": len(packed), "raw": len(raw), "crc": zlib.crc32(packed), "header": crc, "total": size}
    footer = FOOTER.pack(*(values | (claims or {})).values(), 0, END)[:-8]
    signed = footer + zlib.crc32(footer).to_bytes(4, "little") + END
    return start + crc.to_bytes(4, "little") + text + middle + packed + signed


def refused(path: Path, data: bytes | None = None) -> str:
    """The one line with which a file is refused."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ChainruleError) as caught:
        read(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(path) in text
    return text


# -------------------------------------------------------------------------------------------- what comes back

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\:", exclude_categories=["Cc", "Cs"]), max_size=9
)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def written(draw):
    """Blocks with everything that a block may have."""
    names = draw(st.lists(NAMES.filter(lambda n: not container.flaw(n, set())), unique=True, max_size=8))
    blocks = []
    for name in names:
        shape, coding = draw(SHAPES), draw(st.sampled_from([MODEL, LZMA, STORED]))
        items = [Item(name, shape, context=draw(st.none() | st.integers(0, 9)))]
        parts = [draw(st.binary(min_size=items[0].size, max_size=items[0].size))]
        coding = LZMA if coding == STORED and not parts[0] else coding
        blocks.append((coding, items, parts, draw(st.binary(max_size=20))))
    return blocks


@given(written(), st.binary(max_size=30), st.sampled_from([256, 3]), st.sampled_from([0, 8192]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back(tmp_path, blocks, model, symbols, lane):
    header = replace(
        HEADER, symbols=symbols, lane=lane, model_bytes=len(model), model_crc32=zlib.crc32(model)
    )
    path = write(tmp_path / "x.chain", header, model, blocks)
    found = read(path)
    assert found["header"] == header
    assert found["model"] == (model or None)
    assert found["items"] == [item for _, items, _, _ in blocks for item in items]
    for n, (coding, _, parts, payload) in enumerate(blocks):
        assert found[n].rstrip(b"\0") == payload.rstrip(b"\0") if coding == MODEL else found[n] == parts
    assert verify(path) == len(blocks)


def test_sixteen_bit_symbols_take_two_bytes(tmp_path):
    header = replace(HEADER, symbols=257)
    path = write(tmp_path / "x", header, b"model", [(LZMA, [Item("a", (3,))], [b"\1\0\2\1\3\0"], None)])
    assert read(path)[0] == [b"\1\0\2\1\3\0"]


def test_numbers_as_names_and_equal_shapes_take_no_room(tmp_path):
    def size(count: int) -> int:
        items = [Item(str(i), (28, 28, 1)) for i in range(count)]
        blocks = [(MODEL, items, [b""] * count, bytes(count))]
        return write(tmp_path / f"{count}", MANY, b"model", blocks).stat().st_size - count

    assert size(2000) - size(200) < 10


def test_an_index_that_packs_too_well_is_stored_as_it_is(tmp_path):
    items = [Item("x" * 230 + f"/{i}", (1,)) for i in range(3000)]
    path = write(tmp_path / "x", MANY, b"model", [(MODEL, items, [b""] * 3000, bytes(3000))])
    assert path.stat().st_size > 3000 * 230
    with Archive(path) as archive:
        assert archive.items == items


def test_inspect_reads_no_block(tmp_path):
    path = sample(tmp_path / "x.chain")
    before = inspect(path)
    data = bytearray(path.read_bytes())
    start = PREFIX.size + int.from_bytes(data[12:16], "little")
    data[start : start + 12] = bytes(12)  # the model and a block
    path.write_bytes(data)
    assert inspect(path) == before
    assert before["items"] == 5
    assert before["blocks"] == {STORED: 1, LZMA: 1, MODEL: 1}
    assert before["symbols_total"] == 4 + 12 + 96
    expected = {"name": "a/b.png", "shape": [2, 3, 1], "form": "symbols", "class": 3, "block": 1}
    assert before["entries"][2] == expected
    assert json.loads(json.dumps(before)) == before


# --------------------------------------------------------------------------------------------------- damage


def test_truncation_at_every_byte_is_an_error(tmp_path):
    path = sample(tmp_path / "x.chain")
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        refused(path)


def test_every_flipped_bit_is_an_error(tmp_path):
    path = sample(tmp_path / "x.chain")
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(path.read_bytes()):
            for value in (*(byte ^ 1 << bit for bit in range(8)), byte):
                file.seek(position)
                file.write(bytes([value]))
                if value != byte:
                    refused(path)
    assert verify(path) == 3


@pytest.mark.parametrize("more", [b"\0", b"\n", b"x" * 100, END, MAGIC])
def test_bytes_behind_the_end_are_an_error(tmp_path, more):
    data = sample(tmp_path / "x.chain").read_bytes()
    assert "followed by other bytes" in refused(tmp_path / "more", data + more)
    refused(tmp_path / "before", more + data)


def test_two_archives_in_one_file_are_an_error(tmp_path):
    one, two = sample(tmp_path / "1").read_bytes(), sample(tmp_path / "2", tone=9).read_bytes()
    assert "written: take it again" in refused(tmp_path / "both", one + two)
    half = len(one) - 100
    refused(tmp_path / "halves", one[:half] + two[half:])


def test_a_block_from_another_archive_is_an_error_that_names_it(tmp_path):
    mine, other = sample(tmp_path / "1").read_bytes(), sample(tmp_path / "2", tone=9).read_bytes()
    header, middle, index = taken_apart(mine)
    _, foreign, foreign_index = taken_apart(other)
    spliced = foreign[:9] + middle[9:]
    assert "block 1 of 3 (photo.jpg" in refused(tmp_path / "x", put_together(header, spliced, index))
    index["blocks"][0]["crc32"] = foreign_index["blocks"][0]["crc32"]
    assert "block 1 is not what was written" in refused(tmp_path / "x", put_together(header, spliced, index))


def test_a_header_from_another_archive_is_an_error(tmp_path):
    mine, other = sample(tmp_path / "1").read_bytes(), tmp_path / "2"
    write(other, replace(HEADER, source="fotos_/"), b"model", [])
    start = PREFIX.size + int.from_bytes(mine[12:16], "little")
    assert "from two archives" in refused(tmp_path / "x", other.read_bytes()[:start] + mine[start:])


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    for data in (b"", b"\x89", b"PK\3\4" + bytes(200), bytes(1000), MAGIC):
        refused(tmp_path / "x", data)
    assert "is not a chainrule archive" in refused(tmp_path / "x", b"GIF89a" + bytes(200))
    with pytest.raises(ChainruleError, match="cannot read"):
        Archive(tmp_path / "missing")
    with pytest.raises(ChainruleError, match="is not a file"):
        Archive(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ChainruleError, match="is not a file"):
        Archive(tmp_path / "pipe")


# ------------------------------------------------------------------------------ right checksums, wrong claims


@pytest.mark.parametrize("flags", [4, 8, 0x8000, 0xFFFF])
def test_reserved_flags_are_unsupported_not_corrupt(tmp_path, flags):
    parts = taken_apart(sample(tmp_path / "x").read_bytes())
    text = refused(tmp_path / "x", put_together(*parts, flags=flags))
    assert "unsupported" in text
    assert "update" in text
    assert "damaged" not in text


def test_another_version_asks_for_an_update(tmp_path):
    parts = taken_apart(sample(tmp_path / "x").read_bytes())
    text = refused(tmp_path / "x", put_together(*parts, version=2))
    assert "format version 2, this program reads 1" in text


BIG = 1 << 62
LIES = {
    "bytes": lambda h, i: i["blocks"][0].update(bytes=BIG),
    "negative bytes": lambda h, i: i["blocks"][0].update(bytes=-1),
    "bytes of two blocks": lambda h, i: (i["blocks"][0].update(bytes=5), i["blocks"][1].update(bytes=3)),
    "items": lambda h, i: i["blocks"][0].update(items=BIG),
    "no items": lambda h, i: i["blocks"][0].update(items=0),
    "true items": lambda h, i: i["blocks"][0].update(items=True),
    "items of two blocks": lambda h, i: (i["blocks"][0].update(items=2), i["blocks"][1].update(items=1)),
    "a block twice": lambda h, i: i["blocks"].append(dict(i["blocks"][0])),
    "a block less": lambda h, i: i["blocks"].pop(),
    "a gap behind the blocks": lambda h, i: (
        i["blocks"].pop(),
        i.update(names=i["names"][:3], contexts=None, shapes=[[1, [4]], [2, [2, 3, 1]]]),
        i.update(forms=[[1, FILE], [2, "symbols"]], contexts=[None, None, 3]),
    ),
    "no blocks": lambda h, i: i.update(blocks=[]),
    "blocks": lambda h, i: i.update(blocks=7),
    "blocks of blocks": lambda h, i: i.update(blocks=[[]]),
    "coding": lambda h, i: i["blocks"][0].update(coding="zip"),
    "coding of another": lambda h, i: i["blocks"][1].update(coding=STORED),
    "stored for packed": lambda h, i: i["blocks"][0].update(coding=LZMA),
    "file coded by the model": lambda h, i: i["blocks"][0].update(coding=MODEL),
    "crc": lambda h, i: i["blocks"][0].update(crc32=1 << 32),
    "crc text": lambda h, i: i["blocks"][0].update(crc32="1"),
    "sha": lambda h, i: i["blocks"][0].update(sha256="AB" * 32),
    "sha short": lambda h, i: i["blocks"][0].update(sha256="ab"),
    "sha of another": lambda h, i: i["blocks"][0].update(sha256=i["blocks"][1]["sha256"]),
    "extra key": lambda h, i: i["blocks"][0].update(more=1),
    "names": lambda h, i: i.update(names=5.5),
    "many names": lambda h, i: i.update(names=BIG),
    "few names": lambda h, i: i["names"].pop(),
    "true names": lambda h, i: i.update(names=True),
    "name is no text": lambda h, i: i["names"].__setitem__(0, 5),
    "other name": lambda h, i: i["names"].__setitem__(0, "other"),
    "same name": lambda h, i: i["names"].__setitem__(0, "c.png"),
    "shape": lambda h, i: i["shapes"].__setitem__(0, [1, [BIG]]),
    "shapes": lambda h, i: i["shapes"].__setitem__(0, [1, [1 << 27] * 8]),
    "shape run": lambda h, i: i["shapes"].__setitem__(0, [BIG, [4]]),
    "negative run": lambda h, i: i["shapes"].__setitem__(0, [-1, [4]]),
    "negative side": lambda h, i: i["shapes"].__setitem__(0, [1, [-2, -2]]),
    "long side": lambda h, i: i["shapes"].__setitem__(0, [1, [5]]),
    "fractional side": lambda h, i: i["shapes"].__setitem__(0, [1, [4.0]]),
    "nine axes": lambda h, i: i["shapes"].__setitem__(0, [1, [1] * 8 + [4]]),
    "shape of a file": lambda h, i: i["shapes"].__setitem__(0, [1, [2, 2]]),
    "transposed": lambda h, i: i["shapes"].__setitem__(1, [2, [3, 2, 1]]),
    "mixed shapes": lambda h, i: i.update(shapes=[[1, [4]], [2, [2, 3, 1]], [1, [4, 4, 3]], [1, [3, 4, 4]]]),
    "shape beyond the bytes": lambda h, i: i["shapes"].__setitem__(2, [2, [1 << 7, 1 << 8, 1]]),
    "forms": lambda h, i: i.update(forms=[[5, "other"]]),
    "all files": lambda h, i: i.update(forms=[[5, FILE]]),
    "no files": lambda h, i: i.update(forms=[[5, "symbols"]]),
    "contexts": lambda h, i: i.update(contexts=[1]),
    "negative context": lambda h, i: i["contexts"].__setitem__(1, -1),
    "other context": lambda h, i: i["contexts"].__setitem__(1, 4),
    "no contexts": lambda h, i: i.update(contexts=None),
    "missing column": lambda h, i: i.pop("forms"),
    "column too many": lambda h, i: i.update(more=1),
    "symbols": lambda h, i: h.update(symbols=0),
    "many symbols": lambda h, i: h.update(symbols=BIG),
    "two-byte symbols": lambda h, i: h.update(symbols=300),
    "kind": lambda h, i: h.update(kind="film"),
    "kinds": lambda h, i: h.update(kind=["image"]),
    "layout": lambda h, i: h.update(layout=""),
    "dtype": lambda h, i: h.update(dtype="|O"),
    "block items": lambda h, i: h.update(block_items=0),
    "fewer lanes than items": lambda h, i: h.update(block_items=1),
    "lane": lambda h, i: h.update(lane=-1),
    "model bytes": lambda h, i: h.update(model_bytes=BIG),
    "model bytes one more": lambda h, i: h.update(model_bytes=6),
    "negative model bytes": lambda h, i: h.update(model_bytes=-5),
    "model crc": lambda h, i: h.update(model_crc32=1),
    "model sha": lambda h, i: h.update(model_sha256=None),
    "environment": lambda h, i: h.update(environment=[]),
    "environment of lists": lambda h, i: h.update(environment={"torch": []}),
    "source": lambda h, i: h.update(source=1),
    "header field": lambda h, i: h.pop("writer"),
    "header fields": lambda h, i: h.update(more=1),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return sample(tmp_path_factory.mktemp("archive") / "x.chain").read_bytes()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error_and_asks_for_no_memory(tmp_path, parts, lie):
    header, middle, index = taken_apart(parts)
    LIES[lie](header, index)
    data = put_together(header, middle, index)
    tracemalloc.start()
    try:
        refused(tmp_path / "x", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6


BACK = {"kind": "array", "symbols": 200, "layout": "array", "dtype": "|i1"}


@pytest.mark.parametrize("field", BACK)
def test_what_comes_back_is_under_the_hash_of_every_block(tmp_path, parts, field):
    """With another type, say, 200 would come back as -56."""
    header, middle, index = taken_apart(parts)
    text = refused(tmp_path / "x", put_together(header | {field: BACK[field]}, middle, index))
    assert "block 1 is not what was written" in text


def test_put_together_lies_only_when_told_to(tmp_path, parts):
    """Without this the test above could pass for the wrong reason."""
    (tmp_path / "x").write_bytes(put_together(*taken_apart(parts)))
    (tmp_path / "y").write_bytes(parts)
    assert read(tmp_path / "x") == read(tmp_path / "y")


@pytest.mark.parametrize("field", ["packed", "raw", "crc", "header", "total"])
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
def test_a_lying_footer_is_an_error(tmp_path, parts, field, value):
    refused(tmp_path / "x", put_together(*taken_apart(parts), claims={field: value}))


@pytest.mark.parametrize("field", ["packed", "raw", "total"])
def test_over_long_integers_are_an_error(tmp_path, parts, field):
    refused(tmp_path / "x", put_together(*taken_apart(parts), claims={field: 2**64 - 1}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"1" * 10_000,
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b"\xff\xfe",
        b'{"names":1,"names":2}',
        b'"\\ud800"',
        b"null",
    ],
)
def test_hostile_json_is_an_error(tmp_path, parts, text):
    header, middle, index = taken_apart(parts)
    refused(tmp_path / "x", put_together(header, middle, text))
    refused(tmp_path / "x", put_together(text, middle, index))


def test_numbers_that_json_does_not_have_and_keys_that_stand_twice_are_said(tmp_path, parts):
    header, middle, index = taken_apart(parts)
    raw = json.dumps(index).encode()
    for found, told in ((b"NaN", "NaN is not allowed"), (b"1e999", "1e999 is not allowed")):
        changed = raw.replace(b'"contexts": [null', b'"contexts": [' + found)
        assert told in refused(tmp_path / "x", put_together(header, middle, changed))
    twice = b'{"forms": 1, ' + raw[1:]
    assert "stands twice" in refused(tmp_path / "x", put_together(header, middle, twice))


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_header_and_index_say_it_is_read_or_refused(tmp_path, parts, data):
    """One value anywhere is replaced by another of any type."""
    header, middle, index = taken_apart(parts)
    place = data.draw(st.sampled_from([header, index]))
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    value = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=3)
        | st.just([])
        | st.just({})
        | st.floats()
    )
    place[key] = data.draw(value)
    (tmp_path / "x").write_bytes(put_together(header, middle, index))
    with suppress(ChainruleError):
        read(tmp_path / "x")


# ---------------------------------------------------------------------------------------------------- bombs


def test_a_raw_block_unpacks_to_no_more_than_it_declares(tmp_path, parts):
    header, middle, index = taken_apart(parts)
    bomb = squeeze(bytes(1 << 24))
    model, stored = middle[:5], middle[5:9]
    index["blocks"][1].update(bytes=len(bomb), crc32=zlib.crc32(bomb))
    data = put_together(header, model + stored + bomb + middle[-8:], index)
    tracemalloc.start()
    try:
        text = refused(tmp_path / "x", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "does not unpack to the 12 bytes" in text
    assert peak < 1e6


def test_more_items_than_bytes_are_refused_before_they_are_listed(tmp_path, parts):
    header, middle, index = taken_apart(parts)
    many = 10**7
    index["blocks"] = [index["blocks"][0] | {"coding": MODEL, "items": many, "bytes": len(middle) - 5}]
    index |= {"names": many, "shapes": [[many, [0]]], "forms": [[many, "symbols"]], "contexts": None}
    data = put_together(header, middle, index)
    tracemalloc.start()
    try:
        text = refused(tmp_path / "x", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "items must be a whole number" in text
    assert peak < 1e6


def test_only_zeros_may_follow_packed_bytes(tmp_path):
    path = write(tmp_path / "x", HEADER, b"model", [(LZMA, [Item("a", (3,))], [b"abc"], None)])
    header, middle, index = taken_apart(path.read_bytes())
    for more, right in ((b"\0\0", True), (b"\0x", False)):
        block = middle[5:] + more
        index["blocks"][0].update(bytes=len(block), crc32=zlib.crc32(block))
        data = put_together(header, b"model" + block, index)
        if right:
            path.write_bytes(data)
            assert read(path)[0] == [b"abc"]
        else:
            assert "does not unpack" in refused(path, data)


def test_an_index_bomb_is_refused_before_it_is_unpacked(tmp_path, parts):
    header, middle, _ = taken_apart(parts)
    bomb = b'{"names":[' + b"0," * (1 << 23) + b"0]}"
    data = put_together(header, middle, bomb)
    tracemalloc.start()
    try:
        text = refused(tmp_path / "x", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "its index claims" in text
    assert peak < 1e6


def test_zeros_fill_a_block_that_is_coded_too_well(tmp_path):
    """So that no block can claim more symbols than its bytes allow."""
    items = [Item("a", (1 << 20,)), Item("b", (0,))]
    path = write(tmp_path / "x", HEADER, b"model", [(MODEL, items, [b"", b""], b"")])
    with Archive(path) as archive:
        assert archive.payload(0) == bytes(256)


def test_what_does_not_fit_into_a_block_is_refused(tmp_path):
    with pytest.raises(ChainruleError, match="cut it"):
        write(tmp_path / "x", HEADER, b"model", [(MODEL, [Item("a", (1 << 28, 2))], [b""], b"")])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- names

UNSAFE = [
    *(
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "C:\\x",
        "c:x",
    ),
    *("nul", "NUL.txt", "con", "a/Com1.png", "lpt9 .x", "COM¹", "a\0b", "a\nb", "a\x1bb", "\x7f", "a.", "a "),
    *("b./c", "\ud800", "x" * 256, "é" * 128, "a/" * 3000 + "b"),
]
SAFE = [
    "a",
    "ä ö/ü 1.png",
    ".hidden",
    "con-1.txt",
    "nulls",
    "x" * 255,
    "日本語/写真.png",
    "12:30.png",
    "a..b",
    "…",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused_on_writing_and_on_reading(tmp_path, parts, name):
    header, middle, index = taken_apart(parts)
    index["names"][0] = name
    assert "which is refused" in refused(tmp_path / "x", put_together(header, middle, index))
    (tmp_path / "x").unlink()
    with pytest.raises(ChainruleError, match="cannot be kept") as caught, atomic(tmp_path / "x") as file:
        Writer(file, HEADER, b"model").add(STORED, b"1", [Item(name, (1,))], "ab" * 32)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_safe_names_are_kept(tmp_path):
    blocks = [(STORED, [Item(name, (1,))], [b"1"], None) for name in SAFE]
    found = read(write(tmp_path / "x", HEADER, b"model", blocks))
    assert [item.name for item in found["items"]] == SAFE


def test_a_name_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(ChainruleError, match="it stands twice"):
        write(tmp_path / "x", HEADER, b"model", [(STORED, [Item("a", (1,))], [b"1"], None)] * 2)


# --------------------------------------------------------------------------------------------- writing safely


def test_nothing_is_overwritten_without_force(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"precious")
    with pytest.raises(ChainruleError, match="--force"), atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"precious"
    with atomic(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(ChainruleError, match="is a folder"), atomic(tmp_path, force=True):
        pass
    with pytest.raises(ChainruleError, match="cannot write"), atomic(tmp_path / "none" / "x"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path):
    def late() -> None:
        with atomic(tmp_path / "x") as file:
            file.write(b"new")
            (tmp_path / "x").write_bytes(b"precious")

    with pytest.raises(ChainruleError, match="--force"):
        late()
    assert (tmp_path / "x").read_bytes() == b"precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, ChainruleError, OSError])
def test_whatever_interrupts_the_writing_leaves_nothing(tmp_path, error):
    (tmp_path / "old").write_bytes(b"precious")

    def interrupted(name: str) -> None:
        with atomic(tmp_path / name, force=True) as file:
            file.write(b"half")
            raise error

    for name in ("new", "old"):
        with pytest.raises((error, ChainruleError)):
            interrupted(name)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old", b"precious")]


def test_a_kill_leaves_no_half_file_under_the_name(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from chainrule.archive import atomic\n"
        "with atomic(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "    signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()


def test_the_header_stays_within_its_limit(tmp_path):
    with pytest.raises(ChainruleError, match="the header would take"):
        write(tmp_path / "x", replace(HEADER, source="x" * (1 << 20)), b"model", [])
    assert asdict(HEADER)["source"] == "photos/"
