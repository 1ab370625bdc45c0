"""Every error of ours is the code that it should be; the codes are Kafka's."""

from __future__ import annotations

import inspect
import warnings

import pytest
from kio.schema.errors import ErrorCode as KioErrorCode

from logd import errors
from logd.wire.error_codes import ErrorCode, code_for, has_own_code

ALL_ERRORS = [
    found
    for found in vars(errors).values()
    if inspect.isclass(found) and issubclass(found, errors.LogdError)
]

EXPECTED = {
    errors.CorruptMessageError: 2,
    errors.InvalidRecordError: 87,
    errors.InvalidTimestampError: 32,
    errors.MessageTooLargeError: 10,
    errors.UnsupportedCompressionTypeError: 76,
    errors.OutOfOrderSequenceError: 45,
    errors.DuplicateSequenceError: 46,
    errors.InvalidProducerEpochError: 47,
    errors.InvalidTxnStateError: 48,
    errors.TransactionalIdRefusedError: 53,
    errors.OffsetOutOfRangeError: 1,
    errors.UnknownTopicOrPartitionError: 3,
    errors.UnknownTopicIdError: 100,
    errors.InconsistentTopicIdError: 103,
    errors.InvalidTopicError: 17,
    errors.TopicExistsError: 36,
    errors.InvalidPartitionsError: 37,
    errors.InvalidReplicationFactorError: 38,
    errors.InvalidReplicaAssignmentError: 39,
    errors.InvalidConfigError: 40,
    errors.InvalidRequestError: 42,
    errors.InvalidRequiredAcksError: 21,
    errors.InvalidFetchSizeError: 4,
    errors.FetchSessionIdNotFoundError: 70,
    errors.InvalidFetchSessionEpochError: 71,
    errors.FencedLeaderEpochError: 74,
    errors.UnknownLeaderEpochError: 75,
    errors.PolicyViolationError: 44,
    errors.UnsupportedVersionError: 35,
    errors.SecurityDisabledError: 54,
    errors.StorageError: 56,
    errors.DiskFullError: 56,
    errors.LogFailedError: 56,
    errors.DamagedRangeError: 56,
    errors.LogdError: -1,
    errors.DataDirectoryError: -1,
    errors.ConfigError: -1,
    errors.MalformedRequestError: -1,
}


@pytest.mark.parametrize(("error", "code"), EXPECTED.items())
def test_errors_have_their_codes(error: type[errors.LogdError], code: int) -> None:
    """Classes and instances of an error have the code that Kafka gives the same mistake."""
    assert code_for(error) == code
    assert code_for(error("what happened")) == code


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.__name__)
def test_every_refusal_has_an_entry(error: type[errors.LogdError]) -> None:
    """No error that a request can meet is left to the default."""
    if issubclass(error, errors.RequestError | errors.StorageError):
        assert has_own_code(error)
    assert code_for(error) != ErrorCode.NONE


def test_other_errors_have_the_code_of_their_base() -> None:
    """An error without an entry is what its base is: unknown, at the root."""

    class NewRequestError(errors.PolicyViolationError):
        """Not in the table."""

    assert not has_own_code(NewRequestError)
    assert code_for(NewRequestError()) == ErrorCode.POLICY_VIOLATION
    assert code_for(errors.CorruptFileError("a.log", 7, "why")) == ErrorCode.KAFKA_STORAGE_ERROR
    assert code_for(errors.UnsupportedFormatError("a", "why")) == ErrorCode.UNKNOWN_SERVER_ERROR


def test_codes_are_kios() -> None:
    """Names and numbers agree with kio's table, all of it."""
    theirs = {code.value: code.name.upper() for code in KioErrorCode}
    theirs[17] = theirs[17].removesuffix("_EXCEPTION")
    assert {code.value: code.name for code in ErrorCode} == theirs


def test_codes_are_kafka_pythons() -> None:
    """Names and numbers agree with kafka-python's table, as far as it goes."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        import kafka.errors
    theirs = {
        found.errno: found.message
        for found in vars(kafka.errors).values()
        if inspect.isclass(found) and isinstance(getattr(found, "errno", None), int)
    }
    ours = {code.value: code.name for code in ErrorCode}
    ours.update({-1: "UNKNOWN", 0: "NO_ERROR", 6: "NOT_LEADER_FOR_PARTITION"})  # Older names.
    ours.update({10: "MESSAGE_SIZE_TOO_LARGE", 39: "INVALID_REPLICATION_ASSIGNMENT"})
    assert len(theirs) > 100
    assert {code: ours.get(code) for code in theirs} == theirs
