"""DECISION: state in, plan out; pure functions over frozen descriptions."""
