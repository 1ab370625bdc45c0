"""What is public is used: code that nothing runs is read, kept right and trusted for nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.layers import GENERATED, is_within
from tests.tidy.source import Modules

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# Public, and used by tests alone: each with the reason why it is there.
FOR_TESTS_ALONE = {
    "logd.offload.InlineOffload": "stands in for threads in simulations",
    "ec.offload.InlineOffload": "stands in for threads in simulations",
    "logd.policy.cold.states.format_transitions": "a page of the documentation is held to it",
    "logd.policy.cold.margins.MarginCounts.is_well": "what every repair must come to",
    "logd.record.batch.set_place": "what the append path does in line, for one batch",
    "logd.wire.error_codes.has_own_code": "every error is asked for it",
    "logd.wire.primitives.read_compact_nullable_bytes": "for the generator",
    "logd.wire.primitives.read_nullable_bytes": "for the generator",
    "logd.wire.request_header.request_header": "the client's side of the protocol",
    "logd.wire.request_header.response_header": "the whole header; the server writes it in line",
    "logd.wire.request_header.decode_response_header": "the client's side of the protocol",
    "ec.chunk_id.ChunkId.sibling": "for who uses the library",
    "ec.geometry.parity_bytes_max": "the bound that the geometry is held to",
    "ec.placement.default_profile": "for who uses the library; logd's own must agree with it",
    "ec.placement.place_again": "for who uses the library; logd keeps count of promises besides",
    "logd.net.other_tasks.OtherTasks.task_scheduled": "Trio calls it",
    "cli.node_serve.ByteCountType.convert": "click calls it",
    "cli.options.AddressType.convert": "click calls it",
    "cli.options.KeyValueType.convert": "click calls it",
    "cli.options.GroupIdType.convert": "click calls it",
}


def check_names_are_used(modules: Modules) -> Iterator[str]:
    """What is public is used by something that is no test: the server carries nothing along.

    A name counts as used wherever it is written in code outside of tests, whatever it means there;
    so this finds what nobody can be using, and not all that nobody uses.
    """
    written = {
        name
        for module in modules.values()
        if not is_within(module.name, ("tests",))
        for node in module.nodes
        for name in _names_in(node)
    }
    defined = set()
    for module in modules.values():
        if not is_within(module.name, ("logd", "ec", "cli")) or is_within(module.name, GENERATED):
            continue
        for name, node in _public_definitions(module.tree):
            place = f"{module.name}.{name}"
            defined.add(place)
            is_command = is_within(module.name, ("cli",)) and node.decorator_list
            is_used = is_command or node.name in written
            if not is_used and place not in FOR_TESTS_ALONE:
                yield module.at(node.lineno, f"{name} is used by nobody but tests, if at all")
            if is_used and place in FOR_TESTS_ALONE:
                yield module.at(node.lineno, f"{name} is used, and needs no exception")
    if "logd.server.program" in modules:  # The real tree, not a planted one.
        for name in sorted(FOR_TESTS_ALONE.keys() - defined):
            yield f"tests/tidy/names_used.py: {name} is an exception, and is not there"


def _names_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def _public_definitions(
    parent: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Definition]]:
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node, f"{prefix}{node.name}.")
