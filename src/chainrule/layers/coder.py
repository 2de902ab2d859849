"""Encoders with their decoders: what shallow, stacked and deep autoencoders share.

    h = g(… g(x W₁ + b₁) …),   x̂ = o(… g(h W₁* + c₁) …);   W* = Wᵀ where weights are tied

    B batch, d numbers of an event, k numbers of a code

Between layers everything is a row of numbers, images too: (H, W, C) in C order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.corruption import Corruption
from chainrule.layers.units import Units, by_parts, in_parts, scaled
from chainrule.model import check_sizes


def linear(a: Tensor) -> Tensor:
    """a itself."""
    return a


class Activation(NamedTuple):
    """The units g of a layer, and how large weights are at the start.

    Attributes:
        g: the function.
        gain: of weights (a, b) that are drawn with standard deviation gain · √(2/(a + b)), so that signals keep their
            size on the way up and down: Glorot & Bengio 2010 (4 for σ, equation 16 and Bengio 2012), He et al. 2015.
    """

    g: Callable[[Tensor], Tensor]
    gain: float


ACTIVATIONS = {
    "linear": Activation(linear, 1.0),
    "sigmoid": Activation(torch.sigmoid, 4.0),
    "tanh": Activation(torch.tanh, 1.0),
    "relu": Activation(torch.relu, math.sqrt(2)),
    "gelu": Activation(nn.functional.gelu, math.sqrt(2)),
}


class Map(Protocol):
    """A linear map up, from the rows below a layer to those above, and the one back down, each with weights and bias.

    Attributes:
        below, above: numbers of a row.
        up_shape, down_shape: of the weights.
        up_bias, down_bias: numbers of the bias.
        fan: numbers that one number above is a sum of, and that one number below goes into.
    """

    @property
    def below(self) -> int: ...
    @property
    def above(self) -> int: ...
    @property
    def up_shape(self) -> tuple[int, ...]: ...
    @property
    def down_shape(self) -> tuple[int, ...]: ...
    @property
    def up_bias(self) -> int: ...
    @property
    def down_bias(self) -> int: ...
    @property
    def fan(self) -> tuple[int, int]: ...
    def up(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor: ...
    def down(self, h: Tensor, w: Tensor, c: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Dense:
    """Every number above is a sum over all numbers below: xW + b, and hW* + c."""

    below: int
    above: int

    @property
    def up_shape(self) -> tuple[int, ...]:
        return self.below, self.above

    @property
    def down_shape(self) -> tuple[int, ...]:
        return self.above, self.below

    @property
    def up_bias(self) -> int:
        return self.above

    @property
    def down_bias(self) -> int:
        return self.below

    @property
    def fan(self) -> tuple[int, int]:
        return self.below, self.above

    def up(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.addmm(b, x, w)

    def down(self, h: Tensor, w: Tensor, c: Tensor) -> Tensor:
        return torch.addmm(c, h, w)


@dataclass(frozen=True)
class Convolutional:
    """A convolution of images and the maximum of every square; back, every number is repeated, then a convolution.

    Masci, Meier, Cireşan & Schmidhuber 2011. At the border images go on with 0; the last squares may be cut.

    Attributes:
        image: (H, W, C) below.
        channels: above.
        kernel: pixels across and down, odd.
        pool: the side of the squares.
    """

    image: tuple[int, int, int]
    channels: int
    kernel: int
    pool: int

    @property
    def image_above(self) -> tuple[int, int, int]:
        """(H', W', channels)."""
        height, width, _ = self.image
        return -(-height // self.pool), -(-width // self.pool), self.channels

    @property
    def below(self) -> int:
        return math.prod(self.image)

    @property
    def above(self) -> int:
        return math.prod(self.image_above)

    @property
    def up_shape(self) -> tuple[int, ...]:
        return self.channels, self.image[2], self.kernel, self.kernel

    @property
    def down_shape(self) -> tuple[int, ...]:
        return self.image[2], self.channels, self.kernel, self.kernel

    @property
    def up_bias(self) -> int:
        return self.channels

    @property
    def down_bias(self) -> int:
        return self.image[2]

    @property
    def fan(self) -> tuple[int, int]:
        return self.image[2] * self.kernel**2, self.channels * self.kernel**2

    def up(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        a = nn.functional.conv2d(planes(x, self.image), w, b, padding=self.kernel // 2)  # (B, channels, H, W)
        return rows(nn.functional.max_pool2d(a, self.pool, ceil_mode=True))

    def down(self, h: Tensor, w: Tensor, c: Tensor) -> Tensor:
        height, width, _ = self.image
        wide = planes(h, self.image_above).repeat_interleave(self.pool, 2).repeat_interleave(self.pool, 3)
        return rows(nn.functional.conv2d(wide[:, :, :height, :width], w, c, padding=self.kernel // 2))


def planes(x: Tensor, image: tuple[int, int, int]) -> Tensor:
    """Rows (B, H · W · C) as (B, C, H, W), a view in which the channels are last in memory."""
    return x.reshape(len(x), *image).permute(0, 3, 1, 2)


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as rows (B, H · W · C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def dense(widths: Sequence[int]) -> list[Map]:
    """Dense maps from one width to the next."""
    return [Dense(a, b) for a, b in pairwise(widths)]


class Span(nn.Module):
    """Where the data lie, as a network sees them: u = (x − shift) / scale in single precision.

    Args:
        rows: the data (n, d).
        shift, scale: (d,) and a number.
        centred: whether the mean event is taken from what the encoder is given.
    """

    shift: Tensor
    scale: Tensor
    zero: Tensor
    ends: Tensor
    mean: Tensor
    centre: Tensor

    def __init__(self, rows: np.ndarray, shift: np.ndarray, scale: float, centred: bool = True):
        super().__init__()
        low, high, mean = rows.min(), rows.max(), rows.mean(0, dtype=np.float64)
        seen = [(np.broadcast_to(x, shift.shape) - shift) / scale for x in (0.0, low, high, mean)]
        zero, low, high, mean = (torch.from_numpy(x.astype(np.float32)) for x in seen)
        self.register_buffer("shift", torch.from_numpy(shift))  # (d,), double precision
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("zero", zero)  # what 0 has become, (d,)
        self.register_buffer("ends", torch.stack([low, high]))  # the smallest and largest number, (2, d)
        self.register_buffer("mean", mean)  # the mean event, (d,)
        self.register_buffer("centre", mean.clone() if centred else torch.zeros_like(mean))

    def seen(self, rows: np.ndarray) -> Tensor:
        """Rows (n, d) as the network sees them."""
        return scaled(rows, self.shift.numpy(), float(self.scale))


class Coder(nn.Module):
    """An encoder and a decoder.

    Args:
        maps: of the encoder's layers, from the input on; the decoder goes back through them.
        units: g of every layer of the encoder, names from `ACTIVATIONS`; the decoder has the same on its way back.
        output: the units of the reconstruction.
        tied: whether the decoder has the weights of the encoder, which must be dense.
        seed: of the first weights.
    """

    def __init__(self, maps: Sequence[Map], units: Sequence[str], output: Units, tied: bool, seed: int):
        super().__init__()
        self.maps, self.units, self.output = list(maps), list(units), output
        generator = torch.Generator().manual_seed(seed)
        up = [first_weights(m.up_shape, m.fan, g, generator) for m, g in zip(maps, units, strict=True)]
        back = zip(maps[::-1], way_back(self.units), strict=True)
        down = [first_weights(m.down_shape, m.fan, g, generator) for m, g in back]
        self.encoder = nn.ParameterList(up)
        self.encoder_bias = nn.ParameterList(torch.zeros(m.up_bias) for m in maps)
        self.decoder = nn.ParameterList([] if tied else down)  # from the code on
        self.decoder_bias = nn.ParameterList(torch.zeros(m.down_bias) for m in maps[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, k)."""
        return upwards(x, self.maps, self.encoder, self.encoder_bias, self.units)

    def decode(self, h: Tensor) -> Tensor:
        """(B, k) -> the natural parameters of the output, (B, d)."""
        down = list(self.decoder) or [w.T for w in reversed(list(self.encoder))]
        return downwards(h, self.maps, down, self.decoder_bias, way_back(self.units))


