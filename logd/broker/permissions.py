"""What a client may do with a topic, a group, the cluster: all that there is, as nobody is
authorized for anything yet. A broker of Kafka's without an authorizer says the same.

Source: KIP-430; the numbers of operations are those of Kafka's AclOperation.
"""

from __future__ import annotations

from typing import Final

_READ, _WRITE, _CREATE, _DELETE, _ALTER, _DESCRIBE = range(3, 9)
_CLUSTER_ACTION, _DESCRIBE_CONFIGS, _ALTER_CONFIGS, _IDEMPOTENT_WRITE = range(9, 13)

NOT_ASKED: Final = -(2**31)
"""Said to a client that did not ask."""


def _bits(*operations: int) -> int:
    return sum(1 << operation for operation in operations)


ON_TOPIC: Final = _bits(
    _READ, _WRITE, _CREATE, _DELETE, _ALTER, _DESCRIBE, _DESCRIBE_CONFIGS, _ALTER_CONFIGS
)
ON_GROUP: Final = _bits(_READ, _DELETE, _DESCRIBE)
ON_CLUSTER: Final = _bits(
    *(_CREATE, _ALTER, _DESCRIBE, _CLUSTER_ACTION),
    *(_DESCRIBE_CONFIGS, _ALTER_CONFIGS, _IDEMPOTENT_WRITE),
)
