"""Sends a request through the handlers' table as it would come off the wire, in any version."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

from logd.broker.apis import APIS, Api
from logd.wire.messages import api_versions
from tests.unit.broker_fakes import Server

_FRAME_START = struct.Struct(">ii")


async def ask(server: Server, module: ModuleType, request: Any, version: int) -> Any:
    """Encode the request, decode it, have it answered, decode the answer: all in `version`."""
    api = APIS[module.API_KEY]
    assert api.serves(version)
    if api.begin is not None:
        begun = begin(server, module, request, version)
        assert begun.response is not None, "it has not answered yet"
        return begun.response
    body = module.encode_request(request, version)
    decoded = module.decode_request(body, version, 0, len(body))
    frame = await api.answer(server.context(api.key, version), decoded, correlation_id=77)
    return _decode_response(module, frame, version)


class Begun:
    """What a handler is given that answers by a call; a connection with this one request.

    Attributes:
        response: None until it is answered.
    """

    def __init__(self, api: Api, version: int) -> None:
        self._api = api
        self.version = version
        self.on_abandon: Callable[[], None] | None = None
        self.response: Any = None

    def answer(self, response: Any) -> None:
        assert self.response is None, "a request is answered once"
        frame = self._api.frame(response, self.version, 77)
        self.response = _decode_response(self._api.module, frame, self.version)

    def hang_up(self) -> None:
        """The client goes away before it has its answer."""
        assert self.response is None
        if self.on_abandon is not None:
            self.on_abandon()


def begin(server: Server, module: ModuleType, request: Any, version: int) -> Begun:
    """Begin a request of the kind that answers by a call."""
    api = APIS[module.API_KEY]
    assert api.begin is not None
    assert api.serves(version)
    body = module.encode_request(request, version)
    decoded = module.decode_request(body, version, 0, len(body))
    begun = Begun(api, version)
    api.begin(server.context(api.key, version), decoded, version, begun)
    return begun


def _decode_response(module: ModuleType, frame: bytes, version: int) -> Any:
    length, correlation_id = _FRAME_START.unpack_from(frame)
    assert (length, correlation_id) == (len(frame) - 4, 77)
    flexible = module.FIRST_FLEXIBLE_VERSION
    has_tags = flexible is not None and version >= flexible and module is not api_versions
    return module.decode_response(frame, version, 9 if has_tags else 8, len(frame))


def versions_of(module: ModuleType) -> range:
    """Return every version that is served."""
    api = APIS[module.API_KEY]
    return range(api.served_from, api.high + 1)
