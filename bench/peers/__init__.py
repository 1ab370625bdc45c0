"""logd beside its peers: the same client, the same disk, the same minute.

    python -m bench.peers run --dir /var/tmp --only kafka --out peers.json
    python -m bench.peers page peers.json --out docs/benchmarks.md

A peer is a real server, got from its package (`packages`), started with the flags it ships with
(`kafka`, `redis`, `nats`), and driven by clients of this package in turn with our server: A B A B.
Apache Kafka is driven by the very client that drives us (`bench.load`, `bench.fetch_load`,
`bench.paced`). Redis and NATS speak other protocols: their clients (`redis_load`, `nats_load`) have
the same sockets, the same loop and the same bookkeeping, and differ in the bytes.

Invariants:

* What was acknowledged in a window is read back after it, counted, and compared byte by byte
  (`readback` and the two raw clients): a server that is quick at losing records is not quick.
* A window that met an error is a failure of the run, not a slow window.
* Both sides of a row do the same work. Where they differ in durability, the row's section says how.
* A peer that cannot be had here is named as skipped, with the reason: in the table too.

Peers of the coding library (bare ISA-L, zfec, pyeclib, klauspost/reedsolomon) are in `coding`: they
code the same chunks in memory in turn, and prove that they get back what is lost.
"""
