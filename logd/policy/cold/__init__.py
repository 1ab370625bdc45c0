"""DECISION: the life of coded segments, from hot to gone; pure functions over frozen values."""
