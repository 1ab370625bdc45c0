"""Kafka's own command-line tools, by package name from Maven Central, kept outside the repository.

They are got once by `mvn` and then run straight by `java`, one process a command. What a machine
lacks for that is a reason to skip, said in the test report; a tool that fails is not.

Most of a tool's CPU time goes into loading its classes. The first run of each leaves them in an
archive beside the jars, and the later ones map it, for half the time (`java -XX:SharedArchiveFile`,
class data sharing); an archive that a java does not want is ignored by it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

KAFKA = "4.1.1"
SLF4J = "1.7.36"  # The one Kafka asks for.
JAVA_AT_LEAST = 17  # Kafka 4's tools do not start on less.
DOWNLOAD_TIMEOUT_S = 90  # Below pytest's own, so that a slow network skips and does not fail.
RUN_TIMEOUT_S = 120

# Connect is half of what would be downloaded, and no tool used here needs it.
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>logd.tests</groupId>
  <artifactId>tools</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>{KAFKA}</version>
      <exclusions>
        <exclusion>
          <groupId>org.apache.kafka</groupId>
          <artifactId>connect-runtime</artifactId>
        </exclusion>
      </exclusions>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-nop</artifactId>
      <version>{SLF4J}</version>
    </dependency>
  </dependencies>
</project>
"""


class UnavailableError(Exception):  # A reason to skip, no error.
    """This machine cannot run the tools; the text says why."""


@dataclass(frozen=True, slots=True)
class JavaTools:
    """The tools, ready to run."""

    java: str
    jars: Path
    version: str

    def options(self, tool: str) -> list[str]:
        """Return what every run of a tool begins with, its archive of classes if there is one."""
        return [
            # Compiled once and lightly, since no tool here runs for long.
            self.java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
            # Warnings about an archive would stand in the tool's output.
            "-Xlog:disable", f"-XX:SharedArchiveFile={self.archive(tool)}",
            "-cp", f"{self.jars}/*",
        ]  # fmt: skip

    def archive(self, tool: str) -> Path:
        """Where a tool's classes are kept, for one version of java and of the jars."""
        return self.jars.parent / f"{self.jars.name}-{self.version}-{tool}.jsa"

    def run(self, tool: str, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run one tool to its end and return its stdout; its exit code must be the one given."""
        return self.run_both(tool, *arguments, stdin=stdin, code=code)[0]

    def run_both(
        self, tool: str, *arguments: str, stdin: str = "", code: int = 0
    ) -> tuple[str, str]:
        """The same, and what it wrote to stderr."""
        archive = self.archive(tool)
        making = None if archive.exists() else archive.with_suffix(f".{os.getpid()}")
        command = [*self.options(tool), tool, *arguments]
        if making is not None:
            command[5:6] = [f"-XX:ArchiveClassesAtExit={making}"]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
        if making is not None and making.exists():
            making.rename(archive)
        assert done.returncode == code, f"{tool} {arguments}: {done.stdout[-2000:]}{done.stderr}"
        return done.stdout, done.stderr


def find_tools() -> JavaTools:
    """Return the tools, downloaded first if they never were.

    Raises:
        UnavailableError: there is no java of the right age, no mvn, or no way to Maven Central.
    """
    java = _program("java")
    said = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    ).stderr
    version = re.search(r'version "((\d+)[^"]*)"', said)
    if version is None or int(version[2]) < JAVA_AT_LEAST:
        raise UnavailableError(f"Kafka's tools need Java {JAVA_AT_LEAST}; here is {said!r}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logd-tests"
    jars = cache / f"kafka-tools-{KAFKA}"
    if not jars.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _download(jars)
    return JavaTools(java, jars, version[1])


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"no {name} on this machine")
    return path


def _download(jars: Path) -> None:
    """Fill a directory beside the wanted one, then rename it: half a download is never used."""
    mvn = _program("mvn")
    with tempfile.TemporaryDirectory(dir=jars.parent) as work:
        pom = Path(work, "pom.xml")
        pom.write_text(POM)
        command = [
            mvn, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), "dependency:copy-dependencies",
            "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(
                f"mvn had not got Kafka {KAFKA} in {DOWNLOAD_TIMEOUT_S} s"
            ) from None
        if done.returncode != 0:
            said = (done.stdout or done.stderr).strip().partition("\n")[0]
            raise UnavailableError(f"mvn could not get Kafka {KAFKA}: {said}")
        try:
            Path(work, "jars").rename(jars)
        except OSError:
            if not jars.is_dir():  # It is there when another run was faster: as good as ours.
                raise
