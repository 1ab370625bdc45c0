"""The judge: from a journal to a list of broken promises. Pure.

The kinds of finding, after the anomalies that Jepsen looks for in logs:

    lost            acknowledged, and not in the log at the end
    duplicate       in the log more than once
    phantom         in the log, and nobody sent it (or not to this partition)
    corrupt         other bytes than were sent
    moved           not at the offset that was acknowledged
    two-at-one      one offset was acknowledged for two records
    reordered       a producer's later record lies before its earlier one
    realtime-order  acknowledged before another was sent, and yet behind it
    gap             an offset that no record has
    unstable        what a consumer was shown is another record now, or gone
    poll-order      a consumer was shown an offset again, or one was skipped
    unseen          acknowledged, and never shown to the consumer that followed
    passes-differ   two readings of the finished log are not the same
    watermark-fell  a consumer saw the high watermark go back
    reader-error    a consumer was given an error
    stalled         the server was ready, and acknowledged nothing for too long

`harness` findings say that the run proves nothing: no acknowledgement, no kill, no final reading.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bench.checker.journal import (
    UNKNOWN_OFFSET,
    Event,
    Killed,
    ReaderError,
    Ready,
    Seen,
    Sent,
    Settled,
    Stalled,
    Watermark,
)

HARNESS: Final = "harness"
FINAL: Final = "final"
TAIL: Final = "tail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise, with what shows it."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the journal proves."""

    findings: tuple[Finding, ...]
    sent: int
    acknowledged: int
    unknown: int
    unknown_but_present: int
    records: int
    kills: int
    slowest_start_s: float

    @property
    def is_harness_failure(self) -> bool:
        """Whether the run proves nothing, good or bad."""
        return any(finding.kind == HARNESS for finding in self.findings)

    @property
    def is_valid(self) -> bool:
        """Whether every promise held, and the run had something to show for it."""
        return not self.findings

    def counts(self) -> Counter[str]:
        """Return how many findings there are of each kind."""
        return Counter(finding.kind for finding in self.findings)


@dataclass(slots=True)
class Evidence:
    """The journal, sorted by what each check asks for."""

    sent: dict[str, Sent] = field(default_factory=dict)
    acknowledged: dict[str, Settled] = field(default_factory=dict)
    readings: dict[str, dict[int, list[Seen]]] = field(default_factory=dict)
    watermarks: list[Watermark] = field(default_factory=list)
    reader_errors: list[ReaderError] = field(default_factory=list)
    stalls: list[Stalled] = field(default_factory=list)
    kills: int = 0
    starts_s: list[float] = field(default_factory=list)

    def finals(self) -> list[str]:
        """Return the names of the readings of the finished log, first one first."""
        return sorted(name for name in self.readings if name.startswith(FINAL))

    def tails(self) -> list[str]:
        """Return the names of the consumers that followed while the log grew."""
        return sorted(name for name in self.readings if name.startswith(TAIL))


def judge(events: Iterable[Event], *, acks_min: int = 1, kills_min: int = 1) -> Verdict:
    """Judge a run.

    Args:
        events: of all journals of the run. Each reader's Seen and Watermark events must be in the
            order in which it wrote them; beyond that the order does not matter.
        acks_min, kills_min: fewer than that, and the run proves nothing.
    """
    evidence = gather(events)
    finals = evidence.finals()
    log = evidence.readings[finals[0]] if finals else {}
    findings = list(_check_harness(evidence, acks_min, kills_min))
    if finals:
        findings += _check_presence(evidence, log)
        findings += _check_offsets(evidence, log)
        findings += _check_producer_order(evidence, log)
        findings += _check_realtime_order(evidence)
        findings += _check_stability(evidence, log)
        findings += _check_passes(evidence, log)
    findings += _check_tails(evidence)
    findings += _check_watermarks(evidence)
    findings += [Finding("reader-error", f"{e.reader}: {e.error}") for e in evidence.reader_errors]
    findings += [
        Finding("stalled", f"{e.producer}: no acknowledgement for {e.seconds:g} s")
        for e in evidence.stalls
    ]
    return _verdict(evidence, log, findings)


