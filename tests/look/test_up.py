"""`leadline up`: what dies is started again, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leadline.errors import LeadlineError
from leadline.look.up import Supervisor
from leadline.settings import load
from leadline.testing.processes import Processes, until


def _children(parent: int) -> dict[str, int]:
    """command -> pid, of the processes that `parent` started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":\t", 1) for line in (path / "status").read_text().splitlines() if ":\t" in line)
            command = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status["PPid"]) == parent and b"leadline.look.cli" in command:
            found[command[command.index(b"leadline.look.cli") + 1].decode()] = int(path.name)
    return found


def _gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_what_dies_is_started_again_and_sigterm_stops_all(tmp_path: Path) -> None:
    """A collector that is killed comes back by itself; SIGTERM ends every process, with status 0."""
    with Processes(tmp_path, ("collector=c1", "sample.decision_wait=1s")) as machine:
        machine.start("up")
        await machine.ready()
        parent = machine.processes["up"].pid
        before = _children(parent)
        assert sorted(before) == ["collect", "engine", "evaluate"]
        os.kill(before["collect"], signal.SIGKILL)
        await until(lambda: _children(parent).get("collect", before["collect"]) != before["collect"], "a new collector")
        await machine.ready()
        assert "collect ended with signal SIGKILL; started again" in machine.log("up")
        pids = list(_children(parent).values())
        assert machine.kill("up", signal.SIGTERM) == 0
        assert _gone(pids)


@pytest.mark.parametrize("began", [False, True])
async def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, began: bool) -> None:
    """`kill -9` of the supervisor: its processes are told to stop by the kernel, and do; also those that have only just begun."""
    with Processes(tmp_path, ("collector=c1", "shutdown=5s")) as machine:
        machine.start("up")
        if began:
            await machine.ready()
        parent = machine.processes["up"].pid
        await until(lambda: len(_children(parent)) == 3, "three processes")
        pids = list(_children(parent).values())
        machine.kill("up", signal.SIGKILL)
        await until(lambda: _gone(pids), "no process left")


def test_a_fault_in_the_settings_is_said_once_and_ends(tmp_path: Path) -> None:
    """Every fault with its place, status 2, and no process is started."""
    config = tmp_path / "leadline.yaml"
    config.write_text("receive:\n  grpc: nowhere\nsampel: {}\n")
    command = [sys.executable, "-m", "leadline.look.cli", "up", "--config", str(config), "--set", "store.flush=soon"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert f"{config}:2" in lines[0]
    assert "store.flush" in done.stderr
    assert f"sampel: no such key; did you mean sample? ({config}:3)" in done.stderr


@pytest.mark.parametrize(
    ("setting", "name"), [("receive.grpc", "grpc"), ("receive.http", "http"), ("console.http", "console"), ("engine.http", "engine")]
)
def test_a_taken_port_is_said_with_what_to_do(tmp_path: Path, setting: str, name: str) -> None:
    """`up` ends and says, once and without a traceback, which setting to change."""
    machine = Processes(tmp_path, ("shutdown=5s",))
    with socket.create_server(("127.0.0.1", machine.ports[name])):
        done = machine.run("up")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("leadline: ")]
    assert said[0].startswith(f"leadline: {setting}: cannot listen on 127.0.0.1:{machine.ports[name]} (address already in use)")
    assert f"or listen elsewhere: --set {setting}=127.0.0.1:" in said[0]
    process = "engine" if name == "engine" else "collect"
    assert said[1:] == [f"leadline: {process} could not start; its message is above"]
    assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    """Engine and collector name their setting, in a line each; `up` ends."""
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "leadline.look.cli", "up", *Processes(tmp_path / "file", ("shutdown=5s",)).options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "could not start; its message is above" in done.stderr
    assert f"nothing can be kept in {tmp_path / 'file'}/" in done.stderr
    assert "(not a directory)" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_process_that_cannot_be_started_at_all_ends_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python is not where it was: said, and not waited for."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    async with Supervisor(load(overrides=[f"data={tmp_path}"], environ={}), []) as supervisor:
        with pytest.raises(LeadlineError, match=f"could not start: {tmp_path / 'python'}: No such file"):
            await supervisor.wait_ready()
