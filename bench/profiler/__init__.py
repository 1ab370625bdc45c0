"""`python -m bench.profiler [CASE …] --out DIR`: where the time of a request goes.

For each case the server is loaded, and three things are taken of it in turn: stacks of its Python
code (py-spy), from which the flame graph DIR/CASE.svg is drawn; samples of the processor (perf);
and instructions a request, where the machine or valgrind counts them. Together with the CPU time
of a request they give its budget (`bench.profiler.budget`), which is printed and written to
DIR/budget.json.

What a machine lacks is said and left out: py-spy is needed, perf is not. Both ask the kernel for
leave to look at another process: root has it, others where kernel.yama.ptrace_scope is 0 and
kernel.perf_event_paranoid at most 1.
"""

from __future__ import annotations