def gather(events: Iterable[Event]) -> Evidence:
    """Sort the events by what the checks ask for."""
    evidence = Evidence()
    for event in events:
        match event:
            case Sent():
                evidence.sent[event.key] = event
            case Settled(outcome="ok"):
                evidence.acknowledged[event.key] = event
            case Settled():
                pass  # The record may be there or not: as if nobody had said anything.
            case Seen():
                partitions = evidence.readings.setdefault(event.reader, defaultdict(list))
                partitions[event.partition].append(event)
            case Watermark():
                evidence.watermarks.append(event)
            case ReaderError():
                evidence.reader_errors.append(event)
            case Stalled():
                evidence.stalls.append(event)
            case Killed():
                evidence.kills += 1
            case Ready():
                evidence.starts_s.append(event.seconds)
    return evidence


def _verdict(evidence: Evidence, log: dict[int, list[Seen]], findings: list[Finding]) -> Verdict:
    present = {record.key for records in log.values() for record in records}
    unknown = evidence.sent.keys() - evidence.acknowledged.keys()
    return Verdict(
        findings=tuple(findings),
        sent=len(evidence.sent),
        acknowledged=len(evidence.acknowledged),
        unknown=len(unknown),
        unknown_but_present=len(unknown & present),
        records=sum(map(len, log.values())),
        kills=evidence.kills,
        slowest_start_s=max(evidence.starts_s, default=0.0),
    )


# --- The checks ---------------------------------------------------------------------------------


def _check_harness(evidence: Evidence, acks_min: int, kills_min: int) -> Iterator[Finding]:
    acks = len(evidence.acknowledged)
    if acks < acks_min:
        yield Finding(HARNESS, f"{acks} records were acknowledged, at least {acks_min} must be")
    if evidence.kills < kills_min:
        yield Finding(HARNESS, f"{evidence.kills} kills, there must be at least {kills_min}")
    if not evidence.finals():
        yield Finding(HARNESS, "nobody read the finished log")
    for key in evidence.acknowledged.keys() - evidence.sent.keys():
        yield Finding(HARNESS, f"{key} was acknowledged, but its sending is not in the journal")


def _check_presence(evidence: Evidence, log: dict[int, list[Seen]]) -> Iterator[Finding]:
    times: Counter[str] = Counter()
    for partition, records in log.items():
        for record in records:
            times[record.key] += 1
            sent = evidence.sent.get(record.key)
            if sent is None:
                yield Finding("phantom", f"{_where(record)}: nobody sent {record.key}")
            elif sent.partition != partition:
                yield Finding(
                    "phantom", f"{_where(record)}: {record.key} was sent to {sent.partition}"
                )
            elif sent.digest != record.digest:
                yield Finding("corrupt", f"{_where(record)}: {record.key} has other bytes")
    for key in evidence.acknowledged:
        if not times[key]:
            offset = evidence.acknowledged[key].offset
            yield Finding("lost", f"{key}, acknowledged at offset {offset}, is not there")
    for key, count in times.items():
        if count > 1:
            yield Finding("duplicate", f"{key} is in the log {count} times")


def _check_offsets(evidence: Evidence, log: dict[int, list[Seen]]) -> Iterator[Finding]:
    for partition, records in log.items():
        for expected, record in enumerate(records):
            if record.offset != expected:
                yield Finding(
                    "gap", f"partition {partition}: offset {record.offset} follows {expected - 1}"
                )
                break
        for record in records:
            ack = evidence.acknowledged.get(record.key)
            if ack is not None and ack.offset not in (UNKNOWN_OFFSET, record.offset):
                yield Finding(
                    "moved", f"{_where(record)}: {record.key} was acknowledged at {ack.offset}"
                )
    places: dict[tuple[int, int], str] = {}
    for key, ack in evidence.acknowledged.items():
        if key in evidence.sent and ack.offset != UNKNOWN_OFFSET:
            place = (evidence.sent[key].partition, ack.offset)
            other = places.setdefault(place, key)
            if other != key:
                yield Finding("two-at-one", f"{place}: acknowledged for {other} and for {key}")


