"""DECISION: consumer groups of the classic protocol, as state machines without I/O."""
