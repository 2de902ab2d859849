"""GPT (Radford et al. 2018, 2019): self-attention over texts, with the architecture and the weights of GPT-2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers import gpt2
from chainrule.layers.sequence import before_each
from chainrule.model import Chain, check_sizes, pick

CHUNK = 2048  # symbols scored at a time
SPREAD = 0.02  # standard deviation of the weights at the start


class GPT(Chain):
    """Texts of any length by layers of self-attention, in blocks of `window` symbols.

    With E the table of symbols, P that of positions, s_t the symbol before position t, n a layer normalisation with
    gains and biases, and biases left out:

        input      u_t = E[s_t] + P[t mod window]
        attention  q, k, v = n(u) W of each head,  a_t = Σ_{j ∈ S_t} softmax_j(q_t · k_j / √d) v_j
                   u <- u + [a of each head] W_o
        after it   u <- u + W_b gelu(W_a n(u))                         the tanh form, 4 `width` hidden units
        logits     n(u) Eᵀ, or n(u) W of its own where not `tied`

    A layer normalises what it is given (Radford et al. 2019, section 2.3). S_t = {j ≤ t in the block of t}, where
    blocks are the positions 0..window - 1, window..2 window - 1, ...: the first position of a block knows the symbol
    before it and no other, the last one all of its block. So the parallel pass and the step agree on texts of any
    length, and no cache grows stale. A score of a long text is that of consecutive blocks, none overlapping.

    Before the first symbol s_0 is "nothing yet", a row of E of its own. GPT-2 has none: its texts begin after an
    end-of-text token, and `begin` names the symbol that stands for nothing (50256 there).

    Trained on streams of one window each (`loss_from`): a window begins with the symbol before it, as a block does.
    Where a text ends and another begins within a window, positions begin anew, and nothing looks back over the end.

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
    TRAINING = {"batch": 16, "lr": 3e-3, "window": "window", "bfloat16": True, "carry": True}

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
        if width % heads:
            raise ChainruleError(f"a width of {width} cannot be shared by {heads} heads: take a multiple")
        if begin is not None and not 0 <= begin < symbols:
            raise ChainruleError(f"begin is {begin}: take a symbol, 0 to {symbols - 1}")
        self.symbols, self.window, self.classes = symbols, window, classes
        self.nothing = symbols if begin is None else begin  # the row that stands for it
        self.embed = nn.Embedding(symbols + (begin is None), width)
        self.positions = nn.Embedding(window, width)
        self.condition = nn.Embedding(classes, width) if classes else None
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout, bias) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.out = None if tied else nn.Linear(width, symbols, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights; what adds to u is smaller, so that u has the same size after any number of layers."""
        adds = SPREAD * (2 * len(self.layers)) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=adds if name.endswith(("answer", "down")) else SPREAD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, folder: str | Path, begin: int | None = None) -> GPT:
        """A GPT-2 from a folder on this machine with config.json and model.safetensors; nothing is fetched.

        Args:
            folder: as `transformers` writes it, or `save_pretrained`.
            begin: the symbol before the first one; by default the token that config.json says texts begin with.

        Raises:
            ChainruleError: what is missing, damaged, or not the architecture of GPT-2. Pickles are never read.
        """
        args, weights = gpt2.read(folder, begin)
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

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        flat = x.flatten(1).long()
        u = self._run(self._blocks(before_each(flat, self.nothing)), context)
        return self._head(joined(u, flat)).reshape(*x.shape, self.symbols)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; some blocks at a time."""
        flat = x.flatten(1).long()
        if not flat.numel():
            return x.double()
        before, symbols = (self._blocks(z) for z in (before_each(flat, self.nothing), flat))
        classes = () if context is None else of_rows(context, len(before))
        found, count = [], max(1, CHUNK // symbols.shape[1])
        for i in range(0, len(symbols), count):
            part = slice(i, i + count)
            u = self._run(before[part], None if context is None else classes[part])
            found.append(pick(self._head(u), symbols[part]))
        return joined(torch.cat(found), flat).reshape(x.shape)

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another, each from the blocks that it lies in."""
        before = before_each(x.flatten(1).long(), self.nothing)
        for first in range(0, before.shape[1], size):
            begin = first - first % self.window
            part = before[:, begin : first + size]
            yield self._head(joined(self._run(self._blocks(part), context), part)[:, first - begin :])

    def rest(self, batch: int) -> Tensor:
        """What is carried from window to window: nothing."""
        return self.embed.weight.new_zeros(batch, 0)

    def loss_from(
        self, state: Tensor, x: Tensor, before: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean −log p of x (B, T) in nats, each row a block, or several; and the state, which stays empty.

        Args:
            before: (B, T) what came before each symbol, −1 where nothing did: there positions begin anew.
            context: (B, T) classes.
        """
        begins = before < 0
        symbols = self._blocks(before.masked_fill(begins, self.nothing))
        classes = None if context is None else self._blocks(context)
        inner = self._blocks(begins) if begins[:, 1:].any() else None
        logits = self._head(joined(self._run(symbols, classes, inner), x))
        return F.cross_entropy(logits.flatten(0, 1).float(), x.flatten().long()), state

    def program(self, p):
        """The same for one position; keys and values of a block are kept."""
        cycle = p.constant_cycle(self.positions.weight)
        u = p.embed(self.embed.weight, columns=-1, outside=self.nothing, onto=cycle)
        if self.condition is not None:
            u = p.add(u, p.one_of_classes(self.condition.weight))
        for layer in self.layers:
            u = layer.program(p, u, self.window)  # type: ignore[operator]
        return [p.dense(norm_program(p, u, self.norm), weight=self._output().T)]

    def _blocks(self, z: Tensor) -> Tensor:
        """(B, T) -> (B · blocks, S): consecutive positions; what the last block of a row lacks is 0."""
        size = max(1, min(self.window, z.shape[1]))
        return F.pad(z, (0, -z.shape[1] % size)).reshape(-1, size)

    def _run(self, before: Tensor, context: Tensor | None, begins: Tensor | None = None) -> Tensor:
        """What is known of each position of blocks: symbols before it (R, S) -> (R, S, D).

        Args:
            context: classes of the items (B,), each of which has R / B blocks, or of the positions (R, S).
            begins: (R, S) where another text begins, if any does within a block.
        """
        place, mask = torch.arange(before.shape[1], device=before.device), None
        if begins is not None:
            place, mask = within_texts(begins)
        u = self.embed(before) + self.positions(place)
        if self.condition is not None and context is not None:
            added = self.condition(of_rows(context, len(before)))
            u = u + (added if context.ndim == 2 else added[:, None])
        u = self.drop(u)
        for layer in self.layers:
            u = layer(u, mask)
        return self.norm(u)

    def _head(self, u: Tensor) -> Tensor:
        """(..., D) -> logits (..., K)."""
        return F.linear(u, self._output())

    def _output(self) -> Tensor:
        """The weights (K, D) of the logits."""
        return self.embed.weight[: self.symbols] if self.out is None else self.out.weight


class Layer(nn.Module):
    """Attention over the positions of a block, then a feed-forward layer: (R, S, D) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ask_norm, self.up_norm = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.ask = nn.Linear(width, 3 * width, bias=bias)  # queries, keys, values
        self.answer = nn.Linear(width, width, bias=bias)
        self.up, self.down = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: (R, 1, S, S) where a position may look; None: at its own and all before."""
        q, k, v = self.ask(self.ask_norm(u)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        u = u + self._dropped(self.answer(seen.transpose(1, 2).flatten(2)))  # (R, heads, S, d) -> (R, S, D)
        hidden = F.gelu(self.up(self.up_norm(u)), approximate="tanh")
        return u + self._dropped(self.down(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def program(self, p, u, window: int):
        n = norm_program(p, u, self.ask_norm)
        biases = [None] * 3 if self.ask.bias is None else self.ask.bias.chunk(3)
        q, k, v = (
            p.dense(n, weight=w.T, bias=b) for w, b in zip(self.ask.weight.chunk(3), biases, strict=True)
        )
        seen = p.attend(q, k, v, self.heads, pattern="block", length=window)
        u = p.add(u, dense_program(p, seen, self.answer))
        hidden = p.pointwise("gelu", dense_program(p, norm_program(p, u, self.up_norm), self.up))
        return p.add(u, dense_program(p, hidden, self.down))


def joined(z: Tensor, like: Tensor) -> Tensor:
    """Blocks (B · blocks, S, ...) of rows `like` (B, T) -> (B, T, ...)."""
    batch, length = like.shape
    return z.reshape(batch, -1, *z.shape[2:])[:, :length] if batch else z.new_zeros(0, length, *z.shape[2:])


def of_rows(context: Tensor, rows: int) -> Tensor:
    """Classes of items (B,) -> of their blocks (R,); those of positions stay as they are."""
    return context.repeat_interleave(rows // max(1, len(context))) if context.ndim == 1 else context


def within_texts(begins: Tensor) -> tuple[Tensor, Tensor]:
    """Places (R, S) counted from where a text begins, and where each may look (R, 1, S, S): at its own text only.

    >>> place, mask = within_texts(torch.tensor([[False, False, True]]))
    >>> place.tolist(), mask.int().tolist()
    ([[0, 1, 0]], [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]])
    """
    count = torch.arange(begins.shape[1], device=begins.device)
    place = count - torch.where(begins, count, 0).cummax(1).values
    text = begins.cumsum(1)
    return place, ((text[:, :, None] == text[:, None]) & (count[:, None] >= count))[:, None]


def norm_program(p, u, layer: nn.LayerNorm):
    """A `LayerNorm` as an operation of a step program."""
    return p.norm(u, layer.weight, torch.zeros_like(layer.weight) if layer.bias is None else layer.bias)


def dense_program(p, x, layer: nn.Linear):
    """A `Linear` as an operation of a step program."""
    return p.dense(x, weight=layer.weight.T, bias=layer.bias)
