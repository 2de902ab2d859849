"""What codes say about numbers that they cannot take: the table of benchmarks/messages.py, row by row."""

import re
import sys
from pathlib import Path

import pytest

from chainrule import store
from chainrule.models import TABLE

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def messages():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import messages
    finally:
        sys.path.pop(0)
    return messages


@pytest.fixture(scope="module")
def said(messages):
    """(call, input, code) -> what came of it, from Python."""
    return {(row["call"], row["input"], row["code"]): row["outcome"] for row in messages.from_python()}


NONE = (
    r"ChainruleError: Found array with 0 (sample|feature)\(s\) \(shape=\(\d, \d+\)\) while a minimum of \d "
)
NOT_FINITE = (
    r"ChainruleError: [\d,]+ of [\d,]+ numbers of (X|the codes) (is|are) NaN or infinite, the first in row \d"
)
NO_ROWS = (
    r"ChainruleError: the shape of (X|the codes) is \(\d*,?\), and rows are needed\. Reshape your data: "
)
TEXT = r"ChainruleError: text \(<U1\) in (X|the codes): a code needs numbers$"
SPARSE = r"TypeError: Sparse data was passed"
RESIZED = (
    r"ChainruleError: the events have shape \([\d, ]+\), the code was fitted on \(6, 6, 1\): resize them$"
)
EXPECTED = {
    ("fit", "NaN"): NOT_FINITE,
    ("fit", "infinite"): NOT_FINITE,
    ("fit", "no events"): NONE,
    ("fit", "events of no numbers"): NONE,
    ("fit", "all numbers equal"): "works$",
    ("fit", "all zeros"): "works$",
    ("fit", "one event"): "works$",
    ("fit", "more atoms than events"): "works$",
    ("fit", "a vector"): NO_ROWS,
    ("fit", "strings"): TEXT,
    ("fit", "None"): NO_ROWS,
    (
        "fit",
        "complex numbers",
    ): r"ChainruleError: Complex data not supported \(complex128 in X\): take real parts",
    ("fit", "a sparse matrix"): SPARSE,
    ("fit", "integers"): "works$",
    ("fit", "lists"): "works$",
    ("transform", "NaN"): NOT_FINITE,
    ("transform", "infinite"): NOT_FINITE,
    ("transform", "no events"): NONE,
    ("transform", "one event"): "works$",
    ("transform", "all numbers equal"): "works$",
    (
        "transform",
        "too few numbers",
    ): r"ChainruleError: X has 35 features, but \w+ is expecting 36 features as input",
    ("transform", "images of another size"): RESIZED,
    ("transform", "one image without its axis"): RESIZED,
    ("transform", "a vector"): NO_ROWS,
    ("transform", "strings"): TEXT,
    ("transform", "a sparse matrix"): SPARSE,
    ("inverse_transform", "NaN"): NOT_FINITE,
    ("inverse_transform", "infinite"): NOT_FINITE,
    ("inverse_transform", "no codes"): NONE,
    (
        "inverse_transform",
        "too few numbers",
    ): r"ChainruleError: the codes have \d+ numbers, the model's \d+: made by",
    ("inverse_transform", "a vector"): NO_ROWS,
    ("inverse_transform", "strings"): TEXT,
    ("inverse_transform", "a sparse matrix"): "works$",
}
DENSE = ("Autoencoder", "RBM", "DeepAutoencoder", "StackedAutoencoder", "Whitening", "Patches")
DIFFERENT = {
    (
        "fit",
        "one event",
        "Whitening",
    ): r"ChainruleError: Found array with 1 sample\(s\) .* a minimum of 2 is required",
    **{("inverse_transform", "a sparse matrix", code): SPARSE for code in DENSE},
}


@pytest.mark.parametrize(("call", "given"), EXPECTED)
def test_every_code_says_the_same_one_line(said, call, given):
    found = {code: outcome for (c, g, code), outcome in said.items() if (c, g) == (call, given)}
    assert len(found) == 9
    for code, outcome in found.items():
        assert re.match(DIFFERENT.get((call, given, code), EXPECTED[call, given]), outcome), (
            f"{code}: {outcome}"
        )


def test_no_row_of_the_table_is_forgotten(said, messages):
    assert {(call, given) for call, given, _ in said} == EXPECTED.keys()
    assert {code for _, _, code in said} == messages.codes().keys()
    named = {store.resolve(name, TABLE).__name__ for name in messages.MODELS}
    assert named == messages.codes().keys()


