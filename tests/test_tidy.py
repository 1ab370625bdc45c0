"""The rules of the house hold, everywhere: a rule that nothing checks drifts.

Each rule is run on the real tree, and on a planted violation: a checker that cannot fail checks
nothing. The rules themselves are in tests/tidy.
"""

from __future__ import annotations

import ast
import gc
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logd import errors
from logd.wire.error_codes import ErrorCode, code_for
from tests.tidy.calls import check_calls, check_exceptions_are_needed
from tests.tidy.layers import (
    LAYERS,
    RANKS,
    check_cycles,
    check_layers,
    check_used,
    is_within,
)
from tests.tidy.names_used import check_names_are_used
from tests.tidy.source import Modules, load_tree, planted
from tests.tidy.text import (
    assert_density,
    check_docstrings,
    check_handlers,
    check_lengths,
    check_names,
    check_syntax,
    check_unfinished,
)

Rule = Callable[[Modules], Iterator[str]]

ROOT = Path(__file__).parent.parent

RULES: tuple[Rule, ...] = (
    check_syntax,
    check_layers,
    check_cycles,
    check_used,
    check_names_are_used,
    check_calls,
    check_exceptions_are_needed,
    check_lengths,
    check_names,
    check_docstrings,
    check_handlers,
    check_unfinished,
)

# Asserts per function. A ratchet: it is raised when the code is better, never lowered.
ASSERT_DENSITY_MIN = 0.5


@pytest.fixture(scope="module")
def tree() -> Iterator[Modules]:
    """The real source; let go of afterwards: its million nodes would slow down each collection of
    garbage in the tests to come, and it is not read at all by a process that runs none of these.
    """
    gc.disable()  # A syntax tree has no garbage, and looking for some takes longer than parsing.
    try:
        yield load_tree(ROOT)
    finally:
        gc.enable()


def test_the_tree_was_found(tree: Modules) -> None:
    """The checks look at the real source: they find the modules that they must."""
    for name in ("logd.storage.files", "logd.record.batch", "cli.main", "tests.test_tidy"):
        assert name in tree


def test_every_layer_holds_something(tree: Modules) -> None:
    """No row of the table of layers names what is not there."""
    assert not [name for name in RANKS if not any(is_within(each, (name,)) for each in tree)]


def test_the_architecture_names_every_package(tree: Modules) -> None:
    """docs/architecture.md says of each package what is in it, and of each layer which it is."""
    page = (ROOT / "docs/architecture.md").read_text()
    below = [
        module.name.replace(".", "/")
        for module in tree.values()
        if module.is_package and "." in module.name and not module.name.startswith("tests")
    ]
    listed = set(re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE))
    nested = ("logd/policy/", "logd/wire/messages")  # Their own rows' text tells of these.
    assert listed == {name for name in below if not name.startswith(nested)}
    drawn = set(re.findall(r"\w+", page[: page.index("## A start")]))
    assert not [name for name in RANKS if name.rpartition(".")[2] not in drawn | {"__main__"}]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule, tree: Modules) -> None:
    """The rule holds in every file of the project."""
    problems = list(rule(tree))
    assert not problems, "\n".join(problems)


def test_storage_asserts_its_invariants(tree: Modules) -> None:
    """Storage code, and the erasure-coding library, assert about once in two functions at least."""
    assert assert_density(tree, ("logd.storage",)) >= ASSERT_DENSITY_MIN
    if any(module.functions for name, module in tree.items() if name.startswith("ec.")):
        assert assert_density(tree, ("ec",)) >= ASSERT_DENSITY_MIN


def test_layers_name_each_module_once() -> None:
    """The table of layers has no name twice."""
    names = [name for row in LAYERS for name in row]
    assert len(names) == len(RANKS)


def test_every_error_has_a_kafka_code() -> None:
    """Each error that a client's request may meet has an error code of its own kind."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.RequestError | errors.StorageError)
    ]
    assert len(classes) > 20
    for error in classes:
        if error not in (errors.RequestError, errors.StorageError):
            assert code_for(error) not in (ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.NONE), error


# --- Dependencies ---------------------------------------------------------------------------------

# Import name -> name of the distribution, where they differ.
DISTRIBUTIONS = {
    "confluent_kafka": "confluent-kafka",
    "kafka": "kafka-python",
    "prometheus_client": "prometheus-client",
    "pytest_trio": "pytest-trio",
}


def declared(*extras: str) -> set[str]:
    """Return the names of the distributions that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {re.split(r"[\[~=<>!; ]", line)[0] for line in lines}


