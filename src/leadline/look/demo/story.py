"""The story: a day of a model's life. Normal traffic, an incident, a drift, recovery; then what Leadline says about it.

Each scene ends on what happened, never on a sleep: a page that arrived, an alert that resolved, a count that reached zero; each
has a deadline, and the story says so and fails if one is missed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from leadline.errors import LeadlineError
from leadline.look import tables
from leadline.look.demo import questions
from leadline.look.demo.notices import Inbox, Notice
from leadline.look.demo.patients import MMOL, MODEL, load, write_csv
from leadline.look.demo.service import Faults
from leadline.look.demo.settings import GOOD_BELOW_MS, OBJECTIVE, TIME_SCALE, demo_settings, free_port, moved, write
from leadline.look.demo.traffic import Traffic, tally
from leadline.look.up import supervised
from leadline.settings import Settings
from leadline.settings import load as load_settings
from leadline.testing.alertmanager import INSTALL, AlertmanagerProcess, configuration, find_alertmanager
from leadline.testing.webhook import Webhook

LENGTH_S: Final = 180.0
"""The whole story fits in this; scenes share what is left."""
WARM_UP_S: Final = 30.0
EVENING_S: Final = 15.0
BREAK: Final = Faults(error_share=0.35, slow_share=0.15, delay_ms=400)
POLL_S: Final = 0.2


class Running(Protocol):
    """The processes of `leadline up`."""

    async def wait_ready(self, timeout_s: float = 60.0) -> None: ...


Start = Callable[[Settings, list[str], Path], AbstractAsyncContextManager[Running]]
"""(settings, options for every process, file for their output)"""
Baseline = Callable[[Settings, str, str, Path], Awaitable[None]]
"""(settings, baseline's name, model, CSV file)"""


@dataclass
class Outcome:
    """What the story found, for a test to hold against what was sent."""

    settings: Settings
    traffic: Traffic
    marks: dict[str, float] = field(default_factory=dict)
    """Scene -> when it began (Unix time)."""
    notices: list[Notice] = field(default_factory=list)
    accounting: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, questions.Answer] = field(default_factory=dict)
    took_s: float = 0.0


class StoryError(LeadlineError):
    """Something that the story tells of did not happen in time."""


