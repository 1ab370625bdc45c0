"""Kafka's own dump tool on the log of committed offsets: it decodes what we wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from logd.record.group_records import (
    GroupMember,
    GroupValue,
    encode_group_key,
    encode_group_value,
    encode_offset_key,
    encode_offset_value,
)
from tests.interop.java_tools import JavaTools, UnavailableError, find_tools
from tests.unit.offsets_rig import OffsetsRig

pytestmark = pytest.mark.interop

DUMP = "kafka.tools.DumpLogSegments"
RECORD = re.compile(r"key: (\{.*?\}\}) payload: (.*)$", re.MULTILINE)
TIME_MS = 1_700_000_000_123


@pytest.fixture(scope="module")
def java() -> JavaTools:
    try:
        return find_tools()
    except UnavailableError as reason:
        pytest.skip(str(reason))


def test_kafka_decodes_what_we_keep_of_groups(java: JavaTools, tmp_path: Path) -> None:
    """Offsets, tombstones, groups with members and without, as Kafka names their fields."""
    member = GroupMember("m-1", "static", "client", "/127.0.0.1", 60_000, 45_000, b"\0\1", b"\2")
    rig = OffsetsRig(str(tmp_path))
    key = encode_offset_key("grüppe", "orders", 3)
    rig.append((key, encode_offset_value(41, 7, "note", commit_timestamp_ms=TIME_MS)))
    rig.append((key, None))
    group = GroupValue("consumer", 5, "range", "m-1", TIME_MS, (member,))
    rig.append((encode_group_key("grüppe"), encode_group_value(group)))
    rig.append((encode_group_key("e"), encode_group_value(GroupValue("", 0, None, None, -1, ()))))
    rig.close()
    log = Path(rig.partition.log.directory) / f"{0:020d}.log"
    text, complaints = java.run_both(
        DUMP, "--deep-iteration", "--offsets-decoder", "--files", str(log)
    )
    assert complaints == ""
    found = [(json.loads(m[1]), _payload(m[2])) for m in RECORD.finditer(text)]
    offset_key = {"type": "1", "data": {"group": "grüppe", "topic": "orders", "partition": 3}}
    assert found[0] == (
        offset_key,
        {
            "version": "3",
            "data": {
                "offset": 41,
                "leaderEpoch": 7,
                "metadata": "note",
                "commitTimestamp": TIME_MS,
            },
        },
    )
    assert found[1] == (offset_key, None)
    assert found[2][0] == {"type": "2", "data": {"group": "grüppe"}}
    data = found[2][1]["data"]
    assert (data["protocolType"], data["generation"], data["leader"]) == ("consumer", 5, "m-1")
    assert data["members"][0]["groupInstanceId"] == "static"
    assert data["members"][0]["sessionTimeout"] == 45_000
    assert found[3][1]["data"]["members"] == []
    assert len(found) == 4


def _payload(text: str) -> dict[str, dict[str, object]] | None:
    return None if text.strip() in ("null", "<DELETE>") else json.loads(text)