def third_party(
    tree: Modules, prefixes: tuple[str, ...], *, without: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return distribution -> one place that imports it, for the modules of some packages."""
    ours = {name.split(".")[0] for name in tree} | {"outcome", "sniffio"}
    found: dict[str, str] = {}
    for module in tree.values():
        if not is_within(module.name, prefixes) or is_within(module.name, without):
            continue
        for name, line in module.imports:
            top = name.split(".")[0]
            if top not in ours and top not in STANDARD_LIBRARY and top != "__future__":
                found[DISTRIBUTIONS.get(top, top)] = module.at(line, f"imports {top}")
    return found


STANDARD_LIBRARY = __import__("sys").stdlib_module_names


def test_what_the_program_imports_is_declared(tree: Modules) -> None:
    """What the program needs is a dependency of it, and nothing is asked for that nobody uses."""
    # The checker of promises is a program of its own, for people who work on this one.
    used = third_party(tree, ("logd", "ec", "cli", "bench"), without=("bench.checker",))
    assert {name: place for name, place in used.items() if name not in declared()} == {}
    assert declared() - set(used) == set()


def test_what_tests_and_tools_import_is_declared(tree: Modules) -> None:
    """What only tests and tools need is declared for them."""
    used = third_party(tree, ("tests", "tools", "bench.checker"))
    known = declared("test", "dev")
    assert {name: place for name, place in used.items() if name not in known} == {}


def test_each_dependency_has_a_reason_and_a_licence() -> None:
    """Each line of dependencies says what for, and under which licence."""
    text = (ROOT / "pyproject.toml").read_text()
    lines = text.splitlines()
    pinned = [n for n, line in enumerate(lines) if re.match(r'    "[a-z0-9-]+[~=<>]', line)]
    assert len(pinned) > 10
    for number in pinned:
        said = lines[number].partition("#")[2] or lines[number - 1].partition("#")[2]
        assert re.search(r"\([A-Z][^)]*\)\.?$", said), lines[number]


# --- The checkers can fail
# --------------------------------------------------------------------------


def problems_of(rule: Rule, **sources: str) -> list[str]:
    """Return what a rule says about planted modules."""
    return list(rule(planted(**sources)))


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"logd__storage__x": "import logd.broker.y", "logd__broker__y": ""}, "not below"),
        ({"logd__record__x": "from logd.wire import y", "logd__wire__y": ""}, "not below"),
        ({"logd__wire__x": "def f():\n    import logd.net.y", "logd__net__y": ""}, "not below"),
        ({"logd__units": "from . import errors", "logd__errors": "", "logd": ""}, "not below"),
        ({"logd__cold__x": "import logd.broker.y", "logd__broker__y": ""}, "not below"),
        ({"logd__broker__x": "import ec.read", "ec__read": ""}, "only logd.cold"),
        ({"ec__read": "import logd.units", "logd__units": ""}, "ec never imports"),
        ({"logd__server": "import cli.main", "cli__main": ""}, "not below"),
        ({"logd__newcomer": ""}, "has no layer"),
        (
            {
                "logd__policy__x": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from logd.storage import y",
                "logd__storage__y": "",
            },
            "not below",
        ),
    ],
)
def test_planted_layer_violations_are_found(sources: dict[str, str], said: str) -> None:
    """An import that points up or across is found, wherever in the file it stands."""
    problems = problems_of(check_layers, **sources)
    assert len(problems) == 1
    assert said in problems[0]


def test_allowed_imports_are_not_reported() -> None:
    """Imports that point down, or stay in their package, are fine."""
    sources = {
        "logd__storage__x": "from logd.record.b import f\nfrom logd.storage.y import g",
        "logd__storage__y": "import os.path",
        "logd__record__b": "from logd import units",
        "logd__units": "",
        "logd__cold__tier": "import ec.read",
        "ec__read": "",
    }
    assert problems_of(check_layers, **sources) == []


def test_planted_cycles_are_found() -> None:
    """Cycles of two and three modules are found, also through an import inside a function."""
    assert problems_of(
        check_cycles,
        logd__storage__a="import logd.storage.b",
        logd__storage__b="import logd.storage.c",
        logd__storage__c="def f():\n    from logd.storage import a",
        logd__storage__d="import logd.storage.a",
    )
    assert problems_of(
        check_cycles, logd__config="from logd.config import x", logd__config__x="import logd.config"
    )
    assert not problems_of(
        check_cycles, logd__a="import logd.b", logd__b="import logd.c", logd__c=""
    )


def test_a_planted_dead_file_is_found() -> None:
    """A module that only a test imports is dead."""
    sources = {"logd__storage__a": "", "tests__test_a": "import logd.storage.a"}
    assert "imported by nobody" in problems_of(check_used, **sources)[0]


def test_planted_names_that_only_tests_use_are_found() -> None:
    """Function, class, method: named by a test alone it is dead; named by others it is not."""
    sources = {
        "logd__storage__a": "def f(): ...\ndef g(): ...\nclass A:\n    def h(self): ...\n"
        "    def i(self): ...\nclass B: ...\ndef _mine(): ...",
        "logd__broker__b": "from logd.storage import a\na.f(a.A().h)",
        "tests__test_a": "from logd.storage.a import B, g\ng(B().i)",
    }
    found = [problem.split(": ")[1] for problem in problems_of(check_names_are_used, **sources)]
    assert [words.split()[0] for words in found] == ["g", "A.i", "B"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("logd__storage__x", "import os\nos.fsync(3)"),
        ("logd__storage__x", "import os as system\nsystem.pwrite(3, b'', 0)"),
        ("logd__storage__x", "from os import rename as move\nmove('a', 'b')"),
        ("logd__storage__x", "from os.path import exists"),
        ("logd__storage__x", "def f(p):\n    return open(p)"),
        ("logd__storage__x", "import mmap\nmmap.mmap(3, 1)"),
        ("logd__storage__log", "import os\nos.sendfile(1, 2, 0, 3)"),
        ("logd__broker__x", "import pathlib"),
        ("logd__broker__x", "import sqlite3"),
        ("logd__broker__x", "import time\ntime.time()"),
        ("logd__net__x", "from time import monotonic"),
        ("logd__broker__x", "from datetime import datetime\ndatetime.now()"),
        ("logd__policy__x", "import random"),
        ("logd__record__x", "import logging"),
        ("logd__storage__x", "import trio"),
        ("logd__wire__x", "from socket import socket"),
        ("logd__storage__x", "import os\nos.urandom(4)"),
        ("logd__broker__x", "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)"),
        ("logd__broker__x", "import threading\nthreading.Thread(target=f)"),
        ("logd__broker__x", "from concurrent.futures import ThreadPoolExecutor"),
        ("logd__broker__x", "import subprocess"),
        ("logd__server", "print('hello')"),
        ("logd__server", "import sys\nsys.exit(1)"),
        ("logd__broker__x", "import pickle"),
        ("ec__codec", "import os\nos.open('a', 0)"),
    ],
)
def test_planted_calls_out_of_place_are_found(name: str, text: str) -> None:
    """A banned call is found under any name it was imported by."""
    assert problems_of(check_calls, **{name: text})


def test_calls_in_their_place_are_not_reported() -> None:
    """The named modules may do what is theirs; os.path.join and datetime's arithmetic are no
    I/O.
    """
    assert not problems_of(
        check_calls,
        logd__storage__files="import os, mmap\nos.open('a', 0)",
        logd__storage__catalog_database="import sqlite3",
        logd__storage__layout="import os\nos.path.join('a', 'b')",
        logd__net__send="import os\nos.sendfile(1, 2, 0, 3)",
        logd__clock="import time\ntime.time()",
        logd__offload="from threading import Thread\nThread()",
        logd__broker__x="import random\ntime = self.open(1)\nself.time = time.time()",
        logd__storage__x="import mmap\nx: mmap.mmap | None = None",
        cli__main="print(open('x'))",
    )


def test_a_planted_exception_that_nobody_needs_is_found() -> None:
    """When the code that needed an exception is gone, the exception is reported."""
    assert problems_of(check_exceptions_are_needed, logd__net__send="x = 1")
    assert not problems_of(check_exceptions_are_needed, logd__net__send="import os\nos.sendfile()")


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 601,
        "x = '" + "y" * 100 + "'",
        "def f():\n" + "    x = 1\n" * 70,
        "async def f():\n" + "    x = 1\n" * 70,
        "class A:\n    def f(self):\n" + "        x = 1\n" * 70,
    ],
)
def test_planted_lengths_are_found(text: str) -> None:
    """A file, a line, a function or a method that is too long is found."""
    assert problems_of(check_lengths, logd__x=text)


def test_a_planted_syntax_error_is_found() -> None:
    """A file that is no Python is a problem of its own, and does not stop the other rules."""
    assert problems_of(check_syntax, logd__x="def f(:\n")
    assert "docstring" in problems_of(check_docstrings, logd__x="def f(:\n")[0]


def test_a_planted_vague_name_is_found() -> None:
    """A module called utils is found."""
    assert problems_of(check_names, logd__storage__utils="")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("logd__x", "x = 1"),
        ("tests__x", "x = 1"),
        ("logd__x", '"""Doc."""\ndef f(): ...'),
        ("logd__x", '"""Doc."""\nasync def f(): ...'),
        ("logd__x", '"""Doc."""\nclass A: ...'),
        ("logd__x", '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): ...'),
        ("tests__test_x", '"""Doc."""\ndef test_f(): ...'),
    ],
)
def test_planted_missing_docstrings_are_found(name: str, text: str) -> None:
    """A module, a public name or a test without a docstring is found."""
    assert len(problems_of(check_docstrings, **{name: text})) == 1


def test_private_names_need_no_docstring() -> None:
    """Private names, nested functions, setters and dunder methods may do without."""
    text = (
        '"""Doc."""\ndef _f(): ...\nclass A:\n    """Doc."""\n    def __init__(self): ...\n'
        "    @x.setter\n    def x(self): ...\nclass _B:\n    def f(self): ...\n"
    )
    assert not problems_of(check_docstrings, logd__x=text)


@pytest.mark.parametrize(
    "handler",
    [
        "except:\n    f()",
        "except Exception:\n    f()",
        "except (ValueError, BaseException) as e:\n    f()",
        "except Exception:  # noqa: BLE001\n    f()",
        "except ValueError:\n    pass",
        "except ValueError:\n    continue",
    ],
)
def test_planted_careless_handlers_are_found(handler: str) -> None:
    """Bare, broad and silent handlers without a reason are found."""
    body = handler.replace("\n", "\n    ")
    assert problems_of(check_handlers, logd__x=f"for x in y:\n    try:\n        g()\n    {body}\n")


def test_handlers_with_a_reason_are_not_reported() -> None:
    """The reason may stand behind `except`, or on a line of its own."""
    text = (
        "try:\n    g()\nexcept Exception:  # Whatever it was, the loop goes on.\n    f()\n"
        "try:\n    g()\nexcept ValueError:\n    # Gone already.\n    pass\n"
    )
    assert not problems_of(check_handlers, logd__x=text)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # TO" + "DO later",
        "# FIX" + "ME",
        "x = f()  # type: " + "ignore",
        "x = f()  # type: " + "ignore[arg-type]",
        "raise NotImplementedError",
        "raise NotImplementedError('x')",
    ],
)
def test_planted_unfinished_code_is_found(text: str) -> None:
    """What is left for later, or switched off without a reason, is found."""
    assert problems_of(check_unfinished, logd__x=text)


def test_assert_density_counts_asserts_per_function() -> None:
    """Two asserts in three functions are two thirds."""
    text = (
        "def f():\n    assert x\n    assert y\ndef g(): return 1\n"
        "class A:\n    def h(self): pass\n    def declared(self): ..."
    )
    density = assert_density(
        planted(logd__storage__x=text, logd__broker__y=text), ("logd.storage",)
    )
    assert density == pytest.approx(2 / 3)


def test_the_tree_parses_relative_imports() -> None:
    """Relative imports count as what they mean."""
    modules = planted(logd__a__b="from ..c import d\nfrom . import e", logd__a__e="")
    assert [name for name, _ in modules["logd.a.b"].imports] == ["logd.c.d", "logd.a.e"]
    assert isinstance(modules["logd.a.b"].tree, ast.Module)
