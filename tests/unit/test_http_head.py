"""Heads that go past the general parser: what is taken means what h11 says it means."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ec.store.http_head import plain_answer, plain_get
from logd.net.http_head import plain_request, plain_response

TARGET = "/v1/chunks/0f-00000000000000000000-01.chunk"
ASKS = [("host", "127.0.0.1:80"), ("logd-node", "a"), ("range", "bytes=0-65535")]
GIVES = [
    ("content-type", "application/octet-stream"),
    ("content-length", "65536"),
    ("etag", '"0f"'),
    ("content-range", "bytes 0-65535/70000"),
]
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nrange: bytes=0-1\r\n\r\n"
ANSWER = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\netag: x\r\n\r\nab"

# What turns a head into another one, or into none.
EDITS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.integers(0, 3),
        st.sampled_from(
            [
                b"",
                b" ",
                b"\r\n",
                b"\n",
                b"\0",
                b"\xff",
                b":",
                b"1",
                b"A",
                b"\r\n ",
                b"chunked",
                b"host: y\r\n",
                b"content-length: 3\r\n",
                b"transfer-encoding: chunked\r\n",
                b"connection: close\r\n",
                b"HTTP/1.0",
                b"204",
                b"100",
                b"\t",
            ]
        ),
    ),
    max_size=3,
)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return some bytes with others in the place of a few of them."""
    for at, gone, instead in edits:
        data = data[:at] + instead + data[at + gone :]
    return data


def as_texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers as they are compared."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def test_what_stores_and_nodes_say_goes_past_the_parser() -> None:
    """A GET of a range and its answer come out of the two ends as they went in."""
    request = plain_get(TARGET, ASKS)
    assert request is not None
    head = plain_request(request)
    assert head is not None
    assert (head.method, head.target, head.headers) == ("GET", TARGET.encode(), dict(ASKS))
    assert head.length_bytes == 0
    answer = plain_response(206, GIVES)
    assert answer is not None
    assert plain_answer(answer + b"body") == (206, dict(GIVES), len(answer))


@settings(deadline=None, max_examples=400)
@given(edits=EDITS)
@example(edits=[])
def test_a_request_that_is_taken_is_what_h11_makes_of_it(
    edits: list[tuple[int, int, bytes]],
) -> None:
    """The same method, target and headers, no body, nothing behind it, and the connection stays."""
    data = edited(REQUEST, edits)
    head = plain_request(data)
    assert edits or head is not None
    if head is None:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (head.method.encode(), head.target) == (event.method, event.target)
    assert head.headers == as_texts(event.headers)
    assert len(head.headers) == len(event.headers)
    assert event.http_version == b"1.1"
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    assert server.their_state is h11.DONE


@settings(deadline=None, max_examples=400)
@given(edits=EDITS)
@example(edits=[])
def test_an_answer_that_is_taken_is_what_h11_makes_of_it(
    edits: list[tuple[int, int, bytes]],
) -> None:
    """The same status and headers, and a body of the length that it says."""
    data = edited(ANSWER, edits)
    found = plain_answer(data)
    assert edits or found is not None
    if found is None:
        return
    status, headers, size = found
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.receive_data(data)
    event = client.next_event()
    assert isinstance(event, h11.Response)
    assert (status, headers) == (event.status_code, as_texts(event.headers))
    assert len(headers) == len(event.headers)
    assert event.http_version == b"1.1"
    assert client.trailing_data[0] == data[size:]
    length = int(headers["content-length"])
    if length and data[size:]:
        body = client.next_event()
        assert isinstance(body, h11.Data)
        assert bytes(body.data) == data[size : size + length]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(REQUEST[:-1], id="not whole"),
        pytest.param(REQUEST + b"G", id="something behind it"),
        pytest.param(REQUEST.replace(b"host: x\r\n", b""), id="no host"),
        pytest.param(REQUEST.replace(b"range", b"host"), id="two hosts"),
        pytest.param(REQUEST.replace(b"range", b"expect"), id="waits"),
        pytest.param(REQUEST.replace(b"range", b"connection"), id="may close"),
        pytest.param(REQUEST.replace(b"range", b"content-length"), id="a body"),
        pytest.param(REQUEST.replace(b"range", b"transfer-encoding"), id="a body of no length"),
        pytest.param(REQUEST.replace(b"GET", b"PUT"), id="another method"),
        pytest.param(REQUEST.replace(b"1.1", b"1.0"), id="another version"),
    ],
)
def test_other_requests_are_for_h11(data: bytes) -> None:
    """What is not whole, has a body, or says how the connection goes on is not taken."""
    assert plain_request(data) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ANSWER[:-6], id="not whole"),
        pytest.param(ANSWER.replace(b"content-length: 2\r\n", b""), id="no length"),
        pytest.param(ANSWER.replace(b"etag", b"content-length"), id="two lengths"),
        pytest.param(ANSWER.replace(b": 2", b": -2"), id="no number"),
        pytest.param(ANSWER.replace(b"etag", b"transfer-encoding"), id="chunks"),
        pytest.param(ANSWER.replace(b"206", b"100"), id="not the real answer"),
        pytest.param(ANSWER.replace(b"206", b"204"), id="never a body"),
        pytest.param(ANSWER.replace(b"206", b"304"), id="never a body either"),
        pytest.param(ANSWER.replace(b"1.1", b"1.0"), id="another version"),
        pytest.param(b"SSH-2.0-x\r\n", id="no HTTP"),
    ],
)
def test_other_answers_are_for_h11(data: bytes) -> None:
    """What is not whole, or does not say plainly how long it is, is not taken."""
    assert plain_answer(data) is None


@pytest.mark.parametrize("bad", ["a\r\nb: c", "a\nb", "", " a", "a ", "ä", "a\0", "a\tb"])
def test_nothing_is_smuggled_into_a_head(bad: str) -> None:
    """A value that would be read otherwise than it was meant is left to h11, which refuses it."""
    assert plain_get(TARGET, [*ASKS, ("x", bad)]) is None
    assert plain_response(200, [*GIVES, ("x", bad)]) is None
    assert plain_get(f"/{bad} HTTP/1.1\r\nx: y", ASKS) is None
    assert plain_get(TARGET, [*ASKS, (f"{bad}x y", "z")]) is None
