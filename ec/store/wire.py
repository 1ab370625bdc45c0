"""What a remote node and its client say to each other: paths, bodies, and errors by kind.

    GET    /v1/health                        who the node is and how full
    PUT    /v1/identity                      make an empty directory into this node
    PUT    /v1/catalog-sequence              remember how far the catalog has come
    GET    /v1/chunks?after=NAME&limit=N     names, in order
    PUT    /v1/chunks/NAME                   a whole chunk file; its length is said before
    GET    /v1/chunks/NAME                   the file, or a Range of it; verified before it is sent
    HEAD   /v1/chunks/NAME                   its length, and the digest as ETag
    GET    /v1/chunks/NAME/tail              everything behind the payload
    DELETE /v1/chunks/NAME
    POST   /v1/chunks/NAME/verify            read all of it from the device
    POST   /v1/chunks/NAME/quarantine

Plain HTTP/1.1, bodies other than chunks in JSON. An error is {"error": text, "kind": one of KINDS};
a damage also says where. docs/node-protocol.md is the specification.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ec import errors
from ec.chunk_id import ChunkId
from ec.chunk_write import Outcome, Receipt
from ec.errors import ChunkDamagedError, EcError
from ec.node_dir import Space
from ec.node_identity import NodeIdentity
from ec.store.protocol import Health

CHUNKS_PATH: Final = "/v1/chunks"
HEALTH_PATH: Final = "/v1/health"
IDENTITY_PATH: Final = "/v1/identity"
SEQUENCE_PATH: Final = "/v1/catalog-sequence"
TAIL: Final = "tail"
VERIFY: Final = "verify"
QUARANTINE: Final = "quarantine"

CHUNK_TYPE: Final = "application/octet-stream"
JSON_TYPE: Final = "application/json"
# What a request may say of whom it is meant for; a node that is somebody else refuses it.
CLUSTER_HEADER: Final = "logd-cluster"
NODE_HEADER: Final = "logd-node"
NODE_ID_HEADER: Final = "logd-node-id"
# With a tail: how long the whole file is.
FILE_BYTES_HEADER: Final = "logd-file-bytes"

# Of an answer that is no chunk: a page of names is the longest.
JSON_BYTES_MAX: Final = 1024 * 1024
# Of everything behind a payload: what describes a chunk of 64 GiB, or one with 30 MiB of indexes.
TAIL_BYTES_MAX: Final = 64 * 1024 * 1024

# Kind -> the error and the status of its answer. The first kind that fits names an error.
KINDS: Final[dict[str, tuple[type[EcError], int]]] = {
    "name": (errors.ChunkNameError, 400),
    "refused": (errors.ChunkRefusedError, 422),
    "exists": (errors.ChunkExistsError, 409),
    "busy": (errors.ChunkBusyError, 409),
    "missing": (errors.ChunkMissingError, 404),
    "version": (errors.ChunkVersionError, 501),
    "no-space": (errors.NoSpaceError, 507),
    "not-mounted": (errors.NodeNotMountedError, 503),
    "identity": (errors.NodeIdentityError, 421),
    "token": (errors.TokenRefusedError, 401),
    "overloaded": (errors.NodeOverloadedError, 503),
    "damaged": (ChunkDamagedError, 500),
    "store": (errors.StoreError, 500),
}


class Failure(msgspec.Struct, omit_defaults=True):
    """The body of an error; the last four are those of a damage and of a version."""

    error: str
    kind: str = ""
    path: str = ""
    region: str = ""
    position: int = 0
    version: int = 0


class FindingBody(msgspec.Struct):
    """One damage."""

    path: str
    region: str
    position: int
    reason: str


class FindingsBody(msgspec.Struct):
    """What a verification found."""

    findings: list[FindingBody]


class ReceiptBody(msgspec.Struct):
    """What a PUT answers."""

    name: str
    file_bytes: int
    digest: str
    outcome: Outcome
    damage: str = ""


class HealthBody(msgspec.Struct):
    """Who the node is and how full."""

    cluster_id: str
    node: str
    node_id: str
    catalog_sequence: int
    free_bytes: int
    total_bytes: int
    device: int
    rack: str | None = None


class NamesBody(msgspec.Struct):
    """A page of names."""

    chunks: list[str]


class DeletedBody(msgspec.Struct):
    """Whether a chunk was there."""

    deleted: bool


class SequenceBody(msgspec.Struct):
    """How far the catalog has come."""

    catalog_sequence: int


class DoneBody(msgspec.Struct):
    """Nothing more to say."""


def chunk_path(chunk: ChunkId, what: str = "") -> str:
    """Return the path of a chunk, or of what can be asked of it."""
    assert what in ("", TAIL, VERIFY, QUARANTINE)
    return f"{CHUNKS_PATH}/{chunk.name}/{what}" if what else f"{CHUNKS_PATH}/{chunk.name}"


def encode_failure(error: EcError) -> tuple[int, Failure]:
    """Return the status and the body that tell a client of an error."""
    kind, (_, status) = next(
        (item for item in KINDS.items() if isinstance(error, item[1][0])),
        ("store", KINDS["store"]),
    )
    failure = Failure(str(error), kind)
    if isinstance(error, ChunkDamagedError):
        failure = Failure(error.reason, kind, error.path, error.region, error.position)
    elif isinstance(error, errors.ChunkVersionError):
        failure = Failure(str(error), kind, error.path, version=error.version)
    return status, failure


def decode_failure(body: bytes, *, status: int, node: str) -> EcError:
    """Return the error that an answer stands for; what makes no sense is "unavailable"."""
    assert node
    try:
        failure = msgspec.json.decode(body, type=Failure)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.StoreUnavailableError(f"{node}: answered {status} without a reason")
    found = KINDS.get(failure.kind)
    if found is None:
        kind = errors.NodeOverloadedError if status == 503 else errors.StoreUnavailableError
        return kind(f"{node}: answered {status}: {failure.error}")
    if found[0] is ChunkDamagedError:
        return finding_of(
            FindingBody(failure.path, failure.region, failure.position, failure.error), node=node
        )
    if found[0] is errors.ChunkVersionError:
        return errors.ChunkVersionError(f"{node}:{failure.path}", failure.version, -1)
    return found[0](f"{node}: {failure.error}")


def finding_body(finding: ChunkDamagedError) -> FindingBody:
    """Return a damage as it is sent."""
    assert finding.region
    return FindingBody(finding.path, finding.region, finding.position, finding.reason)


def finding_of(body: FindingBody, *, node: str) -> ChunkDamagedError:
    """Return a damage as it was received."""
    assert node
    return ChunkDamagedError(
        f"{node}:{body.path}", region=body.region or "payload",
        position=max(0, body.position), reason=body.reason,
    )  # fmt: skip


def receipt_body(receipt: Receipt) -> ReceiptBody:
    """Return a receipt as it is sent."""
    assert receipt.file_bytes > 0
    return ReceiptBody(
        receipt.id.name, receipt.file_bytes, receipt.digest, receipt.outcome, receipt.damage
    )


def health_body(health: Health) -> HealthBody:
    """Return a node's health as it is sent."""
    identity, space = health.identity, health.space
    assert space.total_bytes >= 0
    return HealthBody(
        identity.cluster_id, identity.node, identity.node_id, identity.catalog_sequence,
        space.free_bytes, space.total_bytes, space.device, health.rack,
    )  # fmt: skip


def health_of(body: HealthBody) -> Health:
    """Return a node's health as it was received."""
    return Health(
        NodeIdentity(body.cluster_id, body.node, body.node_id, body.catalog_sequence),
        Space(body.free_bytes, body.total_bytes, body.device),
        body.rack,
    )
