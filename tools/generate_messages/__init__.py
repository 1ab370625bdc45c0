"""Writes `logd/wire/messages`, one module per Kafka API, from Apache Kafka's message schemas.

    python -m tools.generate_messages            write the modules
    python -m tools.generate_messages --check    write nothing, exit 1 if a module is stale

The schemas (JSON, Apache-2.0) are read from the installed kafka-python wheel, a development
dependency. Names, types, versions and defaults are taken from them; descriptions are not.

`schema` reads a schema into values, `layout` says what is on the wire in a range of versions,
`classes`, `decode` and `encode` write the three kinds of code, `module` puts a file together.
"""
