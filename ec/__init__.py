"""Erasure coding of sealed segments onto storage nodes: a library that imports nothing of logd.

It has no modules in this version; docs/adr/0002 says where its border runs.
"""
