"""Archives of earlier versions decode to what they held, and are coded again to the same streams."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from chainrule import engine
from chainrule.archive import MODEL, Archive
from chainrule.verbs.coders import StrictCoder
from chainrule.verbs.compress import decompress, verify
from chainrule.verbs.lanes import Lanes

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "golden.json").read_text()) if (FOLDER / "golden.json").exists() else {}


def contents(path: Path) -> str:
    """SHA-256 of the name, class, shape and symbols of every item, in their order."""
    digest = hashlib.sha256()
    for name, x, context in decompress(path):
        digest.update(json.dumps([name, context, list(x.shape), str(x.dtype)]).encode() + x.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_archive_decodes_to_what_it_held(name):
    assert contents(FOLDER / name) == GOLDEN[name]
    assert verify(FOLDER / name, deep=True) > 0


@pytest.mark.parametrize("group", [1, 7, 64])
@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_archive_is_coded_to_the_same_streams(name, group):
    with Archive(FOLDER / name) as archive:
        coder = StrictCoder(engine.parse(archive.model()), group=group)
        assert coder.identity() == archive.header.model_sha256
        for number, block in enumerate(archive.blocks):
            if block.coding == MODEL:
                lanes, payload = Lanes(block.items, archive.header), archive.payload(number)
                symbols = coder.decode(lanes, payload, lambda done: None)
                stream, bits = coder.encode(lanes, symbols, lambda done: None)
                assert stream == payload[: len(stream)]
                assert not payload[len(stream) :].strip(b"\0")
                assert abs(8 * len(stream) - np.sum(bits)) <= 16 + 1e-3 * lanes.active.sum()


def test_the_golden_archives_hold_every_coding():
    codings = set()
    for name in GOLDEN:
        with Archive(FOLDER / name) as archive:
            codings |= {block.coding for block in archive.blocks}
    assert len(GOLDEN) == 6
    assert codings == {"model", "lzma", "stored"}
