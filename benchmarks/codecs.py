"""A run's exact score beside the codecs that people use, on the same items.

    python benchmarks/codecs.py RUN DATA

Each codec in the best fair form of the data and setting (`chainrule.report.codecs`); those of the package imagecodecs
when it is installed. Sizes are whole files, headers included, divided by the number of symbols.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from chainrule import load, open_run, score
from chainrule.report.codecs import codec_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data", help="a name or a path; of a named set the test split")
    options = parser.parse_args()
    run, data = open_run(options.run), load(options.data, split="test")
    result = score(run.chain, data)
    print(
        json.dumps(
            {
                "codec": f"chainrule {run.info['model']}",
                "bits_per_dim": round(result.bits_per_dim, 4),
                "form": "exact score",
            }
        )
    )
    events = [np.asarray(x) for x in data.x]
    rows = codec_table(events, data.levels, efforts=(7, 9))
    for codec in sorted(rows, key=lambda row: row.bits_per_dim):
        row = {"codec": codec.name, "bits_per_dim": round(codec.bits_per_dim, 4), "form": codec.best}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
