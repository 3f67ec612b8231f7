"""How a day is made short: public settings, written to a file that `leadline up --config` takes as it is."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from leadline.settings import Settings

TIME_SCALE: Final = 480
"""A day is three minutes."""
RULES: Final = Path(__file__).parent / "rules.yaml"
GOOD_BELOW_MS: Final = 250.0
OBJECTIVE: Final = 0.95
"""Both as in `rules.yaml`."""

_ADDRESSES: Final = {"receive": ("grpc", "http"), "console": ("http",), "engine": ("http",)}


def demo_settings(alertmanager: str, *, defaults: Settings | None = None) -> dict[str, Any]:
    """The settings of the demo as a tree.

    Addresses are the defaults where those are free, else any free port of this machine.

    Notes
    -----
    The burn table keeps the workbook's idea (a long and a short window, both must burn) with windows that, divided by
    the time scale, are not shorter than a second's counter: 2h/40m is 15 s/5 s of the wall clock.
    """
    plain = defaults or Settings()
    tree: dict[str, Any] = {
        "collector": "demo",
        "segments": ["sex"],
        "journal": {"segment": "1s"},
        "sketch": {"window": "5s", "sli_window": "1s", "rules_poll": "1s"},
        "sample": {
            "decision_wait": "2s",
            "plan_every": "5s",
            "budget": {"traces_per_second": 5},
            "keep": ["error", "slow"],
        },
        "store": {"flush": "200ms"},
        "evaluate": {
            "rules": [str(RULES)],
            "every": "1s",
            "time_scale": TIME_SCALE,
            "burn_table": [
                {"severity": "page", "long": "2h", "short": "40m", "factor": 4},
                {"severity": "ticket", "long": "8h", "short": "80m", "factor": 2},
            ],
        },
        "alert": {"alertmanagers": [alertmanager], "resend": "5s"},
        "shutdown": "15s",
    }
    for stage, keys in _ADDRESSES.items():
        for key in keys:
            tree.setdefault(stage, {})[key] = _free(getattr(getattr(plain, stage), key))
    return tree


def write(tree: Mapping[str, Any], path: Path) -> None:
    """As a file that a person can read and use again."""
    path.write_text("# The demo's settings: a day in three minutes.\n" + yaml.safe_dump(dict(tree), sort_keys=False))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free(address: str) -> str:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:{free_port()}"
    return address


def moved(tree: Mapping[str, Any], defaults: Settings | None = None) -> Sequence[str]:
    """The addresses that are not the defaults, because those were taken."""
    plain = defaults or Settings()
    return [
        f"{stage}.{key} = {tree[stage][key]}"
        for stage, keys in _ADDRESSES.items()
        for key in keys
        if tree[stage][key] != getattr(getattr(plain, stage), key)
    ]
