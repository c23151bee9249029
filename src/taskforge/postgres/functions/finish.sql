-- The worker's reports. All of them name a fence; what the lease no longer covers is refused and changes nothing.

-- Take ended jobs out of their leases; whoever succeeds here is the only one who may write their outcome.
-- Arrays run parallel, one entry per run lo..hi of ids; p_succeeded counts the successes among them, for the totals.
-- Returns the fences whose jobs were all covered, with the jobs among them that somebody asked to cancel, and whether
-- anything hangs on their end; then the caller calls follow_up once it has written the outcomes. limit_ids are the rows of
-- `limits` that the jobs were counted against; the caller gives the slots back with touch_limits, last of all.
-- Lock order: leases by fence.
drop function if exists taskforge.settle(bigint, bigint[], bigint[], bigint[], integer[]);

create or replace function taskforge.settle(
  p_worker bigint, p_fence bigint[], p_lo bigint[], p_hi bigint[], p_succeeded integer[]
) returns table (fence bigint, cancel_requested bigint[], has_followups boolean, key_id bigint, limit_ids bigint[], settled integer)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_done int8multirange;
  v_count integer;
  v_succeeded integer;
  v_tenant uuid;
  v_queue integer;
begin
  for fence, v_done, v_count, v_succeeded in
    select f, range_agg(int8range(lo, hi, '[]')), sum(hi - lo + 1), sum(n)
    from unnest(p_fence, p_lo, p_hi, p_succeeded) as u (f, lo, hi, n)
    group by f order by f
  loop
    delete from leases l where l.fence = settle.fence and l.worker_id = p_worker and l.ranges = v_done
    returning l.tenant_id, l.queue_id, l.key_id, l.limit_ids into v_tenant, v_queue, key_id, limit_ids;
    if not found then
      update leases l set ranges = l.ranges - v_done
      where l.fence = settle.fence and l.worker_id = p_worker and l.ranges @> v_done
      returning l.tenant_id, l.queue_id, l.key_id, l.limit_ids into v_tenant, v_queue, key_id, limit_ids;
      continue when not found;
    end if;
    insert into flow (tenant_id, queue_id, leased, succeeded) values (v_tenant, v_queue, -v_count, v_succeeded);
    settled := v_count;
    cancel_requested := null;
    if exists (select from cancellations) then
      with gone as (
        delete from cancellations c using unnest(v_done) as r
        where c.job_id >= lower(r) and c.job_id < upper(r)
        returning c.job_id)
      select array_agg(gone.job_id) into cancel_requested from gone;
    end if;
    has_followups := exists (
      select from unnest(v_done) as r
      join followups f on f.lo > lower(r) - 1000 and f.lo < upper(r) and f.hi >= lower(r))
      or exists (select from queue_hooks h where h.queue_id = v_queue);
    return next;
  end loop;
end
$$;

-- For the fences that settle refused: which of these jobs the lease still covers, and of the rest, which were already
-- reported under this very fence with this very outcome (so that a report sent twice is a success, and one that says
-- something else, or comes after the job was given up as lost, is not).
-- p_kinds run parallel to p_ids: 0 succeeded, 7 not started because it was too late, otherwise the kind that the report writes to attempts.
create or replace function taskforge.sort_out(p_worker bigint, p_fence bigint, p_ids bigint[], p_kinds smallint[])
returns table (job_id bigint, is_covered boolean, is_repeat boolean)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_ranges int8multirange;
begin
  select ranges into v_ranges from leases l where l.fence = p_fence and l.worker_id = p_worker for update;
  return query
  select i, coalesce(v_ranges @> i, false),
    case when k = 0 then exists (
      select from outcomes o where o.id = i and o.fence = p_fence and o.worker_id = p_worker and o.state = 1)
    when k = 7 then exists (
      select from outcomes o where o.id = i and o.fence = p_fence and o.worker_id = p_worker and o.state = 3)
    else exists (
      select from attempts a where a.job_id = i and a.fence = p_fence and a.worker_id = p_worker and a.kind = k) end
  from unnest(p_ids, p_kinds) as u (i, k);
end
$$;

-- What did not succeed: a row per attempt, kept for people.
drop function if exists taskforge.record_attempts(
  bigint[], bigint[], uuid[], smallint[], smallint[], text[], text[], text[], bigint, timestamptz[]);

