"""Damaged archives: every one is refused, or gives exactly what went in. benchmarks/damage.py does it at length."""

import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("resource")  # the benchmark bounds memory and time as POSIX systems can
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
try:
    import damage
    from damage_kinds import KINDS, FromNumpy, Parts
finally:
    sys.path.pop(0)

from chainrule.archive import LZMA, MODEL, STORED

COUNT, SEED = 2000, 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def bases(root):
    return damage.bases(root)


def test_no_damaged_archive_gives_anything_else(root, bases):
    tallies = damage.run(bases, damage.Judge(root), COUNT, SEED)
    assert {name: tally.wrong for name, tally in tallies.items() if tally.wrong} == {}
    assert sum(tally.cases for tally in tallies.values()) == COUNT
    for name, tally in tallies.items():
        assert tally.cases <= tally.refused + tally.harmless.total() + len(tally.beyond)
        assert tally.refused > tally.cases / 3, name
        assert abs(tally.hypothesis - tally.cases / 2) <= 1, name
        if not name.endswith("sealed"):
            assert tally.refused == tally.cases, name


def test_the_archives_have_everything_that_can_be_damaged(bases):
    parts = [Parts.of(base.data) for base in bases]
    assert {entry["coding"] for p in parts for entry in p.index["blocks"]} == {MODEL, LZMA, STORED}
    assert {bool(p.model) for p in parts} == {True, False}
    assert {bool(p.table) for p in parts if p.flags} == {True, False}
    assert {p.header["layout"] for p in parts} == {"files", "array"}
    assert {p.header["kind"] for p in parts} == {"image", "text", "array", "sound"}
    assert {form for p in parts for _, form in p.index["forms"]} == {"symbols", "file"}
    assert any(p.header["symbols"] > 256 for p in parts)
    assert any(p.index["contexts"] for p in parts)
    for base in bases:
        coded = any(entry["coding"] == MODEL for entry in Parts.of(base.data).index["blocks"])
        assert coded == (not base.name.startswith("waves")), base.name


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_gives_the_same_cases_again_and_another_one_others(bases, name):
    def drawn(seed: int) -> list[bytes]:
        draw = FromNumpy(seed)
        cases = [KINDS[name][1](draw, bases) for _ in range(20)]
        damage.by_hypothesis(KINDS[name][1], 20, seed, bases, cases.append)
        return [case.data for case in cases if case is not None]

    assert drawn(1) == drawn(1)
    assert Counter(drawn(1)) != Counter(drawn(2))


class Same(str):
    """Equal to every string: a hash that notices nothing."""

    def __ne__(self, other):
        return False


@pytest.mark.parametrize("kind", ["block bytes, sealed", "item, sealed", "header field, sealed"])
def test_without_the_hash_of_the_blocks_it_finds_wrong_data(root, bases, monkeypatch, kind):
    monkeypatch.setattr("chainrule.archive.reading.digest", lambda *_: Same())
    some = [base for base in bases if base.name.startswith(("photos", "waves"))]
    with damage.bounds():
        tally = damage.tried(KINDS[kind][1], 120, SEED, some, damage.Judge(root))
    assert tally.wrong


def test_without_the_checksums_it_finds_damage_that_nobody_notices(root, bases, monkeypatch):
    monkeypatch.setattr("chainrule.archive.reading.Archive.model", lambda self: None)
    some = [base for base in bases if base.name.startswith("waves")]
    with damage.bounds():
        tally = damage.tried(KINDS["bits flipped"][1], 60, SEED, some, damage.Judge(root))
    assert any("nobody notices" in text for text in tally.wrong)


def test_what_is_not_a_chainrule_error_is_wrong(root, bases, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("chainrule.archive.reading.parse_index", broken)
    with damage.bounds():
        tally = damage.tried(KINDS["item, sealed"][1], 5, SEED, bases, damage.Judge(root))
    assert len(tally.wrong) == 5
    assert all("ZeroDivisionError" in text for text in tally.wrong)


def test_what_takes_too_long_or_too_much_memory_is_told(root, bases, monkeypatch):
    def greedy(*_):
        kept.append(b"x" * (2 * damage.MEMORY))
        while True:
            pass

    kept: list[bytes] = []
    monkeypatch.setattr("chainrule.archive.reading.parse_index", greedy)
    with damage.bounds():
        tally = damage.tried(KINDS["item, sealed"][1], 1, SEED, bases, damage.Judge(root, seconds=0.05))
    assert tally.wrong == []
    assert len(tally.beyond) == 1
    assert "late" in tally.beyond[0]
    assert tally.memory > damage.MEMORY
