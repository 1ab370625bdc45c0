"""The header in front of every request, and of every response.

    request, every version      api key int16, api version int16, correlation id int32
    request, version 1 and 2    client id, a string with a 16-bit length, or null
    request, version 2          tagged fields
    response                    correlation id int32
    response, version 1         tagged fields

The message's version decides: flexible ones have the version 2 and 1, others 1 and 0. Two things do
not follow from that: the client id keeps its 16-bit length in version 2, and the response to
ApiVersions always has version 0, because the client does not know yet what the server speaks.

Source: KIP-482; KIP-511 for ApiVersions. (Version 0 of the request header was ControlledShutdown's
alone, a request that no longer exists.)
"""

from __future__ import annotations

import struct
from typing import Final

from logd.errors import MalformedRequestError
from logd.wire.messages import FIRST_FLEXIBLE_VERSIONS
from logd.wire.messages.api_versions import API_KEY as API_VERSIONS
from logd.wire.primitives import Buffer, nullable_string, read_nullable_string, skip_tags

_START: Final = struct.Struct(">hhi")
_CORRELATION_ID: Final = struct.Struct(">i")
_NO_TAGS: Final = b"\x00"


def is_flexible(api_key: int, version: int) -> bool:
    """Return whether a request's body and header, and the response's body, are flexible.

    Requests without a module in `wire.messages` are not known here; they count as legacy.
    """
    first = FIRST_FLEXIBLE_VERSIONS.get(api_key)
    return first is not None and version >= first


def has_flexible_response_header(api_key: int, version: int) -> bool:
    """Return whether the response's header has tagged fields."""
    return api_key != API_VERSIONS and is_flexible(api_key, version)


def decode_request_header(
    buffer: Buffer, position: int, end: int, api_key: int, version: int
) -> tuple[int, str | None, int]:
    """Return correlation id, client id, and the position where the body begins.

    Args:
        position: where the frame's content begins, its api key.
        api_key: what stands there, which the caller has looked at already.
        version: likewise. A version that is not served must not change the header.

    Raises:
        MalformedRequestError: the header does not fit its frame.
    """
    try:
        correlation_id = _START.unpack_from(buffer, position)[2]
        client_id, position = read_nullable_string(buffer, position + _START.size, end)
        if is_flexible(api_key, version):
            position = skip_tags(buffer, position, end)
    except UnicodeDecodeError as error:
        raise MalformedRequestError(f"the client id is not UTF-8: {error.reason}") from None
    except (struct.error, IndexError):
        raise MalformedRequestError("the frame ends inside the request's header") from None
    if position > end:
        raise MalformedRequestError("the frame ends inside the request's header")
    return correlation_id, client_id, position


def request_header(api_key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """Return a request's header, as a client sends it."""
    tags = _NO_TAGS if is_flexible(api_key, version) else b""
    return _START.pack(api_key, version, correlation_id) + nullable_string(client_id) + tags


def response_header(correlation_id: int, flexible: bool) -> bytes:
    """Return a response's header; `flexible` as `has_flexible_response_header` says."""
    return _CORRELATION_ID.pack(correlation_id) + (_NO_TAGS if flexible else b"")


def decode_response_header(
    buffer: Buffer, position: int, end: int, api_key: int, version: int
) -> tuple[int, int]:
    """Return the correlation id and where the body begins, as a client reads them.

    Raises:
        MalformedRequestError: the header does not fit its frame.
    """
    try:
        (correlation_id,) = _CORRELATION_ID.unpack_from(buffer, position)
        position += _CORRELATION_ID.size
        if has_flexible_response_header(api_key, version):
            position = skip_tags(buffer, position, end)
    except (struct.error, IndexError):
        raise MalformedRequestError("the frame ends inside the response's header") from None
    if position > end:
        raise MalformedRequestError("the frame ends inside the response's header")
    return correlation_id, position
