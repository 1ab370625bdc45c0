"""The Kafka port, through librdkafka as any other client would use it.

librdkafka retries for minutes where a person at a prompt wants an answer in seconds. So the port is
first connected to plainly (a refusal is known at once), every call has a short time limit, and what
librdkafka says about brokers it cannot reach is kept, to be told when a call comes to nothing.

confluent_kafka is imported inside functions: it costs as much as all of a small command.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cli.errors import Refused, Unreachable
from cli.options import Address

if TYPE_CHECKING:
    from concurrent.futures import Future

    from click import ClickException
    from confluent_kafka import KafkaError, Uuid
    from confluent_kafka.admin import AdminClient

CONNECT_TIMEOUT_S: Final = 3.0
CALL_TIMEOUT_S: Final = 5.0
API_VERSIONS: Final = 18
# Creating a topic of many partitions makes as many directories, synced one by one.
CREATE_TIMEOUT_S: Final = 60.0

# What to do next, by the error's name, where the server's own words do not say it.
_NEXT: Final = {
    "TOPIC_ALREADY_EXISTS": "; `logd topic alter` changes it",
    "INVALID_CONFIG": "; docs/configuration.md has the settings of topics",
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Watermarks:
    """What a partition holds: offsets from `low` (log start) up to before `high`."""

    low: int
    high: int


class Connection:
    """The address of a server that answered, and the last trouble that librdkafka told of."""

    def __init__(self, address: Address) -> None:
        """Connect once, plainly.

        Raises:
            Unreachable: nothing listens there, or the name does not resolve; or it is no Kafka.
        """
        self.address = address
        self.trouble = ""
        self._admin: AdminClient | None = None
        try:
            with socket.create_connection(address, timeout=CONNECT_TIMEOUT_S) as plain:
                speaks_kafka = _answers_as_kafka(plain)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unreachable(
                f"no server at {address} (Kafka port): {reason}; "
                "start one with `logd serve`, or name another with --bootstrap"
            ) from error
        if not speaks_kafka:
            raise Unreachable(
                f"what listens at {address} does not answer as a Kafka server does: it is another "
                "port, or a server that stops or has max.connections; name another with --bootstrap"
            )

    def settings(self, **more: str | float) -> dict[str, Any]:
        """Return a librdkafka configuration for this server."""
        return {
            "bootstrap.servers": str(self.address),
            "client.id": "logd-cli",
            "log_level": 0,
            "broker.address.family": "any",
            "socket.connection.setup.timeout.ms": int(CONNECT_TIMEOUT_S * 1000),
            "reconnect.backoff.max.ms": 500,
            "error_cb": self._note,
        } | {name.replace("_", "."): value for name, value in more.items()}

    def consumer_settings(self, group: str) -> dict[str, Any]:
        """Return a librdkafka configuration for reading much, and committing what we say."""
        return self.settings(
            group_id=group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,  # Tells of the end also where the last offsets are gaps.
            auto_offset_reset="error",
            fetch_wait_max_ms=100,
            queued_min_messages=1_000_000,  # The default pauses for a second at 100,000.
            queued_max_messages_kbytes=64 * 1024,
            check_crcs=True,
        )

    def _note(self, error: KafkaError) -> None:
        self.trouble = error.str()

    def unreachable(self, reason: str) -> Unreachable:
        """Return the error for a server that does not answer as Kafka does."""
        trouble = f" ({self.trouble})" if self.trouble else ""
        return Unreachable(
            f"the server at {self.address} (Kafka port) does not answer: {reason}{trouble}; "
            "is this the Kafka port, and is what it advertises reachable from here?"
        )

    def translate(self, error: KafkaError, doing: str) -> ClickException:
        """Return the error that a command ends with when librdkafka reported `error`."""
        if error.code() in _transport_codes():
            return self.unreachable(f"{doing}: {error.str()}")
        hint = _NEXT.get(error.name(), "")
        return Refused(f"{doing}: {error.str()} [{error.name()}]{hint}")

    def call(self, doing: str, function: Callable[[], _T]) -> _T:
        """Return what `function` returns; its KafkaException becomes the command's error."""
        from confluent_kafka import KafkaException

        try:
            return function()
        except KafkaException as exception:
            raise self.translate(exception.args[0], doing) from exception

    def result(self, doing: str, future: Future[_T]) -> _T:
        """Return an admin call's result; the call has its own time limit."""
        return self.call(doing, future.result)

    def admin(self) -> AdminClient:
        """Return the client for topics and settings; one for all calls, kept until the end.

        A call's future fails when its client is gone, so nobody else may own the client.
        """
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            self._admin = AdminClient(self.settings())
        return self._admin

    def partitions(self, client: Any, topic: str) -> list[int]:
        """Return the topic's partition numbers, asked for without creating the topic.

        Args:
            client: a librdkafka consumer; a producer, and an admin client is one, would create it.

        Raises:
            Refused: no such topic.
        """
        metadata = self.call(
            f"topic {topic}", lambda: client.list_topics(topic, timeout=CALL_TIMEOUT_S)
        )
        entry = metadata.topics[topic]
        if entry.error is not None:
            raise self.no_topic(topic, entry.error)
        return sorted(entry.partitions)

    def no_topic(self, topic: str, error: KafkaError) -> ClickException:
        """Return the error for a topic that cannot be described."""
        from confluent_kafka import KafkaError as Codes

        unknown = (Codes.UNKNOWN_TOPIC_OR_PART, Codes._UNKNOWN_TOPIC, Codes._UNKNOWN_PARTITION)
        if error.code() in unknown:
            return Refused(f"there is no topic {topic!r}; `logd topic list` shows those there are")
        if error.code() == Codes.TOPIC_EXCEPTION:
            return Refused(
                f"{topic!r} is no name of a topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"
            )
        return self.translate(error, f"topic {topic}")


