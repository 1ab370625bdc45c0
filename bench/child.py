"""One job in a process of its own: `python -m bench.child JOB SPEC`, with a JSON line as the
answer.

A client and the server it measures must not share an interpreter, and every window should begin
with a fresh one. Servers among the jobs answer with their port and run until they are ended. Each
job's module is imported when it is asked for: a run starts hundreds of these processes.

Ctrl-C is the parent's to handle: it ends its children one by one.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from bench.protocol import AnswerError

Answer = dict[str, Any]
Job = Callable[[Answer], "Answer | None"]


def _with_address(spec: Answer) -> Answer:
    host, port = spec["address"]
    return {**spec, "address": (host, port)}


# --- Groups of jobs, by the modules that they need ------------------------------------------------


def _clients() -> dict[str, Job]:
    from bench.fetch_load import FetchLoad, drain, fetch, fetch_places
    from bench.load import ProduceLoad, produce
    from bench.open_load import OpenLoad, open_produce
    from bench.paced import PacedLoad, end_to_end

    def places(spec: Answer) -> Answer:
        several = spec.pop("places")
        return fetch_places(FetchLoad(**_with_address(spec)), several)

    return {
        "fetch-places": places,
        "open-produce": lambda spec: open_produce(OpenLoad(**_with_address(spec))),
        "produce": lambda spec: produce(ProduceLoad(**_with_address(spec))),
        "fetch": lambda spec: fetch(FetchLoad(**_with_address(spec))),
        "drain": lambda spec: drain(FetchLoad(**_with_address(spec))),
        "end-to-end": lambda spec: end_to_end(PacedLoad(**_with_address(spec))),
    }


def _checked_clients() -> dict[str, Job]:
    from bench.load import ProduceLoad
    from bench.paced import PacedLoad
    from bench.peers.readback import end_to_end_checked, produce_checked

    return {
        "produce-checked": lambda spec: produce_checked(ProduceLoad(**_with_address(spec))),
        "end-to-end-checked": lambda spec: end_to_end_checked(PacedLoad(**_with_address(spec))),
    }


def _raw_clients() -> dict[str, Job]:
    from bench.peers.nats_load import Nats
    from bench.peers.raw_load import RawLoad, Speech, end_to_end_raw, fetch_raw, produce_raw
    from bench.peers.redis_load import Redis

    def job(run: Callable[[Speech, RawLoad], Answer], speech: Speech) -> Job:
        return lambda spec: run(speech, RawLoad(**_with_address(spec)))

    jobs: dict[str, Job] = {}
    for name, speech in (("redis", Redis()), ("nats", Nats())):
        jobs[f"produce-{name}"] = job(produce_raw, speech)
        jobs[f"fetch-{name}"] = job(fetch_raw, speech)
        jobs[f"end-to-end-{name}"] = job(end_to_end_raw, speech)
    return jobs


def _groups() -> dict[str, Job]:
    from bench import group_load
    from bench.group_load import CommitLoad, FillLoad, HeartbeatLoad, RebalanceLoad

    return {
        "commit": lambda spec: group_load.commit(CommitLoad(**_with_address(spec))),
        "fill-commits": lambda spec: group_load.fill(FillLoad(**_with_address(spec))),
        "rebalance": lambda spec: group_load.rebalance(RebalanceLoad(**_with_address(spec))),
        "heartbeats": lambda spec: group_load.heartbeats(HeartbeatLoad(**_with_address(spec))),
    }


def _bare_servers() -> dict[str, Job]:
    from bench import ceilings, decoding

    return {
        "serve-answers": ceilings.serve_answers,
        "serve-append": ceilings.serve_append,
        "serve-send": ceilings.serve_send,
        "serve-decoded": decoding.serve_decoded,
    }


def _bare_disk() -> dict[str, Job]:
    from bench import bare_disk, bare_reads

    return {
        "write-and-sync": bare_disk.write_and_sync,
        "write-only": bare_disk.write_only,
        "write-direct": bare_disk.write_direct,
        "round-robin": bare_disk.round_robin,
        "checksum": bare_disk.checksum,
        "make-file": bare_reads.make_file,
        "read": bare_reads.read,
        "read-direct": bare_reads.read_direct,
    }


def _cleaning() -> dict[str, Job]:
    from bench import cleaning

    return {
        "write-log": cleaning.write_log,
        "compact-log": cleaning.compact_log,
        "rebuild-log": cleaning.rebuild_log,
    }


def _coding() -> dict[str, Job]:
    from bench import coding

    return {
        "code": coding.code,
        "bare-code": coding.bare_code,
        "encode": coding.encode_files,
        "bare-encode": coding.bare_encode,
    }


def _compacted() -> dict[str, Job]:
    from bench.peers import compacted

    return {"append-log": compacted.append_log, "check-compacted": compacted.check_compacted}


def _coding_peers() -> dict[str, Job]:
    from bench.peers import coding_load

    return {
        "code-library": coding_load.code_library,
        "code-program": coding_load.code_program,
    }


def _repairing() -> dict[str, Job]:
    from bench import repairing

    return {
        "rebuild-chunks": repairing.rebuild_chunks,
        "bare-rebuild": repairing.bare_rebuild,
        "scrub-chunks": repairing.scrub_chunks,
        "bare-scrub": repairing.bare_scrub,
    }


def _node() -> dict[str, Job]:
    from bench import node_load

    return {
        "serve-node": node_load.serve_node,
        "serve-ranges": node_load.serve_ranges,
        "get-ranges": node_load.get_ranges,
        "read-ranges": node_load.read_ranges,
    }


# Looked through in this order: what is asked for often and costs little to import comes first.
GROUPS: Final = (
    _clients, _bare_servers, _bare_disk, _groups, _checked_clients, _raw_clients, _coding_peers,
    _cleaning, _compacted, _node, _coding, _repairing,
)  # fmt: skip


def find_job(name: str) -> Job:
    """Return the job of this name.

    Raises:
        KeyError: there is none.
    """
    for load in GROUPS:
        jobs = load()
        if name in jobs:
            return jobs[name]
    raise KeyError(name)


def main(arguments: list[str]) -> int:
    """Run the named job; print its answer."""
    name, spec = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = find_job(name)
    # Nothing here makes cycles, and a collection is a latency that is not the server's.
    gc.disable()
    try:
        answer = job(json.loads(spec))
    except AnswerError as error:
        # The reason belongs in the parent's report, not only in a traceback on the terminal.
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        sys.stdout.flush()
        raise
    if answer is not None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
