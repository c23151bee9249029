-- Take up to p_want jobs' worth of extents from one stream of one lane, oldest first.
-- Index: ready_pkey, read from the floor up; rows locked by others are skipped, so this never waits.
-- Two statements on purpose: the first locks and sees the newest version of a row that another claim has just cut;
-- the second, with a newer snapshot, deletes exactly those. A mismatch aborts the claim rather than run a job twice.
create or replace function taskforge.take_extents(
  p_queue integer, p_priority smallint, p_stream smallint, p_floor bigint, p_want integer,
  out attempts smallint[], out los bigint[], out his bigint[], out taken integer
)
language plpgsql security invoker
as $$
declare
  v_from bigint := p_floor;
  v_batch integer := 1;
  v_extents integer := 0;
  v_seqs bigint[];
  v_attempts smallint[];
  v_los bigint[];
  v_his bigint[];
  v_whole bigint[];
  v_size integer;
  v_rows integer;
begin
  taken := 0;
  while taken < p_want loop
    select array_agg(seq), array_agg(attempt), array_agg(lo), array_agg(hi)
    into v_seqs, v_attempts, v_los, v_his
    from (
      select seq, attempt, lo, hi from ready
      where queue_id = p_queue and priority = p_priority and stream = p_stream and seq >= v_from
      order by seq
      limit v_batch
      for update skip locked
    ) as locked;
    exit when v_seqs is null;

    v_whole := '{}';
    for i in 1 .. cardinality(v_seqs) loop
      exit when taken >= p_want;
      v_size := v_his[i] - v_los[i] + 1;
      attempts := attempts || v_attempts[i];
      los := los || v_los[i];
      if v_size <= p_want - taken then
        his := his || v_his[i];
        v_whole := v_whole || v_seqs[i];
        taken := taken + v_size;
      else
        his := his || (v_los[i] + (p_want - taken) - 1);
        update ready set lo = lo + (p_want - taken)
        where queue_id = p_queue and priority = p_priority and stream = p_stream and seq = v_seqs[i];
        taken := p_want;
      end if;
    end loop;

    -- The bounds keep PostgreSQL before 17, without statistics, from walking the whole lane for this array.
    delete from ready
    where queue_id = p_queue and priority = p_priority and stream = p_stream and seq = any (v_whole)
      and seq >= v_seqs[1] and seq <= v_seqs[cardinality(v_seqs)];
    get diagnostics v_rows = row_count;
    if v_rows <> cardinality(v_whole) then
      raise exception 'claim deleted % extents of % it had locked', v_rows, cardinality(v_whole);
    end if;

    v_from := v_seqs[cardinality(v_seqs)] + 1;
    v_extents := v_extents + cardinality(v_seqs);
    exit when cardinality(v_seqs) < v_batch;
    -- As many extents as their size so far says are still needed.
    v_batch := least(1000, greatest(1, ceil((p_want - taken)::numeric * v_extents / greatest(taken, 1))::integer));
  end loop;
end
$$;

-- Lease up to p_want jobs of the given queues, those of its own tenant, to a worker. Returns one row per lease, jobs as arrays in id order.
-- Queue priority first, then job priority, then oldest extent; equal queues take turns by chance.
-- Job rows are read here, after the extents were taken: a reader in the calling statement would have an older snapshot
-- and miss jobs committed in between.
create or replace function taskforge.claim(p_worker bigint, p_queues integer[], p_want integer)
returns table (
  fence bigint, tenant_id uuid, queue_id integer, queue_name text, priority smallint, attempt smallint,
  ids bigint[], job_types text[], payloads bytea[], max_attempts smallint[], timeouts double precision[],
  options jsonb[], claimed_at timestamptz, queue_max_attempts smallint, queue_timeout double precision, queue_retry jsonb
)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_left integer := p_want;
  v_lane record;
  v_took record;
  v_step integer;
  v_budget integer;
  v_ranges int8multirange;
  v_state smallint;
  v_tenant uuid;
