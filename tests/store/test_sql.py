"""Cutting text into statements and clauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadline.store import sql


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';'; -- ; not here\nSELECT `a;b`;\n", ["SELECT ';'", "-- ; not here\nSELECT `a;b`"]),
        ("SELECT 'it''s; \\'; x' /* ; */;;", ["SELECT 'it''s; \\'; x' /* ; */"]),
        ("SELECT $$a;b$$, $x$ ; $$ $x$; SELECT 2", ["SELECT $$a;b$$, $x$ ; $$ $x$", "SELECT 2"]),
        ("-- only a comment\n", []),
        ("", []),
    ],
)
def test_statements_end_with_a_semicolon_outside_of_text(text: str, expected: list[str]) -> None:
    """Strings, quoted names and comments may hold `;`."""
    assert sql.statements(text) == expected


@given(st.text())
def test_tokens_lose_nothing(text: str) -> None:
    """Every character is in one token, or is white space or in a comment."""
    end = 0
    for token in sql.tokens(text):
        assert token.start >= end
        assert token.text == text[token.start : token.end]
        assert not sum(1 for _ in sql.tokens(text[end : token.start]))
        end = token.end


@pytest.mark.parametrize(
    ("text", "bare", "verb", "form"),
    [
        ("SELECT 1", "SELECT 1", "SELECT", None),
        ("select 1 format JSON;", "select 1", "SELECT", "JSON"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "SELECT 1   SETTINGS max_threads = 1", "SELECT", "CSV"),
        ("/* c */ WITH 1 AS x SELECT x -- FORMAT CSV", "/* c */ WITH 1 AS x SELECT x -- FORMAT CSV", "WITH", None),
        ("SELECT 'FORMAT CSV', format FROM t", "SELECT 'FORMAT CSV', format FROM t", "SELECT", None),
        ("SELECT * FROM (SELECT 1 FORMAT TSV)", "SELECT * FROM (SELECT 1 FORMAT TSV)", "SELECT", None),
        ("(SELECT 1) UNION ALL (SELECT 2)", "(SELECT 1) UNION ALL (SELECT 2)", "(", None),
        ("SHOW TABLES FORMAT Pretty", "SHOW TABLES", "SHOW", "Pretty"),
        ("", "", "", None),
    ],
)
def test_a_query_is_read_without_its_format(text: str, bare: str, verb: str, form: str | None) -> None:
    """FORMAT counts only as the last clause, outside brackets and strings."""
    read = sql.query(text)
    assert (read.text, read.verb, read.format) == (bare, verb, form)


@pytest.mark.parametrize(
    ("text", "totals"), [("SELECT 1 WITH TOTALS", True), ("SELECT ' WITH TOTALS'", False), ("with totals as 1 select 1", True)]
)
def test_totals_are_noticed(text: str, totals: bool) -> None:
    """A query that might have totals is made whole: their rows would be lost in a stream."""
    assert sql.query(text).totals is totals


@pytest.mark.parametrize(
    ("text", "head", "form", "data"),
    [
        ("INSERT INTO t FORMAT RowBinary\n\n\x01", "INSERT INTO t", "RowBinary", "\n\x01"),
        ("INSERT INTO t (a, format) FORMAT  CSV \r\n1,2", "INSERT INTO t (a, format)", "CSV", "1,2"),
        ("insert into t format JSONEachRow {}", "insert into t", "JSONEachRow", "{}"),
        ("INSERT INTO t SETTINGS a = 'FORMAT x' FORMAT TSV\n1", "INSERT INTO t SETTINGS a = 'FORMAT x'", "TSV", "1"),
        ("INSERT INTO t VALUES (1), (2)", "INSERT INTO t", "Values", " (1), (2)"),
        ("INSERT INTO t (a)", "INSERT INTO t (a)", "Values", ""),
    ],
)
def test_the_head_of_an_insert(text: str, head: str, form: str, data: str) -> None:
    """Blanks and one line end after the format's name are not data; more are."""
    read = sql.insert(text)
    assert read is not None
    assert (read.text, read.format, text[read.data_at :]) == (head, form, data)


@pytest.mark.parametrize(
    "text", ["SELECT 1", "INSERT INTO t SELECT 1", "INSERT INTO t FROM INFILE 'x' FORMAT CSV", "INSERT INTO t WITH 1 AS a SELECT a", ""]
)
def test_what_is_no_insert_with_data(text: str) -> None:
    """INSERT … SELECT has no rows of its own."""
    assert sql.insert(text) is None


@given(st.text())
def test_quoting_round_trips(text: str) -> None:
    """A quoted value is one token, whatever is in it."""
    assert [token.kind for token in sql.tokens(sql.quoted(text))] == ["string"]
    assert [token.kind for token in sql.tokens(sql.quoted_name(text))] == ["name"]
