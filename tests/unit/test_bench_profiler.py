"""Budgets and flame graphs from what samplers say."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bench.process import BenchError
from bench.profiler import callgrind
from bench.profiler.__main__ import CASES
from bench.profiler.budget import (
    INTERPRETER,
    Profile,
    compared,
    module_stages,
    perf_stages,
    read_stacks,
    stages,
    table,
)
from bench.profiler.flame import WIDTH, build, depth_of, flame_graph
from bench.profiler.samplers import read_count

PY = "/usr/lib/libpython3.11.so.1.0"
PERF = f"""python 7
\tffffffff81743755 ext4_write ([kernel.kallsyms])
\tffffffff821ed511 do_syscall_64 ([kernel.kallsyms])
\t           fe261 pwritev64v2 (/usr/lib/libc.so.6)

python 7
\tffffffff813a2413 finish_task_switch.isra.0 ([kernel.kallsyms])
\tffffffff821ed6db do_syscall_64 ([kernel.kallsyms])
\t          10aba4 __send (/usr/lib/libc.so.6)

python 7
\tffffffff81000d62 asm_common_interrupt ([kernel.kallsyms])
\t          1b981f tupledealloc ({PY})

python 7
\t          1b981f tupledealloc ({PY})
\t    7fabe205e380 [unknown] ([unknown])

python 7
\t            14ac siftdown (/usr/lib/_heapq.cpython-311.so)

python 7
\t            14ac _crc32c_hw_adler (/usr/lib/_crc32c.cpython-311.so)

python 7
\t            14ac __memmove_avx_unaligned_erms (/usr/lib/libc.so.6)
"""
STACKS = """main (cli/main.py:1);_run (logd/net/serve.py:9);check_run (logd/record/batch.py:3) 6
main (cli/main.py:1);_run (logd/net/serve.py:9) 3
thread (threading.py:9);_work (logd/offload.py:86) 900
thread (threading.py:9);_work (logd/offload.py:87);sync_data (logd/storage/files.py:182) 1
"""


def test_perf_samples_fall_into_stages() -> None:
    """System calls by what they are for, interrupts, libraries; all else is the interpreter."""
    assert perf_stages(PERF) == {
        "write to the page cache": 1,
        "send answers": 1,
        "interrupts and scheduling": 1,
        INTERPRETER: 2,
        "CRC-32C": 1,
        "copies in memory": 1,
    }


def test_stacks_that_wait_are_left_out() -> None:
    """A thread that waits for work costs nothing, however often it was seen."""
    stacks = read_stacks(STACKS)
    assert sum(count for _, count in stacks) == 10
    assert module_stages(stacks) == {
        "check batches (record)": 6,
        "serving loop (net)": 3,
        "offsets, indexes, segments (storage)": 1,
    }


def test_a_budget_adds_up() -> None:
    """The parts are in microseconds, their sum is the request's, the largest comes first."""
    parts = stages(20.0, {"send answers": 1, INTERPRETER: 3}, {"a": 2, "b": 1})
    assert [(part.name, part.us) for part in parts] == [
        ("Python: a", pytest.approx(10)), ("send answers", pytest.approx(5)),
        ("Python: b", pytest.approx(5))]  # fmt: skip
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_a_budget_without_perf_is_all_python() -> None:
    """Where the processor cannot be sampled, what remains is said without making parts up."""
    parts = stages(20.0, {}, {"a": 1})
    assert [(part.name, part.us) for part in parts] == [("Python: a", 20)]
    assert [(part.name, part.us) for part in stages(20.0, {}, {})] == [(INTERPRETER, 20)]


def test_small_parts_stand_in_one_line() -> None:
    """The table stays short, and still adds up."""
    many = {f"p{index}": 1 for index in range(99)} | {"large": 901}
    text = table(Profile("case", "request", 5.0, 100.0, None, stages(100.0, many, {})))
    assert "| large | 90.1 | 90% |" in text
    assert "| 99 smaller ones | 9.9 | 10% |" in text
    assert "instructions" not in text


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("1234567,,instructions:u,1000,100.00,,", 1234567),
     ("<not supported>,,instructions:u,0,100.00,,", "does not count.*not supported"),
     ("nothing", "gave no count")],
)  # fmt: skip
def test_instructions_are_counted_or_it_is_said(said, outcome) -> None:
    """A machine that cannot count says so; no number is made up."""
    if isinstance(outcome, int):
        assert read_count(said) == outcome
    else:
        with pytest.raises(BenchError, match=outcome):
            read_count(said)


def test_a_flame_graph_is_as_wide_as_its_samples() -> None:
    """Each frame's width is its share, callees lie within their caller, and names are escaped."""
    stacks = [(("a", "b<c>"), 3), (("a",), 1), (("d",), 4)]
    root = build(stacks)
    assert (root.samples, depth_of(root)) == (8, 3)
    document = ET.fromstring(flame_graph(stacks, title="t & u", sub="s"))
    bars = {}
    for group in document.iter("{http://www.w3.org/2000/svg}g"):
        title, bar = group[0].text or "", group[1]
        bars[title.split(":")[0]] = (float(bar.attrib["x"]), float(bar.attrib["width"]))
    assert bars["all"] == (0, WIDTH)
    assert bars["a"] == (0, WIDTH / 2)
    assert bars["b<c>"] == (0, pytest.approx(WIDTH * 3 / 8))
    assert bars["d"] == (WIDTH / 2, WIDTH / 2)


def test_a_budget_is_compared_with_an_earlier_one() -> None:
    """Instructions and CPU time of each case that both have; what was not counted says so."""
    now = [Profile("a", "request", 1.0, 20.0, 1100.0, []), Profile("b", "x", 1.0, 5.0, None, []),
           Profile("new", "x", 1.0, 5.0, None, [])]  # fmt: skip
    before = [{"case": "a", "instructions": 1000.0, "us_per_request": 25.0},
              {"case": "b", "instructions": 7.0, "us_per_request": 5.0}]  # fmt: skip
    text = compared(now, before)
    assert "| a | 1,000 to 1,100, +10.0% | 25 to 20, -20.0% |" in text
    assert "| b | not counted | 5 to 5, +0.0% |" in text
    assert "new" not in text


def test_there_is_a_case_for_each_hot_path() -> None:
    """Append, durable append, fetch and encode are what is profiled."""
    for name in ("append-1", "append-100", "durable-100", "fetch-1MiB", "encode-4+2"):
        assert name in CASES


def test_callgrinds_total_is_read_or_its_absence_told() -> None:
    """The total of a dump is its count; a dump without one is no count of 0."""
    assert callgrind.read_total("events: Ir\nfn=(1)\n1 5\ntotals: 140790098\n") == 140790098
    with pytest.raises(BenchError, match="no total"):
        callgrind.read_total("events: Ir\ntotals: \n")


def test_counts_of_two_kinds_are_not_compared() -> None:
    """A count of callgrind beside one of perf stat is no change of the code."""
    now = Profile("append-1", "request", 1.0, 10.0, 300.0, [], counted_by="callgrind")
    earlier = {"case": "append-1", "us_per_request": 10.0, "instructions": 200.0}
    assert "not counted" in compared([now], [{**earlier, "counted_by": "perf stat"}])
    assert "+50.0%" in compared([now], [{**earlier, "counted_by": "callgrind"}])
