"""PixelSNAIL (Chen, Mishra, Rohaninejad & Abbeel 2017, "PixelSNAIL: An Improved Autoregressive Generative Model")."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from chainrule.layers.conv import Corner, affine
from chainrule.layers.gated import Gated, before, before_program
from chainrule.layers.logistic import LogisticHead, OfLogistics
from chainrule.layers.pixels import check_images, coordinates, scaled, scaled_program
from chainrule.model import check_sizes


class PixelSNAIL(OfLogistics):
    """Images of any height and width by a mixture of logistics, from convolutions and attention to all that came.

    A first convolution knows three pixels above a pixel and two to its left. Then come blocks of gated residual
    layers (causal convolutions of 2 × 2 taps, see `Gated`) and one `Attention` each: convolutions know well what is
    near, one head of attention whatever came before, at the same distance from anywhere. The last features of a
    pixel give a mixture of discretised logistics for its channels: see `LogisticHead`.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (a bias of every layer that convolves or joins); 0: none.
        width: features of a pixel between the layers.
        blocks: each of so many `layers` and one attention.
        key: numbers by which pixels are compared; `value`: numbers that they say.
        mixtures: logistics.
        dropout: share of the maps dropped inside a layer, in training.

    Example:
        >>> chain = PixelSNAIL(symbols=4, channels=3, **PixelSNAIL.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 6, "blocks": 2, "layers": 1, "key": 2, "value": 3, "mixtures": 3},
        "laptop": {"width": 32, "blocks": 3, "layers": 2, "key": 16, "value": 16},
        # As published for CIFAR-10: 12 blocks of 4 layers, 256 filters, keys of 16 and values of 128; dropout 0.5.
        "paper": {"width": 256, "blocks": 12, "layers": 4, "key": 16, "value": 128, "dropout": 0.5},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 2e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 32,
        blocks: int = 3,
        layers: int = 2,
        key: int = 16,
        value: int = 16,
        mixtures: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, channels=channels, mixtures=mixtures)
        check_sizes(width=width, blocks=blocks, layers=layers, key=key, value=value)
        self.symbols, self.channels, self.classes = symbols, channels, classes
        self.row = weight_norm(nn.Conv2d(channels + 1, width, (1, 3), padding=(0, 1)))
        self.column = weight_norm(Corner(channels + 1, width, 2, 1))
        self.blocks: Any = nn.ModuleList(
            Block(width, layers, channels, key, value, classes, dropout) for _ in range(blocks)
        )
        self.head = LogisticHead(width, channels, symbols, mixtures)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def program(self, p):
        """One pixel at a time; what a pixel says to later ones is made when it is done."""
        levels, ones = scaled_program(p)
        h = before_program(p, self.row, self.column, p.concat(levels, ones))
        place = p.concat(*[p.position()] * self.channels)
        for block in self.blocks:
            h = block.program(p, h, levels, place)
        return self.head.program(p, p.pointwise("elu", h))

    def _features(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What is known of each pixel from those before it, (B, H, W, width)."""
        check_images(self, x, context)
        image = scaled(x, self.symbols, self.head.out.bias)
        levels = image[:, : self.channels]
        place = coordinates(x, image).repeat(1, self.channels, 1, 1)  # (B, 2 C, H, W)
        place = place.contiguous(memory_format=torch.channels_last)
        h = before(self.row, self.column, image)
        for block in self.blocks:
            h = block(h, levels, place, context)
        return F.elu(h).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Gated residual layers of 2 × 2 taps, then attention. (B, width, H, W) -> the same."""

    def __init__(
        self, width: int, layers: int, channels: int, key: int, value: int, classes: int, dropout: float
    ):
        super().__init__()
        more: dict[str, Any] = {"classes": classes, "dropout": dropout}
        self.layers: Any = nn.ModuleList(
            Gated(lambda a, b: Corner(a, b, 2, 2), width, **more) for _ in range(layers)
        )
        self.attention = Attention(width, channels, key, value, dropout)
        self.join = Gated(one_by_one, width, value, **more)

    def forward(self, h: Tensor, levels: Tensor, place: Tensor, context: Tensor | None) -> Tensor:
        for layer in self.layers:
            h = layer(h, None, context)
        return self.join(h, self.attention(h, levels, place), context)

    def program(self, p, h, levels, place):
        for layer in self.layers:
            h = layer.program(p, h, clock="pixel")
        return self.join.program(p, h, self.attention.program(p, h, levels, place), clock="pixel")


class Attention(nn.Module):
    """What all earlier pixels say to a pixel, by one head of attention.

    With h_t the features of pixel t, which know what comes before it, x_t its levels, and z_t its row and column,
    G and F gated residual layers of a pixel alone:

        [k_t, v_t] = W G([x_t, h_t, z_t]) + b,     q_t = V F([h_t, z_t]) + c
        m_t = Σ_{j<t} e^{s_tj} v_j / (1 + Σ_{j<t} e^{s_tj}),     s_tj = q_t · k_j / √(numbers of a key)

    A key holds the levels of its own pixel, so a pixel must see the keys of earlier ones only, not its own: keys and
    values are moved on by one pixel in reading order, and of those a pixel sees all up to where it stands. What comes
    first is then a key and a value of zeros: the 1 in the formula. So the first pixel is told zeros. Row and column
    are given C times, once a channel, as in the authors' code: so size "paper" has 46.2 million parameters.
    """

    def __init__(self, width: int, channels: int, key: int, value: int, dropout: float):
        super().__init__()
        place = 2 * channels
        content, question = channels + width + place, width + place
        self.content = Gated(one_by_one, content, dropout=dropout)
        self.key, self.value = (weight_norm(one_by_one(content, n)) for n in (key, value))
        self.question = Gated(one_by_one, question, dropout=dropout)
        self.query = weight_norm(one_by_one(question, key))

    def forward(self, h: Tensor, levels: Tensor, place: Tensor) -> Tensor:
        """h (B, width, H, W), levels (B, C, H, W), place (B, 2 C, H, W) -> (B, value, H, W)."""
        content = self.content(torch.cat([levels, h, place], 1))
        query = self.query(self.question(torch.cat([h, place], 1)))
        keys, values = self.key(content), self.value(content)
        flat = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in (query, keys, values)]  # (B, H W, ·)
        return earlier(*flat).unflatten(1, h.shape[2:]).permute(0, 3, 1, 2)

    def program(self, p, h, levels, place):
        content = self.content.program(p, p.concat(levels, h, place), clock="done")
        question = self.question.program(p, p.concat(h, place), clock="pixel")
        small, large = self.key.out_channels, self.value.out_channels
        n = max(small, large)  # `attend` has one width for all three, and divides scores by its root
        asked = p.dense(question, **widened(self.query, n, math.sqrt(n / small)))
        seen = (moved_on(p, p.dense(content, **widened(layer, n))) for layer in (self.key, self.value))
        return p.attend(asked, *seen)[:large]


