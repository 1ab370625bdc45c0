"""Random messages of every API and version, and how to encode and decode them.

The fields come from the schema reader, the bytes from the generated modules: what the two make of a
schema is compared with other libraries in test_wire_oracles.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from logd.wire.error_codes import ErrorCode
from tools.generate_messages.module import APIS
from tools.generate_messages.schema import Api, Field, Message, Struct, Versions, read_api

# Lengths around 127 are where a compact length takes its second byte.
_TEXT = "aé✓𝄞" * 50
_LENGTHS = (0, 1, 2, 3, 9, 60, 126, 127, 128)
_COUNTS = (0, 1, 1, 2, 3)
_INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


@dataclass(frozen=True, slots=True)
class Kind:
    """The requests, or the responses, of one API."""

    api: Api
    message: Message
    module: ModuleType
    name: str

    @property
    def versions(self) -> range:
        return range(self.message.valid.low, self.message.valid.high + 1)

    def encode(self, value: object, version: int) -> bytes:
        encode: Callable[[Any, int], bytes] = getattr(self.module, f"encode_{self.name}")
        return encode(value, version)

    def decode(
        self, data: bytes | bytearray, version: int, position: int = 0, end: int | None = None
    ) -> Any:
        decode = getattr(self.module, f"decode_{self.name}")
        return decode(data, version, position, len(data) if end is None else end)

    def random(self, rng: random.Random, version: int) -> Any:
        """A message whose fields are random where the version has them, else their defaults."""
        return _random_struct(self.module, self.message.struct, rng, version)

    def __str__(self) -> str:
        return f"{self.api.name}-{self.name}"


@cache
def kinds() -> list[Kind]:
    """All requests and responses."""
    found = []
    for name in APIS:
        api = read_api(name)
        module = importlib.import_module(f"logd.wire.messages.{api.module}")
        found.append(Kind(api, api.request, module, "request"))
        found.append(Kind(api, api.response, module, "response"))
    return found


def _random_struct(module: ModuleType, struct: Struct, rng: random.Random, version: int) -> Any:
    only = Versions(version, version)
    values = {
        field.name: _random_field(module, field, rng, version)
        for field in struct.fields
        if only in field.versions and not (field.tag is not None and rng.random() < 0.3)
    }
    return getattr(module, struct.name)(**values)


def _random_field(module: ModuleType, field: Field, rng: random.Random, version: int) -> Any:
    if Versions(version, version) in field.nullable and rng.random() < 0.25:
        return None
    if field.is_array:
        count = rng.choice(_COUNTS) if field.struct else rng.choice((0, 1, 3, 15, 16, 130))
        return [_random_value(module, field, rng, version) for _ in range(count)]
    return _random_value(module, field, rng, version)


def _random_value(module: ModuleType, field: Field, rng: random.Random, version: int) -> Any:
    if field.struct:
        return _random_struct(module, field.struct, rng, version)
    if field.type == "string":
        start = rng.randrange(len(_TEXT) - max(_LENGTHS))
        return _TEXT[start : start + rng.choice(_LENGTHS)]
    if field.type in ("bytes", "records"):
        return rng.randbytes(rng.choice(_LENGTHS))
    if field.type == "uuid":
        return rng.randbytes(16)
    if field.type == "bool":
        return rng.random() < 0.5
    return _random_integer(field, rng)


def _random_integer(field: Field, rng: random.Random) -> int:
    if field.name.endswith("error_code"):
        return int(rng.choice(list(ErrorCode)))
    if "time" in field.name:  # The other libraries make dates and durations of these.
        return rng.randrange(2**31)
    bits = _INTEGER_BITS[field.type]
    edge = 2 ** (bits - 1)
    return rng.choice((0, 1, -1, edge - 1, -edge, rng.randrange(-edge, edge)))
