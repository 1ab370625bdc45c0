"""A node against clients that mean harm, are slow, or vanish: over raw sockets, on loopback."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from ec.chunk_reader import ChunkReader
from ec.errors import (
    ChunkBusyError,
    ChunkDamagedError,
    NodeIdentityError,
    NodeOverloadedError,
    NoSpaceError,
    StoreUnavailableError,
)
from ec.geometry import ByteRange
from ec.node.bodies import WINDOW_BYTES, RangeBody, windows
from ec.node.ranges import RangeNotSatisfiableError, parse_range
from ec.node_dir import initialise
from ec.offload import InlineOffload
from ec.profile import Profile
from logd.net.http import Limits
from logd.storage.files import Buffer, OpenFile
from tests.contract.check_store import CLUSTER, IDENTITY, OTHER, SAMPLE, put
from tests.ec_samples import encode, noise
from tests.node_rig import TOKEN, NodeRig
from tests.unit.test_ec_stores import RemoteRig, SmallDisk

NAME = SAMPLE.ids[0].name
PATH = f"/v1/chunks/{NAME}"
FILE = SAMPLE.files[0]
PATIENT = Limits(body_bytes=2**40, head_s=10, stall_s=30, request_s=60, bytes_per_s_min=1000)


@pytest.fixture
def autojump_clock() -> MockClock:
    """Time jumps when loopback was silent for a moment, and not while a busy machine delivers."""
    return MockClock(autojump_threshold=0.01)


@pytest.fixture
async def rig(directory: str) -> AsyncIterator[RemoteRig]:
    async with RemoteRig(directory).serving() as rig:
        yield rig


def head(method: str, path: str, *headers: str, token: str | None = TOKEN) -> bytes:
    said = [] if token is None else [f"authorization: Bearer {token}"]
    lines = [f"{method} {path} HTTP/1.1", "host: x", *said, *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Raw:
    """A connection that sends what it likes and reads answers one by one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        self.received += data
        return bool(data)

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        while b"\r\n\r\n" not in self.received:
            assert await self._more(), f"no answer but {self.received!r}"
        top, _, self.received = self.received.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in top.lower().split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        while len(self.received) < length:
            assert await self._more(), "the answer broke off"
        body, self.received = self.received[:length], self.received[length:]
        return int(top.split()[1]), body

    async def is_closed(self) -> bool:
        while await self._more():
            pass
        return True


@asynccontextmanager
async def raw(rig: RemoteRig) -> AsyncIterator[Raw]:
    async with await trio.open_tcp_stream("127.0.0.1", rig.node.port) as stream:
        with trio.fail_after(1000):
            yield Raw(stream)


# --- Bodies ---------------------------------------------------------------------------------------


async def test_a_body_may_come_in_any_pieces(rig: RemoteRig) -> None:
    """With its head, byte by byte at the seams, and with the next request behind it."""
    whole = head("PUT", PATH, f"content-length: {len(FILE)}") + FILE
    split = len(whole) - len(FILE)
    async with raw(rig) as client:
        for at, end in ((0, split - 1), (split - 1, split + 1), (split + 1, len(whole))):
            await client.send(whole[at:end])
        assert (await client.answer())[0] == 201
        await client.send(whole + whole + head("GET", "/v1/health") + head("GET", PATH))
        answers = [await client.answer() for _ in range(4)]
    assert [status for status, _ in answers] == [200, 200, 200, 200]
    assert json.loads(answers[0][1])["outcome"] == "present"
    assert answers[3][1] == FILE


