"""`python -m logd`: the command line, refused where asserts are switched off.

Asserts are part of the server: they stand between a bug and the disk. Under -O they would be gone,
and with them the reason to trust what is stored.
"""

from __future__ import annotations

if not __debug__:
    raise SystemExit("logd does not run with asserts switched off (python -O, PYTHONOPTIMIZE)")

from cli.main import main

if __name__ == "__main__":
    main()
