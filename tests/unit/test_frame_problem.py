"""What is said of a first frame that is none: who speaks another protocol is told so."""

from __future__ import annotations

import struct

import pytest

from logd.net.partial_frames import frame_problem

TLS_HELLO = bytes.fromhex("16030102")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (TLS_HELLO, "a TLS greeting"),
        (b"GET ", "an HTTP request"),
        (b"POST", "an HTTP request"),
        (b"PRI ", "an HTTP request"),
        (b"\x7f\xff\xff\xff", "a frame of 2147483647 bytes"),
        (b"\xff\xff\xff\xff", "a frame of -1 bytes"),
        (b"\x00\x00\x00\x03", "a frame of 3 bytes"),
    ],
)
def test_greetings_of_other_protocols_are_named(head: bytes, said: str) -> None:
    """TLS and HTTP are recognised by the bytes that would be a length; any other one is told."""
    (size,) = struct.unpack(">i", head)
    assert frame_problem(size, 1 << 20).startswith(said)
