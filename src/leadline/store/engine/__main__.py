"""`python -m leadline.store.engine --data DIR --http HOST:PORT [--set key.path=value]`: the engine without the rest of the CLI."""

from __future__ import annotations

import argparse
import asyncio
import sys

from leadline.errors import ConfigError
from leadline.settings import load
from leadline.store.engine.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m leadline.store.engine", description=__doc__)
    parser.add_argument("--data", default="data", help="where everything is kept")
    parser.add_argument("--http", default="127.0.0.1:8123", metavar="HOST:PORT", help="where to listen")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="any setting")
    given = parser.parse_args()
    try:
        settings = load(overrides=[f"data={given.data}", f"engine.http={given.http}", *given.set])
        asyncio.run(serve(settings, ready=lambda: print(f"ready http://{given.http}", flush=True)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
