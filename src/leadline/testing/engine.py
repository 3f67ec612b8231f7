"""The engine as its own process, under a test's hand. For tests that ask real ClickHouse over real HTTP, yours too.

with EngineProcess(tmp_path) as engine:
    store = engine.store()
    await migrate.apply(store)
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from leadline.settings import Settings, load
from leadline.store.client import Clickhouse
from leadline.testing.processes import free_port


class EngineProcess:
    """`python -m leadline.store.engine` on a free port; ready when the `with` block begins, gone when it ends.

    Parameters
    ----------
    data : Path
        As for `--data`.
    overrides : sequence of str
        `key.path=value`, as for `--set`.
    """

    def __init__(self, data: Path, overrides: Sequence[str] = ()) -> None:
        self.data, self._overrides = data, tuple(overrides)
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def settings(self) -> Settings:
        return load(overrides=[f"data={self.data}", f"engine.http={self.address}", *self._overrides], environ={})

    @property
    def token(self) -> str:
        """The writer's password; its user is `leadline_writer`."""
        return self.settings.token_file.read_text().strip()

    @property
    def log(self) -> Path:
        return self.data / "engine.log"

    def store(self) -> Clickhouse:
        """A client with the writer's rights."""
        return Clickhouse.of(self.settings)

    def start(self, timeout_s: float = 60.0) -> None:
        """Returns once it answers; raises `RuntimeError` with its log if it does not."""
        self.data.mkdir(parents=True, exist_ok=True)
        sets = [part for item in self._overrides for part in ("--set", item)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "leadline.store.engine", "--data", str(self.data), "--http", self.address, *sets],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the engine did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Sends the signal and returns the exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        return process.wait(timeout=timeout_s)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
