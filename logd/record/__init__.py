"""FORMAT: record batches (magic 2), the records inside them, and their compression."""
