"""What a reader cannot do, and what does not fall over when it tries."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from leadline.errors import ConfigError
from leadline.store.engine import access
from leadline.store.engine.database import writer_token
from leadline.store.engine.exceptions import EngineError
from leadline.testing.engine import EngineProcess

Ask = Callable[..., httpx.Response]

REACHING_OUT = """
SELECT * FROM file('{secret}', 'CSV', 'a String')
SELECT file('{secret}')
SELECT /* */ file /* */ ('{secret}')
SELECT `fi\\x6ce`('{secret}')
SELECT "file"('{secret}')
SELECT arrayMap(file, ['{secret}'])
SELECT * APPLY(file) FROM (SELECT '{secret}' AS x)
SELECT 1 IN file('{secret}')
file('{secret}')
WITH x -> file(x) AS f SELECT f('{secret}')
EXPLAIN SELECT file('{secret}')
DESCRIBE TABLE file('{secret}')
DESCRIBE TABLE url('http://127.0.0.1:1/x')
DESCRIBE TABLE s3('http://127.0.0.1:1/bucket/x', 'CSV')
SELECT * FROM '{secret}'
SELECT * FROM `{secret}`
SELECT * FROM default.`{secret}`
SELECT * FROM url('http://127.0.0.1:1/x', 'CSV', 'a Int8')
SELECT * FROM s3('http://127.0.0.1:1/bucket/x', 'CSV', 'a Int8')
SELECT * FROM remote('127.0.0.1:1', system.one)
SELECT * FROM cluster('default', system.one)
SELECT * FROM executable('ls', 'CSV', 'a String')
SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')
SELECT * FROM sqlite('{secret}', 't')
SELECT * FROM icebergLocal('{secret}')
SELECT * FROM Python(database)
SELECT * FROM python('database')
SELECT * FROM database
SELECT * FROM format(CSV, '1')
SELECT * FROM loop(system.one) LIMIT 1
SELECT 1 INTO OUTFILE '{target}'
SELECT 1 INTO OUTFILE '{target}' APPEND FORMAT CSV
SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{secret}'
""".strip().splitlines()

CHANGING = """
INSERT INTO predictions (model) VALUES ('x')
INSERT INTO FUNCTION file('{target}', 'CSV', 'a Int8') SELECT 1
CREATE TABLE x (a Int8) ENGINE = Memory
CREATE TEMPORARY TABLE x (a Int8)
CREATE DICTIONARY d (a UInt64) PRIMARY KEY a SOURCE(FILE(path '{secret}' format 'CSV')) LAYOUT(FLAT()) LIFETIME(1)
CREATE FUNCTION f AS x -> x
CREATE USER u
CREATE DATABASE d
DROP TABLE predictions
TRUNCATE TABLE predictions
ALTER TABLE predictions DELETE WHERE 1
OPTIMIZE TABLE predictions
RENAME TABLE predictions TO p
ATTACH TABLE z FROM '/tmp' (a Int8) ENGINE = MergeTree ORDER BY a
DETACH TABLE predictions
BACKUP TABLE predictions TO File('{target}')
SYSTEM SHUTDOWN
SYSTEM STOP MERGES
KILL QUERY WHERE 1
KILL MUTATION WHERE 1
GRANT ALL ON *.* TO default
SET readonly = 0
SET ROLE leadline_writer
SET max_memory_usage = 0
USE system
SELECT 1; DROP TABLE predictions
SELECT 1 SETTINGS readonly = 0
SELECT 1 SETTINGS max_execution_time = 0
SELECT 1 SETTINGS max_memory_usage = 0
SELECT 1 SETTINGS allow_introspection_functions = 1
SELECT addressToSymbol(toUInt64(1))
SELECT * FROM system.users
SHOW CREATE USER default
EXECUTE AS default SELECT 1
""".strip().splitlines()


@pytest.mark.parametrize("sql", REACHING_OUT + CHANGING)
def test_refused_for_readers(ask: Ask, tmp_path: Path, sql: str) -> None:
    """No way out of the database, and none to change it; nothing of the secret comes back, and nothing is written."""
    secret, target = tmp_path / "secret.csv", tmp_path / "target"
    secret.write_text("very secret\n")
    reply = ask(sql.format(secret=secret, target=target))
    assert reply.status_code >= 400, reply.text
    assert reply.headers["x-clickhouse-exception-code"] not in ("1002", "49"), reply.text
    assert "very secret" not in reply.text
    assert not target.exists()


def test_readers_still_read(ask: Ask) -> None:
    """What is not refused: tables, views, system tables, and the statements that describe them."""
    for sql in (
        "SELECT count() FROM predictions",
        "WITH 1 AS a SELECT a",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "FROM predictions SELECT count()",
        "SHOW TABLES",
        "DESCRIBE TABLE predictions",
        "EXISTS TABLE predictions",
        "SHOW CREATE TABLE predictions",
        "EXPLAIN SELECT count() FROM predictions",
        "SELECT name FROM system.columns WHERE table = 'predictions' AND name != 'file'",
        "SELECT 'file(x)', 'INTO OUTFILE', 'KILL' -- file(x)",
        "SELECT * FROM numbers(3)",
        "SELECT * FROM accounting_now",
    ):
        reply = ask(sql)
        assert reply.status_code == 200, (sql, reply.text)


def test_the_writer_does_not_reach_out_either(ask: Ask, tmp_path: Path) -> None:
    """A stolen token is for this database alone."""
    (tmp_path / "secret.csv").write_text("1\n")
    for sql in (
        f"SELECT * FROM file('{tmp_path}/secret.csv', 'CSV', 'a Int8')",
        "SELECT * FROM url('http://127.0.0.1:1/x', 'CSV', 'a Int8')",
        "CREATE USER u",
        "GRANT ALL ON *.* TO default",
    ):
        assert ask(sql, writer=True).headers["x-clickhouse-exception-code"] == "497", sql
    for sql in ("SET max_threads = 1", "USE system"):
        assert "session of its own" in ask(sql, writer=True).text


@pytest.mark.parametrize(
    "canonical", ["SELECT file", "SELECT 1 INTO OUTFILE 'x'", "KILL QUERY WHERE 1", "INSERT INTO t VALUES", "", "'SELECT' 1"]
)
def test_check_reader(canonical: str) -> None:
    """The last wall by itself; nothing at all is refused by the parser before."""
    if canonical:
        with pytest.raises(EngineError):
            access.check_reader(canonical)
    access.check_reader("SELECT 'file', 1 AS profile, x.files FROM (SELECT 1)")


def test_the_token_is_its_owners_alone(engine: EngineProcess, tmp_path: Path) -> None:
    """Made once, mode 600; a token that others could have read is refused."""
    path = tmp_path / "engine" / "token"
    token = writer_token(path)
    assert writer_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 == stat.S_IMODE(engine.settings.token_file.stat().st_mode)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        writer_token(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16 characters"):
        writer_token(path)


def test_the_token_is_nowhere_in_the_database(engine: EngineProcess, ask: Ask) -> None:
    """A reader who asks for everything does not find it."""
    for table in ("processes", "settings", "server_settings", "merge_tree_settings", "roles", "build_options"):
        reply = ask(f"SELECT * FROM system.{table} FORMAT JSONEachRow")
        assert engine.token not in reply.text
