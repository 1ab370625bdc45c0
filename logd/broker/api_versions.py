"""ApiVersions: which requests this server understands. The table comes from the handlers' table.

No features are listed: `transaction.version` would make clients use transactions of the second
kind, which do not exist here.

Source: Kafka protocol, ApiVersions 0-4; KIP-511.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from logd.wire.error_codes import ErrorCode
from logd.wire.messages import api_versions as messages
from logd.wire.messages.api_versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse

_SOFTWARE: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")
_SOFTWARE_CHARACTERS_MAX: Final = 200
_FIRST_WITH_SOFTWARE: Final = 3

Range = tuple[int, int, int]
"""API key, lowest version, highest version."""


def answer_api_versions(
    request: ApiVersionsRequest, version: int, ranges: Iterable[Range]
) -> ApiVersionsResponse:
    """Return the answer to a request of a version that is understood."""
    if version >= _FIRST_WITH_SOFTWARE and not (
        _is_software(request.client_software_name) and _is_software(request.client_software_version)
    ):
        return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
    return ApiVersionsResponse(api_keys=[_as_entry(one) for one in ranges])


def unsupported_version_body(own_range: Range) -> bytes:
    """Return the body that answers any other version: version 0, so that every client can read it,
    with this one API's range, so that it can ask again."""
    response = ApiVersionsResponse(
        error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[_as_entry(own_range)]
    )
    return messages.encode_response(response, 0)


def _as_entry(one: Range) -> ApiVersion:
    key, low, high = one
    return ApiVersion(api_key=key, min_version=low, max_version=high)


def _is_software(text: str) -> bool:
    return len(text) <= _SOFTWARE_CHARACTERS_MAX and _SOFTWARE.fullmatch(text) is not None
