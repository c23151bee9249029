-- Queues and their health. Run by the app role under row-level security; the tenant is named all the same.

-- name: ids
-- $1 tenant, $2 names. Index: queues_name.
select name, queue_id from taskforge.queues where tenant_id = $1 and name = any ($2) and deleted_at is null;

-- name: get
select * from taskforge.queues where tenant_id = $1 and name = $2 and deleted_at is null;

-- name: list
-- $1 tenant, $2 names after this one, $3 limit
select * from taskforge.queues where tenant_id = $1 and name > $2 and deleted_at is null order by name limit $3;

-- name: create
insert into taskforge.queues (tenant_id, name, priority, max_attempts, timeout_seconds, retry, settings)
values ($1, $2, $3, $4, $5, $6, $7) returning *;

-- name: ensure
-- $1 tenant, $2 names. Queues that are declared in code come into being with the defaults.
insert into taskforge.queues (tenant_id, name)
select $1, name from unnest($2::text[]) as name order by name
on conflict (tenant_id, name) where deleted_at is null do nothing;

-- name: update
-- $3..$6 null: leave as it is; $7 the settings that change, null takes one back to its default
update taskforge.queues
set priority = coalesce($3, priority), max_attempts = coalesce($4, max_attempts),
  timeout_seconds = coalesce($5, timeout_seconds), retry = coalesce($6, retry),
  settings = settings || $7::jsonb, updated_at = now()
where tenant_id = $1 and name = $2 and deleted_at is null
returning *;

-- name: set_paused
update taskforge.queues set paused = $3, updated_at = now()
where tenant_id = $1 and name = $2 and deleted_at is null
returning *;

-- name: set_deleted
update taskforge.queues set deleted_at = now() where tenant_id = $1 and queue_id = $2 and deleted_at is null
returning true;

-- name: draw_xid
-- In a transaction of its own: younger than everything that may have begun before the one ahead of it had committed.
select pg_current_xact_id()::text::bigint;

-- name: undelete
update taskforge.queues set deleted_at = null where tenant_id = $1 and queue_id = $2;

-- name: is_older_work_done
-- $1 an xid: true once every transaction that was open at its time has ended.
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1;

-- name: holds_jobs
-- $1 tenant, $2 queue_id: whether anything in the queue has not ended.
select exists (select from taskforge.ready where tenant_id = $1 and queue_id = $2)
  or exists (select from taskforge.leases where tenant_id = $1 and queue_id = $2)
  or exists (select from taskforge.parked where tenant_id = $1 and queue_id = $2);

-- name: health
-- $1 tenant, $2 queue_id. Exact counts: the totals plus what has not been rolled up yet. Index: flow_pkey from its floor.
-- Rates leave out what was taken back: an outcome that is undone did happen.
with recent as (
  select * from taskforge.flow
  where id >= (select floor from taskforge.floors where name = 'flow') and tenant_id = $1 and queue_id = $2
), counts as (
  select coalesce(sum(ready), 0) as ready, coalesce(sum(scheduled), 0) as scheduled,
    coalesce(sum(retrying), 0) as retrying, coalesce(sum(blocked), 0) as blocked, coalesce(sum(leased), 0) as leased,
    coalesce(sum(failed), 0) as failed,
    coalesce(sum(submitted) filter (where at > now() - interval '60 s'), 0) as submitted_minute,
    coalesce(sum(succeeded + greatest(failed, 0) + greatest(cancelled, 0))
      filter (where at > now() - interval '60 s'), 0) as finished_minute,
    coalesce(sum(greatest(failed, 0)) filter (where at > now() - interval '60 s'), 0) as failed_minute
  from recent
)
select c.ready + coalesce(t.ready, 0) as pending, c.scheduled + coalesce(t.scheduled, 0) as scheduled,
  c.retrying + coalesce(t.retrying, 0) as retrying, c.blocked + coalesce(t.blocked, 0) as blocked,
  c.leased + coalesce(t.leased, 0) as processing, c.failed + coalesce(t.failed, 0) as dead_letters,
  c.submitted_minute, c.finished_minute, c.failed_minute,
  (select extract(epoch from now() - min(first.ready_at)) from taskforge.lanes l
    cross join lateral (
      (select ready_at from taskforge.ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
        and r.seq >= l.returned_floor order by r.seq limit 1)
      union all
      (select ready_at from taskforge.ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
        and r.seq >= l.fresh_floor order by r.seq limit 1)
    ) as first
    where l.tenant_id = $1 and l.queue_id = $2)::float8 as oldest_wait,
  (select count(*) from taskforge.workers w
    where w.tenant_id = $1 and w.state <> 3 and w.expires_at > now() and $2 = any (w.queues)) as workers
from counts c left join taskforge.queue_totals t on t.tenant_id = $1 and t.queue_id = $2;
