"""Apache Kafka: one broker from its Maven artifacts, in KRaft's combined mode, with stock flags.

The JVM flags are those of the start script that ships with it (heap of 1 GiB, G1, garbage
collection log); the settings are the defaults, but for the addresses, the replication factor of the
internal topics, which one node forces, and a shorter delay before the files of deleted topics go.
Its log lines go to a file as they do when it is installed, by the simplest binding of its logger.

Nobody can ask it to compact; it looks for what is due every log.cleaner.backoff.ms. So a topic that
is to be compacted gets its policy when it is filled: then its time has come.
What the cleaner says in the broker's log of bytes and seconds is its own account; from the outside
its checkpoint tells when it is done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bench.peers.kafka_speaker import COMPACT_POLICY, Compacted, KafkaSpeaker
from bench.peers.packages import Artifact, UnavailableError, maven_jars, say, tool
from bench.peers.peer import TRY_AGAIN_S, free_ports
from bench.process import BenchError

VERSION: Final = "4.4.0"
SLF4J: Final = "1.7.36"  # the one that Kafka asks for
JAVA_AT_LEAST: Final = 17
CLUSTER_ID: Final = "bG9nZC1iZW5jaC1wZWVycw"  # any 16 bytes in URL-safe Base64

HEAP: Final = ("-Xmx1G", "-Xms1G")
JVM_FLAGS: Final = (
    "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)  # fmt: skip
SETTINGS: Final = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.segment.delete.delay.ms": "1000",
}
# Of the broker that compacts, besides. The cleaner has one thread and 128 MiB, its defaults.
COMPACTING: Final = {"log.cleaner.backoff.ms": "20"}
DUE: Final = {**COMPACT_POLICY, "min.cleanable.dirty.ratio": "0.01"}
COMPACT_TIMEOUT_S: Final = 120.0
CLEANER_CHECKPOINT: Final = "cleaner-offset-checkpoint"
_CLEANED: Final = (
    r"cleaned log {}-0 \(.*\n\s*([\d,.]+) MB of log processed in [\d,.]+ seconds \(([\d,.]+) MB/sec"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Kafka's jars and the Java that runs them."""

    version: str
    jars: Path
    java: str
    java_version: str


def find(version: str) -> Installation:
    """Return Kafka, got first if it never was.

    Raises:
        UnavailableError: there is no java of the right age, no mvn, or no such package.
    """
    java = tool("java")
    said = say([java, "-version"])
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA_AT_LEAST:
        raise UnavailableError(f"Kafka needs Java {JAVA_AT_LEAST}; here is {said[:60]!r}")
    kafka = "org.apache.kafka"
    jars = maven_jars(
        f"kafka-{version}",
        [
            # The interfaces of its console tools; the broker does without them.
            Artifact(kafka, "kafka_2.13", version, without=("kafka-tools-api",)),
            Artifact("org.slf4j", "slf4j-simple", SLF4J),
        ],
    )
    return Installation(version, jars, java, said.splitlines()[0])


class KafkaBroker(KafkaSpeaker):
    """One broker that is its own controller."""

    name = "Apache Kafka"

    def __init__(
        self, installation: Installation, directory: Path,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        super().__init__(directory)
        self.installation = installation
        port, controller = free_ports(2)
        self.address = ("127.0.0.1", port)
        self.settings_path = directory.with_name(directory.name + ".properties")
        self.gc_log = directory.with_name(directory.name + "-gc.log")
        listeners = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"
        self.settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(directory),
            **SETTINGS,
            **settings,
        }

    def prepare(self) -> None:
        """Write the settings and format the directory, as its manual says. Not timed."""
        text = "".join(f"{name}={value}\n" for name, value in self.settings.items())
        self.settings_path.write_text(text, encoding="utf-8")
        self.directory.mkdir(parents=True)
        classes = ["-cp", f"{self.installation.jars}/*", "kafka.tools.StorageTool"]
        arguments = ["format", "--standalone", "-t", CLUSTER_ID, "-c", str(self.settings_path)]
        say([self.installation.java, "-Xmx256m", *classes, *arguments])

    def command(self) -> Sequence[str]:
        """Return java with the stock flags and the broker's main class."""
        collector = f"-Xlog:gc*:file={self.gc_log}:time,tags:filecount=10,filesize=100M"
        return [
            self.installation.java, *HEAP, *JVM_FLAGS, collector,
            "-cp", f"{self.installation.jars}/*", "kafka.Kafka", str(self.settings_path),
        ]  # fmt: skip

    def compact(self, topic: str, end_offset: int) -> Compacted:
        """Make the topic due, and wait for the cleaner's checkpoint of `end_offset`."""
        logged = self.log_path.stat().st_size
        begin = time.monotonic()
        self.alter_topic(topic, DUE)
        while self._compacted_up_to(topic) < end_offset:
            if time.monotonic() > begin + COMPACT_TIMEOUT_S:
                raise BenchError(
                    f"{self.name} had not compacted {topic} in {COMPACT_TIMEOUT_S:g} s: "
                    f"{self.log_tail()}"
                )
            time.sleep(TRY_AGAIN_S)
        seconds = time.monotonic() - begin
        with self.log_path.open("rb") as log:
            log.seek(logged)
            return Compacted(seconds, told_seconds(log.read().decode(errors="replace"), topic))

    def _compacted_up_to(self, topic: str) -> int:
        try:
            text = (self.directory / CLEANER_CHECKPOINT).read_text(encoding="ascii")
        except FileNotFoundError:
            return 0
        offsets = [
            int(line.split()[2]) for line in text.splitlines() if line.startswith(f"{topic} ")
        ]
        return offsets[0] if offsets else 0

    def conditions(self) -> dict[str, Any]:
        """Return version, Java, flags and settings."""
        return {
            "version": self.installation.version,
            "java": self.installation.java_version,
            "jvm_flags": " ".join([*HEAP, *JVM_FLAGS]),
            "mode": "KRaft, broker and controller in one process, one node, loopback",
            "settings": SETTINGS,
        }


def told_seconds(log: str, topic: str) -> float:
    """Return the seconds that the cleaner needed for the topic, by its lines in the broker's log.

    It prints them with one digit behind the point; bytes and bytes a second say them better.

    Raises:
        BenchError: there are no such lines, or more than one round's.
    """
    found = re.findall(_CLEANED.format(re.escape(topic)), log)
    if len(found) != 1:
        raise BenchError(f"the cleaner told of {len(found)} rounds of {topic}, not of one")
    size, speed = (float(figure.replace(",", "")) for figure in found[0])
    return size / speed
