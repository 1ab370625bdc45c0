"""CRC-32C, the checksum of record batches: the function of the package `crc32c`, and no more of it.

To import the package asks for its own version and sets up a command line, which takes modules for
mail, archives and tables of text: a twentieth of what a start of the server takes, and of that of
every process that cleans. What computes is one extension module inside. Only that is loaded; where
a release of the package has none of that name, the package is imported as it is meant to be.

Source: RFC 3720, appendix B.4 (the polynomial, examples); PEP 489 (loading an extension twice).
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

__all__ = ["crc32c"]

_PACKAGE = "crc32c"


def _extension() -> Any:
    package = find_spec(_PACKAGE)
    assert package is not None, "a dependency is not installed"
    spec = PathFinder.find_spec(f"{_PACKAGE}._crc32c", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return __import__(_PACKAGE)
    extension = module_from_spec(spec)
    spec.loader.exec_module(extension)
    return extension


if TYPE_CHECKING:
    from crc32c import crc32c
else:
    crc32c = _extension().crc32c
