"""Writes the decoders: a function for each span of versions, loops nested as the structs are.

The buffer's position is a local variable. An instance is made without its constructor and every
field is set, those that the version does not have to their defaults.
"""

from __future__ import annotations

from struct import calcsize

from tools.generate_messages.classes import annotation, default
from tools.generate_messages.layout import (
    FIXED,
    Group,
    Span,
    Writer,
    absent,
    choices,
    is_fixed,
    spans,
    tagged,
)
from tools.generate_messages.schema import Field, Message, Struct


def write_decoders(out: Writer, message: Message, *, kind: str) -> None:
    """Write `decode_request` or `decode_response`, and the functions behind it."""
    name = message.struct.name
    out.use("Buffer")
    out.line()
    out.line()
    parameters = ["buffer: Buffer", "version: int", "position: int", "end: int"]
    out.listed(f"def decode_{kind}(", parameters, f") -> {name}:")
    with out.indented():
        out.line(f'"""Return the {kind} that fills the buffer from `position` to `end` exactly.')
        out.line()
        out.line("Raises:")
        out.line("    MalformedRequestError: it does not, or breaks a rule of the encoding.")
        out.line('"""')
        out.line(f"assert {message.valid.low} <= version <= {message.valid.high}")
        parts = spans(message)
        for span in parts:
            call = f"_decode_{kind}_{span.encoding}, buffer, version, position, end"
            last = span is parts[-1]
            with out.block_if(None if last else f"version < {message.flexible.low}"):
                out.line(f"return {out.use('decode_body')}({call})")
    for span in parts:
        _write_function(out, message.struct, span, kind)


def _write_function(out: Writer, struct: Struct, span: Span, kind: str) -> None:
    out.line()
    out.line()
    parameters = ["buffer: Buffer", "version: int", "position: int", "end: int"]
    head = f"def _decode_{kind}_{span.encoding}("
    out.listed(head, parameters, f") -> tuple[{struct.name}, int]:")
    with out.indented():
        out.locals.clear()
        if _has_arrays(struct, span):
            out.line(f"budget = {out.use('ELEMENT_COUNT_MAX')}")
        _write_struct(out, struct, "message", span)
        out.line("return message, position")


def _has_arrays(struct: Struct, span: Span) -> bool:
    present = [field for field in struct.fields if field.versions & span.versions]
    # No single struct has an array inside so far; a new one would leave `budget` undefined.
    return any(field.is_array for field in present)


def _write_struct(out: Writer, struct: Struct, name: str, span: Span) -> None:
    """Write code that makes the struct `name` from what is at the position."""
    out.line(f"{name} = {out.use('new')}({struct.name})")
    for choice in choices(struct, span):
        with out.block_if(choice.condition):
            _write_group(out, choice.group, name, span)
            _write_defaults(out, choice.otherwise, name)
        if choice.condition is not None:
            with out.block("else:"):
                _write_defaults(out, choice.group, name)
                _write_group(out, choice.otherwise, name, span)
    for field in [*absent(struct, span), *tagged(struct, span)]:
        _write_default(out, field, name)
    if span.flexible:
        _write_tags(out, tagged(struct, span), name, span)


def _write_default(out: Writer, field: Field, name: str) -> None:
    value = default(field)
    if value == "NO_UUID":
        out.use(value)
    out.line(f"{name}.{field.name} = {value}")


def _write_defaults(out: Writer, group: Group | None, name: str) -> None:
    for field in group.fields if group else ():
        _write_default(out, field, name)


def _write_group(out: Writer, group: Group | None, name: str, span: Span) -> None:
    for run in group.runs if group else ():
        if is_fixed(run[0]):
            _write_run(out, run, name)
        else:
            _write_field(out, run[0], name, span)


def _write_run(out: Writer, run: tuple[Field, ...], name: str) -> None:
    targets = [f"{name}.{field.name}" for field in run]
    unpack = out.unpacker(run)
    joined = f"({targets[0]},)" if len(run) == 1 else ", ".join(targets)
    if out.fits(f"{joined} = ("):
        out.assign_call(joined, unpack, "buffer, position")
    else:
        out.listed("(", targets, f") = {unpack}(buffer, position)")
    size = calcsize(">" + "".join(FIXED[field.type][0] for field in run))
    out.line(f"position += {size}")


