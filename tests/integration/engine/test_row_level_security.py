"""Who may do what to which table, and that no tenant meets another one's rows (E10)."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from taskforge.domain.leases import Progress
from taskforge.postgres.pool import Database
from taskforge.services import leases
from tests.support.engine import Engine, failed, report, retrying

ROLES = ("taskforge_ingest", "taskforge_dispatch", "taskforge_app", "taskforge_client")

# table: ingest, dispatch, app. S select, I insert, U update, D delete; the client role has nothing at all.
MAY = {
    "attempts": ("", "SI", "SD"),
    "bulk_operations": ("", "SD", "SIU"),
    "cancellations": ("", "SIUD", "SID"),
    "contract_revisions": ("", "S", "SIU"),
    "contracts": ("", "S", "SIU"),
    "deliveries": ("", "SIUD", "SU"),
    "duty_times": ("", "SU", ""),
    "enqueue_blocks": ("", "SID", ""),
    "expiries": ("I", "SIUD", ""),
    "floors": ("", "SU", "S"),
    "flow": ("I", "SIUD", "SI"),
    "edges": ("", "SIUD", "S"),
    "followups": ("I", "SID", "SID"),
    "groups": ("", "SIUD", "SI"),
    "idempotency": ("", "SIUD", "S"),
    "job_changes": ("", "SD", "SID"),
    "jobs": ("I", "SI", "SD"),
    "lanes": ("", "SIUD", "SI"),
    "leases": ("", "SIUD", "SU"),
    "moved_jobs": ("", "", "SID"),
    "limits": ("", "SIU", "S"),
    "outcomes": ("", "SI", "SID"),
    "parked": ("I", "SIUD", "SIUD"),
    "partitions": ("", "", ""),
    "progress": ("", "SIU", "SD"),
    "queue_hooks": ("", "S", "SID"),
    "queue_seconds": ("", "SIUD", "S"),
    "queue_totals": ("", "SIUD", "S"),
    "queue_versions": ("", "", "SID"),
    "queues": ("", "S", "SIU"),
    "ready": ("I", "SIUD", "SIUD"),
    "redrives": ("", "", "SI"),
    "schedules": ("", "SU", "SIUD"),
    "schema_migrations": ("S", "S", "S"),
    "spans": ("I", "I", "S"),
    "stale_reports": ("", "SID", ""),
    "tenants": ("", "S", "S"),
    "uniques": ("", "SIUD", "SIU"),
    "webhook_endpoints": ("", "SIUD", ""),
    "webhook_keys": ("", "S", "ID"),
    "webhook_secrets": ("", "S", "SIU"),
    "ticks": ("", "SIUD", "SIUD"),
    "workflow_nodes": ("", "SID", "S"),
    "workers": ("", "SIUD", "S"),
}
WITHOUT_TENANT = {"duty_times", "enqueue_blocks", "floors", "partitions", "schema_migrations"}
# What a role may do to some columns of a table only.
COLUMNS = {
    ("taskforge_ingest", "queues", "queue_id", "SELECT"),
    ("taskforge_ingest", "queues", "deleted_at", "SELECT"),
    ("taskforge_dispatch", "queues", "has_keys", "UPDATE"),
    ("taskforge_app", "jobs", "queue_id", "UPDATE"),
    ("taskforge_app", "jobs", "priority", "UPDATE"),
    ("taskforge_app", "jobs", "payload", "UPDATE"),
    ("taskforge_app", "outcomes", "queue_id", "UPDATE"),
}

CALLED_BY_APP = {
    "apply_bulk",
    "cancel",
    "change_job",
    "count_queue_version",
    "cut_extent",
    "keep_queue_version",
    "is_key_held",
    "is_unfinished",
    "list_under",
    "lock_key",
    "lock_place",
    "open_lanes",
    "pass_key",
    "place_name",
    "purge",
    "queue_document",
    "redrive",
    "refuse_deleted",
    "retake_key",
    "retake_keys",
    "retry",
    "retry_workflow",
}
# Steps of a transaction that has already found the job under the policies; what hangs on it is the same tenant's.
CALLED_BY_INGEST = {
    "publish",
    "store_few",
    "park_new",
    "take_keys",
    "take_uniques",
    "repoint_keys",
    "note_expiries",
    "enter_groups",
    "join_groups",
    "decide_slots",
    "fire_waiting",
    "fire_now",
    "ensure_keys",
    "await_parents",
    "open_workflow",
    "enter_workflow",
    "name_nodes",
    "touch_limits",
}
CALLED_BY_APP_AS_DISPATCH = {
    "follow_up",
    "serving",
    "undo_follow_up",
    "seal_group",
    "ask_to_cancel_group",
    "group_state",
    "key_of",
    "wait_again",
    "set_key",
    "limit_tenant",
    "reopen_workflow",
}
OWNED_BY_INGEST = {"store_few"}
CALLED_BY_CLIENT = {"enqueue"}
OWNED_BY_THE_MIGRATOR = {"ensure_partitions", "prune"}

TABLES = """
select c.relname from pg_class c
where c.relnamespace = 'taskforge'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
"""


async def test_the_written_table_of_rights_is_what_the_catalogue_says(engine: Engine) -> None:
    rows = await engine.admin.fetch(
        f"""
        select t.relname, array(
          select string_agg(p.letter, '' order by p.place) filter (
            where has_table_privilege(r.name, ('taskforge.' || t.relname)::regclass, p.name))
          from unnest($1::text[]) with ordinality as r (name, place),
            (values (1, 'S', 'select'), (2, 'I', 'insert'), (3, 'U', 'update'), (4, 'D', 'delete'))
            as p (place, letter, name)
          group by r.place, r.name order by r.place
        ) as rights
        from ({TABLES}) as t
        """,
        list(ROLES),
    )
    found = {row["relname"]: tuple(rights or "" for rights in row["rights"]) for row in rows}
    assert found == {table: (*rights, "") for table, rights in MAY.items()}


async def test_no_role_may_truncate_or_reference_anything_nor_touch_columns_but_these(engine: Engine) -> None:
    rows = await engine.admin.fetch(
        """
        select r.rolname, c.relname, a.privilege_type
        from pg_class c cross join lateral aclexplode(c.relacl) a join pg_roles r on r.oid = a.grantee
        where c.relnamespace = 'taskforge'::regnamespace and r.rolname = any ($1)
          and a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE')
        """,
        list(ROLES),
    )
    assert rows == []
    columns = await engine.admin.fetch(
        """
        select r.rolname, c.relname, t.attname, a.privilege_type
        from pg_attribute t join pg_class c on c.oid = t.attrelid
        cross join lateral aclexplode(t.attacl) a join pg_roles r on r.oid = a.grantee
        where c.relnamespace = 'taskforge'::regnamespace
        """
    )
    assert {tuple(row) for row in columns} == COLUMNS


async def test_every_table_of_tenants_forces_row_level_security_with_a_policy_both_ways(
    engine: Engine,
) -> None:
    rows = await engine.admin.fetch(
        f"""
        select c.relname, c.relrowsecurity and c.relforcerowsecurity as is_forced,
          exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') as has_tenant,
          (select count(*) from pg_policy p
            where p.polrelid = c.oid and p.polqual is not null and p.polwithcheck is not null
              and p.polroles = array['taskforge_app'::regrole::oid]) as policies
        from pg_class c where c.relname in ({TABLES}) and c.relnamespace = 'taskforge'::regnamespace
        """
    )
    for row in rows:
        if row["has_tenant"]:
            assert row["is_forced"] and row["policies"] == 1, row["relname"]
        elif row["relname"] == "stale_reports":
            assert row["is_forced"] and row["policies"] == 0
        else:
            assert row["relname"] in WITHOUT_TENANT


async def test_partitions_can_be_reached_only_through_their_parents(engine: Engine) -> None:
    rows = await engine.admin.fetch(
        "select relname, relacl from pg_class where relnamespace = 'taskforge'::regnamespace and relispartition"
        " and relkind = 'r'"
    )
    assert len(rows) >= 8
    assert [row["relname"] for row in rows if row["relacl"] is not None] == []


async def test_functions_may_be_called_by_their_door_alone(engine: Engine) -> None:
    rows = await engine.admin.fetch(
        """
        select p.proname, p.prosecdef, p.proowner::regrole::text as owner, p.proconfig,
          array(select r from unnest($1::text[]) as r where has_function_privilege(r, p.oid, 'execute')) as callers,
          exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            where a.grantee = 0) as is_public
        from pg_proc p where p.pronamespace = 'taskforge'::regnamespace
        """,
        list(ROLES),
    )
    for row in rows:
        name = row["proname"]
        expected = {
            "taskforge_app": name in CALLED_BY_APP | CALLED_BY_APP_AS_DISPATCH,
            "taskforge_ingest": name in CALLED_BY_INGEST,
            "taskforge_client": name in CALLED_BY_CLIENT,
        }
        callers = set(row["callers"])
        assert not row["is_public"], name
        assert {role for role, may in expected.items() if may} == callers - {"taskforge_dispatch"}, name
        if row["prosecdef"]:
            assert any(entry.startswith("search_path=taskforge") for entry in row["proconfig"]), name
            is_migrators = row["owner"] not in ("taskforge_dispatch", "taskforge_ingest")
            assert is_migrators == (name in OWNED_BY_THE_MIGRATOR), name
            assert (row["owner"] == "taskforge_ingest") == (name in OWNED_BY_INGEST), name
        if name in CALLED_BY_APP:
            assert not row["prosecdef"], f"{name} would escape row-level security"


async def test_the_doors_are_no_superusers_and_only_those_that_must_bypass_row_level_security(
    engine: Engine,
) -> None:
    rows = await engine.admin.fetch(
        "select * from pg_roles where rolname = any ($1) order by rolname", list(ROLES)
    )
    for row in rows:
        assert not (row["rolsuper"] or row["rolcreaterole"] or row["rolcreatedb"] or row["rolcanlogin"])
        assert row["rolbypassrls"] == (row["rolname"] in ("taskforge_ingest", "taskforge_dispatch"))
    owned = await engine.admin.fetchval(
        "select count(*) from pg_class where relowner = any (select oid from pg_roles where rolname = any ($1))",
        list(ROLES),
    )
    assert owned == 0


# Tables that no verb above writes to; $1 a job, $2 its tenant.
ROWS = (
    "insert into redrives (job_id, tenant_id, redriven_by, state, attempt, finished_at)"
    " values ($1, $2, 'a', 2, 1, now())",
    "insert into followups (lo, hi, kind, tenant_id) values ($1, $1, 4, $2)",
    "insert into groups (total, tenant_id) values ($1, $2)",
    "insert into deliveries (subject, tenant_id, url, origin, event, subject_kind, data)"
    " values ($1, $2, 'https://example.com/', 'https://example.com', 'job.failed', 1, '{}')",
    "insert into queue_hooks (queue_id, tenant_id, hook) values ($1, $2, '{}')",
    "insert into webhook_secrets (hint, tenant_id, created_by) values ($1::bigint::text, $2, 'a')",
    "insert into schedules (name, definition, payload, queue_name, source, last_job_id, tenant_id)"
    " values ('s', '{}', '', 'default', 1, $1, $2)",
    "insert into ticks (schedule_id, slot, verdict, through, tenant_id) values ($1, now(), 1, now(), $2)",
    "insert into queue_seconds (queue_id, second, tenant_id) values (1, $1, $2)",
    "insert into moved_jobs (tenant_id, queue_id, job_id) values ($2, 1, $1)",
    "insert into bulk_operations (tenant_id, verb, filter, arguments, state, created_by, upto, total,"
    " is_total_exact) values ($2, 'cancel', '{}', '{}', 4, 'a', $1, 0, true)",
    "insert into uniques (tenant_id, job_type, key, job_id, scope, look_at)"
    " values ($2, 't', 'k', $1, 2, now())",
    "insert into expiries (due_at, job_id, kind, bound, tenant_id) values ('infinity', $1, 1, now(), $2)",
    "insert into contracts (tenant_id, job_type, version, schema, is_portable, source, created_by)"
    " select $2, 't', 1, '{}', true, 'api', 'a' where $1 > 0",
    "insert into contract_revisions (tenant_id, revision) values ($2, $1)",
    "insert into limits (tenant_id, queue_id) select $2, 0 where $1 > 0",
    "insert into edges (child_id, parent_id, tenant_id, on_failure) values ($1::bigint, $1::bigint + 1, $2, 1)",
    "insert into workflow_nodes (workflow_id, name, job_id, tenant_id) values (1, 'a', $1, $2)",
)


async def furnish(engine: Engine) -> None:
    """A row in every table of tenants."""
    ids = await engine.submit(4, idempotency_key=None)
    await engine.submit(1, idempotency_key="k")
    await engine.submit(1, delay_seconds=60)
    worker = await engine.register()
    for lease in await engine.claim(worker, 3):
        await leases.report_progress(engine.core, worker[0], [Progress(lease.fence, lease.ids[2], 0.5, "")])
        await engine.finish(worker, report(lease, failed, lease.ids[:1]))
        await engine.finish(worker, report(lease, retrying, lease.ids[1:2]))
        await engine.cancel(lease.ids[2])
    await engine.admin.execute(
        "insert into queue_totals (tenant_id, queue_id) select tenant_id, queue_id from queues on conflict do nothing"
    )
    for statement in ROWS:
        await engine.admin.execute(statement, ids[0], engine.ctx.tenant_id)


@pytest.mark.parametrize("setting", ["unset", "empty", "another"])
async def test_the_app_role_sees_nothing_without_its_tenant(engine: Engine, setting: str) -> None:
    await furnish(engine)
    tables = [table for table in MAY if table not in WITHOUT_TENANT and "S" in MAY[table][2]]
    connection = await asyncpg.connect(engine.core.database.dsn)
    try:
        async with connection.transaction():
            await connection.execute("set local role taskforge_app")
            if setting != "unset":
                value = "" if setting == "empty" else str(uuid4())
                await connection.execute("select set_config('taskforge.tenant', $1, true)", value)
            for table in tables:
                count = await connection.fetchval(f"select count(*) from taskforge.{table}")
                assert count == 0, f"{count} rows of {table}"
            await connection.execute(
                "select set_config('taskforge.tenant', $1, true)", str(engine.ctx.tenant_id)
            )
            for table in tables:
                assert await connection.fetchval(f"select count(*) from taskforge.{table}") > 0, table
    finally:
        await connection.close()


async def test_the_tenant_of_a_transaction_does_not_outlive_it(engine: Engine) -> None:
    await engine.submit()
    database = Database(engine.core.database.dsn, app=1)
    try:
        async with database.tenant(engine.ctx.tenant_id) as connection:
            assert await connection.fetchval("select count(*) from jobs") == 1
        async with database.tenant(uuid4()) as connection:
            assert await connection.fetchval("select count(*) from jobs") == 0
        pool = await database._app.pool()
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("set local role taskforge_app")
            assert await connection.fetchval("select count(*) from taskforge.jobs") == 0
    finally:
        await database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "insert into queues (tenant_id, name) values ($1, 'planted')",
        "insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi) values (1, 5, 0, $1, 1, 1, 1)",
        "insert into cancellations (job_id, tenant_id, requested_by) values (1, $1, 'me')",
        "insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at) values (1, $1, 1, 3, 0, now())",
        "insert into flow (tenant_id, queue_id, ready) values ($1, 1, 100)",
    ],
)
async def test_nothing_can_be_planted_in_another_tenant(engine: Engine, statement: str) -> None:
    stranger = await engine.stranger()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with engine.core.database.tenant(stranger.ctx.tenant_id) as connection:
            await connection.execute(statement, engine.ctx.tenant_id)


async def test_rows_of_another_tenant_cannot_be_changed_or_deleted(engine: Engine) -> None:
    await furnish(engine)
    stranger = await engine.stranger()
    changes = [
        "update queues set paused = true",
        "update ready set hi = hi",
        "delete from ready",
        "delete from parked",
        "delete from outcomes",
        "delete from jobs",
        "delete from attempts",
        "delete from cancellations",
        "update leases set attempt = 9",
    ]
    for change in changes:
        async with engine.core.database.tenant(stranger.ctx.tenant_id) as connection:
            assert (await connection.execute(change)).endswith(" 0"), change


async def test_ingest_can_append_and_read_nothing_back(engine: Engine) -> None:
    await engine.submit()
    for table in ("jobs", "ready", "parked", "spans", "flow", "outcomes", "tenants", "idempotency"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with engine.core.database.ingest() as connection:
                await connection.fetch(f"select * from taskforge.{table}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with engine.core.database.ingest() as connection:
            await connection.fetch("select name from taskforge.queues")


async def test_a_client_may_enqueue_and_nothing_else(engine: Engine) -> None:
    connection = await asyncpg.connect(engine.core.database.dsn)
    draft = '[{"queue_name": "default", "job_type": "noop", "payload": {}}]'
    try:
        async with connection.transaction():
            await connection.execute("set local role taskforge_client")
            await connection.fetch("select taskforge.enqueue($1, $2)", engine.ctx.tenant_id, draft)
        for statement in ("select * from taskforge.jobs", "select * from taskforge.claim(1, '{1}', 1, 1)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute("set local role taskforge_client")
                    await connection.fetch(statement)
    finally:
        await connection.close()
