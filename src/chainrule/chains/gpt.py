"""GPT (Radford et al. 2018, 2019): self-attention over texts, with the architecture and the weights of GPT-2."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers import gpt2
from chainrule.layers.attention import (
    PreNorm,
    check_heads,
    norm_program,
    plus_class,
    plus_class_program,
    start_small,
)
from chainrule.layers.blocks import InBlocks, within_texts
from chainrule.layers.dropout import dropped
from chainrule.model import check_sizes


class GPT(InBlocks):
    """Texts of any length by layers of self-attention, in blocks of `window` symbols.

    With E the table of symbols, P that of positions, s_t the symbol before position t, n a layer normalisation with
    gains and biases, and biases left out:

        input      u_t = E[s_t] + P[t mod window]
        attention  q, k, v = n(u) W of each head,  a_t = Σ_{j ∈ S_t} softmax_j(q_t · k_j / √d) v_j
                   u <- u + [a of each head] W_o
        after it   u <- u + W_b gelu(W_a n(u))                         the tanh form, 4 `width` hidden units
        logits     n(u) Eᵀ, or n(u) W of its own where not `tied`

    A layer normalises what it is given (Radford et al. 2019, section 2.3). S_t = {j ≤ t in the block of t}: see
    `chainrule.layers.blocks`.

    Before the first symbol s_0 is "nothing yet", a row of E of its own. GPT-2 has none: its texts begin after an
    end-of-text token, and `begin` names the symbol that stands for nothing (50256 there).

    Args:
        symbols: K, 256 for bytes.
        width: D, numbers a position between the layers.
        layers: of attention, each followed by a feed-forward layer.
        heads: of attention; they share the D numbers.
        window: positions, and symbols of a block.
        dropout: share dropped in training, of inputs, of attention, and of what a layer adds.
        tied: the output's weights are those of E.
        bias: whether layers and normalisations have biases.
        begin: the symbol that stands for "nothing yet"; None: a row of its own does.
        classes: number of classes in `context` (an embedding is added to every input); 0: none.

    Example:
        >>> chain = GPT(symbols=5, **GPT.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 8, "layers": 2, "heads": 2, "window": 4},
        "laptop": {"width": 192, "layers": 4, "heads": 4, "window": 128},
        # Radford et al. 2019, table 2, the first row: 124,439,808 parameters with symbols=50257, begin=50256.
        "paper": {"width": 768, "layers": 12, "heads": 12, "window": 1024, "dropout": 0.1},
    }
    KINDS = ("text", "array")
    TRAINING = {"batch": 16, "lr": 6e-3, "window": "window", "bfloat16": True, "carry": True, "muon": True}

    def __init__(
        self,
        symbols: int = 256,
        width: int = 192,
        layers: int = 4,
        heads: int = 4,
        window: int = 128,
        dropout: float = 0.0,
        tied: bool = True,
        bias: bool = True,
        begin: int | None = None,
        classes: int = 0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, width=width, layers=layers, heads=heads, window=window)
        check_heads(width, heads)
        if begin is not None and not 0 <= begin < symbols:
            raise ChainruleError(f"begin is {begin}: take a symbol, 0 to {symbols - 1}")
        self.symbols, self.window, self.classes = symbols, window, classes
        self.nothing = symbols if begin is None else begin  # the row that stands for it
        self.embed = nn.Embedding(symbols + (begin is None), width)
        self.positions = nn.Embedding(window, width)
        self.condition = nn.Embedding(classes, width) if classes else None
        self.dropout = dropout
        self.layers = nn.ModuleList(PreNorm(width, heads, dropout, bias) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.out = None if tied else nn.Linear(width, symbols, bias=False)
        start_small(self, adds=2 * layers)

    @classmethod
    def from_pretrained(cls, folder: str | Path, begin: int | None = None) -> GPT:
        """A GPT-2 from a folder with config.json and model.safetensors, or by its name on the hub.

        `chainrule.open_run` takes the same, and knows the alphabet of its tokens, too.

        Args:
            folder: as `transformers` writes it, or `save_pretrained`. A name such as "gpt2" or "hub:gpt2" is fetched
                once by `huggingface_hub`, and lies in its cache from then on.
            begin: the symbol before the first one; by default the token that config.json says texts begin with.

        Raises:
            ChainruleError: what is missing, damaged, or not the architecture of GPT-2. Pickles are never read.
        """
        args, weights = gpt2.read(gpt2.located(folder), begin)
        with torch.device("meta"):
            chain = cls(**args)
        chain.load_state_dict(weights, assign=True)
        return chain.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, such as `transformers` reads.

        Raises:
            ChainruleError: GPT-2 has no place for a part of this chain.
        """
        for name, wanted in {"bias": True, "classes": 0}.items():
            if self.args[name] != wanted:
                raise ChainruleError(f"{name} is {self.args[name]}, and GPT-2 has only {wanted}")
        if self.args["begin"] is None:
            raise ChainruleError('GPT-2 has no row for "nothing yet": build the model with begin=, a symbol')
        gpt2.write(folder, self.args, self.state_dict())

    def program(self, p):
        """The same for one position; keys and values of a block are kept."""
        cycle = p.constant_cycle(self.positions.weight)
        u = p.embed(self.embed.weight, columns=-1, outside=self.nothing, onto=cycle)
        u = plus_class_program(p, u, self.condition)
        for layer in self.layers:
            u = layer.program(p, u, self.window)  # type: ignore[operator]
        return [p.dense(norm_program(p, u, self.norm), weight=self._output().T)]

    def _run(self, before: Tensor, context: Tensor | None, begins: Tensor | None = None) -> Tensor:
        place, mask = torch.arange(before.shape[1], device=before.device), None
        if begins is not None:
            place, mask = within_texts(begins)
        u = self.embed(before) + self.positions(place)
        u = plus_class(u, self.condition, context)
        u = dropped(u, self.dropout) if self.training else u
        for layer in self.layers:
            u = layer(u, mask)
        return self.norm(u)

    def _head(self, u: Tensor) -> Tensor:
        return F.linear(u, self._output())

    def _output(self) -> Tensor:
        """The weights (K, D) of the logits."""
        return self.embed.weight[: self.symbols] if self.out is None else self.out.weight
