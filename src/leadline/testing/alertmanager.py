"""The real Alertmanager as a child process, for tests and the demo."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

PROGRAMS = ("prometheus-alertmanager", "alertmanager")
INSTALL = "apt-get install prometheus-alertmanager"


def find_alertmanager() -> str | None:
    """The path of the program, Debian's or upstream's; None where there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def configuration(webhook_url: str, *, group_wait: str = "1s", group_interval: str = "1s", repeat_interval: str = "4h") -> dict[str, Any]:
    """An Alertmanager configuration that sends every alert to one webhook, each by itself, and lets a page inhibit its ticket.

    `equal` names only labels that each of Leadline's alerts has: Alertmanager takes two missing labels for equal ones.
    """
    return {
        "route": {
            "receiver": "webhook",
            "group_by": ["..."],
            "group_wait": group_wait,
            "group_interval": group_interval,
            "repeat_interval": repeat_interval,
        },
        "receivers": [{"name": "webhook", "webhook_configs": [{"url": webhook_url, "send_resolved": True}]}],
        "inhibit_rules": [
            {
                "source_matchers": ['severity="page"'],
                "target_matchers": ['severity="ticket"'],
                "equal": ["alertname", "rule", "slo", "model", "version", "series"],
            }
        ],
    }


class AlertmanagerProcess:
    """Alertmanager with its data in a directory. A context manager; ready when it is entered.

    Parameters
    ----------
    config : dict
        As `configuration` makes it.
    directory : Path or None
        For its data; a temporary one if not said.
    prefix : str
        Path under which it serves.
    """

    def __init__(self, config: dict[str, Any], directory: Path | None = None, *, prefix: str = "") -> None:
        program = find_alertmanager()
        if program is None:
            raise FileNotFoundError(f"expected Alertmanager ({' or '.join(PROGRAMS)}) on the path; to install it: {INSTALL}")
        self._program, self._config, self._prefix = program, config, prefix
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        """The base URL, prefix included."""
        return f"http://127.0.0.1:{self._port}{self._prefix}"

    def start(self, timeout_s: float = 30.0) -> None:
        """Starts it (again), and returns once it answers."""
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="leadline-alertmanager-")
            self._directory = Path(self._temporary.name)
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "alertmanager.json"
        file.write_text(json.dumps(self._config))  # JSON is YAML
        with (self._directory / "alertmanager.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={file}",
                    f"--storage.path={self._directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    f"--web.route-prefix={self._prefix or '/'}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False, timeout=1).is_success:
                    return
            except httpx.HTTPError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self._directory / "alertmanager.log").read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"Alertmanager did not become ready:\n{text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it; what it knows of notifications stays in the directory."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def alerts(self) -> list[dict[str, Any]]:
        """GET /api/v2/alerts: what is active now."""
        response = httpx.get(f"{self.url}/api/v2/alerts", trust_env=False, timeout=10)
        response.raise_for_status()
        found: list[dict[str, Any]] = response.json()
        return found

    def __enter__(self) -> AlertmanagerProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
