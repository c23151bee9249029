-- Reads of jobs. Run by the app role under row-level security; the tenant is named all the same.

-- name: views
-- $1 tenant, $2 ids. Each job with the one place it is in; a job is looked for in outcomes, parked, ready, leases, in
-- that order, within one snapshot. Every lateral is one index probe; leases are few and read whole, for the rest only.
select j.id, j.job_type, j.priority, j.payload, j.options, j.submitted_at,
  coalesce(j.max_attempts, q.max_attempts) as max_attempts,
  coalesce(j.timeout_seconds, q.timeout_seconds) as timeout_seconds,
  q.name as queue_name,
  o.state as outcome, o.reason, o.attempt as outcome_attempt, o.started_at, o.finished_at, o.result, o.worker_id as outcome_worker,
  p.kind as parked_kind, p.attempt as parked_attempt, p.run_at,
  r.attempt as ready_attempt,
  l.attempt as lease_attempt, l.leased_at, l.worker_id as lease_worker,
  (select w.name from taskforge.workers w
    where w.worker_id = coalesce(o.worker_id, l.worker_id) and w.tenant_id = $1) as worker,
  g.fraction, g.message as progress_message, g.reported_at,
  exists (select from taskforge.cancellations c where c.job_id = j.id and c.tenant_id = $1) as cancel_requested
from unnest($2::bigint[]) with ordinality as wanted (id, place)
cross join lateral (select * from taskforge.jobs where id = wanted.id and tenant_id = $1 offset 0) as j
join taskforge.queues q on q.queue_id = j.queue_id and q.tenant_id = $1
left join lateral (select * from taskforge.progress where job_id = wanted.id and tenant_id = $1 offset 0) as g on true
left join lateral (select * from taskforge.outcomes where id = wanted.id and tenant_id = $1 offset 0) as o on true
left join lateral (
  select * from taskforge.parked where id = wanted.id and tenant_id = $1 and o.id is null offset 0) as p on true
left join lateral (
  select * from (
    select * from taskforge.ready
    where lo <= wanted.id and lo > wanted.id - 1000 and tenant_id = $1 and o.id is null and p.id is null
    order by lo desc limit 1) as nearest
  where nearest.hi >= wanted.id) as r on true
left join lateral (
  select * from taskforge.leases
  where queue_id = j.queue_id and tenant_id = $1 and ranges @> wanted.id
    and o.id is null and p.id is null and r.lo is null limit 1) as l on true
order by wanted.place;

-- name: attempts
-- $1 tenant, $2 ids, oldest first. Index: attempts_pkey.
select a.*, w.name as worker
from taskforge.attempts a left join taskforge.workers w on w.worker_id = a.worker_id and w.tenant_id = $1
where a.tenant_id = $1 and a.job_id = any ($2::bigint[])
order by a.job_id, a.finished_at, a.fence;

-- name: existing
-- $1 tenant, $2 ids. Index: jobs_pkey.
select j.id from taskforge.jobs j where j.id = any ($2::bigint[]) and j.tenant_id = $1;

-- name: parents
-- $1 tenant, $2 child, $3 parents after this one, $4 limit. Index: edges_pkey.
select parent_id, on_failure, state from taskforge.edges
where tenant_id = $1 and child_id = $2 and parent_id > greatest($3, 0) order by parent_id limit $4;

-- name: ended
-- $1 tenant, $2 ids: which of them have ended, or do not exist.
select wanted.id from unnest($2::bigint[]) as wanted (id)
where exists (select from taskforge.outcomes o where o.id = wanted.id and o.tenant_id = $1)
  or not exists (select from taskforge.jobs j where j.id = wanted.id and j.tenant_id = $1);

-- name: spans
-- $1 tenant, $2 ids below this, $3 queue_id, $4 after, $5 before, $6 limit. Newest first. Index: spans_pkey backwards.
-- A job that was moved lies in no span of its queue, so what was moved there are runs of their own.
(select lo, least(hi, $2::bigint - 1) as hi from taskforge.spans
  where tenant_id = $1 and lo < $2::bigint and ($3::integer is null or queue_id = $3)
    and ($4::timestamptz is null or submitted_at >= $4) and ($5::timestamptz is null or submitted_at < $5)
  order by lo desc limit $6)
