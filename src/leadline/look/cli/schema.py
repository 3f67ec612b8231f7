"""`leadline schema show|apply`"""

from __future__ import annotations

import asyncio

import typer

from leadline.look.cli.options import ConfigFile, DataDir, Overrides, settings_of

app = typer.Typer(help="The tables in ClickHouse.", no_args_is_help=True)


@app.command("show")
def show() -> None:
    """Print every numbered migration, as it would be applied."""
    from leadline.store.migrate import show as text

    print(text())


@app.command("apply")
def apply(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Bring ClickHouse to this version's schema. Safe to repeat; collectors do it at start."""
    from leadline.store.client import open_store
    from leadline.store.migrate import apply as migrate

    settings = settings_of(config, data, overrides)
    done = asyncio.run(migrate(open_store(settings)))
    for name in done:
        print(f"applied {name}")
    print(f"schema is current ({len(done)} applied now)")
