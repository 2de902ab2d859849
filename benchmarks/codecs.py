"""A run's exact score beside the codecs that people use, on the same items.

    python benchmarks/codecs.py RUN DATA

PNG, WebP lossless, xz and bzip2 in the best fair form of the data; JPEG XL and JPEG-LS too when the package
imagecodecs is installed. Sizes are whole files, headers included, divided by the number of symbols.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from chainrule import Dataset, load, open_run, score
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
    rows = [(c.name, c.bits_per_dim, c.best) for c in codec_table(events, data.levels)] + extra(data)
    for name, bits, form in sorted(rows, key=lambda row: row[1]):
        print(json.dumps({"codec": name, "bits_per_dim": round(bits, 4), "form": form}))


def extra(data: Dataset) -> list[tuple[str, float, str]]:
    """JPEG XL and JPEG-LS an image at a time, for 256 levels and when imagecodecs is there."""
    try:
        import imagecodecs
    except ImportError:
        return []
    if data.kind != "image" or data.levels != 256:
        return []
    images = [np.ascontiguousarray(np.asarray(x).squeeze()) for x in data.x]
    total = sum(x.size for x in images)
    coders = {
        "JPEG XL effort 9": lambda x: imagecodecs.jpegxl_encode(x, lossless=True, effort=9),
        "JPEG-LS": imagecodecs.jpegls_encode,
    }
    return [
        (name, 8 * sum(len(code(x)) for x in images) / total, "an image at a time")
        for name, code in coders.items()
    ]


if __name__ == "__main__":
    main()