def test_no_row_is_broken(said):
    assert not {row: outcome for row, outcome in said.items() if "BROKEN" in outcome}


FILES = {
    ("fit", "NaN"): "NaN.npy holds float64, and symbols are integers: round it first",
    (
        "fit",
        "no events",
    ): "no-events.npy has shape (0, 6, 6, 1): (items, ...) with something in every item is needed",
    ("fit", "events of no numbers"): "has shape (5, 0): (items, ...)",
    ("fit", "all numbers equal"): "works",
    ("fit", "one event"): "sparse-coding cannot learn one-event.npy: Found array with 1 sample(s)",
    ("fit", "more atoms than events"): "works",
    ("fit", "a vector"): "has shape (36,): (items, ...)",
    ("fit", "strings"): "strings.npy holds <U1, and symbols are integers",
    ("fit", "an .npz of two arrays"): "two.npz holds 2 arrays",
    ("fit", "a damaged .png"): "broken.png cannot be read",
    (
        "fit",
        "a truncated .npy",
    ): "broken.npy says it holds (1, 6, 6, 1) uint8, 36 bytes, and holds 27: it is damaged",
    ("fit", "a truncated .wav"): "broken.wav ends after 1,671 of 1,680 bytes: it is truncated",
    ("fit", "a file that is not there"): "is neither a file nor a folder nor a named set",
    ("encode", "NaN"): "NaN.npy holds float64, and symbols are integers",
    ("encode", "one event"): "works",
    ("encode", "images of another size"): "the events have shape (6, 7, 1), the code was fitted on (6, 6, 1)",
    ("encode", "a .png of another size"): "the events have shape (6, 7, 1), the code was fitted on (6, 6, 1)",
    ("encode", "a recording"): "the events have shape (840, 2), the code was fitted on (6, 6, 1)",
    ("decode", "NaN"): "64 of 64 numbers of the codes are NaN or infinite",
    ("decode", "infinite"): "64 of 64 numbers of the codes are NaN or infinite",
    ("decode", "no codes"): "Found array with 0 sample(s) (shape=(0, 16)) while a minimum of 1 is required",
    ("decode", "too few numbers"): "the codes have 15 numbers, the model's 16: made by another model?",
    ("decode", "a vector"): "the shape of the codes is (16,), and rows are needed",
    ("decode", "strings"): "text (<U1) in the codes",
    ("decode", "a sparse matrix"): "works",
    ("decode", "an .npz of one array"): "codes-other.npz has no array 'format'",
}


def test_every_command_says_one_line_about_a_file(messages, tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "MODELS", ["sparse-coding"])
    rows = list(messages.from_files(tmp_path))
    said = {(row["call"].removeprefix("chainrule "), row["input"]): row["outcome"] for row in rows}
    assert not [row for row in rows if "BROKEN" in row["outcome"]]
    assert {case: said[case] for case, words in FILES.items() if words not in said[case]} == {}


NEW = ["autoencoder", "rbm", "deep-autoencoder", "stacked-autoencoder"]
LEARNED_FROM = {"all numbers equal", "one event", "more atoms than events"}


def test_codes_that_learn_in_steps_say_one_line_about_a_file_or_work(messages, tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "MODELS", NEW)
    rows = list(messages.from_files(tmp_path))
    assert not [row for row in rows if "BROKEN" in row["outcome"]]
    for name in NEW:
        said = {
            (row["call"].removeprefix("chainrule "), row["input"]): row["outcome"]
            for row in rows
            if row["code"] == name
        }
        for call in ("fit", "encode"):
            works = {given for (c, given), outcome in said.items() if c == call and outcome == "works"}
            other = (
                {"images of another size", "a .png of another size", "a recording"}
                if call == "fit"
                else set()
            )
            assert works == LEARNED_FROM | other, (name, call)
        decoded = {given for (c, given), outcome in said.items() if c == "decode" and outcome == "works"}
        assert decoded == {"a sparse matrix"}, name


def test_outcomes_that_break_the_rule_are_marked(messages):
    def two_lines():
        raise messages.ChainruleError("one\ntwo")

    assert messages.outcome(two_lines).startswith("ChainruleError: BROKEN (2 lines)")
    assert messages.outcome(lambda: 1 / 0).startswith("BROKEN ZeroDivisionError")
    assert messages.outcome(lambda: [float("nan")]) == "BROKEN: not finite"
    assert messages.outcome(lambda: [1.0]) == "works"
