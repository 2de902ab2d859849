"""What the conditionals of image chains can depend on, by following which pixels each feature knows.

A map of knowledge `m` (H, W, H·W) says of every place which pixels it knows. The functions follow the layers of the
publications in plain NumPy, so that what a network is found to see can be compared with what it should see.
"""

import math

import numpy as np


def shifted(m, rows, columns):
    """What is known so many places away; nothing outside the image."""
    height, width = m.shape[:2]
    found = np.zeros_like(m)
    r, c = np.indices((height, width))
    inside = (r + rows >= 0) & (r + rows < height) & (c + columns >= 0) & (c + columns < width)
    found[inside] = m[(r + rows)[inside], (c + columns)[inside]]
    return found


def window(m, n, own):
    """A masked n × n convolution: of type B where `own`, else of type A."""
    found, reach = np.zeros_like(m), n // 2
    for rows in range(-reach, 1):
        for columns in range(-reach, reach + 1):
            if rows < 0 or columns < 0 or (columns == 0 and own):
                found |= shifted(m, rows, columns)
    return found


def pixels(event):
    """Every place knows its own pixel."""
    height, width, _ = event
    return np.eye(height * width, dtype=bool).reshape(height, width, height * width)


def pixelcnn(m, options, event):
    for _ in range(options["layers"]):
        m = m | window(m, options["kernel"], own=True)
    return m


def row_lstm(m, options, event):
    reach = options["kernel"] // 2
    for _ in range(options["layers"]):
        states = np.zeros_like(m)
        for c in range(reach + 1):
            states |= shifted(m, 0, -c)
        for r in range(1, len(m)):
            for c in range(-reach, reach + 1):
                states[r] |= shifted(states[r - 1 : r], 0, c)[0]
        m = m | states
    return m


def from_corner(m):
    """States that come from the left and from above."""
    m = m.copy()
    height, width = m.shape[:2]
    for r in range(height):
        for c in range(width):
            if r:
                m[r, c] |= m[r - 1, c]
            if c:
                m[r, c] |= m[r, c - 1]
    return m


def diagonal_bilstm(m, options, event):
    for _ in range(options["layers"]):
        right = from_corner((m | pixels(event))[:, ::-1])[:, ::-1]
        m = m | from_corner(m) | shifted(right, -1, 0)
    return m


def ride(m, options, event):
    for _ in range(options["layers"]):
        m = from_corner(m)
    return m


def above(m):
    """The 2 × 3 taps of the stream of rows."""
    return np.any([shifted(m, r, c) for r in (-1, 0) for c in (-1, 0, 1)], 0)


def corner(m):
    """The 2 × 2 taps of the stream of pixels to the left."""
    return np.any([shifted(m, r, c) for r in (-1, 0) for c in (-1, 0)], 0)


def pixelcnn_pp(chain, event):
    """Two streams, first down to a quarter of the sides and then up again (Salimans et al. 2017, figure 2)."""
    layers, image = chain.args["layers"], pixels(event)
    u = shifted(above(image), -1, 0)
    left = (
        np.any([shifted(image, -1, c) for c in (-1, 0, 1)], 0)
        | shifted(image, -1, -1)
        | shifted(image, 0, -1)
    )

    def layer(u, left, kept=(False, False)):
        u = u | above(above(u) | kept[0])
        return u, left | corner(corner(left) | u | kept[1])

    kept = [(u, left)]
    for scale in range(3):
        if scale:
            kept.append((above(kept[-1][0])[::2, ::2], corner(kept[-1][1])[::2, ::2]))
        for _ in range(layers):
            kept.append(layer(*kept[-1]))
    u, left = kept.pop()
    for scale in range(3):
        if scale:
            r, c = np.indices(kept[-1][0].shape[:2])
            wide = np.pad(u, ((0, 0), (0, 1), (0, 0)))  # an odd column is also made of the next coarse one
            u, left = wide[r // 2, c // 2] | wide[r // 2, (c + 1) // 2], left[r // 2, c // 2]
        for _ in range(layers + (scale > 0)):
            u, left = layer(u, left, kept.pop())
    return with_channels(left, event)


def last(m, options):
    """What the last `length` places in reading order know, the own one included."""
    flat = m.reshape(-1, m.shape[-1])
    seen = [flat[max(0, t + 1 - options["length"]) : t + 1].any(0) for t in range(len(flat))]
    return np.reshape(seen, m.shape)


def nearby(m, options):
    """What the places before, and the own one, know in a window of so many rows above and columns to either side."""
    window = [(0, -c) for c in range(options["columns"] + 1)]
    window += [
        (-r, c)
        for r in range(1, options["rows"] + 1)
        for c in range(-options["columns"], options["columns"] + 1)
    ]
    return np.any([shifted(m, r, c) for r, c in window], 0)


def image_transformer(m, options, event):
    look = {"1d": last, "2d": nearby}[options["attention"]]
    for _ in range(options["layers"]):
        m = look(m, options)
    return m


def sparse_transformer(chain, event):
    """What comes before in its block, by the layers' patterns (Child et al. 2019, section 4.2)."""
    n, options = math.prod(event), chain.args
    t, j = np.indices((n, n))
    m = j == t - 1  # what a place is given
    for layer in range(options["layers"]):
        seen = np.any([sparse_mask(chain, head, layer, n) for head in range(options["heads"])], 0)
        m = seen @ m
    return m


def sparse_mask(chain, head, layer, n):
    """(n, n) bool: where a head of a layer looks."""
    options, window = chain.args, n if chain.event else chain.window
    length, summary = chain.layers[0].look.length, options["summary"]
    t, j = np.indices((n, n))
    same, t, j = (j <= t) & (j // window == t // window), t % window, j % window
    if options["attention"] == "strided":
        rows = options["heads"] // 2 + (options["heads"] % 2 == 1 and layer % 2 == 0)
        return same & ((t - j < length) if head < rows else (t - j) % length == 0)
    end = length - summary * (head % max(1, length // max(1, summary)))
    return same & ((t // length == j // length) | ((end - summary <= j % length) & (j % length < end)))


def with_channels(m, event):
    """(N, N) bool: a conditional knows all channels of the pixels that m knows, and those before it of its own."""
    channels = event[2]
    known = m.reshape(len(m) * len(m[0]), -1)
    of_pixels = np.kron(known, np.ones((channels, channels), bool))
    before = np.tril(np.ones((channels, channels), bool), -1)
    return of_pixels | np.kron(np.eye(len(known), dtype=bool), before)


def reach(layers):
    """The reach of a chain whose layers are these, after a first convolution of type A."""

    def found(chain, event):
        first = window(pixels(event), chain.args["first_kernel"], own=False)
        return with_channels(layers(first, chain.args, event), event)

    return found


REACH = {
    "pixelcnn": reach(pixelcnn),
    "row-lstm": reach(row_lstm),
    "diagonal-bilstm": reach(diagonal_bilstm),
    "ride": reach(ride),
    "image-transformer": reach(image_transformer),
    "pixelcnn-pp": pixelcnn_pp,
    "sparse-transformer": sparse_transformer,
}
