"""PixelCNN (van den Oord et al. 2016a, "Pixel Recurrent Neural Networks", section 3.4 and table 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.conv import Causal, affine
from chainrule.layers.pixels import PixelNetwork, check_images, of_images
from chainrule.model import Chain, check_sizes


class PixelCNN(Chain):
    """Images of any height and width by masked convolutions, which leave a blind spot to the right above.

    A first convolution sees what comes before a pixel in a window; residual blocks widen that. With h the `width`:

        block      x <- x + U relu(C relu(D relu(x)))      D: 2h -> h, 1 × 1;  C: h -> h, n × n causal;  U: h -> 2h
        head       a_c = relu(P_c relu(x) + Σ_{d<c} T_dc[x_d]),  logits_c = O_c a_c          of channel c

    A stack of causal n × n windows never reaches the pixels that lie far to the right for how little they lie above:
    (r - i, c + j) is blind for j > i · ⌊n/2⌋ plus what the first window adds. The Gated PixelCNN has no such spot.

    Beyond the paper the channels of a pixel are predicted in the head, by tables of those before them, instead of in
    masked groups of features; so the convolutions run once a pixel and no feature knows red, green or blue only.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (an embedding is added after the first convolution); 0: none.
        width: h, half the features between the blocks.
        layers: residual blocks.
        kernel: n of the n × n window of a block; `first_kernel` that of the first convolution.
        head: hidden units of the head.

    Example:
        >>> import torch
        >>> chain = PixelCNN(symbols=4, channels=3, **PixelCNN.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 2, "first_kernel": 3, "head": 8},
        "laptop": {"width": 32, "layers": 8, "head": 128},
        # Table 1 and section 5.3 (CIFAR-10): fifteen blocks, h = 128, 1024 features in the head.
        "paper": {"width": 128, "layers": 15, "head": 1024},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 3e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 32,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int = 128,
    ):
        super().__init__()
        check_sizes(symbols=symbols, channels=channels, width=width, layers=layers, head=head)
        self.symbols, self.channels, self.classes = symbols, channels, classes
        blocks = [Block(width, kernel) for _ in range(layers)]
        self.net = PixelNetwork(symbols, channels, classes, 2 * width, first_kernel, blocks, head)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        check_images(self, x, context)
        return self.net(x, context)

    def program(self, p):
        """One pixel at a time; what lies in the rows above is summed up a row at a time."""
        return self.net.program(p)


class Block(nn.Module):
    """A residual block: figure 5 of the paper, left. (B, 2h, H, W) -> the same."""

    def __init__(self, width: int, n: int):
        super().__init__()
        self.down = nn.Conv2d(2 * width, width, 1)
        self.causal = Causal(width, width, n)
        self.up = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return x + self.up(F.relu(self.causal(F.relu(self.down(F.relu(x))))))

    def program(self, p, x, image):
        h = p.pointwise("relu", p.dense(p.pointwise("relu", x), **affine(self.down)))
        h = p.pointwise("relu", self.causal.program(p, h))
        return p.add(x, p.dense(h, **affine(self.up)))
