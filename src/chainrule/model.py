"""The two contracts: `Chain` gives every symbol a distribution given those before it; `Code` maps and back."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn

from chainrule.errors import ChainruleError

CARRIED = "carried state: all symbols before it"  # the context rule of a chain that sums up what it has seen


class Chain(nn.Module, ABC):
    """p(x) = ∏ p(xᵢ | x₍<ᵢ₎) over events of integer symbols (abstract; concrete chains are final).

    A concrete chain gives `symbols`, `event` and `logits`; everything else follows from those, and may be
    replaced where the system has something better. State belongs to the caller, never to the module.

    Attributes:
        symbols: K, the number of symbols.
        event: the shape of an event, or None when any shape of the right rank will do.
        classes: the number of classes it is conditioned on; 0 when it is unconditional.
        source: the number of symbols of the texts it is conditioned on; 0: none. Then `context` is these texts, (B, S)
            with -1 beyond the end of a shorter one, and so may x be: `loss` leaves these places out, `log_probs` is 0.
        SIZES: named sets of constructor arguments: "tiny" for tests, "laptop", "paper".
        KINDS: the kinds of data it can be fitted to.
        PASSAGE: of a chain that learns in one pass over its data, in order (`learn`): symbols a step; 0: of no other.
        ADAPTS: whether it goes on learning within an event: a text is better not cut into pieces.
        SCHEDULED: whether `loss` and `loss_from` also take `done`, the share of a training that is over, 0 to 1.
        AXES, channels: how its step program, if it states one, sees an event: see `chainrule.engine`.

    A chain may state `program(p)`: the same conditionals, one symbol at a time, as calls of the builder `p`
    (`chainrule.engine.Builder`) that give the logits of each channel. Then it is sampled and coded fast, with
    the same bits on every machine. A `program` that gives None says that the chain, as it is configured, has none.

    A chain with a source has two programs. `told(context)` (B, L, F) is what `encoder(p)` is given of a source, at each
    of L places; its logits are the encoding, `features` numbers a place, computed once. The pixels of `program(p)` are
    given these, and zeros beyond the last place.

    A recurrent chain may state `rest(batch)`, a tensor that is the state before the first symbol, and
    `loss_from(state, x, before, context) -> (loss, state)`. With "carry" in its TRAINING it then learns from streams
    that read on from step to step (`chainrule.data.streams`): truncated back-propagation through time. The "window" in
    TRAINING is the symbols of a step, or the name of the constructor argument that says how many.

    A chain with auxiliary losses gives vectors as losses: the first number is the mean −log p, and training minimises
    the sum. What changes with the time of a training is given `done`, see SCHEDULED.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    KINDS: ClassVar[tuple[str, ...]] = ()
    PASSAGE: ClassVar[int] = 0
    ADAPTS: ClassVar[bool] = False
    SCHEDULED: ClassVar[bool] = False
    AXES: ClassVar[str] = "line"
    symbols: int
    event: tuple[int, ...] | None = None
    classes: int = 0
    source: int = 0
    frames: int = 0
    features: int = 0
    channels: int = 1
    args: dict[str, Any]  # the constructor's arguments, defaults included: they rebuild the chain

    def __new__(cls, *args, **kwargs):
        chain = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(chain, *args, **kwargs)
        bound.apply_defaults()
        given = {k: v for k, v in bound.arguments.items() if k != "self"}
        object.__setattr__(chain, "args", given)  # nn.Module is not initialised yet
        return chain

    @classmethod
    def configure(cls, data: Any) -> dict[str, Any]:
        """Constructor arguments that a `Dataset` implies: levels, channels, classes."""
        return {"symbols": data.levels}

    @abstractmethod
    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) integers -> (B, *event, K); the logits at position i depend on symbols before i only."""

    def order(self, event: tuple[int, ...]) -> np.ndarray:
        """The rank of every position of a flattened event, (N,). Equal ranks are independent given lower ones."""
        return np.arange(math.prod(event))

    def context_rule(self) -> str:
        """On what a symbol of an event is conditioned when the event is scored, in words for a report.

        Figures of texts differ with it, so every score states it. Here an event is given to `logits` whole; a chain
        that carries a state through an event, or sees blocks or a window of it only, says so in its place.
        """
        return "whole event: the symbols before it"

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Exact log p(x) in nats, (B,) float64."""
        return self.log_probs(x, context).flatten(1).sum(1)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(xᵢ | x₍<ᵢ₎) of every symbol in nats, (B, *event) float64."""
        return pick(self.logits(x, context), x) if x.numel() else x.double()

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = 2048) -> Iterator[Tensor]:
        """`logits` (B, size, K) of one stretch of the flattened event after another; the last may be shorter.

        A chain that can go on from where it was holds no more than a stretch at a time.
        """
        yield from self.logits(x, context).reshape(len(x), -1, self.symbols).split(size, 1)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What training minimises: the mean negative log-likelihood a symbol in nats, a scalar.

        Where there are auxiliary losses: a vector, of which training minimises the sum, and whose first number it is.
        """
        logits = self.logits(x, context)
        return nn.functional.cross_entropy(logits.reshape(-1, self.symbols), x.reshape(-1).long())

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None) -> Any:
        """The state before the first symbol of `batch` events."""
        return FullPass(torch.zeros(batch, *event, dtype=torch.long), context, visit_order(self, event))

    def step(self, state: Any, symbol: Tensor | None = None) -> tuple[Tensor, Any]:
        """Take the symbol (B,) just chosen (None at the start); give the logits (B, K) of the next position.

        This general form recomputes `logits` of the whole event for every symbol: right for every chain,
        and as slow as that sounds. A recurrent chain states its own.
        """
        if symbol is not None:
            state.x.view(len(symbol), len(state.positions))[:, state.positions[state.i]] = symbol.long()
            state.i += 1
        full = self.logits(state.x, state.context)
        return full.reshape(len(full), len(state.positions), self.symbols)[:, state.positions[state.i]], state


