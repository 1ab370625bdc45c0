"""`--format`: kcat's placeholders."""

from __future__ import annotations

import pytest

from cli.record_format import Consumed, compile_format

RECORD = Consumed("t", 3, 42, 1700000000123, b"k\xff", b"value", [("h", b"1"), ("n", None)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"%t %p %o %k %v %T\n", b"t 3 42 k\xff value 1700000000123\n"),
        (r"%s %S %V %K %h", b"value 5 5 2 h=1,n="),
        (r"100%% \x41\t\r\0\\", b"100% A\t\r\0\\"),
        ("", b""),
        ("plain naïve", "plain naïve".encode()),
        ("%%v", b"%v"),
    ],
)
def test_placeholders_are_replaced(text: str, expected: bytes) -> None:
    """Each placeholder gives its field, bytes unchanged; escapes are those of C."""
    assert compile_format(text)(RECORD) == expected


def test_null_key_and_value_have_length_minus_one() -> None:
    """Null is told from empty by its length."""
    null = Consumed("t", 0, 0, 0, None, None, [])
    assert compile_format("[%k|%K|%v|%V]")(null) == b"[|-1||-1]"


@pytest.mark.parametrize("text", ["%q", "50%", "\\q", "end\\", "%\n"])
def test_what_is_unknown_is_refused(text: str) -> None:
    """An unknown placeholder or escape is an error that names it, not text."""
    with pytest.raises(ValueError, match="unknown"):
        compile_format(text)
