"""STORAGE: blocking file work. No Trio, no sockets, no clock, no randomness in here."""
