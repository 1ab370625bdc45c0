"""What is said when an address cannot be listened on: which one, and why."""

from __future__ import annotations

import errno

import pytest

from logd.net.bind import open_listener


def test_a_port_in_use_is_named() -> None:
    """Two servers on one port: the second one says which port it is."""
    first = open_listener("127.0.0.1", 0)
    first.listen()
    port = first.getsockname()[1]
    with pytest.raises(OSError, match=f"127.0.0.1:{port}") as raised:
        open_listener("127.0.0.1", port)
    assert raised.value.errno == errno.EADDRINUSE
    first.close()


def test_a_name_that_does_not_resolve_is_named() -> None:
    """The text holds what was typed."""
    with pytest.raises(OSError, match=r"no-such-host\.invalid:9092"):
        open_listener("no-such-host.invalid", 9092)
