-- Called by the ingest role after it has COPYed a batch into jobs, in the same transaction.
-- The caller has drawn an xid before (see decision 0002): the sequence values drawn here must belong to a visible xid.

drop function if exists taskforge.publish(uuid[], integer[], smallint[], bigint[], bigint[], boolean[]);
drop function if exists taskforge.publish(uuid[], integer[], smallint[], bigint[], bigint[], smallint[]);
drop function if exists taskforge.publish(uuid[], integer[], smallint[], bigint[], bigint[], smallint[], bigint[]);
drop function if exists taskforge.store_few(
  bigint[], integer[], text[], bytea[], uuid[], integer[], smallint[], bigint[], bigint[]);

-- p_place: 0 ready, 1 scheduled, 3 blocked. p_key: rows of `limits`, null for a run without a key; the caller calls
-- touch_limits for them at the end. Returns the submitted_at of the jobs.
create or replace function taskforge.publish(
  p_tenant uuid[], p_queue integer[], p_priority smallint[], p_lo bigint[], p_hi bigint[], p_place smallint[],
  p_key bigint[] default null
) returns timestamptz
language plpgsql security invoker
set search_path = taskforge, pg_temp
as $$
begin
  -- A queue deleted since the caller looked it up must not receive jobs nobody would ever serve.
  if exists (
    select from unnest(p_queue) as q (queue_id)
    where not exists (select from queues where queues.queue_id = q.queue_id and queues.deleted_at is null)
  ) then
    raise exception 'a queue of this batch was deleted' using errcode = 'TF001';
  end if;

  insert into spans (tenant_id, lo, hi, queue_id, priority)
  select t, greatest(lo, n * 4000000 + 1), least(hi, (n + 1) * 4000000), q, p
  from unnest(p_tenant, p_lo, p_hi, p_queue, p_priority) as u (t, lo, hi, q, p),
    generate_series((lo - 1) / 4000000, (hi - 1) / 4000000) as n;  -- a span does not reach into the next partition

  insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, key_id)
  select q, p, case when k is null then 1 else 3 end, t, 1, c.lo, least(c.lo + 999, u.hi), k
  from unnest(p_queue, p_priority, p_tenant, p_lo, p_hi, p_place, p_key) as u (q, p, t, lo, hi, place, k),
    generate_series(u.lo, u.hi, 1000) as c (lo)
  where u.place = 0;

  insert into flow (tenant_id, queue_id, priority, submitted, ready, scheduled, blocked)
  select t, q, p, sum(hi - lo + 1), sum((hi - lo + 1) * (place = 0)::int), sum((hi - lo + 1) * (place = 1)::int),
    sum((hi - lo + 1) * (place = 3)::int)
  from unnest(p_tenant, p_queue, p_priority, p_lo, p_hi, p_place) as u (t, q, p, lo, hi, place)
  group by t, q, p;
  return now();
end
$$;

-- A few plain jobs in one round trip: what COPY and publish do in five, which counts when somebody waits for one job.
-- The first arrays hold a value per job, the others one per run of ids.
create or replace function taskforge.store_few(
  p_id bigint[], p_job_run integer[], p_type text[], p_payload bytea[],
  p_tenant uuid[], p_queue integer[], p_priority smallint[], p_lo bigint[], p_hi bigint[]
) returns timestamptz
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
begin
  perform pg_current_xact_id();
  insert into jobs (id, tenant_id, queue_id, priority, job_type, payload)
  select id, p_tenant[run], p_queue[run], p_priority[run], job_type, payload
  from unnest(p_id, p_job_run, p_type, p_payload) as u (id, run, job_type, payload);
  return publish(p_tenant, p_queue, p_priority, p_lo, p_hi, array_fill(0::smallint, array[cardinality(p_lo)]));
end
$$;

-- Park jobs that may not run yet. A due time in the past becomes now: nothing may appear below the parked floor. A blocked
-- job has no time at which it is due.
drop function if exists taskforge.park_new(
  bigint[], uuid[], integer[], smallint[], timestamptz[], double precision[]);

create or replace function taskforge.park_new(
  p_id bigint[], p_tenant uuid[], p_queue integer[], p_priority smallint[], p_kind smallint[],
  p_run_at timestamptz[], p_delay double precision[], p_key bigint[]
) returns void
language sql security invoker
set search_path = taskforge, pg_temp
as $$
  insert into parked (id, tenant_id, queue_id, priority, attempt, kind, key_id, not_before, run_at)
  select id, t, q, p, 1, k, key,
    case k when 3 then coalesce(run_at, clock_timestamp() + make_interval(secs => delay)) end,
    case k when 3 then 'infinity' else greatest(clock_timestamp(), coalesce(run_at, clock_timestamp() + make_interval(secs => coalesce(delay, 0)))) end
  from unnest(p_id, p_tenant, p_queue, p_priority, p_kind, p_run_at, p_delay, p_key)
    as u (id, t, q, p, k, run_at, delay, key);
$$;

-- The jobs that keys taken in this transaction stand for were not stored: another job keeps a unique key (p_job), or there is
-- none, and the key is free again (null).
create or replace function taskforge.repoint_keys(p_tenant uuid[], p_key text[], p_job bigint[]) returns void
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  delete from idempotency k using unnest(p_tenant, p_key, p_job) as u (tenant_id, key, job_id)
  where k.tenant_id = u.tenant_id and k.key = u.key and u.job_id is null;
  update idempotency k set job_id = u.job_id
  from unnest(p_tenant, p_key, p_job) as u (tenant_id, key, job_id)
  where k.tenant_id = u.tenant_id and k.key = u.key and u.job_id is not null;
$$;

-- Take idempotency keys in the order given (sorted, so that two batches cannot deadlock). Returns one row per key:
-- the job that owns it now, and whether that is the one offered.
create or replace function taskforge.take_keys(
  p_tenant uuid[], p_key text[], p_job bigint[], p_hash bytea[], p_keep interval
) returns table (ordinal integer, job_id bigint, body_hash bytea, is_new boolean)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
begin
  for i in 1 .. cardinality(p_key) loop
    ordinal := i;
    insert into idempotency as k (tenant_id, key, job_id, body_hash, expires_at)
    values (p_tenant[i], p_key[i], p_job[i], p_hash[i], now() + p_keep)
    on conflict (tenant_id, key) do update
      set job_id = excluded.job_id, body_hash = excluded.body_hash, expires_at = excluded.expires_at
      where k.expires_at <= now()
    returning k.job_id, k.body_hash into take_keys.job_id, take_keys.body_hash;
    is_new := found;
    if not found then
      select k.job_id, k.body_hash into take_keys.job_id, take_keys.body_hash
      from idempotency k where k.tenant_id = p_tenant[i] and k.key = p_key[i];
    end if;
    return next;
  end loop;
end
$$;
