"""The program `logd`: the root of its commands, and the one place where a command's end is decided.

Every command module is light to import; what is heavy (librdkafka, rich, trio, the server) is
imported inside the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from cli.bench import bench
from cli.check import check
from cli.cold import cold
from cli.compact import compact
from cli.config import config
from cli.consume import consume
from cli.delete_records import delete_records
from cli.demo import demo
from cli.dump import dump
from cli.errors import EXIT_DONE, EXIT_REFUSED, describe, error_line, shows_traceback
from cli.group import group
from cli.node import node
from cli.options import common_options
from cli.produce import produce
from cli.repair import repair
from cli.retain import retain
from cli.salvage import salvage
from cli.scrub import scrub
from cli.segments import segments
from cli.serve import serve
from cli.status import status
from cli.topic import topic
from logd import __version__


class OrderedGroup(click.Group):
    """A group whose help lists commands in the order in which a newcomer meets them."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the names in the order of definition."""
        return list(self.commands)


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="logd")
@common_options("bootstrap", "admin", "json")
def root() -> None:
    """logd: an append-only segmented log server that speaks Kafka's protocol.

    \b
    Example:
      logd serve --data ./logd-data &
      seq 10 | logd produce numbers
      logd consume numbers

    \b
    Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration,
    3 the server cannot be reached, 4 data is at risk, damaged or lost.
    """


for _command in (
    serve,
    demo,
    topic,
    produce,
    consume,
    group,
    delete_records,
    node,
    segments,
    retain,
    compact,
    repair,
    scrub,
    cold,
    status,
    config,
    dump,
    check,
    salvage,
    bench,
):
    root.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Nothing is raised, stdout is flushed."""
    # Not from the options as parsed: what is wrong may stand before --json.
    as_json = "--json" in arguments
    code = _invoke(list(arguments), as_json=as_json)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _failed(error, as_json=as_json)
    return code


def main() -> None:
    """The entry point of the program."""
    if not __debug__:
        sys.exit("logd does not run with asserts switched off (python -O, PYTHONOPTIMIZE)")
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped, not answered with a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("_LOGD_COMPLETE"):
        from click.shell_completion import shell_complete

        instruction = os.environ["_LOGD_COMPLETE"]
        sys.exit(shell_complete(root, {}, "logd", "_LOGD_COMPLETE", instruction))
    sys.exit(run(sys.argv[1:]))


def _invoke(arguments: list[str], *, as_json: bool) -> int:
    try:
        with root.make_context("logd", arguments) as context:
            root.invoke(context)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.ctx.get_help(), err=True)
        return shown.exit_code
    except click.exceptions.Exit as end:
        return end.exit_code
    except BaseException as error:  # Every way to end is turned into an exit code and a line.
        if isinstance(error, GeneratorExit | SystemExit):
            raise
        return _failed(error, as_json=as_json)
    return EXIT_DONE


def _failed(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, BrokenPipeError):
        _discard(sys.stdout.fileno())  # Whoever read us has seen enough.
        return EXIT_DONE
    if shows_traceback():
        sys.excepthook(type(error), error, error.__traceback__)
    code, line = describe(error)
    try:
        sys.stdout.flush()  # What was found comes before the reason why there is no more.
    except OSError as full:
        _discard(sys.stdout.fileno())
        if error is full or code == EXIT_REFUSED:
            line = describe(full)[1]
    _complain(error_line(code, line, as_json=as_json))
    return code


def _complain(line: str) -> None:
    try:
        click.echo(line, err=True)
    except OSError:
        _discard(sys.stderr.fileno())  # Nobody can be told; the exit code still says it.


def _discard(fd: int) -> None:
    """Send what is still buffered for a descriptor nowhere, so that leaving is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)


if __name__ == "__main__":
    main()
