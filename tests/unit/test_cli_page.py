"""docs/cli.md is what the program says of itself."""

from __future__ import annotations

from tools.cli_page import PAGE, render


def test_the_page_is_what_the_generator_writes() -> None:
    """The checked-in page is current; `python -m tools.cli_page` writes it."""
    assert PAGE.read_text(encoding="utf-8") == render()
