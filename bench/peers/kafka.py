"""Apache Kafka: one broker from its Maven artifacts, in KRaft's combined mode, with stock flags.

The JVM flags are those of the start script that ships with it (heap of 1 GiB, G1, garbage
collection log); the settings are the defaults, but for the addresses, the replication factor of the
internal topics, which one node forces, and a shorter delay before the files of deleted topics go.
Its log lines go to a file as they do when it is installed, by the simplest binding of its logger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.peers.kafka_speaker import KafkaSpeaker
from bench.peers.packages import Artifact, UnavailableError, maven_jars, say, tool
from bench.peers.peer import free_ports

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

    def __init__(self, installation: Installation, directory: Path) -> None:
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

    def conditions(self) -> dict[str, Any]:
        """Return version, Java, flags and settings."""
        return {
            "version": self.installation.version,
            "java": self.installation.java_version,
            "jvm_flags": " ".join([*HEAP, *JVM_FLAGS]),
            "mode": "KRaft, broker and controller in one process, one node, loopback",
            "settings": SETTINGS,
        }