begin
  select w.state, w.tenant_id into v_state, v_tenant from workers w where w.worker_id = p_worker;
  if v_state is null or v_state = 3 then
    raise exception 'worker % is not registered any more', p_worker using errcode = 'TF002';
  end if;
  if v_state = 2 then
    return;
  end if;

  for v_lane in
    select l.queue_id, l.priority, l.tenant_id, l.returned_floor, l.fresh_floor, q.name,
      q.max_attempts, q.timeout_seconds, q.retry, found.returned, found.fresh
    from queues q
    join lanes l on l.queue_id = q.queue_id
    cross join lateral (
      select
        exists (select from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
          and r.seq >= l.returned_floor) as returned,
        exists (select from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
          and r.seq >= l.fresh_floor) as fresh
    ) as found
    where q.tenant_id = v_tenant and q.queue_id = any (p_queues) and not q.paused and (found.returned or found.fresh)
    order by q.priority desc, l.priority desc, random()
  loop
    exit when v_left <= 0;
    -- What came back goes first but may take only half, so that a storm of retries cannot hold up fresh work.
    -- Step 3 returns to what came back, for what fresh work has left over.
    for v_step in 1 .. 3 loop
      exit when v_left <= 0;
      continue when not (case v_step when 2 then v_lane.fresh else v_lane.returned end);
      continue when v_step = 3 and not v_lane.fresh;
      v_budget := case when v_step = 1 and v_lane.fresh then (v_left + 1) / 2 else v_left end;
      select * into v_took from take_extents(
        v_lane.queue_id, v_lane.priority, (case v_step when 2 then 1 else 0 end)::smallint,
        case v_step when 2 then v_lane.fresh_floor else v_lane.returned_floor end, v_budget);
      continue when v_took.taken = 0;
      v_left := v_left - v_took.taken;

      insert into flow (tenant_id, queue_id, priority, ready, leased)
      values (v_lane.tenant_id, v_lane.queue_id, v_lane.priority, -v_took.taken, v_took.taken);

      for fence, attempt, v_ranges in
        insert into leases (worker_id, tenant_id, queue_id, priority, attempt, ranges)
        select p_worker, v_lane.tenant_id, v_lane.queue_id, v_lane.priority, a, range_agg(int8range(lo, hi, '[]'))
        from unnest(v_took.attempts, v_took.los, v_took.his) as t (a, lo, hi)
        group by a
        returning leases.fence, leases.attempt, leases.ranges
      loop
        select array_agg(j.id), array_agg(j.job_type),
          array_agg(case when octet_length(j.payload) <= 8192 then j.payload end),
          case when count(j.max_attempts) > 0 then array_agg(j.max_attempts) end,
          case when count(j.timeout_seconds) > 0 then array_agg(j.timeout_seconds) end,
          case when count(j.options) > 0 then array_agg(j.options) end
        into ids, job_types, payloads, max_attempts, timeouts, options
        from (
          -- The offset keeps the planner from turning this around and reading the whole table from its start.
          select held.* from unnest(v_ranges) as r cross join lateral (
            select * from jobs where id >= lower(r) and id < upper(r) order by id offset 0) as held
        ) as j;
        if coalesce(cardinality(ids), 0) <> (select sum(upper(r) - lower(r)) from unnest(v_ranges) as r) then
          raise exception 'lease % covers % but only % jobs were read', fence, v_ranges, cardinality(ids);
        end if;
        tenant_id := v_lane.tenant_id;
        queue_id := v_lane.queue_id;
        queue_name := v_lane.name;
        priority := v_lane.priority;
        claimed_at := now();
        queue_max_attempts := v_lane.max_attempts;
        queue_timeout := v_lane.timeout_seconds;
        queue_retry := v_lane.retry;
        return next;
      end loop;
    end loop;
  end loop;
end
$$;

-- Payloads too large to travel with the claim; only for jobs this worker holds.
create or replace function taskforge.large_payloads(p_worker bigint, p_fence bigint, p_ids bigint[])
returns table (id bigint, payload bytea)
language sql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
  select j.id, j.payload
  from leases l join jobs j on j.id = any (p_ids) and l.ranges @> j.id
  where l.fence = p_fence and l.worker_id = p_worker;
$$;
