"""`logd config`: every setting of the server, with its default and where its value comes from."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cli.options import Target, common_options, pass_target
from cli.render import print_json, print_table
from cli.serve import load_config, settings_options


@settings_options
@click.command(short_help="List every setting: value, default, unit, source.")
@common_options("json")
@pass_target
def config(target: Target, config_file: str | None, settings: Sequence[tuple[str, str]]) -> None:
    """List every setting: value, default, unit, and where the value comes from.

    It reads what `logd serve` would read: --set, LOGD_… variables, --config, defaults. No server is
    asked.

    \b
    Example:
      logd config --config logd.toml --json
    """
    loaded = load_config(config_file, settings)
    rows = loaded.describe()
    if target.json:
        print_json([row.as_json() for row in rows])
        return
    print_table(
        ("setting", "value", "default", "unit", "from"),
        [(r.name, r.value, r.default, r.unit, r.source.value) for r in rows],
    )