def _write_field(out: Writer, field: Field, name: str, span: Span) -> None:
    """Write code that reads a field of variable size; null depends on the version at times."""
    span = span.within(field)
    null = field.nullable & span.versions
    condition = span.condition(null) if null else None
    if condition is None:
        _write_variable(out, field, name, span, nullable=bool(null))
        return
    with out.block(f"if {condition}:"):
        _write_variable(out, field, name, span, nullable=True)
    with out.block("else:"):
        _write_variable(out, field, name, span, nullable=False)


def _write_variable(out: Writer, field: Field, name: str, span: Span, *, nullable: bool) -> None:
    if field.is_array:
        _write_array(out, field, name, span, nullable=nullable)
    elif field.struct:
        assert not nullable, "no nullable struct has been needed so far"
        local = out.element(field, name)
        _write_struct(out, field.struct, local, span)
        out.line(f"{name}.{field.name} = {local}")
    else:
        reader = _reader(out, field.type, span, nullable=nullable)
        _write_read(out, f"{name}.{field.name}", reader)


def _write_read(out: Writer, target: str, reader: str) -> None:
    out.assign_call(f"{target}, position", reader, "buffer, position, end")


def _reader(out: Writer, kind: str, span: Span, *, nullable: bool) -> str:
    if kind == "records":
        assert nullable
        return out.use(f"read_{span.compact}records")
    null = "nullable_" if nullable else ""
    return out.use(f"read_{span.compact}{null}{kind}")


def _write_array(out: Writer, field: Field, name: str, span: Span, *, nullable: bool) -> None:
    reader = _reader(out, "count", span, nullable=nullable)
    out.assign_call("count, position", reader, "buffer, position, end, budget")
    if not nullable:
        _write_elements(out, field, name, span)
        return
    with out.block("if count < 0:"):
        out.line(f"{name}.{field.name} = None")
    with out.block("else:"):
        _write_elements(out, field, name, span)


def _write_elements(out: Writer, field: Field, name: str, span: Span) -> None:
    out.line("budget -= count")
    if field.type in FIXED:
        assert field.type == "int32", "no other numbers in arrays have been needed so far"
        target = f"{name}.{field.name}, position"
        out.assign_call(target, out.use("read_int32s"), "buffer, position, end, count")
        return
    kind = annotation(field).removesuffix(" | None")
    elements, note = out.list_of(field, kind, name)
    element = out.element(field, name)
    out.line(f"{elements}{note} = []")
    with out.block("for _ in range(count):"):
        if field.struct:
            _write_struct(out, field.struct, element, span)
        else:
            reader = _reader(out, field.type, span, nullable=False)
            _write_read(out, element, reader)
        out.line(f"{elements}.append({element})")
    out.line(f"{name}.{field.name} = {elements}")


def _write_tags(out: Writer, fields: list[Field], name: str, span: Span) -> None:
    if not fields:
        skip = f"{out.use('skip_tags')}(buffer, position, end)"
        out.assign("position", f"{skip} if buffer[position] else position + 1")
        return
    with out.block("if buffer[position] == 0:"):
        out.line("position += 1")
    with out.block("else:"):
        out.line(f"count, position = {out.use('read_tag_count')}(buffer, position)")
        out.line("seen = 0")
        with out.block("for _ in range(count):"):
            _write_tag(out, fields, name, span)


def _write_tag(out: Writer, fields: list[Field], name: str, span: Span) -> None:
    out.line(f"tag, position, stop = {out.use('read_tag')}(buffer, position, end)")
    keyword = "if"
    for field in fields:
        condition = span.condition(field.versions)
        also = f" and {condition}" if condition else ""
        with out.block(f"{keyword} tag == {field.tag}{also}:"):
            out.line(f"seen = {out.use('mark_tag')}(seen, {field.tag})")
            if is_fixed(field):
                _write_run(out, (field,), name)
            else:
                _write_field(out, field, name, span)
            out.line(f"{out.use('check_tag_end')}(position, stop)")
        keyword = "elif"
    with out.block("else:"):
        out.line("position = stop")
