"""How code is written: lengths, docstrings, reasons for what looks wrong, asserts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.layers import GENERATED, is_within
from tests.tidy.source import FunctionNode, Module, Modules

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100

PUBLIC_PACKAGES = ("logd", "ec", "cli")

_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<codes>\[[\w, -]+\])?(?P<rest>.*)")
_NO_REASON = re.compile(r"#\s*noqa(:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*)?")
_VAGUE_NAMES = ("utils", "util", "helpers", "helper", "misc", "common", "stuff")


def check_syntax(modules: Modules) -> Iterator[str]:
    """Every file is Python; the other rules see nothing of one that is not."""
    for module in modules.values():
        if module.syntax_error:
            yield module.at(module.syntax_error.lineno or 1, str(module.syntax_error))


def check_lengths(modules: Modules) -> Iterator[str]:
    """Files, functions and lines are short; generated files may be what they must."""
    for module in modules.values():
        if is_within(module.name, GENERATED):
            continue
        if len(module.lines) > FILE_LINES_MAX:
            yield module.at(1, f"{len(module.lines)} lines, at most {FILE_LINES_MAX}")
        for number, line in enumerate(module.lines, 1):
            if len(line) > COLUMNS_MAX:
                yield module.at(number, f"{len(line)} columns, at most {COLUMNS_MAX}")
        for function in module.functions:
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > FUNCTION_LINES_MAX:
                problem = f"{function.name} has {length} lines, at most {FUNCTION_LINES_MAX}"
                yield module.at(function.lineno, problem)


def check_names(modules: Modules) -> Iterator[str]:
    """No module is called after nothing in particular."""
    for module in modules.values():
        if module.name.rpartition(".")[2] in _VAGUE_NAMES:
            yield module.at(1, "name the module after what is in it")


def check_docstrings(modules: Modules) -> Iterator[str]:
    """Every module has a docstring, and in the packages every public name; tests say their
    claim.
    """
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            yield module.at(1, "no module docstring")
        if is_within(module.name, PUBLIC_PACKAGES) and not is_within(module.name, GENERATED):
            yield from _undocumented(module, module.tree)
        elif is_within(module.name, ("tests",)):
            for function in module.functions:
                if function.name.startswith("test_") and not ast.get_docstring(function):
                    yield module.at(function.lineno, f"{function.name} does not say its claim")


def _undocumented(module: Module, parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or _repeats_another(node):
            continue
        if not ast.get_docstring(node):
            yield module.at(node.lineno, f"{node.name} has no docstring")
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(module, node)


def _repeats_another(node: FunctionNode | ast.ClassDef) -> bool:
    """Whether it is an overload or a setter: the docstring stands at the first of them."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Name) and decorator.id in ("overload", "override"):
            return True
        if isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter"):
            return True
    return False


def check_handlers(modules: Modules) -> Iterator[str]:
    """A broad `except`, or one that does nothing, says why; a bare one is not used."""
    for module in modules.values():
        for node in module.nodes:
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                yield module.at(node.lineno, "bare except")
            elif _is_broad(node.type) and not _has_comment(module, node):
                yield module.at(node.lineno, "a broad except without the reason as a comment")
            if _does_nothing(node) and not _has_comment(module, node):
                yield module.at(node.lineno, "an error is dropped without the reason as a comment")


def _is_broad(node: ast.expr) -> bool:
    names = [getattr(part, "id", "") for part in ast.walk(node)]
    return "Exception" in names or "BaseException" in names


def _does_nothing(handler: ast.ExceptHandler) -> bool:
    return all(isinstance(node, ast.Pass | ast.Continue) for node in handler.body)


def _has_comment(module: Module, handler: ast.ExceptHandler) -> bool:
    """Whether a comment stands on the `except` line, or down to the handler's first statement."""
    last = max(handler.lineno, (handler.body[0].end_lineno or handler.lineno))
    return any(
        _NO_REASON.sub("", module.comments.get(line, "")).strip(" #-:")
        for line in range(handler.lineno, last + 1)
    )


def check_unfinished(modules: Modules) -> Iterator[str]:
    """Nothing is left for later in the code, and nothing is switched off without a reason."""
    for module in modules.values():
        # Finding the comments of a file takes long, and most files have not even the words.
        said = _UNFINISHED.search(module.text) or _IGNORE.search(module.text)
        for line, comment in module.comments.items() if said else ():
            if _UNFINISHED.search(comment):
                yield module.at(line, "unfinished: do it now, or write it down as an issue")
            ignore = _IGNORE.search(comment)
            if ignore and not (ignore["codes"] and len(ignore["rest"].strip(" #-:")) > 10):
                yield module.at(line, "type: ignore needs its code and a reason behind it")
        for node in module.nodes:
            if isinstance(node, ast.Name) and node.id == "NotImplementedError":
                yield module.at(node.lineno, "NotImplementedError: unfinished")


def assert_density(modules: Modules, prefixes: tuple[str, ...]) -> float:
    """Return the number of asserts per function in the given packages; 0 where there are none.

    A declaration, of which the body is `...`, has nothing to assert and is not counted.
    """
    chosen = [module for module in modules.values() if is_within(module.name, prefixes)]
    functions = sum(not _is_declaration(f) for module in chosen for f in module.functions)
    asserts = sum(isinstance(node, ast.Assert) for module in chosen for node in module.nodes)
    return asserts / functions if functions else 0.0


def _is_declaration(function: FunctionNode) -> bool:
    last = function.body[-1]
    return (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Constant)
        and last.value.value is ...
    )
