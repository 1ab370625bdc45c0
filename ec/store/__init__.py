"""Storage nodes: one protocol (`protocol`), a directory here (`local`), a server there."""
