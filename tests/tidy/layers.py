"""Which module lies on which layer, and who may import whom. The order of the table is the law.

A module may import from earlier rows, and from its own row. A package's row holds for all modules
in it. `logd` and `ec` are two towers that only `logd.cold` and the command line join.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.tidy.source import Modules, imported_modules

# The names of a row share a layer and do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    # vocabulary
    ("logd", "ec"),
    ("logd.units", "logd.errors", "ec.errors", "ec.alignment"),
    ("ec.profile",),
    ("ec.chunk_id",),
    ("logd.config", "logd.metrics"),
    # FORMAT
    ("logd.record", "ec.field"),
    ("logd.wire", "ec.matrix"),
    ("ec.kernels",),
    ("ec.codec", "ec.geometry", "ec.reference"),
    ("ec.checksums", "ec.indexes"),
    ("ec.manifest", "ec.segment_coder"),
    ("ec.chunk_file",),
    ("ec.segment",),
    # DECISION
    ("logd.policy", "ec.breaker", "ec.margin", "ec.plan"),
    ("ec.placement",),
    # STORAGE
    ("logd.storage", "ec.file_system"),
    ("ec.chunk_reader", "ec.node_identity"),
    ("ec.node_dir", "ec.ordered_file", "ec.reassemble"),
    ("ec.chunk_write",),
    ("ec.chunk_dir",),
    # DRIVER
    ("logd.clock", "logd.process_limits", "ec.alarms", "ec.offload"),
    ("logd.events", "ec.store"),
    ("logd.offload", "logd.cleaner_process", "ec.node"),
    ("ec.encode", "ec.read"),
    ("ec.cross_check", "ec.prove", "ec.repair"),
    ("logd.cold",),
    ("logd.broker",),
    ("logd.net",),
    ("logd.server",),
    # Not part of the server; they may use all of it.
    ("bench",),
    ("cli",),
    ("tools",),
    ("logd.__main__",),
    ("tests",),
)
RANKS = {name: rank for rank, row in enumerate(LAYERS) for name in row}
FIRST_DRIVER = RANKS["logd.clock"]

# The only places where the two towers may meet.
MAY_IMPORT_EC = ("logd.cold", "cli", "bench", "tools", "tests")


def layer_of(name: str) -> str | None:
    """Return the row's name that a module belongs to: the longest one that it begins with."""
    if name in ("logd", "ec"):
        return name
    while name and name not in ("logd", "ec"):
        if name in RANKS:
            return name
        name = name.rpartition(".")[0]
    return None


def is_below_drivers(name: str) -> bool:
    """Return whether a module is vocabulary, FORMAT, DECISION or STORAGE."""
    layer = layer_of(name)
    return layer is not None and RANKS[layer] < FIRST_DRIVER


def is_within(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a module is one of these, or inside one of them."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def check_layers(modules: Modules) -> Iterator[str]:
    """Imports point down, and every module has a layer."""
    for module in modules.values():
        layer = layer_of(module.name)
        if layer is None:
            yield module.at(1, f"{module.name} has no layer in tests/tidy/layers.py")
            continue
        for name, line in imported_modules(modules, module):
            other = layer_of(name)
            if other is None or other == layer:
                continue
            if RANKS[other] >= RANKS[layer]:
                yield module.at(line, f"{layer} imports {name}, which is not below it")
            elif other.startswith("ec") and not is_within(module.name, ("ec", *MAY_IMPORT_EC)):
                yield module.at(line, "only logd.cold and the command line import ec")
            elif other.startswith("logd") and layer.startswith("ec"):
                yield module.at(line, "ec never imports logd")


def check_cycles(modules: Modules) -> Iterator[str]:
    """No import cycles; imports inside functions and for types only count."""
    edges = {
        module.name: sorted({name for name, _ in imported_modules(modules, module)})
        for module in modules.values()
    }
    for group in _cyclic_groups(edges):
        yield modules[group[0]].at(1, "import cycle: " + " -> ".join([*group, group[0]]))


def _cyclic_groups(edges: dict[str, list[str]]) -> list[list[str]]:
    """Return the groups of modules that all reach each other (Tarjan 1972, no recursion)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []
    for start, first_edges in edges.items():
        if start in order:
            continue
        work = [(start, iter(first_edges))]
        order[start] = low[start] = len(order)
        stack.append(start)
        while work:
            name, rest = work[-1]
            for other in rest:
                if other not in order:
                    order[other] = low[other] = len(order)
                    stack.append(other)
                    work.append((other, iter(edges.get(other, ()))))
                    break
                if other in stack:
                    low[name] = min(low[name], order[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == order[name]:
                    at = stack.index(name)
                    group, stack[at:] = stack[at:], []
                    if len(group) > 1:
                        groups.append(group)
    return groups


def check_used(modules: Modules) -> Iterator[str]:
    """Every module of the server is imported by another; a dead file is deleted."""
    imported = {
        name
        for module in modules.values()
        if not module.name.startswith("tests")
        for name, _ in imported_modules(modules, module)
    }
    for module in modules.values():
        last = module.name.rpartition(".")[2]
        if module.is_package or last == "__main__" or module.name in STARTED_FROM_OUTSIDE:
            continue
        if is_within(module.name, ("tests", "tools", *GENERATED)) or module.name in imported:
            continue
        yield module.at(1, f"{module.name} is imported by nobody")


# Run by name, not imported.
STARTED_FROM_OUTSIDE = ("cli.main", "bench.child")
# Made by tools/generate_messages, one module per API whether it is served yet or not.
GENERATED = ("logd.wire.messages",)
