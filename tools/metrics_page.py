"""Writes docs/metrics.md from the calls that register metrics: `python -m tools.metrics_page`.

The source is read, not run, because parts of a server register theirs when they begin. A call that
registers has a name and a text, both literals or names of literals in the same file; that no name
of a metric is missed, `metrics` sees to. A test compares the page with what this module makes of
the source, so it cannot fall behind.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"
REGISTRY = ROOT / "logd" / "metrics.py"

KINDS = ("counter", "gauge", "histogram")

_NAME = re.compile(r"logd_[a-z0-9_]+[a-z0-9]")

_HEAD = """\
# Metrics

Made from the source by `python -m tools.metrics_page`; edit that, not this.

`GET /metrics` on the admin port answers in Prometheus' text format. Counters count from the start
of the server, and end in `_total`; a histogram `x` is told as `x_bucket`, `x_sum` and `x_count`.
Most of what tells of coded segments is there from the first storage node on.

"""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of metrics."""

    name: str
    kind: str
    about: str


def metrics() -> dict[str, Metric]:
    """Return all metrics of the server, by name.

    Raises:
        ValueError: one is registered in two ways, or named and registered in none that is known.
    """
    found: dict[str, Metric] = {}
    named: set[str] = set()
    for path in sorted((ROOT / "logd").rglob("*.py")):
        if path == REGISTRY:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        literals = _literals(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and _NAME.fullmatch(str(node.value)):
                named.add(str(node.value))
            metric = _registered(node, literals)
            if metric is not None and found.setdefault(metric.name, metric) != metric:
                raise ValueError(f"{path}: {metric.name} is registered in two ways")
    if missing := named - found.keys():
        raise ValueError(f"metrics without a text: {sorted(missing)}")
    return found


def render() -> str:
    """Return the page."""
    lines = ["| name | kind | what it tells |", "|---|---|---|"]
    for name, metric in sorted(metrics().items()):
        lines.append(f"| `{name}` | {metric.kind} | {metric.about} |")
    return _HEAD + "\n".join(lines) + "\n"


def _registered(node: ast.AST, literals: dict[str, str]) -> Metric | None:
    if not isinstance(node, ast.Call):
        return None
    texts = [_text(argument, literals) for argument in node.args[:3]]
    if len(texts) < 2 or texts[0] is None or texts[1] is None or not _NAME.fullmatch(texts[0]):
        return None
    called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    # Several series at once (`Registry.family`) are gauges, unless it says so.
    third = texts[2] if len(texts) > 2 and texts[2] in KINDS else "gauge"
    return Metric(texts[0], called if called in KINDS else third, texts[1])


def _literals(tree: ast.Module) -> dict[str, str]:
    """Return the names that stand for a string in a file: `name = "…"`, `a, b = "…", "…"`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for name, value in pairs:
            if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                found[name.id] = str(value.value)
    return found


def _text(node: ast.expr, literals: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return literals.get(node.id) if isinstance(node, ast.Name) else None


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
