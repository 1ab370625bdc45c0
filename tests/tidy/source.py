"""The source tree as test_tidy sees it: modules with their text, syntax tree, imports and comments.

Nothing is imported or run: a checker that runs what it checks can be fooled by it.
"""

from __future__ import annotations

import ast
import builtins
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGES = ("logd", "ec", "cli", "bench", "tools", "tests")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes:
        name: dotted name; that of a package for its __init__.
        path: where it is, for messages.
        tree: the syntax tree; an empty one where the text is no Python (`syntax_error` says why).
    """

    name: str
    path: str
    text: str
    is_package: bool = False
    tree: ast.Module = field(init=False)
    syntax_error: SyntaxError | None = None

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.text, self.path)
        except SyntaxError as error:
            tree = ast.Module(body=[], type_ignores=[])
            object.__setattr__(self, "syntax_error", error)
        object.__setattr__(self, "tree", tree)

    @cached_property
    def lines(self) -> list[str]:
        """The file's lines."""
        return self.text.splitlines()

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line number -> comment on it."""
        if self.syntax_error:
            return {}
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    @cached_property
    def functions(self) -> list[FunctionNode]:
        """All functions and methods, nested ones too."""
        return [
            node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What a name that was imported stands for: `import os as x` gives x -> os."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                base = self.absolute(node)
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{base}.{alias.name}"
        return found

    def absolute(self, node: ast.ImportFrom) -> str:
        """Return the dotted name that `from … import` takes from, relative ones worked out."""
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + (1 if self.is_package else 0)
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[tuple[str, int]]:
        """Every dotted name imported, anywhere in the file, with its line.

        `from a import b` gives a.b: whether b is a module or a name in one is for the caller.
        """
        found: list[tuple[str, int]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self.absolute(node)
                found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        return found

    @cached_property
    def uses(self) -> list[tuple[str, int]]:
        """Every imported or builtin name that is used, dotted and in full, with its line.

        `import os as x; x.path.exists(p)` gives os.path.exists (and its parts os.path and os).
        """
        return [
            (dotted, getattr(node, "lineno", 0))
            for node in self.nodes
            if (dotted := self._dotted(node)) is not None
        ]

    @cached_property
    def calls(self) -> list[tuple[str, int]]:
        """Every imported or builtin name that is called, dotted and in full, with its line."""
        return [
            (dotted, node.lineno)
            for node in self.nodes
            if isinstance(node, ast.Call) and (dotted := self._dotted(node.func)) is not None
        ]

    def _dotted(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            # A name that is neither imported nor builtin is a variable, whatever it is called.
            return self.aliases.get(node.id, node.id if hasattr(builtins, node.id) else None)
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None

    def at(self, line: int, problem: str) -> str:
        """Return a problem as it is printed."""
        return f"{self.path}:{line}: {problem}"


Modules = Mapping[str, Module]


def load_tree(root: Path, packages: Iterable[str] = PACKAGES) -> dict[str, Module]:
    """Return all modules of the packages, by dotted name."""
    modules: dict[str, Module] = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            relative = str(path.relative_to(root))
            modules[name] = Module(name, relative, path.read_text(encoding="utf-8"), is_package)
    return modules


def planted(**sources: str) -> dict[str, Module]:
    """Return modules from text, to show that a rule can fail; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): text for name, text in sources.items()}
    packages = {name.rpartition(".")[0] for name in named}
    return {
        name: Module(name, name.replace(".", "/") + ".py", text, name in packages)
        for name, text in named.items()
    }


def imported_modules(modules: Modules, module: Module) -> Iterator[tuple[str, int]]:
    """Yield the modules of the tree that a module imports, with the line.

    `from a import b` is an import of a.b where that is a module, else of a.
    """
    for dotted, line in module.imports:
        name = dotted
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if name and name != module.name:
            yield name, line
