"""Who may do what: the two roles of the engine, and what a reader's statement may be.

Three walls stand between a reader and the machine, because each alone has holes in ClickHouse as a library:

1. *The role.* A reader's session has `leadline_reader`, which may SELECT and SHOW. That stops INSERT and DDL, and the table
   functions that reach outside (`file`, `url`, `s3`, `remote`, `executable`, chdb's `Python`), also inside DESCRIBE, where
   `readonly` alone lets them read files and open connections to learn a schema.
2. *`readonly = 1`*, set last: no setting can change any more, so the limits stay.
3. *The statement itself*, judged here on the text that ClickHouse's own parser writes back (`formatQuerySingleLine`), so that
   escapes, comments and odd quotes cannot hide a word. It must be one of `READ_VERBS`; the scalar function `file()` (which
   as a library reads any file, whoever asks), INTO OUTFILE (which writes any) and KILL (which would end other people's) are refused.
"""

from __future__ import annotations

from leadline.store import sql
from leadline.store.engine.exceptions import ACCESS_DENIED, NOT_IMPLEMENTED, READONLY, refusal

READER_ROLE, WRITER_ROLE = "leadline_reader", "leadline_writer"

READ_VERBS = frozenset(("SELECT", "WITH", "(", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"))
SELECT_VERBS = frozenset(("SELECT", "WITH", "(", "FROM"))
SESSION_VERBS = frozenset(("SET", "USE"))

# A function may be named without being called (`arrayMap(file, …)`, `* APPLY(file)`), so the name itself is refused.
_FORBIDDEN_NAMES = {
    "file": "it reads files of the machine",
    "python": "it reads objects of the process",
}

USERS = f"""<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <roles>
    <{READER_ROLE}><grants>
      <query>GRANT SELECT, SHOW ON *.*</query>
      <query>GRANT dictGet ON *.*</query>
    </grants></{READER_ROLE}>
    <{WRITER_ROLE}><grants>
      <query>GRANT SELECT, SHOW, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, KILL QUERY, SYSTEM, dictGet, CHECK ON *.*</query>
      <query>GRANT TABLE ENGINE ON *</query>
      <query>GRANT SET DEFINER ON *</query>
    </grants></{WRITER_ROLE}>
  </roles>
  <users><default>
    <password/>
    <networks><ip>::/0</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <grants>
      <query>GRANT {READER_ROLE}</query>
      <query>GRANT {WRITER_ROLE}</query>
    </grants>
  </default></users>
</clickhouse>
"""
"""What ClickHouse reads as users.xml. chdb has one user; a session narrows itself to one of its two roles before anything else."""


def check_reader(canonical: str) -> None:
    """Raises for a statement that a reader may not run.

    Parameters
    ----------
    canonical : str
        The statement as ClickHouse's formatter wrote it.
    """
    before = None
    for token in sql.tokens(canonical):
        if before is None and (token.text.upper() not in READ_VERBS or token.kind not in ("word", "mark")):
            raise refusal(READONLY, "READONLY", f"Cannot execute query in readonly mode: {token.text} is not for readers. {_HOW_TO_WRITE}")
        name = token.text.strip('`"').lower() if token.kind in ("word", "name") else ""
        if name in _FORBIDDEN_NAMES:
            message = f"the name {name} is refused in readers' queries: {_FORBIDDEN_NAMES[name]}. Give the column another name"
            raise refusal(ACCESS_DENIED, "ACCESS_DENIED", message)
        if token.is_word("OUTFILE") and before is not None and before.is_word("INTO"):
            message = "INTO OUTFILE is refused: it writes files of the machine. Save the answer instead"
            raise refusal(ACCESS_DENIED, "ACCESS_DENIED", message)
        before = token


def check_writer(query: sql.Query) -> None:
    """Raises for a statement that cannot mean anything over HTTP without sessions."""
    if query.verb in SESSION_VERBS:
        message = f"{query.verb} would be forgotten: each request is a session of its own. Give settings and database with the query"
        raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)


_HOW_TO_WRITE = "Writing needs user leadline_writer and the token of store.token_file"
