"""Writes the encoders: a function for each span of versions that appends parts and joins them.

The encoder writes what the object holds; a field that the version does not have is left out. It
does not put null where the object has an empty list: Java clients fail on null arrays.
"""

from __future__ import annotations

from tools.generate_messages.classes import default
from tools.generate_messages.layout import (
    Group,
    Span,
    Writer,
    choices,
    is_fixed,
    spans,
    tagged,
)
from tools.generate_messages.schema import Field, Message, Struct


def write_encoders(out: Writer, message: Message, *, kind: str) -> None:
    """Write `encode_request` or `encode_response`, and the functions behind it."""
    name = message.struct.name
    out.line()
    out.line()
    with out.block(f"def encode_{kind}(message: {name}, version: int) -> bytes:"):
        out.line(
            f'"""Return the {kind} in the given version; fields it does not have are left out."""'
        )
        out.line(f"assert {message.valid.low} <= version <= {message.valid.high}")
        parts = spans(message)
        for span in parts:
            last = span is parts[-1]
            with out.block_if(None if last else f"version < {message.flexible.low}"):
                out.line(f"return _encode_{kind}_{span.encoding}(message, version)")
    for span in parts:
        out.line()
        out.line()
        with out.block(
            f"def _encode_{kind}_{span.encoding}(message: {name}, version: int) -> bytes:"
        ):
            out.locals.clear()
            if span.flexible or choices(message.struct, span):
                out.line(f"parts: list[{out.use('Buffer')}] = []")
                out.line("append = parts.append")
                _write_struct(out, message.struct, "message", span, "append")
                out.line('return b"".join(parts)')
            else:
                out.line('return b""')


def _write_struct(out: Writer, struct: Struct, name: str, span: Span, append: str) -> None:
    """Write code that appends the struct `name`."""
    tags = tagged(struct, span)
    parts = choices(struct, span)
    # "No tagged fields" is a zero byte, which the last run of fixed fields takes along.
    ends_fixed = parts and parts[-1].condition is None and is_fixed(parts[-1].group.runs[-1][0])
    tail = bool(span.flexible and not tags and ends_fixed)
    for choice in parts:
        with out.block_if(choice.condition):
            last = tail and choice is parts[-1]
            _write_group(out, choice.group, name, span, append, tail=last)
        if choice.otherwise:
            with out.block("else:"):
                _write_group(out, choice.otherwise, name, span, append, tail=False)
    if tags:
        _write_tags(out, tags, name, span, append)
    elif span.flexible and not tail:
        out.line(f'{append}(b"\\x00")')


def _write_group(
    out: Writer, group: Group, name: str, span: Span, append: str, *, tail: bool
) -> None:
    for run in group.runs:
        if is_fixed(run[0]):
            pack = out.packer(run, tail=tail and run is group.runs[-1])
            values = [f"{name}.{field.name}" for field in run]
            out.nested_call(append, pack, values)
        else:
            _write_field(out, run[0], f"{name}.{run[0].name}", span, append)


def _write_field(out: Writer, field: Field, value: str, span: Span, append: str) -> None:
    """Write code that appends a field of variable size; null depends on the version at times."""
    span = span.within(field)
    null = field.nullable & span.versions
    condition = span.condition(null) if null else None
    if condition is not None:
        with out.block(f"if {condition}:"):
            _write_variable(out, field, value, span, append, nullable=True)
        with out.block("else:"):
            out.line(f"assert {value} is not None")
            _write_variable(out, field, value, span, append, nullable=False)
        return
    if field.nullable and not null:
        out.line(f"assert {value} is not None")
    _write_variable(out, field, value, span, append, nullable=bool(null))


def _write_variable(
    out: Writer, field: Field, value: str, span: Span, append: str, *, nullable: bool
) -> None:
    null = "nullable_" if nullable else ""
    parent = value.rpartition(".")[0]
    if field.is_array and field.type == "int32":
        assert not nullable
        out.nested_call(append, out.use(f"{span.compact}int32s"), [value])
    elif field.is_array:
        out.nested_call(append, out.use(f"{span.compact}{null}size"), [value])
        element = out.element(field, parent)
        with out.block(f"for {element} in {value}{' or ()' if nullable else ''}:"):
            if field.struct:
                _write_struct(out, field.struct, element, span, append)
            else:
                assert field.type == "string"
                out.nested_call(append, out.use(f"{span.compact}string"), [element])
    elif field.struct:
        assert not nullable
        # _write_tags gave the struct its local variable; only tagged fields are single structs.
        _write_struct(out, field.struct, out.element(field, parent), span, append)
    elif field.type == "string":
        out.nested_call(append, out.use(f"{span.compact}{null}string"), [value])
    else:
        out.nested_call(append, out.use(f"{span.compact}{null}size"), [value])
        with out.block_if(f"{value} is not None" if nullable else None):
            out.line(f"{append}({value})")


def _write_tags(out: Writer, fields: list[Field], name: str, span: Span, append: str) -> None:
    out.line(f"tags{out.first_annotation('tags', 'list[bytes]')} = []")
    for field in fields:
        value = f"{name}.{field.name}"
        if field.struct and not field.is_array:
            local = out.element(field, name)
            out.line(f"{local} = {value}")
            _write_struct_test(out, field.struct, local)
            test = "is_set"
        else:
            test = _differs(field, value)
        condition = span.condition(field.versions)
        with out.block(f"if {condition} and {test}:" if condition else f"if {test}:"):
            _write_tagged(out, field, value, span)
    out.line(f'{append}({out.use("tag_section")}(tags) if tags else b"\\x00")')


def _write_tagged(out: Writer, field: Field, value: str, span: Span) -> None:
    make = f"tags.append({out.use('tagged_field')}({field.tag}, "
    if is_fixed(field):
        out.line(f"{make}[{out.packer((field,))}({value})]))")
        return
    # The variables `tags` and `inner` are in use: tagged fields inside would need others.
    assert field.struct is None or not tagged(field.struct, span)
    out.line(f"inner{out.first_annotation('inner', 'list[Buffer]')} = []")
    _write_field(out, field, value, span, "inner.append")
    out.line(f"{make}inner))")


def _write_struct_test(out: Writer, struct: Struct, name: str) -> None:
    """Write code that tells whether a struct differs from its default, and so is written."""
    assert all(is_fixed(field) for field in struct.fields)
    assert len(struct.fields) > 1
    values = ", ".join(f"{name}.{field.name}" for field in struct.fields)
    out.line(f"is_set = ({values}) != ({', '.join(default(field) for field in struct.fields)})")


def _differs(field: Field, value: str) -> str:
    """Return the test for any other field that differs from its default."""
    if field.is_array:
        assert not field.nullable
        return value
    unset = default(field)
    if unset == "None":
        return f"{value} is not None"
    if unset in ("True", "False"):
        return value if unset == "False" else f"not {value}"
    return f"{value} != {unset}"
