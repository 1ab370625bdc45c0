"""`logd node`: a storage node, served over HTTP from a directory of its own."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Refused
from cli.options import ADDRESS, Address

if TYPE_CHECKING:
    from ec.node import Node
    from logd.net.http import HttpServer, Request

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 1024
# A chunk of the largest segment, sent over a slow line.
_BODY_BYTES_MAX: Final = 2**40
_REQUEST_S: Final = 3600.0
_CONNECTIONS_MAX: Final = 256
_THREADS: Final = 8


@click.group()
def node() -> None:
    """Storage nodes: where the chunks of coded segments are kept."""


@node.command()
@click.option(
    "--dir", "directory", type=click.Path(file_okay=False), required=True,
    help="Where the chunks are; absent or empty until the node is added.",
)  # fmt: skip
@click.option(
    "--listen", type=ADDRESS, required=True, help="The HTTP port; port 0 takes a free one."
)
@click.option("--name", metavar="NAME", help="What the node must be called.")
@click.option(
    "--token-file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="A secret that every request must carry; only its owner may read the file.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, help="Allow other addresses than loopback without a token."
)
def serve(
    directory: str, listen: Address, name: str | None, token_file: str | None, insecure: bool
) -> None:
    """Run a storage node in the foreground until SIGTERM or SIGINT.

    It prints one line, `ready node=NAME http=HOST:PORT`, when the port answers; NAME is `-` while
    the directory belongs to no node yet.

    \b
    Example:
      logd node serve --dir /mnt/disk1/logd --listen 10.0.0.7:9700 --token-file /etc/logd.token
    """
    from logd.config import is_loopback

    token = None if token_file is None else read_token(token_file)
    if token is None and not insecure and not is_loopback(listen.host):
        raise click.UsageError(
            f"--listen {listen}: other machines can reach it; give --token-file, or --insecure"
        )
    import trio

    trio.run(_serve, directory, listen, name, token)


def read_token(path: str) -> str:
    """Return the token in a file.

    Raises:
        Refused: others may read the file, or it holds no token.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise Refused(f"{path} has mode {mode:04o}: others can read the token; chmod 600 it")
        token = file.read(TOKEN_CHARACTERS_MAX + 2).strip()
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
        bounds = f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX}"
        raise Refused(f"{path}: a token has {bounds} characters")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Refused(f"{path}: a token is one word of printable ASCII")
    return token


async def _serve(directory: str, listen: Address, name: str | None, token: str | None) -> None:
    import signal

    import trio

    from ec.errors import NodeNotMountedError, StoreError
    from ec.node import Node
    from ec.offload import ThreadOffload
    from logd.net.listen import open_listener
    from logd.storage.files import Files

    served = Node(Files(), directory, ThreadOffload(_THREADS), name=name, token=token)
    try:
        name = (await served.store()).node
    except NodeNotMountedError:
        name = name or "-"  # It will be made, or mounted, later.
    except StoreError as error:
        raise Refused(str(error)) from error
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            try:
                opened = open_listener(*listen)
            except OSError as error:
                raise Refused(str(error)) from error
            opened.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
            host, port = opened.getsockname()[:2]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server_of(served).serve, listener)
                click.echo(f"ready node={name} http={Address(host, port)}")
                await anext(signals)
                nursery.cancel_scope.cancel()
    finally:
        served.close()


def server_of(served: Node) -> HttpServer:
    """Return the HTTP server that asks a node."""
    from logd.net.http import HttpServer, Limits, Response

    async def handle(request: Request) -> Response:
        answer = await served.handle(request)
        return Response(
            answer.status, answer.body, answer.content_type, answer.file, answer.headers
        )

    limits = Limits(body_bytes=_BODY_BYTES_MAX, request_s=_REQUEST_S, connections=_CONNECTIONS_MAX)
    return HttpServer(handle, _say_failure, limits=limits)


def _say_failure(request: Request, error: Exception) -> None:
    click.echo(f"logd: {request.method} {request.path}: {error!r}", err=True)
