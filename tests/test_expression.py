"""One language, two compilations: what ClickHouse and numpy say of the same rows is the same, and the rest is refused with its column."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from leadline.errors import ExpressionError
from leadline.expression import PREDICTION_COLUMNS, TRACE_COLUMNS, Kind, compile_expression, like_regex, with_segments
from leadline.model.columns import Column

COLUMNS = with_segments(["country"], {**PREDICTION_COLUMNS, "error": Kind.BOOL, "span_count": Kind.INTEGER})
TEXTS = ["", "fraud", "Fraud", "ok", "a%b", "a_b", "a\\b", "it's", "été", "ÉTÉ", "日本", "\x7f", "10%", "line\nbreak"]
FLOATS = [
    0.0,
    -0.0,
    1.0,
    0.5,
    -1.5,
    2.5,
    1e-9,
    1e300,
    -1e300,
    5e-324,
    9007199254740992.0,
    9.3e18,
    float("nan"),
    float("inf"),
    float("-inf"),
]
INTEGERS = [0, 1, 2, 3, 7, 255, 256, 800_000_000, 2**31, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1]
DIVISORS = ["1", "2", "7", "255", "1000000", "9223372036854775807", "0.5", "2.5", "1e300"]


def _rows(rng: random.Random, n: int) -> list[dict[str, object]]:
    def maybe(value: object) -> object:
        return None if rng.random() < 0.2 else value

    return [
        {
            "model": rng.choice(TEXTS),
            "version": rng.choice(["", "1", "2"]),
            "role": rng.choice(["", "champion"]),
            "task": "",
            "predicted": maybe(rng.choice(TEXTS)),
            "score": maybe(rng.choice([*FLOATS, rng.random(), rng.gauss(0, 1e3)])),
            "confidence": maybe(rng.choice([rng.random(), *FLOATS])),
            "duration_ns": rng.choice([*INTEGERS, rng.randrange(10**9)]),
            "error_type": rng.choice(["", "", "timeout", "Timeout"]),
            "segments.country": maybe(rng.choice(["", "DE", "de", "FR"])),
            "error": rng.random() < 0.5,
            "span_count": rng.choice([*INTEGERS[:6], -1, -7, -(2**63), rng.randrange(-100, 100)]),
        }
        for _ in range(n)
    ]


def _columns(rows: list[dict[str, object]]) -> dict[str, Column]:
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        null = np.array([value is None for value in values])
        if COLUMNS[name] is Kind.TEXT:
            words = sorted({str(value) for value in values if value is not None})
            codes = np.array([0 if value is None else words.index(str(value)) for value in values], np.uint32)
            result[name] = Column(codes, null if null.any() else None, tuple(words))
        else:
            dtype = {Kind.FLOAT: np.float64, Kind.INTEGER: np.int64, Kind.BOOL: np.bool_}[COLUMNS[name]]
            result[name] = Column(np.array([0 if value is None else value for value in values], dtype), null if null.any() else None)
    return result


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


class _Random:
    """Random conditions of the whole grammar."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def condition(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0:
            return rng.choice(["error", "TRUE", "false", "NULL", self.compare(0), self.compare(0), f"{self.any(0)} IS NULL"])
        return rng.choice(
            [
                lambda: f"{self.condition(depth - 1)} AND {self.condition(depth - 1)}",
                lambda: f"{self.condition(depth - 1)} OR {self.condition(depth - 1)} OR {self.condition(depth - 2)}",
                lambda: f"NOT {self.condition(depth - 1)}",
                lambda: f"({self.condition(depth - 1)})",
                lambda: f"({self.condition(depth - 1)}) {rng.choice(['=', '<>'])} ({self.condition(depth - 1)})",
                lambda: f"if({self.condition(depth - 1)}, {self.condition(depth - 1)}, {self.condition(depth - 1)})",
                lambda: f"coalesce({self.condition(depth - 1)}, {self.condition(depth - 1)})",
                lambda: self.compare(depth - 1),
                lambda: self.compare(depth - 1),
                lambda: f"{self.any(depth - 1)} IS{rng.choice([' NOT', ''])} NULL",
                lambda: f"{self.number(depth - 1)} {rng.choice(['', 'NOT '])}BETWEEN {self.number(depth - 1)} AND {self.number(depth - 1)}",
                lambda: f"{self.text(depth - 1)} {rng.choice(['', 'NOT '])}LIKE {_quoted(self.pattern())}",
                lambda: (
                    f"{self.number(depth - 1)} {rng.choice(['', 'NOT '])}IN ({', '.join(self.literal() for _ in range(rng.randint(1, 5)))})"
                ),
                lambda: f"{self.text(depth - 1)} NOT IN ({', '.join(_quoted(rng.choice(TEXTS)) for _ in range(rng.randint(1, 4)))})",
            ]
        )()

    def compare(self, depth: int) -> str:
        operator = self.rng.choice(["=", "!=", "<>", "<", "<=", ">", ">="])
        make = self.rng.choice([self.number, self.text])
        return f"{make(depth)} {operator} {make(depth)}"

    def any(self, depth: int) -> str:
        return self.rng.choice([self.number, self.text])(depth)

    def pattern(self) -> str:
        return "".join(self.rng.choice(["%", "_", "\\%", "\\_", "\\\\", "a", "b", "f", "é", "u"]) for _ in range(self.rng.randint(0, 5)))

    def literal(self) -> str:
        rng = self.rng
        return rng.choice(["", "", "-"]) + rng.choice(
            [str(rng.choice(INTEGERS)), str(rng.randrange(300)), "0.5", "1e3", "2.5", "9007199254740992.0", "9007199254740993", "1e300"]
        )

    def number(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0:
            return rng.choice(["score", "confidence", "duration_ns", "duration_ms", "span_count", "NULL", self.literal(), self.literal()])
        return rng.choice(
            [
                lambda: f"{self.number(depth - 1)} {rng.choice('+-*/')} {self.number(depth - 1)}",
                lambda: (
                    f"{self.number(depth - 1)} % {rng.choice(['1', '2', '7', '255', '1000000', '9223372036854775807', '0.5', '2.5', '1e300'])}"
                ),
                lambda: f"({self.number(depth - 1)}) {rng.choice('+-*/')} ({self.number(depth - 1)})",
                lambda: f"- ({self.number(depth - 1)})",
                lambda: f"abs({self.number(depth - 1)})",
                lambda: f"length({self.text(depth - 1)})",
                lambda: f"{rng.choice(['least', 'greatest'])}({', '.join(self.number(depth - 1) for _ in range(rng.randint(2, 3)))})",
                lambda: f"coalesce({self.number(depth - 1)}, {self.number(depth - 1)})",
                lambda: f"if({self.condition(depth - 1)}, {self.number(depth - 1)}, {self.number(depth - 1)})",
                lambda: self.number(0),
            ]
        )()

    def text(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0:
            return rng.choice(
                [
                    "model",
                    "predicted",
                    "error_type",
                    "country",
                    "segments['country']",
                    "segments['none']",
                    "NULL",
                    _quoted(rng.choice(TEXTS)),
                ]
            )
        return rng.choice(
            [
                lambda: f"{rng.choice(['lower', 'UPPER'])}({self.text(depth - 1)})",
                lambda: f"coalesce({self.text(depth - 1)}, {self.text(depth - 1)})",
                lambda: f"if({self.condition(depth - 1)}, {self.text(depth - 1)}, {self.text(depth - 1)})",
                lambda: self.text(0),
            ]
        )()


def _value(name: str, value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return _quoted(value)
    return str(value).lower()


@pytest.mark.parametrize("seed", [20261123, 7])
def test_numpy_and_clickhouse_agree(seed: int) -> None:
    """20,000 random (expression, row) pairs a seed: NULL, empty texts, NaN, infinities, integers beyond 2^53 beside doubles."""
    import chdb

    rng = random.Random(seed)
    rows = _rows(rng, 40)
    expressions = [compile_expression(_Random(rng).condition(rng.randint(1, 4)), columns=COLUMNS) for _ in range(500)]
    connection = chdb.connect(":memory:")
    connection.query(
        """CREATE TABLE t (id UInt32, model LowCardinality(String), version LowCardinality(String), role LowCardinality(String),
        task String, predicted Nullable(String), score Nullable(Float64), confidence Nullable(Float64), duration_ns UInt64,
        error_type LowCardinality(String), segments Map(LowCardinality(String), String), error Bool, span_count Int64)
        ENGINE = MergeTree ORDER BY (model, version, id)"""
    )
    for index, row in enumerate(rows):
        segments = "map()" if row["segments.country"] is None else f"map('country', {_quoted(str(row['segments.country']))})"
        values = {name: _value(name, value) for name, value in row.items() if name != "segments.country"} | {
            "segments": segments,
            "id": str(index),
        }
        connection.query(f"INSERT INTO t ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    found: list[list[int]] = [[] for _ in rows]
    for start in range(0, len(expressions), 100):
        asked = ", ".join(f"multiIf(isNull({e.sql()}), 2, {e.sql()}, 1, 0)" for e in expressions[start : start + 100])
        answer = str(connection.query(f"SELECT {asked} FROM t ORDER BY id", "TSV"))
        for index, line in enumerate(answer.splitlines()):
            found[index] += [int(cell) for cell in line.split("\t")]
    connection.close()
    columns = _columns(rows)
    seen = {0: 0, 1: 0, 2: 0}
    for number, expression in enumerate(expressions):
        true, null = expression.evaluate(columns, len(rows))
        for index, row in enumerate(rows):
            ours = 2 if null[index] else int(true[index])
            seen[ours] += 1
            assert ours == found[index][number], (
                f"{expression.text}\n{expression.sql()}\n{row}\nnumpy {ours}, ClickHouse {found[index][number]}"
            )
    assert min(seen.values()) > 1_000, f"the pairs are one-sided: {seen}"


REFUSED = [
    ("", 1, "got nothing"),
    ("   ", 1, "got nothing"),
    ("score", 1, "expected a condition, got a number"),
    ("'fraud'", 1, "expected a condition, got text"),
    ("score > 'high'", 9, "cannot compare a number and text"),
    ("predicted = 1", 13, "cannot compare text and an integer"),
    ("error_type = '' AND duration_ms", 21, "expected a condition, got a number"),
    ("NOT predicted", 5, "expected a condition, got text"),
    ("model + 1 > 2", 1, "expected a number, got text"),
    ("score > -predicted", 10, "expected a number, got text"),
    ("length(score) > 1", 8, "expected text, got a number"),
    ("lower(3) = ''", 7, "expected text"),
    ("abs(model) > 1", 5, "expected a number"),
    ("score LIKE '1%'", 1, "expected text"),
    ("if(score, 1, 2) = 1", 4, "expected a condition"),
    ("if(score > 0, 1, 'a') = 1", 18, "cannot choose between an integer and text"),
    ("coalesce(predicted, 0) = ''", 21, "cannot choose between text and an integer"),
    ("(score > 1) > (score > 2)", 2, "conditions have no order"),
    ("duration_ns % 0 = 1", 15, "the right side of % must be a number above 0"),
    ("duration_ns % span_count = 1", 15, "there is no column span_count"),
    ("duration_ns % length(model) = 1", 15, "the right side of %"),
    ("duration_ns % -2 = 1", 16, "the right side of %"),
    ("1 < score < 3", 13, "cannot compare a condition and an integer"),
    ("predicted IN ('a', 1)", 20, "cannot compare text and an integer"),
    ("predicted IN (NULL)", 15, "IN takes a list"),
    ("predicted IN (SELECT 1)", 15, "IN takes a list"),
    ("predicted IN (model)", 15, "IN takes a list"),
    ("score IN 1", 10, "IN takes a list in parentheses"),
    ("score IN", 7, "IN takes a list in parentheses, got the end"),
    ("score IN ()", 11, "at least one"),
    ("predicted LIKE model", 16, "LIKE takes a text"),
    ("predicted LIKE 'a\\\\x'", 16, "backslash"),
    ("predicted LIKE 'a\\\\'", 16, "backslash"),
    ("predicted ILIKE 'a'", 11, "not part of the language"),
    ("score IS TRUE", 10, "IS takes NULL"),
    ("score IS NOT 1", 14, "IS NOT takes NULL"),
    ("nowhere = 1", 1, "there is no column nowhere; expected one of model"),
    ("score > 1 AND Predicted = ''", 15, "there is no column Predicted"),
    ("predicted = \"fraud\"", 13, "text is written in single quotes: 'fraud'"),
    ("country = 'DE'", 1, "there is no column country"),
    ("segments[1] = ''", 9, "square brackets"),
    ("model['a'] = ''", 6, "square brackets"),
    ("segments['a'", 9, "square brackets"),
    ("segments = ''", 1, "there is no column segments"),
    ("sleep(3) = 0", 1, "there is no function sleep"),
    ("score > 1 OR file('/etc/passwd') = ''", 14, "there is no function file"),
    ("count(*) > 1", 1, "there is no function count"),
    ("abs(score, 1) > 1", 13, "did not expect ) here"),
    ("if(error_type = '', 1) = 1", 4, "if takes 3 arguments, got 2"),
    ("least(score) > 1", 1, "least takes 2 to 8 arguments, got 1"),
    ("(SELECT 1)", 2, "SELECT is not part of the language"),
    ("CASE WHEN score > 1 THEN TRUE END", 1, "CASE is not part of the language"),
    ("score::Int8 = 1", 6, ":: is not part of the language"),
    ("CAST(score AS Int8) = 1", 1, "there is no function CAST"),
    ("model || 'a' = 'b'", 7, "|| is not part of the language"),
    ("score = {x:Int8}", 9, "{ is not part of the language"),
    ("score > 1; DROP TABLE t", 10, "; is not part of the language"),
    ("score > 1 -- why", 11, "comments"),
    ("score > 1 /* why */", 11, "comments"),
    ("# why", 1, "comments"),
    ("score ? 1 : 2", 7, "? is not part of the language"),
    ("score > @x", 9, "@ is not part of the language"),
    ("score == 1", 7, "== is not part of the language"),
    ("score <=> 1", 7, "<=> is not part of the language"),
    ("score > 0x1F", 9, "0x1F is not part of the language"),
    ("score > 1_000", 9, "expected a number such as"),
    ("score > 1e", 9, "expected a number such as"),
    ("score > 1e999", 9, "too large"),
    ("duration_ns > 9223372036854775808", 15, "does not fit into 64 bits"),
    ("t.score > 1", 1, "there is no column t"),
    ("score > 1.5.2", 12, ". is not part of the language"),
    ("predicted = 'open", 13, "a quote is not closed"),
    ("predicted = 'a' 'b'", 17, "did not expect 'b' here"),
    ("predicted = $$a$$", 13, "not part of the language"),
    ("predicted = 'a\nb'", 13, "line break"),
    ("score > 1 score", 11, "did not expect score here"),
    ("score >", 7, "expected something after or before >"),
    ("> 1", 1, "expected something before >"),
    ("(score > 1", 10, "expected ) after 1"),
    ("score > 1)", 10, "did not expect ) here"),
    ("score > 1 AND", 11, "expected something after or before AND"),
    ("NOT", 1, ""),
    ("INTERVAL 1 DAY = 1", 1, "INTERVAL is not part of the language"),
    ("score AS x", 7, "AS is not part of the language"),
    ("(" * 30 + "score" + ")" * 30 + " > 1", 25, "nested more than 24 deep"),
    ("-(" * 24 + "score" + ")" * 24 + " > 1 AND " + "NOT " * 200 + "score > 1", 1, "nested"),
    ("score" + " + 1" * 200 + " > 0", 1, "nested more than 96 deep"),
    ("score > 1 OR " * 2_000 + "score > 1", 1, "expected at most 16384 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "column", "says"), REFUSED, ids=[text[:40] or "empty" for text, *_ in REFUSED])
def test_what_is_outside_the_grammar_is_refused_with_its_column(text: str, column: int, says: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        compile_expression(text)
    assert says in str(refused.value)
    assert refused.value.column == column, str(refused.value)


def test_long_chains_compile() -> None:
    """AND and OR are chains, not depth."""
    expression = compile_expression(" OR ".join(f"predicted = 'v{number}'" for number in range(600)))
    true, null = expression.evaluate(
        {"predicted": Column(np.array([0, 1, 2], np.uint32), np.array([False, False, True]), ("v599", "x", ""))}, 3
    )
    assert true.tolist() == [True, False, False]
    assert null.tolist() == [False, False, True]


def test_what_an_expression_reads() -> None:
    expression = compile_expression(
        "country = 'DE' AND segments['channel'] = 'app' AND duration_ms > 5", columns=with_segments(["country"])
    )
    assert expression.columns == {"segments.country", "segments.channel", "duration_ms"}
    assert expression.sql() == (
        "((if(mapContains(segments, 'country'), segments['country'], NULL) = 'DE')"
        " AND (if(mapContains(segments, 'channel'), segments['channel'], NULL) = 'app') AND ((duration_ns / 1e6) > 5))"
    )


def test_trace_columns() -> None:
    expression = compile_expression("error AND span_count > 2 AND service LIKE 'fraud%'", columns=TRACE_COLUMNS)
    columns = {
        "error": Column(np.array([True, True, False])),
        "span_count": Column(np.array([3, 1, 9], np.uint32)),
        "service": Column(np.zeros(3, np.uint32), None, ("fraud-api",)),
    }
    assert expression.evaluate(columns, 3)[0].tolist() == [True, False, False]


def test_a_constant_fills_all_rows_and_no_rows_are_fine() -> None:
    assert compile_expression("TRUE").evaluate({}, 3)[0].tolist() == [True] * 3
    assert compile_expression("NULL").evaluate({}, 2)[1].tolist() == [True] * 2
    empty = {"predicted": Column(np.zeros(0, np.uint32), None, ()), "score": Column(np.zeros(0))}
    true, null = compile_expression("lower(predicted) LIKE 'a%' OR score % 2 = 1").evaluate(empty, 0)
    assert true.shape == null.shape == (0,)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="reads column score"):
        compile_expression("score > 1").evaluate({}, 1)


def test_like_has_bounded_cost() -> None:
    """Twenty % against a text that almost matches: a backtracking regular expression would not end."""
    assert like_regex("%a" * 20 + "%b").fullmatch("a" * 3_000) is None


def test_sqlglot_loads_only_to_compile() -> None:
    code = "import sys, leadline.expression; print('sqlglot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "False"
