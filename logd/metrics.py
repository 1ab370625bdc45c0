"""Counters, gauges and histograms, and their Prometheus text (format 0.0.4).

Plain objects, made for a server whose event loop is its only writer: adding to a counter is an
attribute addition, without a lock or a look-up. Whoever counts keeps the object. One thread (the
loop) adds and renders; values that other threads produce are handed to the loop first.

    REQUESTS = registry.counter("logd_requests_total", "Requests answered.", api="Fetch")
    REQUESTS.value += 1

A *family* is a name with its help and kind; a *series* is a family with label values. Label values
may come from clients, so a family has at most SERIES_MAX series: further ones share a single
series whose label values are all OVERFLOW_LABEL. Counting goes on, memory does not grow. Families
that are computed at scrape time (`Registry.family`) are as long as what they describe, which has
limits of its own.

Source: Prometheus, "Exposition formats" (text) and "Metric and label naming".
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Literal, TypeVar

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# Enough for every API and error code, and for a few hundred clients' names.
SERIES_MAX: Final = 1_000
OVERFLOW_LABEL: Final = "(other)"

# From what a cached read takes to where a client has given up.
LATENCY_BOUNDS_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
# Batches per sync, records per batch: powers of four.
COUNT_BOUNDS: Final = (1, 4, 16, 64, 256, 1024, 4096)

Number = int | float
Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, Number]
"""The suffix to the family's name, labels, value."""
Kind = Literal["counter", "gauge"]

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Counter:
    """A number that only rises. `value += n` is as good as `add(n)`, and cheaper."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Number = 0

    def add(self, amount: Number = 1) -> None:
        """Add `amount`, which is not negative."""
        self.value += amount

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Yield the series' one sample."""
        yield "", labels, self.value


class Gauge:
    """A number that rises and falls: set `value`, or give a function that is asked at scrape."""

    __slots__ = ("_function", "value")

    def __init__(self, function: Callable[[], Number] | None = None) -> None:
        self.value: Number = 0
        self._function = function

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Yield the series' one sample."""
        yield "", labels, self.value if self._function is None else self._function()


class Histogram:
    """Counts of observations by size, with few, fixed bounds.

    `counts[i]` are the observations above `bounds[i - 1]` and at most `bounds[i]`; the last entry
    has those above all bounds.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[Number]) -> None:
        assert bounds
        assert list(bounds) == sorted(set(bounds))
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum: Number = 0

    def observe(self, value: Number, count: int = 1) -> None:
        """Count one observation, or several that are the same."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    @property
    def buckets(self) -> list[tuple[Number, int]]:
        """Each bound, infinity last, with the number of observations at most as large."""
        return list(zip((*self.bounds, math.inf), accumulate(self.counts), strict=True))

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Yield the cumulative buckets, the sum and the count."""
        for bound, count in self.buckets:
            yield "_bucket", (*labels, ("le", _format_number(bound))), count
        yield "_sum", labels, self.sum
        yield "_count", labels, self.count


Metric = Counter | Gauge | Histogram
_M = TypeVar("_M", Counter, Gauge, Histogram)


class _Family:
    """The series of one name."""

    __slots__ = ("help", "kind", "label_names", "series")

    def __init__(self, help_text: str, kind: str, label_names: tuple[str, ...]) -> None:
        self.help = help_text
        self.kind = kind
        self.label_names = label_names
        self.series: dict[Labels, Metric] = {}

    def get(self, labels: Labels, make: Callable[[], _M]) -> _M:
        found = self.series.get(labels)
        if found is None and len(self.series) >= SERIES_MAX - 1:
            # The last place is the overflow's: SERIES_MAX counts it.
            labels = tuple((name, OVERFLOW_LABEL) for name, _ in labels)
            found = self.series.get(labels)
        if found is None:
            found = self.series[labels] = make()
        return found  # type: ignore[return-value]  # one kind a family, asserted by the registry

    def samples(self) -> Iterator[Sample]:
        for labels in sorted(self.series):
            yield from self.series[labels].samples(labels)


class _ComputedFamily:
    """Series that a function yields at scrape."""

    __slots__ = ("function", "help", "kind")

    def __init__(
        self,
        help_text: str,
        kind: Kind,
        function: Callable[[], Iterable[tuple[dict[str, str], Number]]],
    ) -> None:
        self.help = help_text
        self.kind = kind
        self.function = function

    def samples(self) -> Iterator[Sample]:
        rows = [(tuple(sorted(labels.items())), value) for labels, value in self.function()]
        for labels, value in sorted(rows, key=lambda row: row[0]):
            yield "", labels, value


class Registry:
    """All families of a server, by name.

    Asking again for the same name and labels gives the same object. A name keeps its kind, help
    and label names: anything else is a bug and asserts.
    """

    def __init__(self) -> None:
        self._families: dict[str, _Family | _ComputedFamily] = {}

    def counter(self, name: str, help_text: str, /, **labels: str) -> Counter:
        """Return the counter of this name (`…_total`) and these labels."""
        assert name.endswith("_total")
        return self._family(name, help_text, "counter", labels).get(_sort(labels), Counter)

    def gauge(
        self,
        name: str,
        help_text: str,
        function: Callable[[], Number] | None = None,
        /,
        **labels: str,
    ) -> Gauge:
        """Return the gauge of this name and these labels; `function`, if given, is its value."""
        family = self._family(name, help_text, "gauge", labels)
        return family.get(_sort(labels), lambda: Gauge(function))

    def histogram(
        self, name: str, help_text: str, bounds: Sequence[Number], /, **labels: str
    ) -> Histogram:
        """Return the histogram of this name and these labels, with rising upper `bounds`."""
        assert "le" not in labels
        family = self._family(name, help_text, "histogram", labels)
        histogram = family.get(_sort(labels), lambda: Histogram(bounds))
        assert histogram.bounds == tuple(bounds)
        return histogram

    def family(
        self,
        name: str,
        help_text: str,
        kind: Kind,
        function: Callable[[], Iterable[tuple[dict[str, str], Number]]],
    ) -> None:
        """Add a family whose series `function` yields, as (labels, value), at each scrape."""
        assert _METRIC_NAME.fullmatch(name)
        assert name not in self._families
        self._families[name] = _ComputedFamily(help_text, kind, function)

    def render(self) -> str:
        """Return everything as Prometheus text, families and series in order of their names."""
        lines: list[str] = []
        for name in sorted(self._families):
            family = self._families[name]
            lines.append(f"# HELP {name} {_escape(family.help)}")
            lines.append(f"# TYPE {name} {family.kind}")
            for suffix, labels, value in family.samples():
                lines.append(f"{name}{suffix}{_format_labels(labels)} {_format_number(value)}")
        lines.append("")
        return "\n".join(lines)

    def _family(self, name: str, help_text: str, kind: str, labels: dict[str, str]) -> _Family:
        family = self._families.get(name)
        label_names = tuple(sorted(labels))
        if family is None:
            assert _METRIC_NAME.fullmatch(name)
            assert all(_LABEL_NAME.fullmatch(label) for label in label_names)
            family = self._families[name] = _Family(help_text, kind, label_names)
        assert isinstance(family, _Family)
        assert family.kind == kind
        assert family.label_names == label_names
        return family


def _sort(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _format_labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (name + '="' + _escape(value).replace('"', r"\"") + '"' for name, value in labels)
    return "{" + ",".join(pairs) + "}"


def _format_number(value: Number) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
