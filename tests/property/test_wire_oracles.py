"""Two other libraries read what we write as we meant it, and write the same bytes.

kio and kafka-python each have a code generator of their own. Every API and version, both
directions, random values.
"""

from __future__ import annotations

import datetime as dt
import enum
import importlib
import io
import pkgutil
import random
import uuid
import warnings
from functools import cache
from typing import Any

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from logd.wire.primitives import Message
from tests.property.wire_samples import Kind, kinds
from tools.generate_messages.schema import Struct, Versions

SAMPLES = 3
EVERY_KIND = pytest.mark.parametrize("kind", kinds(), ids=str)


@EVERY_KIND
def test_kio_agrees(kind: Kind, rng: random.Random) -> None:
    """kio decodes our bytes to our values and encodes them to our bytes."""
    load = load_request_schema if kind.name == "request" else load_response_schema
    for version in kind.versions:
        schema = load(kind.message.api_key, version)
        read, write = entity_reader(schema), entity_writer(schema)
        for _ in range(SAMPLES):
            ours = kind.random(rng, version)
            data = kind.encode(ours, version)
            theirs, size = read(data, 0)
            assert size == len(data)
            compare(kind.message.struct, ours, theirs, version)
            out = io.BytesIO()
            write(out, theirs)
            assert out.getvalue() == data
            assert kind.decode(data, version) == ours


@EVERY_KIND
def test_kafka_python_agrees(kind: Kind, rng: random.Random) -> None:
    """kafka-python decodes our bytes to our values and encodes them to our bytes."""
    library = kafka_python_classes()[kind.message.struct.name]
    for version in kind.versions:
        for _ in range(SAMPLES):
            ours = kind.random(rng, version)
            if str(kind) == "ApiVersions-response":
                ours.error_code = 0  # With an error it reads the answer as version 0, rightly.
            data = kind.encode(ours, version)
            theirs = library.decode(data, version=version)
            compare(kind.message.struct, ours, theirs, version)
            theirs._header, theirs._version = None, version  # Not set by its decoder.
            assert bytes(theirs.encode(version=version)) == data


@cache
def kafka_python_classes() -> dict[str, Any]:
    """The library's message classes by name; all of its modules are imported to find them."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        import kafka.protocol
        from kafka.protocol.api_message import ApiMessage

        for module in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
            if ".old" not in module.name and "generate" not in module.name:
                importlib.import_module(module.name)
    return {found.__name__: found for found in ApiMessage.__subclasses__()}


def compare(struct: Struct, ours: Message, theirs: Any, version: int) -> None:
    """Assert that every field that the version has holds the same value in both."""
    for field in struct.fields:
        if Versions(version, version) not in field.versions:
            continue
        value = getattr(ours, field.name)
        other = attribute(theirs, field.name)
        where = f"{struct.name}.{field.name} in version {version}"
        if field.is_array and value is not None:
            assert len(value) == len(other), where
            pairs = list(zip(value, other, strict=True))
        else:
            pairs = [(value, other)]
        for one, another in pairs:
            if field.struct is None or one is None:
                assert plain(another, one) == one, where
            elif another is None or another == {}:  # How kafka-python has an absent tagged struct.
                assert one == type(one)(), where
            else:
                compare(field.struct, one, another, version)


def attribute(theirs: Any, name: str) -> Any:
    """Return a library's value for a field of ours."""
    if name.endswith("authorized_operations") and not hasattr(theirs, name):
        name = "authorized_operations"
    # kio's durations have no unit in their names.
    return getattr(theirs, name if hasattr(theirs, name) else name.removesuffix("_ms"))


def plain(value: Any, like: object) -> object:
    """Return a library's value as our modules have it."""
    if isinstance(value, uuid.UUID):
        return value.bytes
    if value is None and isinstance(like, bytes):
        return bytes(16)
    if isinstance(value, dt.timedelta):
        return value // dt.timedelta(milliseconds=1)
    if isinstance(value, dt.datetime):
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return (value - epoch) // dt.timedelta(milliseconds=1)
    if isinstance(like, int) and (value is None or isinstance(value, set)):
        # kafka-python has the numbers of the bits that are set, and None for "not asked for".
        bits = {31} if value is None else value
        return int.from_bytes(sum(1 << bit for bit in bits).to_bytes(4), signed=True)
    return value.value if isinstance(value, enum.Enum) else value