@pytest.mark.parametrize("sent", [0, 1, 70_000, len(FILE) - 1])
async def test_a_client_that_vanishes_leaves_nothing(rig: RemoteRig, sent: int) -> None:
    """Half a body, ended or torn off: the name is free at once."""
    for is_polite in (True, False):
        async with raw(rig) as client:
            await client.send(head("PUT", PATH, f"content-length: {len(FILE)}") + FILE[:sent])
            if is_polite:
                await client.stream.send_eof()
                assert (await client.answer())[0] == 400
                assert rig.names() == []
        while rig.node.service._puts:
            await trio.lowlevel.checkpoint()
        assert rig.names() == []
    assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["content-length: 1000000000000000000"], (422, 507)),
        (["content-length: 1099511627776"], (507,)),
        (["content-length: 99999999999999999999999999"], (400, 422)),
        (["content-length: -1"], (400,)),
        (["content-length: 5", "content-length: 6"], (400,)),
        (["content-length: 0x10"], (400,)),
        (["content-length: 5", "transfer-encoding: chunked"], (411,)),
        (["transfer-encoding: gzip, chunked"], (501,)),
        (["content-length: 5", "expect: a-miracle"], (422,)),
    ],
)
async def test_lengths_that_are_bombs_cost_nothing(
    rig: RemoteRig, headers: Sequence[str], status: tuple[int, ...]
) -> None:
    """Refused before a byte of the body is read or reserved."""
    async with raw(rig) as client:
        await client.send(head("PUT", PATH, *headers) + b"12345")
        await client.stream.send_eof()
        assert (await client.answer())[0] in status
        assert await client.is_closed()
    assert rig.names() == []


async def test_what_is_in_a_refused_body_is_no_request(rig: RemoteRig) -> None:
    """A body that looks like a request is skipped, and never obeyed."""
    await put(rig.store, SAMPLE, 0)
    inner = head("DELETE", PATH)
    for target in ("/v1/chunks/x.chunk", "/v1/nothing"):
        async with raw(rig) as client:
            await client.send(head("PUT", target, f"content-length: {len(inner)}") + inner)
            await client.send(head("GET", "/v1/health"))
            assert (await client.answer())[0] in (400, 404)
            assert (await client.answer())[0] == 200
    assert rig.names() == [NAME]


async def test_a_stranger_is_turned_away_before_the_body(rig: RemoteRig) -> None:
    """Without the token there is no 100 Continue, no space reserved, no name looked for."""
    async with raw(rig) as client:
        length = f"content-length: {len(FILE)}"
        await client.send(head("PUT", PATH, length, "expect: 100-continue", token=None))
        assert (await client.answer())[0] == 401
        assert await client.is_closed()
    assert rig.names() == []
    assert [event for event, _ in rig.node.notes] == ["token refused"]


async def test_web_pages_are_refused(rig: RemoteRig) -> None:
    """A request with an Origin comes from a browser."""
    async with raw(rig) as client:
        await client.send(head("GET", "/v1/health", "origin: http://evil.example"))
        assert (await client.answer())[0] == 403


async def test_a_disk_that_fills_up_in_the_middle_is_told(directory: str) -> None:
    """The error is "no space", as before the first byte; nothing stays, and reading goes on."""

    class Filling(SmallDisk):
        writes = 10**9

        def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
            self.writes -= 1
            if self.writes < 0:
                raise OSError(errno.ENOSPC, "full")
            return super().write_at(file, position, buffers)

    files = Filling()
    initialise(files, f"{directory}/n", IDENTITY)
    big = encode(noise(6_000_000), Profile(2, 1), encoding="e" * 32)
    node = NodeRig(files, f"{directory}/n")
    async with node.serving():
        store = node.client()
        await put(store, SAMPLE, 0)
        files.writes = 1
        with pytest.raises(NoSpaceError):
            await put(store, big, 0, step=100_000)
        files.writes = 10**9
        assert await store.list() == (SAMPLE.ids[0],)
        assert bytes(await store.read(SAMPLE.ids[0], 0, 5)) == SAMPLE.payloads[0][:5]
        assert (await put(store, big, 0)).outcome == "stored"
        store.close()


async def test_an_upload_that_is_cancelled_leaves_nothing(rig: RemoteRig) -> None:
    """Giving up waits until the node has let go."""
    upload = await rig.store.begin(SAMPLE.ids[0], len(FILE))
    with trio.CancelScope() as scope:
        scope.cancel()
        await upload.write([FILE])
    assert scope.cancelled_caught
    assert rig.names() == []
    with pytest.raises(StoreUnavailableError, match="ended"):
        await upload.finish()


