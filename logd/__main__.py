"""`python -m logd`: the command line, refused where asserts are switched off.

Asserts are part of the server: they stand between a bug and the disk. Under -O they would be gone,
and with them the reason to trust what is stored.
"""

from __future__ import annotations

if not __debug__:
    raise SystemExit("logd does not run with asserts switched off (python -O, PYTHONOPTIMIZE)")

try:
    from cli.main import main
except KeyboardInterrupt:  # Ctrl-C before anything was begun is no error to be traced.
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
