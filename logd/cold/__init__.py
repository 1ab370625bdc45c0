"""DRIVER: the cold tier: what the catalog says, the storage nodes, and who works on coded segments.

The one place of the server where its own modules and the coding library `ec` meet. A server without
storage nodes imports `tier`, `nodes` and no module of `ec`: so these two name the library's types
for the type checker only, and everything else here is imported when a node exists.
"""