@dataclass
class FullPass:
    """The state of the general `step`: the event so far, zeros where nothing is known yet."""

    x: Tensor  # (B, *event)
    context: Tensor | None
    positions: np.ndarray  # (N,) flat positions in the order of the chain
    i: int = 0


def visit_order(chain: Chain, event: tuple[int, ...]) -> np.ndarray:
    """Flat positions (N,) in the order in which `chain` predicts them."""
    return np.argsort(chain.order(event), kind="stable")


def pick(logits: Tensor, x: Tensor) -> Tensor:
    """log softmax of `logits` (..., K) at the symbols `x` (...), in float64."""
    logits = logits.double()
    return logits.gather(-1, x.long().unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def check_sizes(dropout: float = 0.0, **sizes: int) -> None:
    """One clear line for a size below 1, or a dropout that is no share."""
    for name, value in sizes.items():
        if value < 1:
            raise ChainruleError(f"{name} is {value}: take 1 or more")
    if not 0 <= dropout < 1:
        raise ChainruleError(f"dropout is {dropout}: take a share from 0 up to, not including, 1")


def at_least_zero(**values: float) -> None:
    """One clear line for a rate or a cost that is negative or no number."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ChainruleError(f"{name} is {value}: take 0 or more")


def check_part(name: str, value: Any, *kinds: Any) -> None:
    """One clear line for an argument that is none of the parts that a code can be made of, or not a right one."""
    if not isinstance(value, kinds):
        raise ChainruleError(f"{name} is {value!r}: take one of {', '.join(kind.__name__ for kind in kinds)}")
    getattr(value, "check", lambda: None)()


class Code(TransformerMixin, BaseEstimator):
    """A map from events to something smaller or sparser and back, with scikit-learn's contract (abstract).

    A concrete code states `fit`, `transform` and, where it can, `inverse_transform`. Two-dimensional `X`
    always works; images (n, H, W, C) are flattened and their shape is remembered as `event_`, so that
    `inverse_transform` gives images back. What a code learns are attributes whose names end in "_": arrays,
    numbers, tuples of those, and fitted codes.

    An argument is JSON, or a frozen dataclass of `PARTS`, or another code; the default of the last two is None.
    What `fit` makes of the argument `code` is the attribute `code_`. A code that learns in steps states

        learner(X, plan=None) -> `chainrule.train.Learner`     what will learn; without a plan as long as it likes
        learned(learner) -> self                               takes over what the learner has reached

    and is then trained like a chain: with a budget, checkpoints and exact resume. `fit` runs the learner to its
    end; any other code states its own.

    Attributes:
        SIZES: named sets of constructor arguments (JSON): "tiny" for tests, "laptop", "paper".
        PARTS: the kinds of objects that arguments may be: {"fista": FISTA, ...}, frozen dataclasses of JSON. In
            a file one is {"kind": "fista", ...fields}. One with a method `check` is checked when it is read.
        TYPES: the precisions that `rows` and `codes` keep; anything else becomes the first.
        SPARSE: whether `inverse_transform` takes scipy.sparse codes too: then `codes` gives CSR.
        SPATIAL: whether it matters which numbers of an event are neighbours. Then two-dimensional X (n, d) are
            images of 1 × d pixels to `fit`, not the images that they may once have been.
        RAGGED: whether X may also be a sequence of events of several shapes.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    PARTS: ClassVar[dict[str, type]] = {}
    TYPES: ClassVar[tuple] = (np.float64,)
    SPARSE: ClassVar[bool] = False
    SPATIAL: ClassVar[bool] = False
    RAGGED: ClassVar[bool] = False
    event_: tuple[int, ...]

    @classmethod
    def configure(cls, data: Any) -> dict[str, Any]:
        """Constructor arguments that a `Dataset` implies."""
        if data.event is None:
            raise ChainruleError(
                f"{cls.__name__} needs events of one shape, and these differ: resize or crop them first"
            )
        return {}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [np.dtype(kept).name for kept in self.TYPES]
        return tags

    def fit(self, X, y=None):
        """Learn from X (n, *event): the learner of a code that learns in steps, to its end."""
        learner = self.learner(X)
        for _ in learner:
            pass
        return self.learned(learner)

    def rows(self, X, *, reset: bool = False, fewest: int = 2) -> np.ndarray:
        """X (n, *event) -> (n, d) in one of `TYPES`, checked.

        `fit` passes reset=True, which remembers `event_`, and the `fewest` events that it can learn from.
        """
        if not reset:
            check_is_fitted(self)
        event = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
        if event and not reset and event != self.event_:
            raise ChainruleError(
                f"the events have shape {event}, the code was fitted on {self.event_}: resize them"
            )
        flat = np.asarray(X).reshape(len(X), math.prod(event)) if event else X
        with told_of("X", flat):
            rows = validate_data(
                self, flat, dtype=list(self.TYPES), reset=reset, ensure_min_samples=fewest if reset else 1
            )
        if reset:
            self.event_ = event or rows.shape[1:]
        return rows

    def events(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, d) -> (n, *event), the shape that `fit` was given."""
        return rows.reshape(len(rows), *self.event_)

    def codes(self, Z, width: int) -> Any:
        """Codes (n, width) in one of `TYPES`, checked: an array, or CSR where the class is SPARSE and Z is sparse."""
        shape = np.shape(Z)
        if len(shape) > 2:
            raise ChainruleError(
                f"the codes have the shape {shape}, the model's (n, {width}): made by another model?"
            )
        with told_of("the codes", Z):
            codes = check_array(Z, dtype=list(self.TYPES), accept_sparse="csr" if self.SPARSE else False)
        if codes.shape[1] != width:
            found = codes.shape[1]
            raise ChainruleError(
                f"the codes have {found} numbers, the model's {width}: made by another model?"
            )
        return codes

    def arrays(self) -> dict[str, np.ndarray]:
        """What `fit` learned, as named arrays: all that a store must keep beside the constructor's arguments.

        A number becomes an array without dimensions, a tuple `t_` the arrays `t_.0`, `t_.1`, ..., a fitted code
        `code_` its own arrays as `code_/mean_`, ... The names of a data frame's columns are not kept.
        """
        learned = {k: v for k, v in vars(self).items() if k.endswith("_") and k != "feature_names_in_"}
        flat: dict[str, np.ndarray] = {}
        for name, value in learned.items():
            if isinstance(value, Code):
                flat |= {f"{name}/{inner}": array for inner, array in value.arrays().items()}
                continue
            items = value if isinstance(value, tuple) else ()
            parts = {f"{name}.{i}": item for i, item in enumerate(items)} or {name: value}
            flat |= {part: np.array(item, order="C") for part, item in parts.items()}
        wrong = [name for name, array in flat.items() if array.dtype.kind not in "biuf"]
        if wrong:
            raise TypeError(
                f"{', '.join(wrong)}: only arrays, numbers, tuples of them and codes can be stored"
            )
        return flat

    def set_arrays(self, arrays: dict[str, np.ndarray]):
        """Become the fitted code that gave these `arrays`; gives self. The inverse of `arrays`."""
        tuples: dict[str, tuple] = {}
        codes: dict[str, dict[str, np.ndarray]] = {}
        for name in sorted(arrays, key=lambda name: (len(name), name)):  # t_.2 before t_.10
            outer, slash, inner = name.partition("/")
            if slash:
                codes.setdefault(outer, {})[inner] = arrays[name]
                continue
            if not re.fullmatch(r"[a-z]\w*_(\.\d+)?", name, re.ASCII):
                raise ChainruleError(f"a code learns nothing called {name!r}: is the model file damaged?")
            array = np.array(arrays[name])
            value = array if array.ndim else array.item()
            stem, dot, _ = name.partition(".")
            if dot:
                tuples[stem] = (*tuples.get(stem, ()), value)
            else:
                setattr(self, name, value)
        for stem, values in tuples.items():
            setattr(self, stem, values)
        for name, learned in codes.items():
            setattr(self, name, self.unfitted(name).set_arrays(learned))
        return self

    def unfitted(self, name: str) -> Code:
        """The code that `fit` fits to make the attribute `name`, such as "code_": a copy of the argument `code`.

        A class that takes something else when the argument is None says so for that name, and uses this in `fit`.
        """
        given = getattr(self, name.removesuffix("_"), None)
        if not name.endswith("_") or not isinstance(given, Code):
            raise ChainruleError(f"a code learns nothing called {name!r}: is the model file damaged?")
        return clone(given)


@contextmanager
def told_of(name: str, X) -> Iterator[None]:
    """What scikit-learn says about numbers that it refuses, as one line with the way out."""
    try:
        yield
    except ValueError as error:
        raise ChainruleError(refusal(name, X) or str(error).split("\n")[0]) from error


def refusal(name: str, X) -> str | None:
    """What is wrong with the numbers X, in words that scikit-learn's checks look for; None: nothing of these.

    >>> refusal("X", [[1.0, float("nan")]])
    '1 of 2 numbers of X is NaN or infinite, the first in row 0: leave such rows out'
    """
    numbers = np.asarray(X.data if issparse(X) else X)
    kind = numbers.dtype.kind
    if kind in "US":
        return f"text ({numbers.dtype}) in {name}: a code needs numbers"
    if kind == "c":
        return f"Complex data not supported ({numbers.dtype} in {name}): take real parts or magnitudes"
    if np.ndim(X) < 2:
        return (
            f"the shape of {name} is {np.shape(X)}, and rows are needed. Reshape your data: x.reshape(1, -1) is "
            "one row, x.reshape(-1, 1) are rows of one number"
        )
    bad = ~np.isfinite(numbers) if kind == "f" else np.zeros(0, bool)
    if not bad.any():
        return None
    where = "" if issparse(X) else f", the first in row {int(bad.any(1).argmax())}"
    are = "is" if bad.sum() == 1 else "are"
    return (
        f"{bad.sum():,} of {bad.size:,} numbers of {name} {are} NaN or infinite{where}: leave such rows out"
    )