# --- Time and number ------------------------------------------------------------------------------


async def test_slow_clients_are_given_up(directory: str, autojump_clock: MockClock) -> None:
    """A head, and a body, that come byte by byte: each has an end, and nothing stays."""
    rig = RemoteRig(directory)
    rig.node = NodeRig(rig.files, rig.path, offload=InlineOffload(), limits=PATIENT)
    text = head("PUT", PATH, f"content-length: {len(FILE)}")
    cases = ((b"", text, 9.0, 30), (text, FILE, 31.0, 35), (text, FILE, 9.0, 70))
    async with rig.serving():
        for first, then, pause_s, limit_s in cases:
            async with raw(rig) as client, trio.open_nursery() as nursery:
                started = trio.current_time()
                await client.send(first)
                nursery.start_soon(drip, client, then, pause_s)
                status, _ = await client.answer()
                assert status == 408
                assert await client.is_closed()
                assert trio.current_time() - started <= limit_s
                nursery.cancel_scope.cancel()
            assert rig.names() == []
        assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"


async def drip(client: Raw, data: bytes, pause_s: float) -> None:
    for at in range(len(data)):
        try:
            await client.send(data[at : at + 1])
        except trio.BrokenResourceError:
            return
        await trio.sleep(pause_s)


async def test_a_reader_that_takes_nothing_is_given_up(
    directory: str, autojump_clock: MockClock
) -> None:
    """A slow reader holds a file and a connection, and those only for a while."""
    big = encode(noise(40_000_000), Profile(2, 1))
    rig = RemoteRig(directory)
    rig.node = NodeRig(rig.files, rig.path, offload=InlineOffload(), limits=PATIENT)
    async with rig.serving():
        await put(rig.store, big, 0, step=1_000_000)
        async with raw(rig) as client:
            await client.send(head("GET", f"/v1/chunks/{big.ids[0].name}"))
            await trio.sleep(1)
            assert rig.node.http.connections == 2
            await trio.sleep(PATIENT.stall_s + 2)
            assert rig.node.http.connections == 1


async def test_chunks_on_their_way_are_limited(directory: str) -> None:
    """One too many is told so; the others, and the next one, are not harmed."""
    rig = RemoteRig(directory)
    rig.node = NodeRig(rig.files, rig.path, puts_max=2)
    async with rig.serving():
        first = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        second = await rig.store.begin(SAMPLE.ids[1], len(SAMPLE.files[1]))
        with pytest.raises(NodeOverloadedError):
            await rig.store.begin(SAMPLE.ids[2], len(SAMPLE.files[2]))
        await first.abort()
        with pytest.raises(ChunkBusyError):
            await rig.store.begin(SAMPLE.ids[1], len(SAMPLE.files[1]))
        await put(rig.store, SAMPLE, 2)
        await second.abort()


async def test_connections_are_limited(directory: str) -> None:
    """One too many gets 503, as an overloaded node, not a missing one."""
    rig = RemoteRig(directory)
    rig.node = NodeRig(rig.files, rig.path, limits=Limits(connections=1))
    async with rig.serving():
        async with raw(rig) as client:
            await client.send(head("GET", "/v1/health"))
            assert (await client.answer())[0] == 200
            with pytest.raises(NodeOverloadedError):
                await rig.store.health()
        while rig.node.http.connections:
            await trio.lowlevel.checkpoint()
        await rig.store.health()


async def test_draining_answers_what_is_under_way(directory: str) -> None:
    """Idle connections are closed at once; a chunk on its way is stored, and that is the end."""
    rig = RemoteRig(directory)
    async with rig.serving(), raw(rig) as idle, raw(rig) as busy:
        await idle.send(head("GET", "/v1/health"))
        await idle.answer()
        await busy.send(head("PUT", PATH, f"content-length: {len(FILE)}") + FILE[:-1])
        while not rig.node.service._puts:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.node.http.drain)
            assert await idle.is_closed()
            await busy.send(FILE[-1:])
            assert (await busy.answer())[0] == 201
            assert await busy.is_closed()


# --- Ranges ---------------------------------------------------------------------------------------