create or replace function taskforge.record_attempts(
  p_job bigint[], p_fence bigint[], p_tenant uuid[], p_attempt smallint[], p_kind smallint[],
  p_error_class text[], p_message text[], p_traceback text[], p_fingerprint text[], p_worker bigint,
  p_started_at timestamptz[]
) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into attempts (job_id, fence, tenant_id, attempt, kind, error_class, message, traceback, fingerprint, worker_id,
    started_at)
  select j, f, t, a, k, c, m, b, p, p_worker, s
  from unnest(p_job, p_fence, p_tenant, p_attempt, p_kind, p_error_class, p_message, p_traceback, p_fingerprint,
    p_started_at) as u (j, f, t, a, k, c, m, b, p, s);
$$;

-- Park jobs until their back-off or snooze is over. The caller has settled their leases in this transaction.
drop function if exists taskforge.park(
  bigint[], uuid[], integer[], smallint[], smallint[], smallint[], double precision[]);

create or replace function taskforge.park(
  p_id bigint[], p_tenant uuid[], p_queue integer[], p_priority smallint[], p_attempt smallint[],
  p_kind smallint[], p_delay double precision[], p_key bigint[] default null
) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into parked (id, tenant_id, queue_id, priority, attempt, kind, run_at, key_id)
  select id, t, q, p, a, k, clock_timestamp() + make_interval(secs => greatest(delay, 0)), key
  from unnest(p_id, p_tenant, p_queue, p_priority, p_attempt, p_kind, p_delay, p_key) as u (id, t, q, p, a, k, delay, key);
$$;

-- Make ranges of jobs ready again, in the stream of what came back. Neighbours are joined, up to the size of an extent.
-- Jobs with a key (p_key, null for none; all null may be left out) wait with it; then touch_limits is called last. Where it
-- is 0 the job has a key whose row is found, or made, and touched here: those come from enqueue.
-- Draws an xid before any seq: see decision 0002.
drop function if exists taskforge.give_back(bigint[], uuid[], integer[], smallint[], smallint[]);

create or replace function taskforge.give_back(
  p_id bigint[], p_tenant uuid[], p_queue integer[], p_priority smallint[], p_attempt smallint[],
  p_key bigint[] default null
) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_key bigint[] := p_key;
  v_found bigint[];
begin
  perform pg_current_xact_id();
  if 0 = any (v_key) then
    v_key := find_keys(p_id, p_tenant, p_queue, p_key);
  end if;
  insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, key_id)
  select q, p, case when k is null then 0 else 2 end, t, a, min(id), max(id), k
  from (
    select id, t, q, p, a, k,
      id - row_number() over (partition by q, p, a, k order by id) as island,
      (row_number() over (partition by q, p, a, k order by id) - 1) / 1000 as slice
    from unnest(p_id, p_tenant, p_queue, p_priority, p_attempt, v_key) as u (id, t, q, p, a, k)
  ) as numbered
  group by t, q, p, a, k, island, slice
  order by min(id);
  if 0 = any (p_key) then
    v_found := array(select distinct now_is from unnest(p_key, v_key) as u (was, now_is) where was = 0 order by now_is);
    perform touch_limits(v_found, array_fill(0, array[cardinality(v_found)]));
  end if;
end
$$;

-- The counts that a report changed beyond what settle has counted. p_dead: the jobs that have failed for good, whose
-- attempts are recorded already.
drop function if exists taskforge.count_flow(
  uuid, integer, smallint, integer, integer, integer, integer, integer, integer);

create or replace function taskforge.count_flow(
  p_tenant uuid, p_queue integer, p_priority smallint, p_ready integer, p_scheduled integer, p_retrying integer,
  p_dead bigint[], p_cancelled integer, p_retried integer
) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
begin
  insert into flow (tenant_id, queue_id, priority, ready, scheduled, retrying, failed, cancelled, retried)
  values (p_tenant, p_queue, p_priority, p_ready, p_scheduled, p_retrying, cardinality(p_dead), p_cancelled, p_retried);
  if cardinality(p_dead) > 0 then
    perform forward_dead_letters(p_tenant, p_queue, p_dead);
  end if;
end
$$;

create or replace function taskforge.record_stale(p_worker bigint, p_fence bigint[], p_job bigint[])
returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into stale_reports (fence, job_id, worker_id)
  select f, j, p_worker from unnest(p_fence, p_job) as u (f, j);
$$;
