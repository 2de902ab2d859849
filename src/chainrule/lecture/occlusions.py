"""Images covered from the middle down, several ways in which a model completes them, and what they were.

Van den Oord, Kalchbrenner & Kavukcuoglu 2016, figure 1. The model is a Gated PixelCNN that knows classes, and it is
told none: a class is drawn of p(class | the upper half), then the lower half pixel by pixel of p(pixel | pixels
before, class), so that completions are exact samples of what may follow. `belief` is p(the class it was | the upper
half), `drawn` the classes of the completions, `bits` what the true lower half costs, −log₂ p(lower | upper half).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from chainrule import plots
from chainrule.data import load
from chainrule.lecture import pixelwise
from chainrule.lecture.natural import Save
from chainrule.verbs.walk import complete

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**pixelwise.SIZES["tiny"], "images": 4, "completions": 4},
    "laptop": {**pixelwise.SIZES["laptop"], "images": 8, "completions": 6},
    "paper": {**pixelwise.SIZES["paper"], "images": 10, "completions": 8},
}


def draw(
    save: Save, seed: int, data: str, width: int, layers: int, steps: int, images: int, completions: int
) -> dict:
    """A picture with a row for each image: covered, completed, as it was."""
    chain = pixelwise.learned(data, width, layers, steps, seed)
    test, rng = load(data, split="test"), np.random.default_rng(seed)
    labels = np.asarray(test.context)
    chosen = [int(rng.choice(np.flatnonzero(labels == k))) for k in rng.permutation(chain.classes)[:images]]
    originals = np.stack([np.asarray(test.x[i]) for i in chosen])
    known = np.zeros(originals.shape[1:], bool)
    known[: len(known) // 2] = True
    found, rows = [], []
    for i, x in zip(chosen, originals, strict=True):
        view = pixelwise.expected(chain, x)
        belief = view.classes[len(known) // 2, 0, 0]  # of the first pixel that is covered
        classes = rng.choice(chain.classes, completions, p=belief / belief.sum())
        kind = torch.from_numpy(classes)
        found.append(complete(chain, x, known, completions, kind, seed=int(rng.integers(1 << 32))))
        facts = {"image": i, "class": test.classes[labels[i]], "belief": float(belief[labels[i]])}
        drawn = " ".join(test.classes[k] for k in classes)
        rows.append({**facts, "drawn": drawn, "bits": float(view.bits[~known].sum())})
    shown = {"covered": originals[:, None], "completed": np.stack(found), "as it was": originals[:, None]}
    save("occlusions", plots.image_columns(shown, test.levels, {"covered": known}, form=plots.raster))
    return {"rows": rows}
