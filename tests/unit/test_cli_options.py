"""Options: addresses, KEY=VALUE, and the three options that stand before or after a command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cli.options import (
    KEY_VALUE,
    Address,
    Target,
    common_options,
    parse_address,
    pass_target,
    require_consent,
)


@click.group()
@common_options("bootstrap", "admin", "json")
def outer() -> None:
    """A group as `logd` is one."""


@outer.command()
@common_options("bootstrap")
@pass_target
def inner(target: Target) -> None:
    """A command as any other."""
    click.echo(f"{target.bootstrap} {target.admin} {target.json}")


def _said(*arguments: str, **environment: str) -> str:
    cleared: dict[str, str | None] = {"LOGD_BOOTSTRAP": None, "LOGD_ADMIN": None}
    result = CliRunner().invoke(outer, arguments, env=cleared | environment)
    assert result.exit_code == 0, result.output
    return result.output.strip()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9092", Address("127.0.0.1", 9092)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_is_read_and_written_back(text: str, address: Address) -> None:
    """HOST:PORT is parsed, and printed as it was written."""
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":9092", "host:", "host:-1", "host:65536", "::1:9092", "host:１", "a:b:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Anything that is not HOST:PORT raises ValueError with the text in it."""
    with pytest.raises(ValueError, match=r"HOST:PORT|at most|brackets"):
        parse_address(text)


def test_the_common_options_stand_before_or_after_the_command() -> None:
    """The same option is understood on both sides of the sub-command, and the last one wins."""
    assert _said("--bootstrap", "a:1", "inner") == "a:1 127.0.0.1:9644 False"
    assert _said("inner", "--bootstrap", "b:2", "--json") == "b:2 127.0.0.1:9644 True"
    assert _said("--json", "--bootstrap", "a:1", "inner", "--bootstrap", "b:2").startswith("b:2")
    assert _said("--admin", "c:3", "inner") == "127.0.0.1:9092 c:3 False"


def test_the_environment_stands_behind_the_options() -> None:
    """LOGD_BOOTSTRAP and LOGD_ADMIN are used where no option is given."""
    assert _said("inner", LOGD_BOOTSTRAP="e:9", LOGD_ADMIN="f:8") == "e:9 f:8 False"
    assert _said("inner", "--bootstrap", "a:1", LOGD_BOOTSTRAP="e:9").startswith("a:1")


def test_a_bad_environment_is_named_only_when_it_is_needed() -> None:
    """A bad LOGD_BOOTSTRAP is a usage error that names the variable; unused, it does no harm."""
    bad = {"LOGD_BOOTSTRAP": "nonsense"}
    result = CliRunner().invoke(outer, ["inner"], env=bad)
    assert result.exit_code == 2
    assert "LOGD_BOOTSTRAP" in result.output
    assert CliRunner().invoke(outer, ["inner", "--bootstrap", "a:1"], env=bad).exit_code == 0


@pytest.mark.parametrize(
    ("text", "pair"),
    [("a=b", ("a", "b")), ("a=", ("a", "")), (" a = b=c ", ("a", "b=c"))],
)
def test_key_value_splits_at_the_first_equals_sign(text: str, pair: tuple[str, str]) -> None:
    """KEY=VALUE keeps later equals signs in the value."""
    assert KEY_VALUE.convert(text, None, None) == pair


@pytest.mark.parametrize("text", ["", "a", "=b", " =b"])
def test_key_value_without_key_or_sign_is_refused(text: str) -> None:
    """A KEY=VALUE without key or sign is a usage error."""
    with pytest.raises(click.BadParameter):
        KEY_VALUE.convert(text, None, None)


def test_consent_without_a_terminal_is_refused() -> None:
    """Without a terminal and without --yes nothing is asked: it is a usage error."""

    @click.command()
    @click.option("--yes", is_flag=True)
    def destroy(yes: bool) -> None:
        require_consent("destroy?", yes=yes)
        click.echo("done")

    refused = CliRunner().invoke(destroy, [], input="y\n")
    assert refused.exit_code == 2
    assert "--yes" in refused.output
    assert "done" not in refused.output
    assert CliRunner().invoke(destroy, ["--yes"]).output == "done\n"