def way_back(units: Sequence[str]) -> list[str]:
    """g of the decoder's layers, from the code on: those of the encoder in reverse, and nothing at the end."""
    return [*units[:-1][::-1], "linear"]


def upwards(
    x: Tensor, maps: Sequence[Map], weights: Iterable, biases: Iterable, units: Iterable[str]
) -> Tensor:
    """x (B, d) through the layers of an encoder."""
    for m, w, b, name in zip(maps, weights, biases, units, strict=True):
        x = ACTIVATIONS[name].g(m.up(x, w, b))
    return x


def downwards(
    h: Tensor, maps: Sequence[Map], weights: Iterable, biases: Iterable, units: Iterable[str]
) -> Tensor:
    """h (B, k) through the layers of a decoder, whose weights come from the code on."""
    for m, w, c, name in zip(maps[::-1], weights, biases, units, strict=True):
        h = ACTIVATIONS[name].g(m.down(h, w, c))
    return h


class Denoiser(nn.Module):
    """What is trained: the loss of the reconstruction of a clean input from a corrupted one.

    Its loss is the mean over the d numbers of an event.
    """

    def __init__(self, coder: Coder, span: Span, corruption: Corruption | None = None):
        super().__init__()
        self.coder, self.span, self.corruption = coder, span, corruption

    def loss(self, x: Tensor) -> Tensor:
        """−log p(x | corrupted x) a number, up to what does not depend on the weights."""
        given = x if self.corruption is None else self.corruption(x, self.span.zero, self.span.ends)
        a = self.coder.decode(self.coder.encode(given - self.span.centre))
        return self.coder.output.loss(a.float(), x)

    @torch.no_grad()
    def begin(self) -> Denoiser:
        """Start with the mean event as every reconstruction, or nearly; gives self."""
        bias, mean = self.coder.decoder_bias[-1], self.span.mean
        bias.copy_(self.coder.output.natural(mean.view(-1, len(bias)).mean(0)))
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x (n, d) as the network sees it -> codes (n, k), part by part."""
        return by_parts(lambda part: self.coder.encode(part - self.span.centre), x, self.coder.maps[-1].above)


def first_weights(
    shape: tuple[int, ...], fan: tuple[int, int], units: str, generator: torch.Generator
) -> Tensor:
    """Normal weights below `units`."""
    return torch.randn(shape, generator=generator) * (ACTIVATIONS[units].gain * math.sqrt(2 / sum(fan)))


def check_layers(layers: Sequence[int], **units: str) -> None:
    """One clear line for widths and units that there cannot be."""
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ChainruleError(f"layers is {layers!r}: take the width of every layer, such as (500, 30)")
    for width in layers:
        if not isinstance(width, int | np.integer) or isinstance(width, bool):
            raise ChainruleError(f"layers is {layers!r}: widths are whole numbers, such as (500, 30)")
        check_sizes(layers=int(width))
    for name, value in units.items():
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ChainruleError(f"{name} is {value!r}: choose from {', '.join(ACTIVATIONS)}")


# ---- what has been learned, as arrays ------------------------------------------------------------------


def learned_by(model: Denoiser) -> dict[str, Any]:
    """The weights and biases of a coder as tuples of arrays; what the encoder's input was centred by is in the bias."""
    coder = model.coder
    biases = [b.detach().clone() for b in coder.encoder_bias]
    if model.span.centre.any():
        biases[0] = coder.maps[0].up(-model.span.centre[None], coder.encoder[0].detach(), biases[0])[0]
    found = {
        "encoder_": list(coder.encoder),
        "encoder_bias_": biases,
        "decoder_bias_": list(coder.decoder_bias),
    }
    found |= {"decoder_": list(coder.decoder)} if len(coder.decoder) else {}
    return {name: tuple(t.detach().numpy().copy() for t in tensors) for name, tensors in found.items()}