union all
(select job_id, job_id from taskforge.moved_jobs
  where tenant_id = $1 and queue_id = $3::integer and job_id < $2::bigint
  order by job_id desc limit $6)
order by lo desc limit $6;

-- name: spans_ready
-- As spans, of pending jobs. Index: ready_lo backwards.
select lo, least(hi, $2::bigint - 1) as hi from taskforge.ready
where tenant_id = $1 and lo < $2::bigint and ($3::integer is null or queue_id = $3)
order by lo desc limit $4;

-- name: spans_leased
select lower(r) as lo, least(upper(r), $2::bigint) - 1 as hi from taskforge.leases cross join lateral unnest(ranges) as r
where tenant_id = $1 and lower(r) < $2 and ($3::integer is null or queue_id = $3)
order by lo desc limit $4;

-- name: spans_parked
-- $5 kind
select id as lo, id as hi from taskforge.parked
where tenant_id = $1 and id < $2 and ($3::integer is null or queue_id = $3) and kind = $5
order by id desc limit $4;

-- name: spans_failed
-- Index: outcomes_dead_letters, one probe per queue.
select d.id as lo, d.id as hi
from taskforge.queues q
cross join lateral (
  select id from taskforge.outcomes
  where queue_id = q.queue_id and state = 2 and id < $2 and tenant_id = $1
  order by id desc limit $4) as d
where q.tenant_id = $1 and ($3::integer is null or q.queue_id = $3)
order by d.id desc limit $4;

-- name: match
-- $1 tenant, $2 ids, then filters that may be null: $3 queue_id, $4 job_type, $5 tag, $6 after, $7 before, $8 outcome,
-- $9 fingerprint, $10 text of the error, lower case, $11 failed after, $12 failed before, $13 submitted
-- no later than this. Text is looked for as it is.
-- Indexes: the keys of jobs, outcomes and attempts.
select j.id from unnest($2::bigint[]) with ordinality as wanted (id, place)
cross join lateral (select * from taskforge.jobs where id = wanted.id and tenant_id = $1 offset 0) as j
where ($3::integer is null or j.queue_id = $3)
  and ($4::text is null or j.job_type = $4)
  and ($5::text is null or j.options -> 'tags' ? $5)
  and ($6::timestamptz is null or j.submitted_at >= $6)
  and ($7::timestamptz is null or j.submitted_at < $7)
  and ($13::timestamptz is null or j.submitted_at <= $13)
  and ($8::smallint is null or exists (
    select from taskforge.outcomes o
    where o.id = j.id and o.tenant_id = $1 and o.state = $8
      and ($11::timestamptz is null or o.finished_at >= $11)
      and ($12::timestamptz is null or o.finished_at < $12)
      and (($9::text is null and $10::text is null) or exists (
        select from taskforge.attempts a
        where a.job_id = o.id and a.fence = o.fence and a.tenant_id = $1
          and ($9 is null or a.fingerprint = $9)
          and ($10 is null or strpos(lower(concat_ws(': ', a.error_class, a.message)), $10) > 0)))))
order by wanted.place;

-- name: cancel
select taskforge.cancel($1, $2, $3);

-- name: retry
select taskforge.retry($1, $2, $3);

-- name: change
select * from taskforge.change_job($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: payload
select payload from taskforge.jobs where id = $2 and tenant_id = $1;

-- name: changes
-- $1 tenant, $2 job. What happened to it by hand, oldest first; a redrive is told by what it took back.
select changed_at, actor, verb, operation_id, before, after, payload_before, payload_after
from taskforge.job_changes where job_id = $2 and tenant_id = $1
union all
select redriven_at, redriven_by, 'redrive', null,
  jsonb_build_object('state', taskforge.place_name('ended', state), 'attempt', attempt, 'finished_at', finished_at),
  jsonb_build_object('state', 'pending'), null, null
from taskforge.redrives where job_id = $2 and tenant_id = $1
order by changed_at limit 1000;
