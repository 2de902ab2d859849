"""Made the archives in this folder, once. They are kept for ever: every later version must decode them.

Each is drawn from its own model, so that the model codes it, and says by a SHA-256 what it decodes to
(`contents` of tests/test_golden.py, written into golden.json). A later format gets further files, made by
`python tests/golden/make.py NEW_FOLDER`; these are never made again.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

import chainrule
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.chains.uniform import Uniform
from chainrule.data.alphabets import Tokens

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_golden import contents


def scaled(chain, factor, seed):
    """The chain with random weights, large enough that its events are no noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * factor)
    return chain


def drawn(chain, n, event, classes=None):
    context = None if classes is None else torch.tensor(classes)
    return chainrule.sample(chain, n, event, context, seed=1).astype(np.min_scalar_type(chain.symbols - 1))


def sets():
    """(name, chain, data, options of compress)."""
    Dataset, tiny = chainrule.Dataset, GatedPixelCNN.SIZES["tiny"]
    gray = scaled(GatedPixelCNN(17, 1, **tiny), 0.5, 0)
    names = tuple(map(str, range(40)))
    yield "gray images", gray, Dataset(drawn(gray, 40, (8, 8, 1)), 17, "image", names), {"block_items": 16}
    colour = scaled(GatedPixelCNN(256, 3, 3, **tiny), 0.5, 1)
    classes = [0, 1, 2, 2, 1, 0]
    x = drawn(colour, 6, (7, 9, 3), classes)
    names = tuple(f"{'abc'[c]}/picture {i}.png" for i, c in enumerate(classes))
    context = {"context": np.array(classes), "classes": ("a", "b", "c")}
    yield "colour images with classes", colour, Dataset(x, 256, "image", names, **context), {}
    text = scaled(CharLSTM(256, width=12, embed=6, layers=2), 0.8, 2)
    lengths = (700, 3, 64, 0)
    x = [drawn(text, 1, (n,))[0] for n in lengths]
    yield "texts", text, Dataset(x, 256, "text", ("a.txt", "b/c.txt", "d.txt", "empty.txt")), {}
    x = np.random.default_rng(0).integers(0, 256, (2, 90), dtype=np.uint8)
    yield "noise", Uniform(256), Dataset(x, 256, "array", ("left", "right")), {}
    x = np.arange(600, dtype=np.uint16).reshape(3, 200) % 300
    yield "an array without a model", Uniform(300), Dataset(x, 300, "array", ("0", "1", "2")), {}
    words = ["the ", "naïve ", "日本", "\n", "token ", "of ", "é", "a "]
    tokens = Tokens((*(bytes([b]) for b in range(256)), *(word.encode() for word in words)))
    text = scaled(CharLSTM(264, width=8, embed=4), 0.8, 3)
    x = [drawn(text, 1, (n,))[0] for n in (900, 2, 0)]
    names = ("a.txt", "b/ü.txt", "empty.txt")
    yield "texts in tokens", text, Dataset(x, 264, "text", names, alphabet=tokens), {}


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    found = {}
    for name, chain, data, options in sets():
        path = folder / f"{name}.chain"
        report = chainrule.compress(chain, data, path, **options)
        found[path.name] = contents(path)
        print(path, report.blocks, path.stat().st_size)
    (folder / "golden.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
