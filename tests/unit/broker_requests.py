"""Sends a request through the handlers' table as it would come off the wire, in any version."""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

from logd.broker.apis import APIS
from logd.wire.messages import api_versions
from tests.unit.broker_fakes import Server

_FRAME_START = struct.Struct(">ii")


async def ask(server: Server, module: ModuleType, request: Any, version: int) -> Any:
    """Encode the request, decode it, have it answered, decode the answer: all in `version`."""
    api = APIS[module.API_KEY]
    assert api.serves(version)
    body = module.encode_request(request, version)
    decoded = module.decode_request(body, version, 0, len(body))
    frame = await api.answer(server.context(api.key, version), decoded, correlation_id=77)
    length, correlation_id = _FRAME_START.unpack_from(frame)
    assert (length, correlation_id) == (len(frame) - 4, 77)
    flexible = module.FIRST_FLEXIBLE_VERSION
    has_tags = flexible is not None and version >= flexible and module is not api_versions
    return module.decode_response(frame, version, 9 if has_tags else 8, len(frame))


def versions_of(module: ModuleType) -> range:
    """Return every version that is served."""
    api = APIS[module.API_KEY]
    return range(api.served_from, api.high + 1)
