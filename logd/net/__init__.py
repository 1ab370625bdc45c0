"""DRIVER: sockets. Listening, serving connections, sending bytes and file slices."""
