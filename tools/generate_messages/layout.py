"""What is on the wire in a range of versions, and the lines of code that say so.

A *span* is a range of versions in one encoding: legacy or flexible. Each gets a function of its
own, so lengths and tags need no branch; fields that not every version of the span has get an
`if version`. Neighbouring fields of fixed size make one `struct` call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from tools.generate_messages.schema import Field, Message, Struct, Versions, snake_case

LINE_COLUMNS_MAX = 100

# Type in the schema: code in a struct format, name in a constant, annotation in Python, default.
FIXED = {
    "bool": ("?", "bool", "bool", "False"),
    "int8": ("b", "i8", "int", "0"),
    "int16": ("h", "i16", "int", "0"),
    "int32": ("i", "i32", "int", "0"),
    "int64": ("q", "i64", "int", "0"),
    "uuid": ("16s", "uuid", "bytes", "NO_UUID"),
}


def is_fixed(field: Field) -> bool:
    """Return whether the field always has the same size."""
    return not field.is_array and field.type in FIXED


@dataclass(frozen=True, slots=True)
class Span:
    """The versions of a message in one of the two encodings."""

    versions: Versions
    flexible: bool

    @property
    def encoding(self) -> str:
        """The word in the names of the span's functions."""
        return "flexible" if self.flexible else "legacy"

    @property
    def compact(self) -> str:
        """What the names of this encoding's primitives have in them."""
        return "compact_" if self.flexible else ""

    def within(self, field: Field) -> Span:
        """Return the span for what is inside a field."""
        return Span(self.versions & field.versions, self.flexible)

    def condition(self, versions: Versions) -> str | None:
        """Return the test for `versions` in generated code, None if all of the span pass it."""
        if self.versions in versions:
            return None
        at_least = versions.low > self.versions.low
        at_most = versions.high < self.versions.high
        if at_least and at_most:
            if versions.low == versions.high:
                return f"version == {versions.low}"
            return f"{versions.low} <= version <= {versions.high}"
        return f"version >= {versions.low}" if at_least else f"version <= {versions.high}"


