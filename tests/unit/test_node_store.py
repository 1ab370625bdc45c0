"""A node behind HTTP passes the contract of all storage nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ec.store.protocol import Store
from tests.contract.check_store import StoreContract
from tests.node_rig import NodeRig
from tests.unit.test_ec_stores import DiskRig


class RemoteRig(DiskRig):
    """A remote store, its node in this process, and the node's disk."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.node = NodeRig(self.files, self.path)
        self.store: Store = self.node.client()


class TestRemoteStore(StoreContract):
    """A node's server on loopback, through the client that the server of logs uses."""

    @pytest.fixture
    async def rig(self, directory: str) -> AsyncIterator[RemoteRig]:
        rig = RemoteRig(directory)
        async with rig.node.serving():
            rig.store = store = rig.node.client()
            yield rig
            store.close()
