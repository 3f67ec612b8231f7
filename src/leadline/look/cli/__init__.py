"""The command line. A file per command; each says what to do next."""

from __future__ import annotations

import sys

import typer

from leadline.errors import ConfigError, LeadlineError
from leadline.look.cli import baseline, check, collect, demo, engine, evaluate, schema, status, up

app = typer.Typer(
    name="leadline",
    help="Measures every prediction of your models and keeps a sample worth looking at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("up")(up.command)
app.command("collect")(collect.command)
app.command("engine")(engine.command)
app.command("evaluate")(evaluate.command)
app.command("check")(check.command)
app.command("status")(status.command)
app.command("demo")(demo.command)
app.add_typer(schema.app, name="schema")
app.add_typer(baseline.app, name="baseline")


def main() -> int:
    """Runs a command; what a user can mend is said in a line, without a traceback."""
    try:
        status = app(standalone_mode=False)  # typer gives out the status of typer.Exit
    except ConfigError as error:
        for fault in error.faults:
            print(f"leadline: {fault}", file=sys.stderr)
        return 2
    except LeadlineError as error:
        print(f"leadline: {error}", file=sys.stderr)
        return 1
    except typer.Exit as done:
        return int(done.exit_code)
    except typer.Abort:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            print(f"leadline: {error.format_message()}\nTry: leadline --help", file=sys.stderr)
            return 2
        raise
    return status if isinstance(status, int) else 0
