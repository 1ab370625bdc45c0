"""DRIVER: the composition root: what a server is put together from, and in which order.

Start: `ground` (limits of the process, the ports bound and not yet listening, the data directory
and its lock), `opening` (the catalog, the cold tier on it, the journal), then objects that know
each other: `partitions`, `coded`, `groups`, `upkeep`, `ports`, each from those before it. Then the
partitions are opened (recovered where the last stop was not clean), and the groups with their
offsets; then the clean-stop marker is removed, durably, and only then both ports listen. Before a
port answers, it is ready to serve. `program` is that order, the tasks, and the way to `stopping`.

Stop (SIGTERM, SIGINT): accept and read no more, let what was appended be written and synced and its
answers leave, close the logs, write the clean-stop marker. A second signal ends the process at
once; what was acknowledged is on disk all the same.

Each of these modules is one of the parts a server has; none decides anything. Only `program` is
imported from outside, and `options`.
"""