def _answers_as_kafka(plain: socket.socket) -> bool:
    """Return whether the smallest request is answered; one that is slow gets the doubt's benefit.

    librdkafka would try for a minute what can be known in a round trip.
    """
    number = 1
    try:
        plain.sendall(struct.pack(">ihhih", 10, API_VERSIONS, 0, number, -1))
        head = plain.recv(8, socket.MSG_WAITALL)
    except TimeoutError:
        return True
    except OSError:
        return False
    return len(head) == 8 and struct.unpack(">ii", head)[1] == number


def no_partition(topic: str, partition: int, count: int) -> Refused:
    """Return the error for a partition that a topic does not have."""
    last = f"0 to {count - 1}" if count > 1 else "0"
    return Refused(f"topic {topic} has no partition {partition}, only {last}")


def describe_topics(connection: Connection, names: list[str]) -> list[Any]:
    """Return descriptions in the order of the names."""
    from confluent_kafka import KafkaException, TopicCollection

    if not names:
        return []
    futures = connection.admin().describe_topics(
        TopicCollection(names), request_timeout=CREATE_TIMEOUT_S
    )
    descriptions = []
    for name in names:
        try:
            descriptions.append(futures[name].result())
        except KafkaException as exception:
            raise connection.no_topic(name, exception.args[0]) from exception
    return descriptions


def topic_partitions(connection: Connection, topic: str) -> list[int]:
    """Return the topic's partition numbers; it is not created.

    Raises:
        Refused: no such topic.
    """
    (found,) = describe_topics(connection, [topic])
    return sorted(partition.id for partition in found.partitions)


def list_watermarks(
    connection: Connection, topic: str, partitions: list[int]
) -> dict[int, Watermarks]:
    """Return the watermarks of each partition, in two requests for all of them."""
    from confluent_kafka import TopicPartition

    admin = connection.admin()
    spec_of = admin_types().OffsetSpec
    places = [TopicPartition(topic, partition) for partition in partitions]
    ends: list[dict[int, int]] = []
    for spec in (spec_of.earliest(), spec_of.latest()):
        futures = admin.list_offsets(dict.fromkeys(places, spec), request_timeout=CALL_TIMEOUT_S)
        ends.append(
            {
                place.partition: connection.result(
                    f"offsets of {topic} partition {place.partition}", future
                ).offset
                for place, future in futures.items()
            }
        )
    low, high = ends
    return {partition: Watermarks(low[partition], high[partition]) for partition in partitions}


def admin_types() -> Any:
    """Return the library's admin module; untyped, as its stubs do not export its own names."""
    import confluent_kafka.admin

    return confluent_kafka.admin


def topic_id_text(uuid: Uuid | None) -> str | None:
    """Return a topic id as Kafka's tools write it: 22 characters of URL-safe base64."""
    return None if uuid is None else str(uuid).replace("+", "-").replace("/", "_").rstrip("=")


def _transport_codes() -> frozenset[int]:
    from confluent_kafka import KafkaError as Codes

    return frozenset(
        (
            Codes._TRANSPORT,
            Codes._ALL_BROKERS_DOWN,
            Codes._RESOLVE,
            Codes._TIMED_OUT,
            Codes._MSG_TIMED_OUT,
            Codes._TIMED_OUT_QUEUE,
        )
    )