def encoded(code: Any, rows: np.ndarray, maps: Sequence[Map], units: Sequence[str]) -> np.ndarray:
    """Rows (n, d) of events -> codes (n, k) in their own precision."""
    weights, biases = encoder_of(code, maps, rows.dtype)
    found = np.empty((len(rows), maps[-1].above), rows.dtype)
    for part, into in zip(in_parts(rows), in_parts(found), strict=True):
        x = torch.from_numpy(((part - code.shift_) / code.scale_).astype(rows.dtype))
        into[:] = upwards(x, maps, weights, biases, units).numpy()
    return found


def decoded(
    code: Any, codes: np.ndarray, maps: Sequence[Map], back: Sequence[str], output: Units
) -> np.ndarray:
    """Codes (n, k) -> reconstructions (n, d) in their own precision; `back` are the units of the decoder's layers."""
    weights, biases = decoder_of(code, maps, codes.dtype)
    found = np.empty((len(codes), maps[0].below), codes.dtype)
    for part, into in zip(in_parts(codes), in_parts(found), strict=True):
        h = torch.from_numpy(np.array(part, order="C"))
        mean = output.mean(downwards(h, maps, weights, biases, back)).numpy()
        into[:] = mean * code.scale_ + code.shift_
    return found


def encoder_of(code: Any, maps: Sequence[Map], dtype: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of the encoder."""
    weights = as_tensors(code.encoder_, [m.up_shape for m in maps], dtype)
    return weights, as_tensors(code.encoder_bias_, [(m.up_bias,) for m in maps], dtype)


def decoder_of(code: Any, maps: Sequence[Map], dtype: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of the decoder, from the code on; the weights are its own, or those of the encoder."""
    own = getattr(code, "decoder_", None) or tuple(w.T for w in reversed(code.encoder_))
    weights = as_tensors(own, [m.down_shape for m in maps[::-1]], dtype)
    return weights, as_tensors(code.decoder_bias_, [(m.down_bias,) for m in maps[::-1]], dtype)


def as_tensors(arrays: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Tensor]:
    """Arrays as tensors in a precision; one clear line when a model file holds others than its layers have."""
    found = [np.shape(array) for array in arrays]
    if found != list(shapes):
        raise ChainruleError(
            f"the weights have shapes {found}, the layers {list(shapes)}: is the file damaged?"
        )
    return [torch.from_numpy(array.astype(dtype)) for array in arrays]
