"""Option types, and the three options that every command takes.

`--bootstrap`, `--admin` and `--json` are accepted before and after the sub-command: each command
declares them, and whichever stands last on the line wins. What was said is kept in one `Target`
for the whole invocation; the environment is looked at only when a command asks for an address, so
that a bad LOGD_BOOTSTRAP does not keep `logd dump` from working.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import click

from cli.errors import Refused

DEFAULT_BOOTSTRAP: Final = "127.0.0.1:9092"
DEFAULT_ADMIN: Final = "127.0.0.1:9644"
PORT_MAX: Final = 65535

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address in `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ValueError: anything else, or a port above 65535.
    """
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: put an IPv6 address in brackets, e.g. [::1]:9092")
    if not separator or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not HOST:PORT, e.g. {DEFAULT_BOOTSTRAP}")
    if int(port) > PORT_MAX:
        raise ValueError(f"{text!r}: a port is at most {PORT_MAX}")
    return Address(host, int(port))


class AddressType(click.ParamType[Address]):
    """A click option type for HOST:PORT."""

    name = "HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        """Return `value` as an Address; a usage error says what is wrong with it."""
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class KeyValueType(click.ParamType[tuple[str, str]]):
    """A click option type for KEY=VALUE; the value may be empty and may hold `=`."""

    def __init__(self, name: str = "KEY=VALUE", example: str = "retention.ms=7d") -> None:
        self.name = name
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return (key, value)."""
        if isinstance(value, tuple):
            return value
        key, separator, text = value.partition("=")
        if not separator or not key.strip():
            self.fail(f"{value!r} is not {self.name}, e.g. {self._example}", param, ctx)
        return key.strip(), text.strip()


class GroupIdType(click.ParamType[str]):
    """A click option type for the id of a consumer group: any text but none."""

    name = "GROUP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value` as it is; the empty one is a usage error, as no group can have it."""
        if not value:
            self.fail("a group's id is not empty", param, ctx)
        return str(value)


ADDRESS: Final = AddressType()
GROUP_ID: Final = GroupIdType()
KEY_VALUE: Final = KeyValueType()
NODE_PLACE: Final = KeyValueType("NAME=DIR_OR_URL", "a=/mnt/disk1/logd")


@dataclass(slots=True)
class Target:
    """What the three options said, in one place for the whole invocation."""

    bootstrap_given: Address | None = None
    admin_given: Address | None = None
    json: bool = False

    @property
    def bootstrap(self) -> Address:
        """The Kafka port: the option, LOGD_BOOTSTRAP, or the default."""
        return self.bootstrap_given or _from_environment("LOGD_BOOTSTRAP", DEFAULT_BOOTSTRAP)

    @property
    def admin(self) -> Address:
        """The admin port: the option, LOGD_ADMIN, or the default."""
        return self.admin_given or _from_environment("LOGD_ADMIN", DEFAULT_ADMIN)


def _from_environment(name: str, default: str) -> Address:
    try:
        return parse_address(os.environ.get(name) or default)
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from error


def _remember(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:  # Not given here: what stood before the sub-command stays.
            setattr(ctx.ensure_object(Target), field, value)

    return callback


def common_options(*shown: str) -> Callable[[_Command], _Command]:
    """Make a command accept --bootstrap, --admin and --json; its help shows those in `shown`."""
    options = (
        click.option(
            "--json",
            is_flag=True,
            expose_value=False,
            hidden="json" not in shown,
            callback=_remember("json"),
            help="One JSON document on stdout (a JSON line each where the output is a stream).",
        ),
        click.option(
            "--admin",
            type=ADDRESS,
            expose_value=False,
            hidden="admin" not in shown,
            callback=_remember("admin_given"),
            help=f"The server's admin port  [env: LOGD_ADMIN; default: {DEFAULT_ADMIN}]",
        ),
        click.option(
            "--bootstrap",
            type=ADDRESS,
            expose_value=False,
            hidden="bootstrap" not in shown,
            callback=_remember("bootstrap_given"),
            help=f"The server's Kafka port  [env: LOGD_BOOTSTRAP; default: {DEFAULT_BOOTSTRAP}]",
        ),
    )

    def decorate(command: _Command) -> _Command:
        for option in options:
            command = option(command)
        return command

    return decorate


pass_target = click.make_pass_decorator(Target, ensure=True)


def require_consent(question: str, *, yes: bool) -> None:
    """Return if the user agrees to something that cannot be undone.

    Raises:
        click.UsageError: nobody can be asked (no terminal), and --yes was not given.
        Refused: the user said no; nothing was done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"this needs an answer ({question}) and there is no terminal; add --yes to go ahead"
        )
    if not click.confirm(question, default=False, err=True):
        raise Refused("not confirmed, nothing was changed")
