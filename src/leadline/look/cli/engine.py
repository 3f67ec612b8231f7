"""`leadline engine`"""

from __future__ import annotations

from leadline.look.cli.options import ConfigFile, DataDir, Overrides, run_until_told, settings_of


def command(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Run the embedded ClickHouse (chdb) behind ClickHouse's HTTP interface."""
    from leadline.store.engine.server import serve

    settings = settings_of(config, data, overrides)
    run_until_told(lambda stop: serve(settings, stop), name="engine")