def _check_producer_order(evidence: Evidence, log: dict[int, list[Seen]]) -> Iterator[Finding]:
    for records in log.values():
        newest: dict[str, Sent] = {}
        for record in records:
            sent = evidence.sent.get(record.key)
            if sent is None:
                continue
            before = newest.get(sent.producer)
            if before is not None and sent.sequence < before.sequence:
                yield Finding("reordered", f"{_where(record)}: {sent.key} lies behind {before.key}")
            else:
                newest[sent.producer] = sent


def _check_realtime_order(evidence: Evidence) -> Iterator[Finding]:
    """For each record: the highest offset acknowledged before it was sent must lie below its own.

    Both times are the client's, taken before the send and after the acknowledgement: later and
    earlier than the truth, so that what is found here did happen.
    """
    by_partition: dict[int, list[Sent]] = defaultdict(list)
    for key, ack in evidence.acknowledged.items():
        if key in evidence.sent and ack.offset != UNKNOWN_OFFSET:
            by_partition[evidence.sent[key].partition].append(evidence.sent[key])
    for partition, sends in by_partition.items():
        acks = sorted((evidence.acknowledged[sent.key] for sent in sends), key=lambda a: a.at_ns)
        highest, position = -1, 0
        for sent in sorted(sends, key=lambda s: s.at_ns):
            while position < len(acks) and acks[position].at_ns < sent.at_ns:
                highest = max(highest, acks[position].offset)
                position += 1
            offset = evidence.acknowledged[sent.key].offset
            if offset < highest:
                yield Finding(
                    "realtime-order",
                    f"partition {partition}: {sent.key} got offset {offset}, but {highest} was "
                    "acknowledged before it was sent",
                )


def _check_stability(evidence: Evidence, log: dict[int, list[Seen]]) -> Iterator[Finding]:
    now = {
        (partition, record.offset): (record.key, record.digest)
        for partition, records in log.items()
        for record in records
    }
    for tail in evidence.tails():
        for partition, records in evidence.readings[tail].items():
            for record in records:
                current = now.get((partition, record.offset))
                if current != (record.key, record.digest):
                    became = "is gone" if current is None else f"is {current[0]} now"
                    yield Finding(
                        "unstable", f"{_where(record)}: {tail} was shown {record.key}, it {became}"
                    )


def _check_passes(evidence: Evidence, log: dict[int, list[Seen]]) -> Iterator[Finding]:
    expected = _content(log)
    for name in evidence.finals()[1:]:
        found = _content(evidence.readings[name])
        if found != expected:
            differing = found.symmetric_difference(expected)
            yield Finding(
                "passes-differ",
                f"{name} differs from the first reading in {len(differing)} records, "
                f"the first of them {min(differing)}",
            )


def _content(log: dict[int, list[Seen]]) -> set[tuple[int, int, str, str]]:
    return {
        (partition, record.offset, record.key, record.digest)
        for partition, records in log.items()
        for record in records
    }


def _check_tails(evidence: Evidence) -> Iterator[Finding]:
    shown: set[str] = set()
    for tail in evidence.tails():
        for partition, records in evidence.readings[tail].items():
            shown.update(record.key for record in records)
            expected = 0
            for record in records:
                if record.offset != expected:
                    yield Finding(
                        "poll-order",
                        f"{tail}, partition {partition}: was shown {record.offset}, not {expected}",
                    )
                expected = record.offset + 1
    if evidence.tails():
        for key in evidence.acknowledged.keys() - shown:
            yield Finding("unseen", f"{key} was acknowledged and never shown")


def _check_watermarks(evidence: Evidence) -> Iterator[Finding]:
    highest: dict[tuple[str, int], int] = {}
    for mark in evidence.watermarks:
        place = (mark.reader, mark.partition)
        if mark.offset < highest.get(place, 0):
            yield Finding(
                "watermark-fell",
                f"{mark.reader}, partition {mark.partition}: "
                f"from {highest[place]} to {mark.offset}",
            )
        highest[place] = max(mark.offset, highest.get(place, 0))


def _where(record: Seen) -> str:
    return f"partition {record.partition}, offset {record.offset}"
