"""The table of requests, and ApiVersions, which is made from it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from logd.broker.apis import ADVERTISED, APIS
from logd.wire.api_keys import API_NAMES, API_VERSIONS, FETCH, PRODUCE
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import api_versions
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import ask, versions_of

# What clients were measured to need: kept here by hand, so that no change goes unnoticed.
EXPECTED = {
    "Produce": (0, 11),
    "Fetch": (4, 17),
    "ListOffsets": (1, 10),
    "Metadata": (0, 13),
    "OffsetCommit": (2, 9),
    "OffsetFetch": (1, 9),
    "FindCoordinator": (0, 6),
    "JoinGroup": (0, 9),
    "Heartbeat": (0, 4),
    "LeaveGroup": (0, 5),
    "SyncGroup": (0, 5),
    "DescribeGroups": (0, 6),
    "ListGroups": (0, 5),
    "ApiVersions": (0, 4),
    "CreateTopics": (2, 7),
    "DeleteTopics": (1, 6),
    "DeleteRecords": (0, 2),
    "InitProducerId": (0, 5),
    "OffsetForLeaderEpoch": (2, 4),
    "DescribeAcls": (1, 3),
    "DescribeConfigs": (1, 4),
    "AlterConfigs": (0, 2),
    "DescribeLogDirs": (1, 4),
    "CreatePartitions": (0, 3),
    "DeleteGroups": (0, 2),
    "IncrementalAlterConfigs": (0, 1),
    "ListPartitionReassignments": (0, 0),
    "OffsetDelete": (0, 0),
    "DescribeCluster": (0, 2),
    "DescribeProducers": (0, 0),
}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_the_advertised_ranges_are_the_promised_ones() -> None:
    """No range drifts: raising a minimum silently switches features of older clients off."""
    assert {API_NAMES[key]: (low, high) for key, low, high in ADVERTISED} == EXPECTED


def test_every_served_version_has_a_codec() -> None:
    """Each version in the table can be decoded; only Produce 0 to 2 are listed and not served."""
    for api in APIS.values():
        assert api.key == api.module.API_KEY
        assert api.served_from >= api.module.MIN_VERSION
        assert api.high <= api.module.MAX_VERSION
        assert api.served_from == (3 if api.key == PRODUCE else api.low)
        ways = [api.handler is not None, api.begin is not None, api.key in (PRODUCE, FETCH)]
        assert ways.count(True) == 1


@pytest.mark.parametrize("version", versions_of(api_versions))
async def test_api_versions_lists_the_table(server: Server, version: int) -> None:
    """Every version gets the same ranges, and no feature that would start transactions."""
    request = api_versions.ApiVersionsRequest(
        client_software_name="test-1.x", client_software_version="0.1-SNAPSHOT"
    )
    response = await ask(server, api_versions, request, version)
    assert response.error_code == 0
    listed = [(one.api_key, one.min_version, one.max_version) for one in response.api_keys]
    assert listed == ADVERTISED
    assert response.supported_features == []
    assert response.finalized_features == []


@pytest.mark.parametrize("software", ["", "-x", "a b", "x" * 300, "a\n", "ä"])
async def test_a_client_without_a_proper_name_is_told(server: Server, software: str) -> None:
    """From version 3 on a client names itself in plain letters."""
    request = api_versions.ApiVersionsRequest(
        client_software_name=software, client_software_version="1"
    )
    response = await ask(server, api_versions, request, 3)
    assert response.error_code == ErrorCode.INVALID_REQUEST


async def test_an_unknown_version_is_answered_in_version_0(server: Server) -> None:
    """Error 35 with header and body of version 0, and this API's own range to try again with."""
    frame = await APIS[API_VERSIONS].answer(server.context(API_VERSIONS, 99), None, 5)
    assert frame == struct.pack(">iihihhh", 16, 5, 35, 1, 18, 0, 4)
