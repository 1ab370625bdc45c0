"""Erasure coding of sealed segments onto storage nodes: a library that imports nothing of logd.

A sealed segment becomes k data and m parity chunks, each a file that says by itself what it is
(docs/formats/chunk-file.md). Any k of the k+m chunks give the segment back.

    FORMAT    field  matrix  kernels  codec  geometry  indexes  manifest  chunk_file  segment
    DECISION  placement  margin  plan  breaker
    STORAGE   file_system  node_identity  node_dir  chunk_reader  chunk_write  chunk_dir
    DRIVER    offload  store  node  encode  prove  read  repair

FORMAT and DECISION are functions of values. STORAGE blocks and is handed the file system
(`ec.file_system`). DRIVER is what event loops call. docs/adr/0002 says where the border to logd
runs.
"""
