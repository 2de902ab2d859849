"""The alphabet of a run: bytes, or tokens that are learned from its training part or taken from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainrule import store
from chainrule.data import BYTES, Alphabet, Dataset, train_holdout
from chainrule.data.alphabets import Tokens
from chainrule.data.reading import printable
from chainrule.data.tokens import dump, learn, read
from chainrule.errors import ChainruleError
from chainrule.models import TOKENIZER, identity_of


def alphabet_for(data: Dataset, given: int | str | Path | None, holdout: float) -> Alphabet:
    """What the symbols of texts are to be: so many tokens, learned without what is held out; or those of a file."""
    if given is None:
        return data.alphabet
    if data.kind != "text" or data.alphabet is not BYTES:
        raise ChainruleError(
            f"--tokens {given} is for texts of bytes, {data.source or 'this'} is {data.kind}"
        )
    said = str(given)
    if not said.isdecimal():
        return read(said)
    part = divided(data, holdout)[0]
    return learn((BYTES.decode(x) for x in (*part.x, *(part.sources or ()))), int(said))


def divided(data: Dataset, holdout: float) -> tuple[Dataset, Dataset | None]:
    """What is learned from, and what is held out."""
    return train_holdout(data, holdout) if holdout else (data, None)


def facts_of(alphabet: Alphabet, given: int | str | Path | None) -> dict[str, Any]:
    """What run.json says about tokens; nothing about bytes."""
    if not isinstance(alphabet, Tokens):
        return {}
    said = "a dataset" if given is None else printable(str(given))
    return {"tokens": {"given": said, "symbols": alphabet.symbols, "sha256": identity_of(alphabet)}}


def keep(alphabet: Alphabet, folder: Path) -> None:
    """Write the tokenizer.json of a run; of bytes there is none."""
    if isinstance(alphabet, Tokens):
        store.write_atomic(folder / TOKENIZER, dump(alphabet))
