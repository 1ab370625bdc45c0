"""Coding windows in memory with several libraries, one after the other, on one core.

Each library codes k chunks of the same length to m parity chunks (`encode`), or gets the first m
data chunks back from the others (`rebuild`). What was rebuilt is compared with what was lost before
anything is timed: a fast wrong answer is an error. Buffers are made once where a library allows it;
zfec and pyeclib return new ones, and pyeclib puts a header of its own before each chunk: that is
what using them costs.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.bare_disk import repeat
from bench.protocol import AnswerError

SEED: Final = 8
WORK_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Work:
    """The two operations of one library on its own buffers, and a proof that they are right."""

    encode: Callable[[], object]
    rebuild: Callable[[], object]
    rebuilt: Callable[[], list[bytes]]


def chunks_of(k: int, size: int) -> list[bytes]:
    """Return the k data chunks that everyone codes."""
    source = random.Random(SEED)
    return [source.randbytes(size) for _ in range(k)]


def work_logd(k: int, m: int, size: int) -> Work:
    """Our codec with the kernel that it chooses."""
    from ec.codec import Codec
    from ec.kernels.choose import choose
    from ec.profile import Profile

    codec = Codec(Profile(k, m), choose("auto")[0])
    data = chunks_of(k, size)
    parity = [bytearray(size) for _ in range(m)]
    lost = min(k, m)
    wanted = {index: bytearray(size) for index in range(lost)}
    survivors: dict[int, bytes | bytearray] = {k + index: parity[index] for index in range(m)}
    survivors |= {index: data[index] for index in range(lost, k)}
    return Work(
        lambda: codec.encode(data, parity),
        lambda: codec.rebuild(survivors, wanted),
        lambda: [bytes(chunk) for chunk in wanted.values()],
    )


def work_zfec(k: int, m: int, size: int) -> Work:
    """zfec: parity as new bytes, and as many whole chunks back as there were data chunks."""
    zfec: Any = importlib.import_module("zfec")
    encoder, decoder = zfec.Encoder(k, k + m), zfec.Decoder(k, k + m)
    data = chunks_of(k, size)
    numbers = tuple(range(k, k + m))
    parity = encoder.encode(data, numbers)
    lost = min(k, m)
    have = (*data[lost:], *parity[:lost])
    indexes = (*range(lost, k), *range(k, k + lost))

    def rebuild() -> list[bytes]:
        # It moves what it is given, even within a tuple: new lists each time.
        decoded: list[bytes] = decoder.decode(list(have), list(indexes))
        return decoded[:lost]

    return Work(lambda: encoder.encode(data, numbers), rebuild, lambda: list(map(bytes, rebuild())))


def work_pyeclib(k: int, m: int, size: int) -> Work:
    """pyeclib over ISA-L: a whole source in, chunks with headers out; and the source back."""
    from pyeclib.ec_iface import ECDriver

    driver: Any = ECDriver(k=k, m=m, ec_type="isa_l_rs_vand")
    source = b"".join(chunks_of(k, size))
    chunks = driver.encode(source)
    lost = min(k, m)

    def rebuild() -> bytes:
        decoded: bytes = driver.decode(chunks[lost:])
        return decoded

    def rebuilt() -> list[bytes]:
        whole = rebuild()
        return [whole[at * size : (at + 1) * size] for at in range(lost)]

    return Work(lambda: driver.encode(source), rebuild, rebuilt)


LIBRARIES: Final[dict[str, Callable[[int, int, int], Work]]] = {
    "logd": work_logd,
    "zfec": work_zfec,
    "pyeclib": work_pyeclib,
}


def code_library(spec: dict[str, Any]) -> dict[str, Any]:
    """Code with a Python library for `seconds`; `path` is where it lies if not beside us.

    Raises:
        AnswerError: what it rebuilt is not what was lost.
    """
    if spec.get("path"):
        sys.path.insert(0, spec["path"])
    k, m, size = spec["k"], spec["m"], spec["bytes"]
    work = LIBRARIES[spec["library"]](k, m, size)
    work.encode()
    work.rebuild()
    lost = min(k, m)
    if work.rebuilt() != chunks_of(k, size)[:lost]:
        raise AnswerError(f"{spec['library']} rebuilt something else than was lost")
    once = work.encode if spec["operation"] == "encode" else work.rebuild
    answer = repeat(once, k * size, spec["seconds"])
    # The library is what is measured, not its client.
    return {**answer, "client_cpu_s": None, "server_cpu_s": answer["client_cpu_s"]}


def code_program(spec: dict[str, Any]) -> dict[str, Any]:
    """Code with a program of another language, which measures itself.

    Raises:
        AnswerError: it failed, or rebuilt something else.
    """
    words = [spec["operation"], spec["k"], spec["m"], spec["bytes"], spec["seconds"]]
    done = subprocess.run(
        [spec["program"], *map(str, words)], capture_output=True, text=True, check=False,
        timeout=WORK_TIMEOUT_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise AnswerError(f"{os.path.basename(spec['program'])}: {done.stderr.strip()[-200:]}")
    said = json.loads(done.stdout)
    return {
        "requests": said["requests"], "seconds": said["seconds"],
        "bytes": said["requests"] * spec["k"] * spec["bytes"], "p50_us": None, "p99_us": None,
        "client_cpu_s": None, "server_cpu_s": said["cpu_s"],
    }  # fmt: skip
