"""A Kafka message schema as frozen values: messages, structs, fields, version ranges.

Source: the README of Apache Kafka's message generator describes the JSON; its files carry comments.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_OPEN_END = 2**15 - 1


@dataclass(frozen=True, slots=True)
class Versions:
    """A range of versions, both ends included; empty if low > high."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str | None) -> Versions:
        """Return the range in `3+`, `0-12`, `7`, `none` or nothing."""
        if text is None or text == "none":
            return cls(1, 0)
        if text.endswith("+"):
            return cls(int(text[:-1]), _OPEN_END)
        low, _, high = text.partition("-")
        return cls(int(low), int(high or low))

    def __and__(self, other: Versions) -> Versions:
        return Versions(max(self.low, other.low), min(self.high, other.high))

    def __bool__(self) -> bool:
        return self.low <= self.high

    def __contains__(self, other: Versions) -> bool:
        return self.low <= other.low and other.high <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{self.low}+" if self.high == _OPEN_END else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct. `struct` is set if its type, or its elements' type, is a struct."""

    name: str
    type: str
    is_array: bool
    versions: Versions
    nullable: Versions
    tag: int | None
    default: str | None
    struct: Struct | None


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct, or a whole message: the class it becomes and its fields on the wire, in order."""

    name: str
    fields: tuple[Field, ...]

    def walk(self) -> list[Struct]:
        """Return the structs inside, the innermost first, and this one."""
        inner = [s for field in self.fields if field.struct for s in field.struct.walk()]
        return [*inner, self]

    def renamed(self, names: dict[str, str]) -> Struct:
        """Return this struct with other class names, inside too."""
        fields = tuple(
            replace(field, struct=field.struct.renamed(names)) if field.struct else field
            for field in self.fields
        )
        return Struct(names.get(self.name, self.name), fields)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response."""

    api_key: int
    valid: Versions
    flexible: Versions
    struct: Struct


@dataclass(frozen=True, slots=True)
class Api:
    """A request and its response, with class names that are unique among both."""

    name: str
    request: Message
    response: Message

    @property
    def module(self) -> str:
        """The module's name: `list_offsets` for ListOffsets."""
        return snake_case(self.name)


def snake_case(name: str) -> str:
    """Return `timeout_ms` for `TimeoutMs`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def read_api(name: str) -> Api:
    """Read the request and the response of the API `name`, as in `ListOffsets`.

    Where both have a struct of one name, each gets the message's kind in front of it.
    """
    request, response = _read_message(f"{name}Request"), _read_message(f"{name}Response")
    _assert_unique(request.struct)
    _assert_unique(response.struct)
    both = {s.name for s in request.struct.walk()} & {s.name for s in response.struct.walk()}
    in_request = {struct: f"Request{struct}" for struct in both}
    in_response = {struct: f"Response{struct}" for struct in both}
    return Api(
        name,
        replace(request, struct=request.struct.renamed(in_request)),
        replace(response, struct=response.struct.renamed(in_response)),
    )


def _assert_unique(struct: Struct) -> None:
    names = [inner.name for inner in struct.walk()]
    assert len(names) == len(set(names)), names


def _read_message(name: str) -> Message:
    package = importlib.util.find_spec("kafka")
    assert package is not None, "kafka-python is not installed"
    assert package.origin is not None
    path = Path(package.origin).parent / "protocol/schemas/resources" / f"{name}.json"
    text = re.sub(r"^\s*//.*$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    schema: dict[str, Any] = json.loads(text)
    assert schema["name"] == name
    assert "commonStructs" not in schema, "no message of ours has had them so far"
    valid = Versions.parse(schema["validVersions"])
    return Message(
        api_key=schema["apiKey"],
        valid=valid,
        flexible=Versions.parse(schema.get("flexibleVersions")) & valid,
        struct=_read_struct(name, schema["fields"], valid),
    )


def _read_struct(name: str, fields: list[dict[str, Any]], valid: Versions) -> Struct:
    present = [f for f in fields if Versions.parse(f["versions"]) & valid]
    return Struct(name, tuple(_read_field(field, valid) for field in present))


def _read_field(field: dict[str, Any], valid: Versions) -> Field:
    assert "flexibleVersions" not in field, "only the request header has that"
    kind: str = field["type"]
    is_array = kind.startswith("[]")
    kind = kind.removeprefix("[]")
    versions = Versions.parse(field["versions"])
    if "tag" in field:
        assert Versions.parse(field["taggedVersions"]) == versions
    default = field.get("default")
    return Field(
        name=snake_case(field["name"]),
        type=kind,
        is_array=is_array,
        versions=versions,
        nullable=Versions.parse(field.get("nullableVersions")),
        tag=field.get("tag"),
        default=None if default is None else str(default),
        struct=_read_struct(kind, field["fields"], valid) if "fields" in field else None,
    )
