"""`leadline baseline create|list`"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from leadline.errors import ConfigError
from leadline.evaluate.baseline.reference import Baseline
from leadline.look import tables
from leadline.look.cli.options import ConfigFile, DataDir, Overrides, settings_of
from leadline.model.blocks import Block
from leadline.settings import Settings, seconds

app = typer.Typer(help="References that drift is measured against: bins frozen from one sample.", no_args_is_help=True)

_LIST = """
SELECT baseline, model, version, uniqExact(series) AS series, max(created_at) AS created, any(source) AS source,
       max(n_eff) AS n_eff FROM baselines GROUP BY baseline, model, version ORDER BY created DESC LIMIT 100
"""


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="what rules call it, such as baseline/2026-10-train or just train")],
    model: Annotated[str, typer.Option("--model", "-m", help="the model whose predictions are compared with it")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="a CSV (with a header) or Parquet file: each column is a feature")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="start of a time range of what was measured: 2026-10-01T00:00, or 7d for seven days ago")
    ] = None,
    until: Annotated[str | None, typer.Option(help="its end; now if not said")] = None,
    version: Annotated[str, typer.Option(help="of the model; all versions if not said")] = "",
    bins: Annotated[int, typer.Option(min=2, max=200, help="quantile bins of a numeric series")] = 20,
    time_column: Annotated[
        str | None, typer.Option("--time", help="a column of times in the file, from which the reference's own history is made")
    ] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="a column of numbers that are codes; may be repeated")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="a column to leave out (an id, the target); may be repeated")] = None,
    config: ConfigFile = None,
    data: DataDir = None,
    overrides: Overrides = None,
) -> None:
    """Freeze a reference from a file, or from what was measured in a time range.

    \b
      leadline baseline create train --model fraud --file train.parquet --exclude id
      leadline baseline create october --model fraud --since 28d
    """
    if (file is None) == (since is None):
        raise ConfigError(["baseline create: give either --file or --since (and --until); see leadline baseline create --help"])
    settings = settings_of(config, data, overrides)
    now_ns = time.time_ns()
    with Progress(transient=True) as progress:
        task = progress.add_task(f"reading {file or 'what was measured'}", total=1.0)

        def tell(done: float) -> None:
            progress.update(task, completed=done)

        if file is not None:
            from leadline.evaluate.baseline.file import from_file

            made = from_file(
                file, name=name, model=model, version=version, bins=bins, categorical=categorical or (), exclude=exclude or (), time=time_column,
                progress=tell,
            )  # fmt: skip
        else:
            made = asyncio.run(
                _from_store(settings, name, model, version, bins, _moment(since or "", now_ns), _moment(until, now_ns), tell)
            )
    asyncio.run(_store(settings, made.blocks(now_ns)))
    console = tables.console()
    table = Table(
        "series", "kind", "bins", "n_eff", "windows of history", title=f"baseline {made.name} of {made.model}", title_justify="left"
    )
    for reference in made.references:
        kind = "categorical" if reference.bins.categories else "numeric"
        table.add_row(reference.series, kind, str(reference.bins.width), f"{reference.n_eff:,.0f}", str(len(reference.windows)))
    console.print(table)
    for note in made.notes:
        console.print(f"[yellow]{note}[/yellow]")
    console.print(f'name it in a rules file:  drift: [{{reference: {made.name}, series: ["features/*"]}}]')


@app.command("list")
def show(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """List the references that are stored."""
    from leadline.store.client import open_store

    rows = asyncio.run(open_store(settings_of(config, data, overrides)).query(_LIST))
    table = Table("baseline", "model", "version", "series", "n_eff", "created", "source")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("baseline", "model", "version", "series", "n_eff", "created", "source")))
    tables.console().print(table if rows else "no baseline yet: leadline baseline create --help")


async def _from_store(
    settings: Settings, name: str, model: str, version: str, bins: int, since_ns: int, until_ns: int, tell: Callable[[float], None]
) -> Baseline:
    from leadline.evaluate.baseline.stored import from_store
    from leadline.store.client import open_store

    return await from_store(
        open_store(settings), name=name, model=model, version=version, since_ns=since_ns, until_ns=until_ns, bins=bins, progress=tell
    )


async def _store(settings: Settings, blocks: list[Block]) -> None:
    from leadline.store.client import open_store
    from leadline.store.migrate import apply

    store = open_store(settings)
    await apply(store)
    for block in blocks:
        await store.insert(block)


def _moment(text: str | None, now_ns: int) -> int:
    """`2026-10-01T00:00` (UTC unless it says otherwise), or `7d` for seven days ago, in nanoseconds since 1970."""
    if not text:
        return now_ns
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now_ns - int(float(str(seconds(text))) * 1e9)
        except ValueError:
            raise ConfigError([f"expected a time such as 2026-10-01T00:00 or 7d, got {text!r}"]) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)
