"""The admin port: small JSON calls over HTTP, with the standard library's client."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlencode

from cli.errors import Refused, Unreachable
from cli.options import Address

TIMEOUT_S: Final = 10.0
# `segments` of a topic with ten thousand segments is a few megabytes.
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024


def get(address: Address, path: str, **query: str | int | None) -> Any:
    """Return the JSON document at `path`; query values that are None are left out.

    Raises:
        Unreachable: nothing answers there, or not as our admin port does.
        Refused: the server says no, with its reason.
    """
    return _request(address, "GET", _with_query(path, query), None, TIMEOUT_S)


def post(address: Address, path: str, document: dict[str, Any], **query: str | int | None) -> Any:
    """Return the JSON answer to a posted JSON document; what is None is left out.

    Waits as long as it takes: the server may be copying gigabytes.

    Raises:
        Unreachable, Refused: as `get`.
    """
    given = {name: value for name, value in document.items() if value is not None}
    return _request(address, "POST", _with_query(path, query), json.dumps(given).encode(), None)


def delete(address: Address, path: str) -> Any:
    """Return the JSON answer to a DELETE.

    Raises:
        Unreachable, Refused: as `get`.
    """
    return _request(address, "DELETE", path, None, TIMEOUT_S)


def _with_query(path: str, query: dict[str, str | int | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _request(
    address: Address, method: str, path: str, body: bytes | None, timeout_s: float | None
) -> Any:
    from http.client import HTTPConnection, HTTPException

    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection = HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read(ANSWER_BYTES_MAX)
    except HTTPException as error:  # Somebody is there: RemoteDisconnected is an OSError, too.
        raise Unreachable(
            f"what listens at {address} does not answer as logd's admin port does "
            f"({str(error) or type(error).__name__}); has it stopped, or is it another port? "
            "Name another with --admin"
        ) from error
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(
            f"no server at {address} (admin port): {reason}; "
            "start one with `logd serve`, or name another with --admin"
        ) from error
    finally:
        connection.close()
    return _document(address, answer.status, data)


def _document(address: Address, status: int, data: bytes) -> Any:
    try:
        document = json.loads(data) if data else None
    except ValueError:
        document = None
    if status // 100 == 2 and document is not None:
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        raise Refused(document["error"])
    raise Unreachable(
        f"what answers at {address} is not logd's admin port (HTTP status {status}); "
        "name another with --admin"
    )
