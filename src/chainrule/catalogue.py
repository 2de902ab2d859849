"""What models there are, told without importing any of them (or PyTorch): `chainrule models` answers at once."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chainrule import zoo
from chainrule.chains import CHAINS
from chainrule.codes import CODES


def systems() -> list[dict[str, Any]]:
    """A row a model: its name, whether it is a chain or a code, its data, its sizes, its step, what it is.

    The step of a chain is a "program" of the step engine, or a "full pass" over the event for every symbol.
    """
    return [row(name, "chain", CHAINS[name]) for name in CHAINS] + [
        row(name, "code", CODES[name]) for name in CODES
    ]


def learned() -> list[dict[str, Any]]:
    """The same of the models of the zoo, which have learned already."""
    return [of_zoo(name, zoo.card(name)) for name in zoo.names()]


def row(name: str, role: str, dotted: str) -> dict[str, Any]:
    """Read one class's documentation and tables from its source text."""
    module, cls = dotted.split(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    about = (ast.get_docstring(node) or "").split("\n\n")[0]
    program = any(isinstance(n, ast.FunctionDef) and n.name == "program" for n in node.body)
    return {
        "model": name,
        "is": role,
        "data": literal(node, "KINDS", ("image", "text", "array")),
        "sizes": list(literal(node, "SIZES", {})),
        "step": "" if role == "code" else "program" if program else "full pass",
        "about": " ".join(about.split()),
        "source": (ast.get_docstring(tree) or "").split("\n")[0],
    }


def of_zoo(name: str, card: dict[str, Any]) -> dict[str, Any]:
    """The row of a model of the zoo: its class's, with what its card tells."""
    minutes, score, count = card["training"]["seconds"] / 60, card["score"], card["score"]["items"]
    each = f" ({score['nats_per_item']:.2f} nats an item)" if count > 1 else ""
    return {
        **row(zoo.named(name), "chain", CHAINS[card["model"]]),
        "sizes": [],
        "about": f"{card['model']}, {minutes:.0f} minutes on {card['data']}: {score['bits_per_dim']:.4f} bits/dim"
        f"{each}, exact, on its whole test split",
        "source": f"{card['command']} ({card['licence']})",
    }


def literal(node: ast.ClassDef, name: str, default: Any) -> Any:
    """The value of a class attribute that is written as a literal."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return ast.literal_eval(statement.value)
    return default
