"""How much of its LaTeX a model closes again: environments and braces that nest, in sampled and in real text.

The prompt is some of the test text, up to the beginning of a section; the model writes on, several times. What it wrote
is measured beside what really follows there, and beside stretches of that length all over the test text. What is cut
out of a text has ends without a beginning and beginnings without an end, so the share of real text is the measure.
Verbatim text is not told apart.

python benchmarks/latex.py RUN stacks --length 20000 --texts 4 -o sampled.tex
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from chainrule import ChainruleError, complete, load, open_run

COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
MARK = re.compile(r"\\(begin|end)\s*\{([^{}\n]*)\}")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
SECTION = re.compile(rb"\n(?=\\section\b)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a run, or zoo:NAME")
    parser.add_argument("data", help="a named set of one text; its test split is read")
    parser.add_argument("--length", type=int, default=20_000, help="bytes of a text that is written")
    parser.add_argument("--texts", type=int, default=4, help="how many are written")
    parser.add_argument("--prompt", type=int, default=2_000, help="bytes before what is written, at least")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="where what was written goes")
    for row in measured(parser.parse_args()):
        print(json.dumps(row, ensure_ascii=False))


def measured(options: argparse.Namespace):
    """A row each text that is written, one for all, one for what really follows, one for the whole test text."""
    run, data = open_run(options.run), load(options.data, split="test")
    real = np.asarray(data.x[0])
    begin = prompt_end(real.tobytes(), options.prompt)
    following = real[begin : begin + options.length]
    if len(following) < options.length:
        raise ChainruleError(
            f"{data.source} goes on for {len(following):,} bytes after the prompt, not {options.length:,}: "
            "take a lower --length"
        )
    written = continued(run.chain, real[begin - options.prompt : begin], options)
    if options.out is not None:
        options.out.write_bytes(b"\n\n%%%%%%%%%% another text\n\n".join(written))
    for i, text in enumerate(written):
        yield {"text": f"written {i}"} | shares(text)
    yield {"text": f"written, all {len(written)}"} | together(written)
    yield {"text": "what really follows"} | shares(following.tobytes())
    stretches = [
        real[i : i + options.length] for i in range(0, len(real) - options.length + 1, options.length)
    ]
    yield {"text": f"{data.source} in {len(stretches)} such stretches"} | together(
        [s.tobytes() for s in stretches]
    )


def prompt_end(text: bytes, least: int) -> int:
    """Where the first section begins after `least` bytes; where there is none, after so many.

    >>> prompt_end(b"abc\\n\\\\section{A}\\n", 2), prompt_end(b"abcdef", 2)
    (4, 2)
    """
    found = SECTION.search(text, least)
    return found.end() if found else least


def continued(chain, prompt: np.ndarray, options: argparse.Namespace) -> list[bytes]:
    """What the model writes after the prompt, several times: (length,) bytes each."""
    x = np.zeros(len(prompt) + options.length, np.int64)
    x[: len(prompt)] = prompt
    known = np.arange(len(x)) < len(prompt)
    context = torch.zeros(options.texts, dtype=torch.long) if chain.classes else None
    how = {"temperature": options.temperature, "seed": options.seed}
    texts = complete(chain, x, known, options.texts, context, **how)
    return [bytes(text[len(prompt) :].astype(np.uint8)) for text in texts]


# ---- what balances ---------------------------------------------------------------------------------------


def shares(text: bytes) -> dict[str, float | None]:
    """The share of \\begin and \\end, and of braces, that belong to a pair that nests, and how many there are."""
    return row(counts(text))


def together(texts: list[bytes]) -> dict[str, float | None]:
    """The same of several texts, each by itself."""
    return row(sum((counts(text) for text in texts), Counter()))


def counts(text: bytes) -> Counter[str]:
    """Marks and braces, and how many of them are in pairs."""
    source = without_comments(text.decode("utf-8", "replace"))
    names = [(kind == "begin", name) for kind, name in MARK.findall(source)]
    signs = [(sign == "{", "") for sign in BRACE.findall(source) if sign in "{}"]
    return Counter(
        bytes=len(text),
        marks=len(names),
        paired_marks=paired(names),
        braces=len(signs),
        paired_braces=paired(signs),
    )


def row(found: Counter[str]) -> dict[str, float | None]:
    """Counts as shares; None where there is nothing to balance."""
    return {
        "bytes": found["bytes"],
        "begin_end": found["marks"],
        "environments_nest": share(found["paired_marks"], found["marks"]),
        "braces": found["braces"],
        "braces_balance": share(found["paired_braces"], found["braces"]),
    }


def share(part: int, whole: int) -> float | None:
    """To four digits.

    >>> share(2, 3), share(0, 0)
    (0.6667, None)
    """
    return round(part / whole, 4) if whole else None


def without_comments(text: str) -> str:
    r"""A text without what follows a % in its line; \% is a percent sign.

    >>> without_comments("a % b {\n5\\% c")
    'a \n5\\% c'
    """
    return COMMENT.sub(r"\1", text)


def paired(marks: list[tuple[bool, str]]) -> int:
    r"""How many of the marks (opens, name) are in a pair, when pairs may stand in each other but not overlap.

    An end closes the last open mark of its name; what was opened after that and is still open stays without an end.

    >>> a, b = "lemma", "proof"
    >>> paired([(True, a), (True, b), (False, b), (False, a)])
    4
    >>> paired([(True, a), (True, b), (False, a), (False, b)])
    2
    >>> paired([(False, a), (True, a)])
    0
    """
    found, stack = 0, list[str]()
    open_ = Counter[str]()
    for opens, name in marks:
        if opens:
            stack.append(name)
            open_[name] += 1
        elif open_[name]:
            while (last := stack.pop()) != name:
                open_[last] -= 1
            open_[name] -= 1
            found += 2
    return found


if __name__ == "__main__":
    main()