class Story:
    """Plays and narrates.

    Parameters
    ----------
    start : function
        Starts what `leadline up` runs.
    baseline : function
        Creates a frozen reference from a CSV file.
    data : Path
        Where everything is kept.
    options : list of str
        Further `--set` options of the user, laid over the demo's settings.
    """

    def __init__(
        self, start: Start, baseline: Baseline, data: Path, options: list[str] | None = None, console: Console | None = None
    ) -> None:
        self._start, self._baseline, self._data, self._options = start, baseline, data, list(options or [])
        self._console = console or tables.console()
        self._begin()
        self._inbox = Inbox(list)

    async def play(self, *, keep_running: bool = False) -> Outcome:
        """Plays the day; with `keep_running`, day after day, until cancelled."""
        self._begin()
        self._data.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            webhook = stack.enter_context(Webhook())
            self._inbox = Inbox(lambda: webhook.received)
            outcome = await self._set_up(stack, webhook)
            traffic = asyncio.create_task(outcome.traffic.run())
            try:
                while True:
                    await self._day(outcome)
                    if not keep_running:
                        break
                    self._say("The day is over; the next one begins. Ctrl-C ends it.")
                    self._ends = time.monotonic() + LENGTH_S
                outcome.traffic.stop()
                await traffic
                await self._reckon(outcome)
            finally:
                traffic.cancel()
                await asyncio.gather(traffic, return_exceptions=True)
            self._next_steps()
        outcome.took_s = time.monotonic() - self._began
        return outcome

    def _begin(self) -> None:
        """Sets the story's clock to zero: what is narrated and the table of the alerts count from here."""
        self._began, self._began_at = time.monotonic(), time.time()
        self._ends = self._began + LENGTH_S

    # scenes

    async def _set_up(self, stack: AsyncExitStack, webhook: Webhook) -> Outcome:
        self._title("Leadline: a day of a model's life in about three minutes")
        self._say(
            f"One day is {86400 / TIME_SCALE:.0f} seconds: evaluate.time_scale is {TIME_SCALE}, the burn table and the windows are settings too. "
            "No other code runs than in production."
        )
        target = webhook.url
        if find_alertmanager() is not None:
            manager = AlertmanagerProcess(configuration(webhook.url), self._data / "alertmanager")
            await asyncio.to_thread(manager.start)
            stack.callback(manager.stop)
            target = manager.url
            self._say(f"Alertmanager runs on {target} and passes alerts on to a small receiver here.")
        else:
            self._say(f"Alertmanager is not on this machine ({INSTALL}); a small receiver here takes its place and shows the alerts.")
        tree = demo_settings(target)
        config = self._data / "leadline.yaml"
        write(tree, config)
        overrides = [f"data={self._data}", *self._options]
        settings = load_settings(config, overrides)
        arguments = ["--config", str(config), *(part for item in overrides for part in ("--set", item))]
        for line in moved(tree):
            self._say(f"The usual address is taken: {line}.")
        log = self._data / "output.log"
        self._say(
            f"Starting the engine (ClickHouse, embedded), the collector and the evaluator; their settings are {config}, their output {log}."
        )
        running = await stack.enter_async_context(self._start(settings, arguments, log))
        patients, _ = await asyncio.gather(asyncio.to_thread(load), running.wait_ready())
        training = self._data / "training.csv"
        write_csv(patients.rows, training)
        await self._baseline(settings, "training", MODEL, training)
        self._say(f"`leadline baseline create`: the reference is the training set, {len(patients.rows)} patients; its bins are frozen now.")
        url = await stack.enter_async_context(_service(settings, log))
        self._say(f"A scikit-learn model is trained and served at {url} in two versions, instrumented by three lines of our SDK.")
        return Outcome(settings, Traffic(url, patients))

    async def _day(self, outcome: Outcome) -> None:
        traffic, mark = outcome.traffic, outcome.marks
        mark["normal"] = time.time()
        self._title("Morning: normal traffic")
        self._say(
            f"{traffic.rate:.0f} requests a second, half to each version. {OBJECTIVE:.0%} are to be good: no error, under {GOOD_BELOW_MS:.0f} ms."
        )
        await self._until(lambda: time.time() - mark["normal"] >= WARM_UP_S, WARM_UP_S + 5, "a morning of traffic")
        self._accounting_line(await _accounting(outcome.settings))

        mark["incident"] = time.time()
        self._title("Noon: an incident")
        self._say("v2's feature store begins to time out: a third of its lookups fail, more are slow. Nobody has noticed yet.")
        await traffic.break_v2(BREAK)
        page = await self._notice("firing", severity="page", version="v2")
        self._say(
            f"[bold red]PAGE[/] after {_since(page, mark['incident']):.0f} s: {page.annotations.get('summary', page.labels.get('alertname', ''))}"
        )
        mark["repaired"] = time.time()
        self._say("The person on call takes the feature store's last change back.")
        await traffic.break_v2(Faults())
        over = await self._notice("resolved", severity="page", version="v2")
        self._say(
            f"[bold green]RESOLVED[/] {_since(over, mark['repaired']):.0f} s later: the short window is clean, and everything up to it has arrived."
        )

        mark["drift"] = time.time()
        self._title("Afternoon: a drift")
        self._say(
            f"The laboratory's new analyser reports glucose in mmol/l, not mg/dl: every value is {MMOL:.1f} times smaller. No error, no delay."
        )
        traffic.in_mmol = True
        ticket = await self._notice("firing", severity="ticket", series="features/glucose")
        self._say(f"[bold yellow]TICKET[/] after {_since(ticket, mark['drift']):.0f} s: {ticket.annotations.get('summary', '')}")
        mark["unit repaired"] = time.time()
        self._say("The unit is converted again at the door.")
        traffic.in_mmol = False
        await self._until(lambda: time.time() - mark["unit repaired"] >= EVENING_S, EVENING_S + 5, "an evening of traffic")
        mark["evening"] = time.time()

    async def _reckon(self, outcome: Outcome) -> None:
        self._title("Evening: the books")
        sent = len(outcome.traffic.sent) + outcome.traffic.forgotten

        async def balanced() -> bool:
            outcome.accounting = await _accounting(outcome.settings)
            predictions, traces = outcome.accounting["signals"]["predictions"], outcome.accounting["signals"]["traces"]
            if predictions["received"] < sent or predictions["waiting"] or traces["waiting"]:
                return False
            async with httpx.AsyncClient(timeout=30) as client:
                (row,) = (await questions.ask(client, f"http://{outcome.settings.engine.http}/", questions.MEASURED, {})).rows
            return all(count >= sent for count in row)

        await self._until(balanced, 30, f"all {sent:,} predictions in ClickHouse")
        outcome.notices = [notice for notice in self._inbox.notices if notice.labels.get("model") == MODEL]
        self._accounting_table(outcome)
        self._alerts_table(outcome)
        self._title("Five questions, in SQL")
        window = {
            "drift_since": _aligned(outcome.marks["drift"], up=True),
            "drift_until": _aligned(outcome.marks["unit repaired"], up=False),
        }
        async with httpx.AsyncClient(timeout=30) as client:
            for question in questions.QUESTIONS:
                answer = await questions.ask(client, f"http://{outcome.settings.engine.http}/", question, window)
                outcome.answers[question.name] = answer
                self._answer(answer)

    # waiting

    async def _until(self, happened: Callable[[], bool] | Callable[[], Awaitable[bool]], timeout_s: float, what: str) -> None:
        deadline = min(time.monotonic() + timeout_s, self._ends)
        with self._console.status(what):
            while True:
                self._inbox.take()
                done = happened()
                if done if isinstance(done, bool) else await done:
                    return
                if time.monotonic() > deadline:
                    raise StoryError(f"expected {what} within {timeout_s:.0f} s; it did not come. See {self._data / 'output.log'}")
                await asyncio.sleep(POLL_S)

    async def _notice(self, status: str, **labels: str) -> Notice:
        before, found = len(self._inbox.notices), list[Notice]()

        def come() -> bool:
            found[:] = [
                notice
                for notice in self._inbox.notices[before:]
                if notice.status == status and notice.labels.get("model") == MODEL and labels.items() <= dict(notice.labels).items()
            ]
            return bool(found)

        shown = ", ".join(f"{name} {value}" for name, value in labels.items())
        await self._until(come, 60, f"an alert that is {status} ({shown})")
        return found[0]

    # telling

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {text}", soft_wrap=True, highlight=False)

    def _accounting_line(self, accounting: dict[str, Any]) -> None:
        spans = accounting["signals"]["traces"]
        self._say(
            f"So far {spans['received']:,} spans came in, {spans['kept']:,} are kept and {spans['sampled_out']:,} were sampled out; "
            f"{accounting['signals']['predictions']['received']:,} predictions are measured, all of them; lost: {spans['lost']}."
        )

    def _accounting_table(self, outcome: Outcome) -> None:
        self._console.print(tables.accounting_table("Where every item went", outcome.accounting["signals"]))
        traffic = outcome.traffic
        counts = tally(traffic.sent, GOOD_BELOW_MS)
        told = ", ".join(f"{version} {of['answered']:,} (bad: {of['bad']:,})" for version, of in sorted(counts.items()))
        self._say(f"The traffic's own tally: {len(traffic.sent):,} predictions ({told}) and {traffic.outcomes:,} outcomes.")

    def _alerts_table(self, outcome: Outcome) -> None:
        table = Table("at", "state", "severity", "about", "what it says", title="What the alerts said, and when", title_justify="left")
        for notice in outcome.notices:
            about = next(
                (notice.labels[name] for name in ("series", "version") if notice.labels.get(name) not in {None, "none", "all"}), ""
            )
            seconds = notice.at.timestamp() - self._began_at
            table.add_row(
                f"{seconds:.0f} s", notice.status, notice.labels.get("severity", ""), about, notice.annotations.get("summary", "")
            )
        self._console.print(table)

    def _answer(self, answer: questions.Answer) -> None:
        self._console.print(f"\n[bold]{answer.question.asked}[/]")
        sql = answer.question.sql.strip()
        self._console.print(Syntax(sql, "sql", background_color="default").highlight(sql), soft_wrap=True, end="")
        table = Table()
        for column in answer.columns:
            table.add_column(column, overflow="fold", no_wrap=column.endswith("_id"))  # ids are copied
        for row in answer.rows:
            table.add_row(*("" if value is None else str(value) for value in row))
        self._console.print(table)
        self._console.print(f"[dim]{answer.question.note}[/]", soft_wrap=True)

    def _next_steps(self) -> None:
        self._title("What to try next")
        for command, what in (
            ("leadline up --demo", "the same, and it keeps running: ask your own questions while it does"),
            ("leadline up", "Leadline alone: send OTLP to 127.0.0.1:4317 (gRPC) or :4318 (HTTP)"),
            ("leadline status", "the books, the rates and the alerts of what runs"),
            ("curl 'http://127.0.0.1:8123/' -d 'SHOW TABLES'", "everything is in ClickHouse; any client of its HTTP interface will do"),
            ("src/leadline/look/demo/service.py", "the three lines of instrumentation"),
        ):
            self._console.print(f"  [bold]{command}[/]\n      {what}", soft_wrap=True, highlight=False)


async def _accounting(settings: Settings) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=10) as client:
        reply = await client.get(f"http://{settings.console.http}/api/v1/accounting")
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()
        return found


@asynccontextmanager
async def _service(settings: Settings, log: Path) -> AsyncIterator[str]:
    """The model server as a process of its own; ready when it is entered."""
    port = free_port()
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "leadline.look.demo.service",
            f"--port={port}",
            f"--otlp=http://{settings.receive.grpc}",
            stdout=output,
            stderr=output,
            env=supervised(),
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(timeout=2.0) as client:
            deadline = time.monotonic() + 60
            while not await _healthy(client, url):
                if process.returncode is not None or time.monotonic() > deadline:
                    raise StoryError(f"the model server did not start; see {log}")
                await asyncio.sleep(POLL_S)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/healthz")).status_code == 200
    except httpx.HTTPError:
        return False


def _since(notice: Notice, at: float) -> float:
    """Seconds from a moment to when the alert became what it says."""
    return notice.at.timestamp() - at


def _aligned(at: float, *, up: bool, width: int = 5) -> int:
    """The edge of a sketch window after, or before, a moment."""
    return int(-(-at // width) if up else at // width) * width
