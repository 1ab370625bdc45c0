"""Writes the classes: slots, and a constructor with the schema's defaults."""

from __future__ import annotations

from tools.generate_messages.layout import FIXED, Writer
from tools.generate_messages.schema import Field, Message, Struct


def annotation(field: Field) -> str:
    """Return the type of the field's attribute."""
    kind = _element_annotation(field)
    if field.is_array:
        kind = f"list[{kind}]"
    return f"{kind} | None" if field.nullable else kind


def _element_annotation(field: Field) -> str:
    if field.struct:
        return field.struct.name
    if field.type in FIXED:
        return FIXED[field.type][2]
    return {"string": "str", "bytes": "bytes", "records": "Buffer"}[field.type]


def default(field: Field) -> str:
    """Return an expression of the field's default, a new object where it is mutable."""
    if field.default == "null":
        assert field.nullable
        return "None"
    if field.is_array:
        return "[]"
    if field.struct:
        return f"{field.struct.name}()"
    if field.type in FIXED:
        return _fixed_default(field)
    if field.type == "string":
        return repr(field.default or "").replace("'", '"')
    return "None" if field.nullable else 'b""'


def _fixed_default(field: Field) -> str:
    if field.default is None or field.type == "uuid":
        return FIXED[field.type][3]
    if field.type == "bool":
        return field.default.title()
    return str(int(field.default, 0))


def write_classes(out: Writer, message: Message) -> None:
    """Write the classes of a message, the inner ones first."""
    for struct in message.struct.walk():
        _write_class(out, struct, message)


def _write_class(out: Writer, struct: Struct, message: Message) -> None:
    out.line()
    out.line()
    with out.block(f"class {struct.name}({out.use('Message')}):"):
        if struct is message.struct:
            out.line(f'"""The message; versions {message.valid.low} to {message.valid.high}."""')
        else:
            out.line(f'"""A part of {message.struct.name}."""')
        out.line()
        slots = sorted(f'"{field.name}"' for field in struct.fields)
        end = ",)" if len(slots) == 1 else ")"
        out.listed("__slots__ = (", slots, end, may_share=False)
        if struct.fields:
            out.line()
            _write_constructor(out, struct, message)


def _write_constructor(out: Writer, struct: Struct, message: Message) -> None:
    parameters = [_parameter(out, field) for field in struct.fields]
    out.listed("def __init__(", ["self", "*", *parameters], ") -> None:")
    with out.indented():
        for field in struct.fields:
            seen = field.versions & message.valid
            note = "" if message.valid in field.versions else f"  # versions {seen}"
            if note and seen.high == message.valid.high:
                note = f"  # version {seen.low} and later"
            out.assign(f"self.{field.name}{_declared(field)}", _value(field), note)


def _parameter(out: Writer, field: Field) -> str:
    value = default(field)
    kind = annotation(field)
    if "Buffer" in kind:
        out.use("Buffer")
    if value == "NO_UUID":
        out.use(value)
    if value == "[]":
        return f"{field.name}: {kind} = {out.use('EMPTY')}"
    if field.struct and value != "None":
        assert not field.nullable
        return f"{field.name}: {kind} | None = None"
    return f"{field.name}: {kind} = {value}"


def _declared(field: Field) -> str:
    value = default(field)
    return f": {annotation(field)}" if value == "[]" else ""


def _value(field: Field) -> str:
    value = default(field)
    if value == "[]":
        return f"[] if {field.name} is EMPTY else {field.name}"
    if field.struct and value != "None":
        return f"{value} if {field.name} is None else {field.name}"
    return field.name