def earlier(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """m_t of `Attention` for all t: (B, N, key) twice, (B, N, value) -> (B, N, value)."""
    small, large = query.shape[-1], values.shape[-1]
    keys, values = (F.pad(x[:, :-1], (0, 0, 1, 0)) for x in (keys, values))
    # PyTorch's fast kernel wants heads, one width, and the numbers of a pixel side by side: seven times as fast.
    wide = (F.pad(x, (0, max(small, large) - x.shape[-1])) for x in (query, keys, values))
    query, keys, values = (x[:, None].contiguous() for x in wide)  # (B, 1, N, ·)
    told = F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=small**-0.5)
    return told[:, 0, :, :large]


def widened(layer: nn.Conv2d, n: int, times: float = 1.0) -> dict[str, Tensor]:
    """The weights of a 1 × 1 convolution for `dense`, times a number, with zeros added up to n outputs."""
    return {name: F.pad(array * times, (0, n - array.shape[-1])) for name, array in affine(layer).items()}


def moved_on(p, said):
    """In a step program: what the pixel before this one in reading order said when it was done; zeros at first."""
    last = p.memory(said.width, "done", carried=True)
    here = p.concat(last, clock="pixel")
    p.write(last, said)
    return here


def one_by_one(c_in: int, c_out: int) -> nn.Conv2d:
    """A convolution of a pixel alone."""
    return nn.Conv2d(c_in, c_out, 1)
