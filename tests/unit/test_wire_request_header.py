"""Headers: the right version for each request, and nothing read beyond the frame."""

from __future__ import annotations

import io

import pytest
from kio.index import KioIndexError, load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from logd.errors import MalformedRequestError
from logd.wire.messages import FIRST_FLEXIBLE_VERSIONS
from logd.wire.primitives import tag_section, tagged_field
from logd.wire.request_header import (
    decode_request_header,
    decode_response_header,
    has_flexible_response_header,
    is_flexible,
    request_header,
    response_header,
)

PRODUCE, METADATA, API_VERSIONS, OFFSET_DELETE = 0, 3, 18, 47


@pytest.mark.parametrize("client_id", ["client", "", "né", None])
@pytest.mark.parametrize(("key", "version"), [(PRODUCE, 8), (PRODUCE, 9), (API_VERSIONS, 3)])
def test_request_headers_round_trip(key: int, version: int, client_id: str | None) -> None:
    """A header is read from the middle of a buffer; the body begins right behind it."""
    header = request_header(key, version, 77, client_id)
    buffer = b"\xff" * 5 + header + b"body"
    found = decode_request_header(buffer, 5, len(buffer), key, version)
    assert found == (77, client_id, 5 + len(header))


def test_headers_are_the_bytes_of_the_protocol() -> None:
    """Written out by hand: version 1, and version 2 whose client id keeps its 16-bit length."""
    assert request_header(3, 8, 258, "me") == b"\x00\x03\x00\x08\x00\x00\x01\x02\x00\x02me"
    assert request_header(3, 9, 258, "me") == b"\x00\x03\x00\x09\x00\x00\x01\x02\x00\x02me\x00"
    assert request_header(3, 9, 258, None) == b"\x00\x03\x00\x09\x00\x00\x01\x02\xff\xff\x00"
    assert response_header(258, flexible=False) == b"\x00\x00\x01\x02"
    assert response_header(258, flexible=True) == b"\x00\x00\x01\x02\x00"


@pytest.mark.parametrize("key", FIRST_FLEXIBLE_VERSIONS)
def test_kio_chooses_the_same_header_versions(key: int) -> None:
    """kio reads our request headers and has the same response headers, in all its versions."""
    compared = 0
    for version in range(20):
        try:
            request = load_request_schema(key, version)
            response = load_response_schema(key, version)
        except KioIndexError:
            continue  # There is no such version.
        compared += 1
        assert request.__flexible__ == is_flexible(key, version)
        data = request_header(key, version, 9, "c")
        header, size = entity_reader(request.__header_schema__)(data, 0)
        assert size == len(data)
        assert (header.request_api_key, header.request_api_version) == (key, version)
        assert (header.correlation_id, header.client_id) == (9, "c")
        out = io.BytesIO()
        theirs = response.__header_schema__
        entity_writer(theirs)(out, theirs(correlation_id=header.correlation_id))
        ours = response_header(9, flexible=has_flexible_response_header(key, version))
        assert out.getvalue() == ours
        assert decode_response_header(ours, 0, len(ours), key, version) == (9, len(ours))
    assert compared


def test_the_exceptions_to_the_rule() -> None:
    """ApiVersions answers with a plain header always; unknown keys and no flexible: legacy."""
    assert is_flexible(API_VERSIONS, 3)
    assert is_flexible(API_VERSIONS, 99), "a version from the future still has its header"
    assert not has_flexible_response_header(API_VERSIONS, 3)
    assert has_flexible_response_header(METADATA, 9)
    assert not is_flexible(OFFSET_DELETE, 0)
    assert not is_flexible(9999, 5)


def test_tagged_fields_of_the_header_are_skipped() -> None:
    """What a newer client says in its header is passed over."""
    tags = tag_section([tagged_field(0, [b"abc"]), tagged_field(700, [bytes(200)])])
    data = request_header(METADATA, 12, 1, "c")[:-1] + tags
    assert decode_request_header(data, 0, len(data), METADATA, 12) == (1, "c", len(data))
    data = response_header(1, flexible=True)[:-1] + tags
    assert decode_response_header(data, 0, len(data), METADATA, 12) == (1, len(data))


@pytest.mark.parametrize("version", [8, 9])
def test_every_prefix_of_a_header_is_refused(version: int) -> None:
    """A header that its frame cuts is refused, whether the buffer ends there or goes on."""
    for data, decode in (
        (request_header(METADATA, version, 1, "client"), decode_request_header),
        (response_header(1, flexible=version >= 9), decode_response_header),
    ):
        for size in range(len(data)):
            for buffer in (data[:size], data + bytes(50)):
                with pytest.raises(MalformedRequestError):
                    decode(buffer, 0, size, METADATA, version)


@pytest.mark.parametrize("client_id", [b"\x00\x01\xff", b"\x7f\xff", b"\xff\xfe", b"\x80\x00"])
def test_client_ids_that_are_none_are_refused(client_id: bytes) -> None:
    """Not UTF-8, longer than the frame, or a negative length."""
    data = b"\x00\x03\x00\x08\x00\x00\x00\x01" + client_id
    with pytest.raises(MalformedRequestError):
        decode_request_header(data, 0, len(data), METADATA, 8)
