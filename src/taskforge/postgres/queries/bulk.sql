-- One verb for many jobs. Run by the app role under row-level security; the tenant is named all the same.

-- name: candidates
-- $1 tenant, $2 ids after this, $3 up to this, $4 queue_id or null, $5 limit, $6 places to look in, $7 kinds of parked
-- rows, $8 failed up to this time. In the order of ids, in one snapshot, in which each job is in one place. Fewer than $5
-- are the last. Indexes: ready_lo, parked_pkey, outcomes_dead_letters, spans_pkey; leases are few and read whole.
select id from (
  (select i as id from (
      select lo, hi from ready
      where 'ready' = any ($6::text[]) and tenant_id = $1 and ($4::integer is null or queue_id = $4)
        and lo > $2::bigint - 1000 and lo <= $3::bigint and hi > $2
      order by lo limit $5::integer) as extents
    cross join lateral generate_series(greatest(lo, $2 + 1), least(hi, $3)) as i
    order by lo, i limit $5)
  union all
  (select i from leases
    cross join lateral unnest(ranges) as r
    cross join lateral generate_series(greatest(lower(r), $2 + 1), least(upper(r) - 1, $3)) as i
    where 'leased' = any ($6) and tenant_id = $1 and ($4 is null or queue_id = $4)
    order by i limit $5)
  union all
  (select id from parked
    where 'parked' = any ($6) and tenant_id = $1 and ($4 is null or queue_id = $4) and id > $2 and id <= $3
      and kind = any ($7::smallint[])
    order by id limit $5)
  union all
  (select d.id from queues q
    cross join lateral (
      select id from outcomes
      where queue_id = q.queue_id and state = 2 and id > $2 and id <= $3 and tenant_id = $1
        and ($8::timestamptz is null or finished_at <= $8)
      order by id limit $5) as d
    where 'failed' = any ($6) and q.tenant_id = $1 and ($4 is null or q.queue_id = $4)
    order by d.id limit $5)
  union all
  (select i from (
      select lo, hi from spans
      where 'spans' = any ($6) and tenant_id = $1 and ($4 is null or queue_id = $4) and hi > $2 and lo <= $3
      union all
      select job_id, job_id from moved_jobs
      where 'spans' = any ($6) and tenant_id = $1 and queue_id = $4 and job_id > $2 and job_id <= $3
      order by lo limit $5) as runs
    cross join lateral generate_series(greatest(lo, $2 + 1), least(hi, $3)) as i
    order by lo, i limit $5)
) as found
order by id limit $5;

-- name: last_id
-- The highest id any job of the tenant has. Index: spans_pkey backwards.
select coalesce((select hi from spans where tenant_id = $1 order by lo desc limit 1), 0);

-- name: now
select now();

-- name: apply
select * from apply_bulk($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: create
insert into bulk_operations (tenant_id, verb, filter, arguments, state, created_by, created_at, upto, total, is_total_exact)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning *;

-- name: lock
-- An operation that has something to do and is in nobody's hands. Whoever stops it waits for this lock.
select * from bulk_operations
where tenant_id = $1 and operation_id = $2 and state <= 3 and next_at <= clock_timestamp()
for update skip locked;

-- name: advance
-- $3 cursor, $4 more done, $5 more failed, $6 failures to add, $7 state, $8 reason, $9 seconds this piece takes of the
-- rate, $10 canary jobs to add, $11 seconds to watch them. What was missed of the rate for want of time is made up for by
-- at most a second's worth. Without a rate it is everybody else's turn first.
update bulk_operations
set cursor = $3, done = done + $4, failed = failed + $5, failures = failures || $6::jsonb, state = $7::smallint, reason = $8,
  next_at = case when $9::double precision > 0
    then greatest(next_at, clock_timestamp() - interval '1 s') + make_interval(secs => $9) else clock_timestamp() end,
  canary_ids = canary_ids || $10::bigint[],
  watch_until = coalesce(clock_timestamp() + make_interval(secs => $11), watch_until),
  finished_at = case when $7::smallint > 3 then now() end
where tenant_id = $1 and operation_id = $2;

-- name: canary
-- $2 the canary's jobs: how many have ended, and how many of them well.
select count(*) as ended, count(*) filter (where state = 1) as succeeded
from outcomes where id = any ($2::bigint[]) and tenant_id = $1;

-- name: stop
update bulk_operations set state = 5, reason = $3, stopped_by = $4, finished_at = now()
where tenant_id = $1 and operation_id = $2 and state <= 3
returning *;

-- name: get
select * from bulk_operations where tenant_id = $1 and operation_id = $2;

-- name: list
-- $2 ids below this, $3 limit. Newest first. Index: bulk_operations_pkey backwards.
select * from bulk_operations where tenant_id = $1 and operation_id < $2 order by operation_id desc limit $3;

-- name: due
select * from taskforge.due_operations($1);

-- name: limited
select * from taskforge.limited_dead_letters();

-- name: set_duty_time
select taskforge.set_duty_time($1, $2);
