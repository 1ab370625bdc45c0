"""All requests but Produce and Fetch: from the frame to the handler of its API.

Two kinds of handler (see broker/apis): one is begun here and answers by a call, now or later, and
its connection goes on being read; one is awaited, as a task of its own, and its connection is not
read until it has answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from logd.broker.apis import APIS, Api, LateReply
from logd.broker.context import Broker, RequestContext
from logd.broker.group_shortcuts import GroupShortcuts
from logd.broker.reply import Reply
from logd.errors import LogdError, MalformedRequestError
from logd.net.connection import Connection
from logd.wire import quirks
from logd.wire.api_keys import API_VERSIONS, HEARTBEAT, OFFSET_COMMIT, OFFSET_FETCH
from logd.wire.frame import REQUEST_START
from logd.wire.messages.heartbeat import HeartbeatRequest
from logd.wire.messages.offset_commit import OffsetCommitRequest
from logd.wire.request_header import decode_request_header

OTHER_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Requests other than Produce and Fetch are decoded at a stretch; larger ones are nobody's."""


class OtherRequests:
    """Decodes requests and starts their handlers. On the serving loop.

    Args:
        close: closes a connection, with a reason for the log.
        end_turn: sends what a task has completed.

    Attributes:
        shortcuts: for requests that repeat.
        nursery: where tasks run; set while the loop runs.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        close: Callable[[Connection, str], None],
        end_turn: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._close = close
        self._end_turn = end_turn
        self.nursery: trio.Nursery | None = None
        self.shortcuts = GroupShortcuts(broker)

    def begin(self, connection: Connection, buffer: bytearray, position: int, end: int) -> Reply:
        """Begin to handle the request at `position`; return the answer to come.

        Raises:
            MalformedRequestError: the connection is to be closed.
        """
        api_key, version, correlation_id = REQUEST_START.unpack_from(buffer, position)
        if api_key == OFFSET_COMMIT:
            reply = self.shortcuts.commit(connection, buffer, position, end, correlation_id)
            if reply is not None:
                return reply
        if end - position > OTHER_FRAME_BYTES_MAX:
            raise MalformedRequestError(f"{end - position} bytes are too many for such a request")
        # What is made of the frame outlives the turn, the receive buffer does not.
        frame = bytes(memoryview(buffer)[position:end])
        if api_key == HEARTBEAT:
            now_ms = self._broker.groups.now_ms()
            answer = self.shortcuts.answer_heartbeat(frame, 0, len(frame), now_ms)
            if answer is not None:
                data, error = answer
                if not error:
                    connection.note_heartbeat()
                reply = Reply(connection)
                reply.complete(data)
                return reply
        api = APIS.get(api_key)
        if api is None or (not api.serves(version) and api_key != API_VERSIONS):
            raise MalformedRequestError("this server does not have that request or version")
        is_served = api.serves(version)
        correlation_id, client_id, body = decode_request_header(
            frame, 0, len(frame), api_key, version if is_served else 0
        )
        frame = quirks.repair(api_key, version, frame, body)
        connection.client_id = client_id
        context = RequestContext(self._broker, client_id, connection.address, api_key, version)
        request = None
        if is_served:
            request = api.module.decode_request(frame, version, body, len(frame))
        if api.begin is not None:
            late = LateReply(connection, api, version=version, correlation_id=correlation_id)
            api.begin(context, request, version, late)
            if api_key == OFFSET_FETCH and late.data is None:
                # Until it is known how much that answers, no more of the kind.
                late.on_sent = connection.pause()
            if isinstance(request, HeartbeatRequest):
                self.shortcuts.learn_heartbeat(frame, request, version)
                connection.note_heartbeat()
            elif isinstance(request, OffsetCommitRequest):
                self.shortcuts.learn_commit(connection, frame, request, version)
            return late
        reply = Reply(connection)
        assert self.nursery is not None
        self.nursery.start_soon(
            self._handle, connection, reply, connection.pause(), api, context, request,
            correlation_id,
        )  # fmt: skip
        return reply

    async def _handle(
        self,
        connection: Connection,
        reply: Reply,
        resume: Callable[[], None],
        api: Api,
        context: RequestContext,
        request: object,
        correlation_id: int,
    ) -> None:
        try:
            frame = await api.answer(context, request, correlation_id)
        except LogdError as error:
            self._close(connection, f"{type(error).__name__}: {error}")
            return
        except Exception as error:  # A bug of ours must cost one connection, not the server.
            self._broker.events.error(
                "request failed",
                api_key=context.api_key,
                version=context.version,
                reason=repr(error),
            )
            self._close(connection, "internal error")
            return
        if not connection.closed:
            connection.line_bytes += len(frame)
            reply.complete(frame)
            resume()
            self._end_turn()