def spans(message: Message) -> list[Span]:
    """Return the one or two spans of a message."""
    if not message.flexible:
        return [Span(message.valid, flexible=False)]
    flexible = Span(message.flexible, flexible=True)
    if message.flexible.low == message.valid.low:
        return [flexible]
    legacy = Versions(message.valid.low, message.flexible.low - 1)
    return [Span(legacy, flexible=False), flexible]


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring fields that the same versions have.

    `runs` has the fixed fields among them together, the others alone.
    """

    versions: Versions
    runs: tuple[tuple[Field, ...], ...]

    @property
    def fields(self) -> list[Field]:
        """All fields of the group, in order."""
        return [field for run in self.runs for field in run]


@dataclass(frozen=True, slots=True)
class Choice:
    """One group if the condition holds, the other, if there is one, where it does not."""

    condition: str | None
    group: Group
    otherwise: Group | None


def choices(struct: Struct, span: Span) -> list[Choice]:
    """Return the untagged fields that some version of the span has, with their conditions."""
    fields = [f for f in struct.fields if f.versions & span.versions and f.tag is None]
    found: list[Choice] = []
    for versions, together in groupby(fields, key=lambda f: f.versions & span.versions):
        group = Group(versions, tuple(_runs(list(together))))
        last = found[-1] if found else None
        if last and not last.otherwise and _complete(last.group.versions, versions, span.versions):
            found[-1] = Choice(last.condition, last.group, group)
        else:
            found.append(Choice(span.condition(versions), group, None))
    return found


def _complete(one: Versions, other: Versions, whole: Versions) -> bool:
    """Return whether a version of the whole is in exactly one of the two, the older being first."""
    return (one.low, one.high + 1, other.high) == (whole.low, other.low, whole.high)


def _runs(fields: Sequence[Field]) -> Iterator[tuple[Field, ...]]:
    for fixed, together in groupby(fields, key=is_fixed):
        if fixed:
            yield tuple(together)
        else:
            yield from ((field,) for field in together)


def tagged(struct: Struct, span: Span) -> list[Field]:
    """Return the tagged fields that some version of the span has, in the order of their tags."""
    if not span.flexible:
        return []
    fields = [f for f in struct.fields if f.versions & span.versions and f.tag is not None]
    return sorted(fields, key=lambda f: f.tag or 0)


def absent(struct: Struct, span: Span) -> list[Field]:
    """Return the fields that no version of the span has."""
    return [f for f in struct.fields if not f.versions & span.versions]


class Writer:
    """Lines of code with indentation, and the names that they use."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: set[str] = set()
        self.structs: dict[str, str] = {}
        self.locals: dict[str, str] = {}
        self._depth = 0

    def line(self, text: str = "") -> None:
        """Add a line."""
        assert self.fits(text), text
        self.lines.append("    " * self._depth + text if text else "")

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Indent what is added inside by one level."""
        self._depth += 1
        yield
        self._depth -= 1

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Add a line that ends in a colon; what is added inside is its block."""
        self.line(head)
        with self.indented():
            yield

    @contextmanager
    def block_if(self, condition: str | None) -> Iterator[None]:
        """Add an `if` for the block, or nothing where there is no condition."""
        if condition is None:
            yield
            return
        with self.block(f"if {condition}:"):
            yield

    def listed(
        self, opening: str, items: Sequence[str], closing: str, *, may_share: bool = True
    ) -> None:
        """Add `opening`, items with commas and `closing`; items may share a line of their own."""
        joined = ", ".join(items)
        if self.fits(opening + joined + closing):
            self.line(opening + joined + closing)
            return
        self.line(opening.rstrip())
        with self.indented():
            for text in (
                [joined] if may_share and self.fits(joined) else [f"{item}," for item in items]
            ):
                self.line(text)
        self.line(closing.lstrip())

    def nested_call(self, outer: str, inner: str, items: Sequence[str]) -> None:
        """Add `outer(inner(items))`."""
        joined = f"{outer}({inner}({', '.join(items)}))"
        if self.fits(joined):
            self.line(joined)
            return
        self.line(f"{outer}(")
        with self.indented():
            self.listed(f"{inner}(", items, ")")
        self.line(")")

    def assign_call(self, target: str, function: str, arguments: str) -> None:
        """Add `target = function(arguments)`."""
        if self.fits(f"{target} = {function}("):
            self.listed(f"{target} = {function}(", [arguments], ")")
        else:
            self.assign(target, f"{function}({arguments})")

    def assign(self, target: str, value: str, note: str = "") -> None:
        """Add an assignment with a note, in parentheses where it is too long for a line."""
        if self.fits(f"{target} = {value}{note}"):
            self.line(f"{target} = {value}{note}")
            return
        self.line(f"{target} = ({note}")
        with self.indented():
            self.line(value)
        self.line(")")

    def fits(self, text: str) -> bool:
        """Return whether the text fits a line at the current depth."""
        return len(text) + 4 * self._depth <= LINE_COLUMNS_MAX

    def use(self, name: str) -> str:
        """Return a name of `wire.primitives`, and remember to import it."""
        self.names.add(name)
        return name

    def element(self, field: Field, parent: str) -> str:
        """Return the local variable for an element of an array, or for a struct in a field.

        `topic` for `topics`; where that has another type, `group_topic` with the parent's variable.
        """
        if field.struct is None:
            return "element"
        kind = field.struct.name
        short = field.name.removesuffix("s") if field.is_array else field.name
        if field.is_array and short == field.name:
            short = snake_case(kind)
        return self._local(kind, short, f"{parent}_{short}", f"{short}_of_{parent}")

    def list_of(self, field: Field, kind: str, parent: str) -> tuple[str, str]:
        """Return the local variable for an array of type `kind`, and its annotation if first."""
        known = set(self.locals)
        name = self._local(kind, field.name, f"{parent}_{field.name}", f"{field.name}_of_{parent}")
        return name, "" if name in known else f": {kind}"

    def first_annotation(self, name: str, kind: str) -> str:
        """Return the annotation of a local variable, nothing if the function had it already."""
        is_new = name not in self.locals
        assert self.locals.setdefault(name, kind) == kind
        return f": {kind}" if is_new else ""

    def _local(self, kind: str, *names: str) -> str:
        """Return the first of the names that is free, or already has this type."""
        return next(name for name in names if self.locals.setdefault(name, kind) == kind)

    def packer(self, run: Sequence[Field], *, tail: bool = False) -> str:
        """Return the constant that packs the run; `tail` adds a zero byte, no tagged fields."""
        name, code = _run_name(run)
        if tail:
            name, code = f"{name}_no_tags", f"{code}x"
        self.structs[f"_pack_{name}"] = f'Struct(">{code}").pack'
        return f"_pack_{name}"

    def unpacker(self, run: Sequence[Field]) -> str:
        """Return the constant that unpacks the run."""
        name, code = _run_name(run)
        self.structs[f"_unpack_{name}"] = f'Struct(">{code}").unpack_from'
        return f"_unpack_{name}"


def _run_name(run: Sequence[Field]) -> tuple[str, str]:
    return "_".join(FIXED[f.type][1] for f in run), "".join(FIXED[f.type][0] for f in run)
