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

-- name: sign
-- $1 actor, $2 verb, $3 comment: what the versions say of the changes that this transaction makes. '' for none.
select set_config('taskforge.actor', $1, true), set_config('taskforge.verb', $2, true),
  set_config('taskforge.comment', $3, true);

-- name: update
-- $3..$6 null: leave as it is; $7 the settings that change, $8 those that go back to their default; $9 the version it
-- must have, null for any
update taskforge.queues
set priority = coalesce($3, priority), max_attempts = coalesce($4, max_attempts),
  timeout_seconds = coalesce($5, timeout_seconds), retry = coalesce($6, retry),
  settings = (settings || $7::jsonb) - $8::text[], updated_at = now()
where tenant_id = $1 and name = $2 and deleted_at is null and version = coalesce($9, version)
returning *;

-- name: set_paused
-- $3 paused, $4 by whom, $5 why. Pausing what is paused changes only who and why.
update taskforge.queues
set paused = $3, paused_by = case when $3 then $4 end, pause_reason = case when $3 then $5 end,
  paused_at = case when $3 then case when paused then paused_at else now() end end, updated_at = now()
where tenant_id = $1 and name = $2 and deleted_at is null
returning *;

-- name: versions
-- $1 tenant, $2 queue_id, $3 those before this one, null for all, $4 limit. Newest first. Index: queue_versions_pkey.
select version, changed_at, changed_by, action, comment, before::text, after::text from taskforge.queue_versions
where tenant_id = $1 and queue_id = $2 and version < coalesce($3, 2147483647) order by version desc limit $4;

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
-- $1 tenant, $2 queue_ids; a row for each. Counts are exact: the totals plus what has not been rolled up yet. What happened
-- in the last minute comes from its seconds and, again, from what has not been rolled up.
-- Index: flow_pkey from its floor, queue_seconds_pkey; grows with neither backlog nor load, but with the queues asked for.
with recent as materialized (
  select * from taskforge.flow
  where id >= (select floor from taskforge.floors where name = 'flow') and tenant_id = $1 and queue_id = any ($2)
), counts as (
  select queue_id, sum(ready) as ready, sum(scheduled) as scheduled, sum(retrying) as retrying, sum(blocked) as blocked,
    sum(leased) as leased, sum(failed) as failed
  from (
    select queue_id, ready, scheduled, retrying, blocked, leased, failed from recent
    union all
    select queue_id, ready, scheduled, retrying, blocked, leased, failed from taskforge.queue_totals
    where tenant_id = $1 and queue_id = any ($2)
  ) as parts group by queue_id
), seconds as materialized (
  select queue_id, second, submitted, started, restarted, succeeded, failed, cancelled, retried, waits
  from taskforge.queue_seconds
  where tenant_id = $1 and queue_id = any ($2) and second > floor(extract(epoch from now()))::bigint - 60
  union all
  select queue_id, floor(extract(epoch from at))::bigint, submitted, greatest(leased, 0), restarted, succeeded,
    greatest(failed, 0), greatest(cancelled, 0), case when failed >= 0 and cancelled >= 0 then retried else 0 end, waits
  from recent where at > now() - interval '60 s'
), rates as (
  select queue_id, sum(submitted) as submitted, sum(succeeded + failed + cancelled) as finished, sum(started) as started,
    sum(restarted) as restarted, sum(failed) as failed, sum(failed + retried) as failed_attempts,
    sum(succeeded + failed + retried) as attempts,
    sum(submitted) filter (where second > floor(extract(epoch from now()))::bigint - 10) as submitted_moment,
    sum(succeeded + failed + cancelled) filter (where second > floor(extract(epoch from now()))::bigint - 10)
      as finished_moment
  from seconds group by queue_id
), waited as (
  select queue_id, array_agg(part order by bucket, place) as waits
  from (
    select s.queue_id, s.waits[i] as bucket, sum(s.waits[i + 1])::integer as jobs
    from seconds s cross join lateral generate_series(1, cardinality(s.waits), 2) as i
    where s.waits is not null group by 1, 2
  ) as pairs cross join lateral (values (1, bucket), (2, jobs)) as parts (place, part)
  group by queue_id
)
select q.queue_id, coalesce(c.ready, 0)::bigint as pending, coalesce(c.scheduled, 0)::bigint as scheduled,
  coalesce(c.retrying, 0)::bigint as retrying, coalesce(c.blocked, 0)::bigint as blocked,
  coalesce(c.leased, 0)::bigint as processing, coalesce(c.failed, 0)::bigint as dead_letters,
  coalesce(r.submitted, 0)::bigint as submitted_minute, coalesce(r.finished, 0)::bigint as finished_minute,
  coalesce(r.started, 0)::bigint as started_minute, coalesce(r.restarted, 0)::bigint as restarted_minute,
  coalesce(r.failed, 0)::bigint as failed_minute, coalesce(r.failed_attempts, 0)::bigint as failed_attempts_minute,
  coalesce(r.attempts, 0)::bigint as attempts_minute, coalesce(r.submitted_moment, 0)::bigint as submitted_moment,
  coalesce(r.finished_moment, 0)::bigint as finished_moment, coalesce(waited.waits, '{}') as waits,
  (select extract(epoch from now() - min(first.ready_at)) from taskforge.lanes l
    cross join lateral (
      (select ready_at from taskforge.ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
        and r.seq >= l.returned_floor order by r.seq limit 1)
      union all
      (select ready_at from taskforge.ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
        and r.seq >= l.fresh_floor order by r.seq limit 1)
      union all
      (select ready_at from taskforge.ready r where q.has_keys and r.queue_id = l.queue_id and r.priority = l.priority
        and r.stream = 2 order by r.seq limit 1)
      union all
      (select ready_at from taskforge.ready r where q.has_keys and r.queue_id = l.queue_id and r.priority = l.priority
        and r.stream = 3 order by r.seq limit 1)
    ) as first
    where l.tenant_id = $1 and l.queue_id = q.queue_id)::float8 as oldest_wait,
  coalesce(served.workers, 0) as workers, coalesce(served.slots, 0) as slots
from taskforge.queues q
left join counts c using (queue_id) left join rates r using (queue_id) left join waited using (queue_id)
left join taskforge.serving($1, $2) as served using (queue_id)
where q.tenant_id = $1 and q.queue_id = any ($2);
