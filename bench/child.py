"""One job in a process of its own: `python -m bench.child JOB SPEC`, with a JSON line as the
answer.

A client and the server it measures must not share an interpreter, and every window should begin
with a fresh one. Servers among the jobs answer with their port and run until they are ended.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from bench import bare_disk, ceilings, cleaning, coding, decoding, group_load, node_load
from bench.fetch_load import FetchLoad, drain, fetch, fetch_places
from bench.group_load import CommitLoad, FillLoad, HeartbeatLoad, RebalanceLoad
from bench.load import ProduceLoad, produce
from bench.paced import PacedLoad, end_to_end
from bench.peers.nats_load import Nats
from bench.peers.raw_load import RawLoad, Speech, end_to_end_raw, fetch_raw, produce_raw
from bench.peers.readback import end_to_end_checked, produce_checked
from bench.peers.redis_load import Redis
from bench.protocol import AnswerError

Job = Callable[[dict[str, Any]], "dict[str, Any] | None"]


def _with_address(spec: dict[str, Any]) -> dict[str, Any]:
    host, port = spec["address"]
    return {**spec, "address": (host, port)}


def _fetch_places(spec: dict[str, Any]) -> dict[str, Any]:
    places = spec.pop("places")
    return fetch_places(FetchLoad(**_with_address(spec)), places)


def _raw_jobs(name: str, speech: Speech) -> dict[str, Job]:
    """Return the jobs of a protocol that is not Kafka's, under names that end with it."""

    def job(run: Callable[[Speech, RawLoad], dict[str, Any]]) -> Job:
        return lambda spec: run(speech, RawLoad(**_with_address(spec)))

    return {
        f"produce-{name}": job(produce_raw),
        f"fetch-{name}": job(fetch_raw),
        f"end-to-end-{name}": job(end_to_end_raw),
    }


JOBS: Final[dict[str, Job]] = {
    "produce": lambda spec: produce(ProduceLoad(**_with_address(spec))),
    "fetch": lambda spec: fetch(FetchLoad(**_with_address(spec))),
    "fetch-places": _fetch_places,
    "drain": lambda spec: drain(FetchLoad(**_with_address(spec))),
    "end-to-end": lambda spec: end_to_end(PacedLoad(**_with_address(spec))),
    "produce-checked": lambda spec: produce_checked(ProduceLoad(**_with_address(spec))),
    "end-to-end-checked": lambda spec: end_to_end_checked(PacedLoad(**_with_address(spec))),
    **_raw_jobs("redis", Redis()),
    **_raw_jobs("nats", Nats()),
    "commit": lambda spec: group_load.commit(CommitLoad(**_with_address(spec))),
    "fill-commits": lambda spec: group_load.fill(FillLoad(**_with_address(spec))),
    "rebalance": lambda spec: group_load.rebalance(RebalanceLoad(**_with_address(spec))),
    "heartbeats": lambda spec: group_load.heartbeats(HeartbeatLoad(**_with_address(spec))),
    "serve-answers": ceilings.serve_answers,
    "serve-append": ceilings.serve_append,
    "serve-send": ceilings.serve_send,
    "serve-decoded": decoding.serve_decoded,
    "write-and-sync": bare_disk.write_and_sync,
    "write-only": bare_disk.write_only,
    "round-robin": bare_disk.round_robin,
    "checksum": bare_disk.checksum,
    "write-log": cleaning.write_log,
    "compact-log": cleaning.compact_log,
    "rebuild-log": cleaning.rebuild_log,
    "code": coding.code,
    "bare-code": coding.bare_code,
    "encode": coding.encode_files,
    "bare-encode": coding.bare_encode,
    "serve-node": node_load.serve_node,
    "serve-ranges": node_load.serve_ranges,
    "get-ranges": node_load.get_ranges,
    "read-ranges": node_load.read_ranges,
}


def main(arguments: list[str]) -> int:
    """Run the named job; print its answer."""
    name, spec = arguments
    # Nothing here makes cycles, and a collection is a latency that is not the server's.
    gc.disable()
    try:
        answer = JOBS[name](json.loads(spec))
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