@given(size=st.integers(1, 50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_ranges_mean_what_slices_mean(size: int, first: int, last: int) -> None:
    """All three forms, against Python's slices of the same bytes."""
    data = bytes(range(size))
    forms = {
        f"bytes={first}-{last}": data[first : last + 1],
        f"bytes={first}-": data[first:],
        f"bytes=-{last}": data[max(0, size - last) :] if last else b"",
    }
    for header, expected in forms.items():
        try:
            found = parse_range(header, size)
        except RangeNotSatisfiableError:
            assert expected == b""
        else:
            assert found is not None
            assert data[found.start : found.end] == expected


@given(st.text(st.characters(max_codepoint=0x700), max_size=30))
def test_any_text_is_a_range_or_none_or_refused(text: str) -> None:
    """No header breaks the parser."""
    for header in (text, "bytes=" + text):
        try:
            found = parse_range(header, 100)
        except RangeNotSatisfiableError:
            continue  # Refused, which is one of the three.
        assert found is None or 0 <= found.start < found.end <= 100


@given(payload=st.integers(0, 3 * WINDOW_BYTES), data=st.data())
def test_windows_cover_a_range_without_overlap(payload: int, data: st.DataObject) -> None:
    """In order, within memory's bound, and cut where the payload ends."""
    size = payload + 500
    start = data.draw(st.integers(0, size - 1))
    span = ByteRange(start, data.draw(st.integers(start + 1, size)))
    found = windows(span, payload)
    assert found[0].start == span.start
    assert found[-1].end == span.end
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(window.size <= WINDOW_BYTES for window in found)
    assert all(window.end <= payload or window.start >= payload for window in found)


class Cold(SmallDisk):
    """A disk of which nothing is in the page cache."""

    def is_cached(self, file: OpenFile, position: int, size: int) -> bool:
        return False


BIG = encode(noise(20_000_000), Profile(2, 1))


@pytest.mark.parametrize("kind", [SmallDisk, Cold])
async def test_long_ranges_are_verified_before_the_first_byte(
    directory: str, kind: type[SmallDisk]
) -> None:
    """In the cache or not: whole, or an error that names the block and no byte of the payload."""
    rig = RemoteRig(directory)
    rig.files = kind()
    rig.node = NodeRig(rig.files, rig.path)
    chunk, data = BIG.ids[0], BIG.files[0]
    async with rig.serving(), raw(rig) as client:
        await put(rig.store, BIG, 0, step=1_000_000)
        for first, end in (
            (0, len(data)),
            (5, len(data) - 3),
            (WINDOW_BYTES - 1, WINDOW_BYTES + 1),
        ):
            asked = f"range: bytes={first}-{end - 1}"
            await client.send(head("GET", f"/v1/chunks/{chunk.name}", asked))
            assert await client.answer() == (206, data[first:end])
    rig.flip(chunk, 2 * WINDOW_BYTES + 1)
    again = RemoteRig.__new__(RemoteRig)
    again.files, again.path, again.node = rig.files, rig.path, NodeRig(rig.files, rig.path)
    async with again.serving(), raw(again) as client:
        await client.send(head("GET", f"/v1/chunks/{chunk.name}"))
        status, body = await client.answer()
        assert (status, json.loads(body)["position"]) == (500, 2 * WINDOW_BYTES)
        await client.send(head("GET", f"/v1/chunks/{chunk.name}", "range: bytes=0-99"))
        assert await client.answer() == (206, data[:100])
    assert again.node.notes[0][0] == "chunk damaged"


async def test_what_goes_bad_while_it_is_sent_ends_the_answer(directory: str) -> None:
    """No unverified byte: the body breaks off, and a client cannot take it for whole."""
    rig = RemoteRig(directory)
    rig.files = Cold()
    rig.node = NodeRig(rig.files, rig.path)
    async with rig.serving():
        await put(rig.store, BIG, 0, step=1_000_000)
    path = f"{rig.path}/chunks/{BIG.ids[0].name}"
    reader = ChunkReader.open(rig.files, path, BIG.ids[0])
    body = RangeBody(reader, ByteRange(0, len(BIG.payloads[0])), InlineOffload())
    await body.prepare()
    part = await body.next()
    assert isinstance(part, memoryview)
    assert bytes(part) == BIG.payloads[0][:WINDOW_BYTES]
    rig.flip(BIG.ids[0], WINDOW_BYTES)
    with pytest.raises(ChunkDamagedError):
        await body.next()


async def test_a_tail_that_goes_bad_is_found(rig: RemoteRig) -> None:
    """What describes the payload is verified each time it is handed out."""
    await put(rig.store, SAMPLE, 0)
    await rig.store.head(SAMPLE.ids[0])
    rig.flip(SAMPLE.ids[0], len(FILE) - 200)
    with pytest.raises(ChunkDamagedError) as caught:
        await rig.store.head(SAMPLE.ids[0])
    assert caught.value.position == len(SAMPLE.payloads[0])


async def test_if_range_compares_the_digest(rig: RemoteRig) -> None:
    """Another tag: the whole file."""
    receipt = await put(rig.store, SAMPLE, 0)
    async with raw(rig) as client:
        for tag, expected in ((receipt.digest, (206, FILE[:10])), ("0" * 32, (200, FILE))):
            await client.send(head("GET", PATH, "range: bytes=0-9", f'if-range: "{tag}"'))
            assert await client.answer() == expected


async def test_a_chunk_that_was_replaced_is_read_anew(rig: RemoteRig) -> None:
    """A head that was kept is not applied to another chunk's bytes."""
    chunk = SAMPLE.ids[0]
    await put(rig.store, SAMPLE, 0)
    assert bytes(await rig.store.read(chunk, 0, 9)) == SAMPLE.payloads[0][:9]
    rig.flip(chunk, 3)
    other = rig.node.client()
    assert (await put(other, OTHER, 0)).outcome == "replaced"
    other.close()
    assert bytes(await rig.store.read(chunk, 0, 9)) == OTHER.payloads[0][:9]
    assert rig.node.notes[-1][0] == "chunk replaced"


async def test_a_request_for_another_node_is_refused(rig: RemoteRig) -> None:
    """A port that has changed hands answers for nobody else."""
    await put(rig.store, SAMPLE, 0)
    for node, cluster in (("b", CLUSTER), ("a", "another")):
        stranger = rig.node.client(node=node, cluster=cluster)
        with pytest.raises(NodeIdentityError, match="meant for"):
            await stranger.delete(SAMPLE.ids[0])
        stranger.close()
    known = rig.node.client(cluster=CLUSTER)
    assert (await known.health()).rack == "r1"
    known.close()
    assert rig.names() == [NAME]


# --- Noise ----------------------------------------------------------------------------------------

_SEEDS = [
    head("GET", PATH, "range: bytes=0-9"),
    head("PUT", PATH, "content-length: 20") + b"x" * 20,
    head("PUT", "/v1/identity", "content-length: 2") + b"{}",
    head("GET", "/v1/chunks?after=x&limit=3"),
    head("POST", PATH + "/verify", "content-length: 0"),
]


@given(
    seed=st.sampled_from(_SEEDS),
    cuts=st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=6)), max_size=6),
)
def test_no_bytes_break_the_node(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, cuts: list[tuple[int, bytes]]
) -> None:
    """Requests with bytes changed are answered or the connection ends; nobody sees an exception."""
    data = bytearray(seed)
    for at, new in cuts:
        data[at : at + len(new)] = new
    path = str(tmp_path_factory.getbasetemp() / "noise")
    files = SmallDisk()
    initialise(files, path, IDENTITY)
    node = NodeRig(files, path, offload=InlineOffload())

    async def talk() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.http.serve_connection, theirs)
            await ours.send_all(bytes(data))
            await ours.send_eof()
            with trio.fail_after(1000):
                while await ours.receive_some(65536):
                    pass
            await ours.aclose()

    trio.run(talk, clock=MockClock(autojump_threshold=0))
    node.home.close()
    assert node.failures == []
    assert files.list_directory(f"{path}/chunks") == []
