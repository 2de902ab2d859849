"""Anomalies by density: fitted on MNIST without one digit, does `score` find that digit surprising?

    python benchmarks/anomalies.py --minutes 3

For each digit a Gated PixelCNN learns the training images of the nine others; the figure is the area under
the ROC curve of −log p(x) over all 10,000 test images, the unseen digit against the rest. 0.5 is chance. A
digit of few strokes, such as 1, may score *below* chance: a simple image needs few bits even when it is new.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from sklearn.metrics import roc_auc_score

from chainrule import fit, load, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--digits", type=int, nargs="+", default=[0, 1, 8])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    train, test = load("binarized-mnist", split="train"), load("binarized-mnist", split="test")
    for digit in options.digits:
        rest = replace(train.select(train.context != digit), source=f"binarized-mnist without {digit}")
        with tempfile.TemporaryDirectory() as folder:
            run = fit(rest, minutes=options.minutes, holdout=0.0, compile=False, out=Path(folder) / "run")
        result = score(run.chain, test)
        unseen = test.context == digit
        row = {"unseen": digit, "auroc": round(float(roc_auc_score(unseen, result.nats)), 4)}
        means = {"nats_unseen": result.nats[unseen].mean(), "nats_others": result.nats[~unseen].mean()}
        row |= {k: round(float(v), 2) for k, v in means.items()}
        print(
            json.dumps({**row, "steps": run.info["trained"]["steps"], "minutes": options.minutes}), flush=True
        )


if __name__ == "__main__":
    main()
