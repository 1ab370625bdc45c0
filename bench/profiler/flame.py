"""A flame graph as SVG, from stacks and how often each was seen.

Each frame is a bar as wide as its share of all samples, above its caller; frames of the same name
over the same caller are one bar, and callees stand in the order of their names (Gregg 2011). The
name, its samples and its share are shown under the pointer; bars too narrow for a name have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Final
from zlib import crc32

WIDTH: Final = 1200
ROW: Final = 18
TOP: Final = 46
# Narrower bars are left out: nobody could see them.
WIDTH_MIN: Final = 0.3
LETTER: Final = 6.6
_STYLE: Final = (
    "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1c2024;pointer-events:none}"
    ".title{font:600 16px system-ui,sans-serif}.sub{font:12px system-ui,sans-serif;fill:#667079}"
    "rect{stroke:#fff;stroke-width:.5}rect:hover{stroke:#1c2024}"
)
# Colours by where the code is: ours, the event loop's, everything else.
_HUES: Final = (("logd/", 205), ("ec/", 165), ("trio/", 275), ("", 32))


@dataclass(slots=True)
class Node:
    """A frame, how many samples passed through it, and what it called."""

    name: str
    samples: int = 0
    callees: dict[str, Node] = field(default_factory=dict)


def build(stacks: Iterable[tuple[tuple[str, ...], int]]) -> Node:
    """Return the tree of all stacks, which are given with the outermost frame first."""
    root = Node("all")
    for frames, count in stacks:
        node = root
        node.samples += count
        for name in frames:
            node = node.callees.setdefault(name, Node(name))
            node.samples += count
    return root


def depth_of(node: Node) -> int:
    """Return how many frames the deepest stack has, the root included."""
    return 1 + max((depth_of(callee) for callee in node.callees.values()), default=0)


def flame_graph(stacks: Iterable[tuple[tuple[str, ...], int]], *, title: str, sub: str) -> str:
    """Return the graph as a document of its own."""
    root = build(stacks)
    height = TOP + ROW * depth_of(root) + 10
    bars = "\n".join(_bars(root, 0.0, WIDTH, height - 10 - ROW, max(1, root.samples)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fbfbf9"/>'
        f'<text class="title" x="10" y="22">{escape(title)}</text>'
        f'<text class="sub" x="10" y="38">{escape(sub)}</text>\n{bars}\n</svg>\n'
    )


def _bars(node: Node, x: float, width: float, y: int, total: int) -> Iterator[str]:
    if width < WIDTH_MIN:
        return
    said = f"{node.name}: {node.samples:,} samples, {node.samples / total:.1%}"
    place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}"'
    bar = f'<rect {place} rx="2" fill="{_colour(node.name)}"/>'
    yield f"<g><title>{escape(said)}</title>{bar}{_label(node.name, x, y, width)}</g>"
    for name in sorted(node.callees):
        callee = node.callees[name]
        share = width * callee.samples / node.samples
        yield from _bars(callee, x, share, y - ROW, total)
        x += share


def _label(name: str, x: float, y: int, width: float) -> str:
    letters = int((width - 6) / LETTER)
    if letters < 3:
        return ""
    shown = name if len(name) <= letters else name[: letters - 1] + "…"
    return f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(shown)}</text>'


def _colour(name: str) -> str:
    hue = next(value for mark, value in _HUES if f"({mark}" in name or not mark)
    # The same name has the same shade in every graph.
    shade = crc32(name.encode()) % 14
    return f"hsl({hue} 62% {66 + shade}%)"
