"""Alphabets of tokens: learned from texts, and read from and written to the tokenizer.json of `tokenizers`.

Of a file only vocabulary, merges and added tokens are taken, checked, and built anew: nothing in it is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chainrule.data.alphabets import MOST, STRAY, Tokens, check_pieces, parts
from chainrule.data.reading import file_size, reading, shown
from chainrule.errors import ChainruleError

FILE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
LARGEST = 1 << 26  # bytes of such a file
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# what must be as here, or empty, in the part "model" of a file
PLAIN = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def characters() -> list[str]:
    """The character that stands for each byte in a file of GPT-2: itself where it is visible, else one from U+0100 on.

    >>> characters()[65], characters()[32]
    ('A', 'Ġ')
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b if b in visible else next(others)) for b in range(256)]


def learn(texts: Iterable[bytes], symbols: int) -> Tokens:
    """The alphabet of so many symbols: the bytes, then the most frequent pair of neighbours again and again.

    It is a function of the texts alone, whatever the number of threads.

    Raises:
        ChainruleError: the texts do not hold so many different pairs that come twice; or `tokenizers` is missing.
    """
    if not 257 <= symbols <= MOST:
        raise ChainruleError(
            f"--tokens {symbols}: an alphabet is 256 bytes and what they merge to, 257 to {MOST:,}"
        )
    library = needed()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=symbols, min_frequency=2, show_progress=False, initial_alphabet=sorted(characters())
    )
    runs = (run for text in texts for part in parts(text) for run in STRAY.split(part)[::2])
    tokenizer.train_from_iterator(runs, trainer)
    found = parse(tokenizer.to_str().encode(), "what was learned")
    if found.symbols < symbols:
        raise ChainruleError(
            f"the text has {found.symbols:,} symbols that come more than once, not {symbols:,}: "
            f"take --tokens {found.symbols} or fewer"
        )
    return found


def read(path: str | Path) -> Tokens:
    """The alphabet of a tokenizer.json, or of a folder with that, or with vocab.json and merges.txt.

    Raises:
        ChainruleError: it is missing, damaged, or cuts texts in another way than GPT-2 does.
    """
    path = Path(path)
    if not path.is_dir():
        return parse(contents(path), shown(str(path)))
    if (path / FILE).is_file():
        return parse(contents(path / FILE), shown(str(path / FILE)))
    return from_two(path)


def from_two(folder: Path) -> Tokens:
    """The alphabet of a folder with vocab.json and merges.txt, as GPT-2 was published."""
    origin = shown(str(folder / VOCABULARY))
    vocabulary = as_json(contents(folder / VOCABULARY), origin)
    with reading(shown(str(folder / MERGES))):
        lines = contents(folder / MERGES).decode().split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    end = "<|endoftext|>"
    added = (
        [{"id": vocabulary[end], "content": end}]
        if isinstance(vocabulary, dict) and end in vocabulary
        else []
    )
    return alphabet_of({"vocab": vocabulary, "merges": merges}, added, origin)


def contents(path: Path) -> bytes:
    """The bytes of a file of moderate size."""
    size = file_size(path, shown(str(path)))
    if size > LARGEST:
        raise ChainruleError(f"{shown(str(path))} has {size:,} bytes, an alphabet at most {LARGEST:,}")
    with reading(shown(str(path))):
        return path.read_bytes()


def parse(text: bytes, origin: str) -> Tokens:
    """The alphabet in the bytes of a tokenizer.json."""
    found = as_json(text, origin)
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise ChainruleError(f"{origin} is no tokenizer.json: it has no model")
    check_way(found, origin)
    return alphabet_of(found["model"], found.get("added_tokens") or [], origin)


def as_json(text: bytes, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChainruleError(f"{origin} is damaged: {shown(str(error))}") from error


def check_way(found: dict[str, Any], origin: str) -> None:
    """One clear line for a file that says to cut texts in another way than GPT-2 does."""
    words, model = found.get("pre_tokenizer"), found["model"]
    told = {**WORDS, **words, "trim_offsets": True} if isinstance(words, dict) else words
    if told != WORDS:
        raise ChainruleError(f"{origin} divides texts by {shown(str(words))}, and GPT-2's ByteLevel is read")
    if found.get("normalizer") is not None:
        raise ChainruleError(
            f"{origin} changes texts before it encodes them (a normalizer): they would not come back"
        )
    wrong = [key for key in PLAIN if model.get(key)]
    if model.get("type", "BPE") != "BPE" or wrong:
        kind = shown(str(model.get("type"))) if not wrong else f"{wrong[0]}={shown(str(model[wrong[0]]))}"
        raise ChainruleError(f"{origin} is of the kind {kind}, and plain byte pairs (BPE) are read")


def alphabet_of(model: dict[str, Any], added: Any, origin: str) -> Tokens:
    """The alphabet of a vocabulary {token: symbol}, merges "a b" or [a, b], and added tokens."""
    try:
        own = {entry["content"]: entry["id"] for entry in added}
        vocabulary = {**model["vocab"], **own}
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[name] for name in names] != list(range(len(names))):
            raise ValueError("its symbols are not 0, 1, 2, ..., each once")
        if any(type(symbol) is not int for symbol in vocabulary.values()):
            raise ValueError("its symbols are no whole numbers")
        bytes_of = {character: b for b, character in enumerate(characters())}
        pieces = [name.encode() if name in own else bytes(bytes_of[c] for c in name) for name in names]
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        merges = tuple((vocabulary[a], vocabulary[b]) for a, b in pairs)
        known = set(names)
        if lost := next((a + b for a, b in pairs if a + b not in known), None):
            raise ValueError(f"{shown(repr(lost))} is merged, and no symbol")
        if not all(pieces) or len(set(pieces)) < len(pieces):
            raise ValueError("two symbols spell the same, or one nothing")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{error} is no symbol" if isinstance(error, KeyError) else str(error)
        raise ChainruleError(f"{origin} is damaged: {shown(said)}") from error
    check_pieces(pieces, origin)
    return Tokens(tuple(pieces), merges, tuple(sorted(own.values())))


def dump(alphabet: Tokens) -> bytes:
    """A tokenizer.json, as `tokenizers` and `transformers` read it; the same bytes for the same alphabet."""
    seen = characters()
    own = set(alphabet.added)
    names = [
        piece.decode() if i in own else "".join(seen[b] for b in piece)
        for i, piece in enumerate(alphabet.pieces)
    ]
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    model: dict[str, Any] = {"type": "BPE", **dict.fromkeys(PLAIN[:4]), "fuse_unk": False}
    model |= {"byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": {name: i for i, name in enumerate(names) if name}}
    model |= {"merges": [[names[a], names[b]] for a, b in alphabet.merges]}
    whole = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": names[i], **flags, "special": True} for i in alphabet.added],
        "normalizer": None, "pre_tokenizer": WORDS, "post_processor": None, "decoder": WORDS, "model": model,
    }  # fmt: skip
    return (json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def rust(alphabet: Tokens) -> Any:
    """What encodes: the `Tokenizer` of the package `tokenizers`."""
    return needed().Tokenizer.from_str(dump(alphabet).decode())


def needed() -> Any:
    """The package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise ChainruleError(
            'encoding texts as tokens needs the package tokenizers: pip install "chainrule[text]"'
        ) from error
    return tokenizers
