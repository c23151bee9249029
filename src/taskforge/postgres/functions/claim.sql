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

-- Make leases of extents that were taken, one per attempt, and read their jobs; one row per lease, jobs in id order.
-- Job rows are read here, after the extents were taken: a reader in the calling statement would have an older snapshot
-- and miss jobs committed in between.
create or replace function taskforge.hand_out(
  p_worker bigint, p_queue queues, p_priority smallint, p_key bigint, p_limits bigint[],
  p_attempts smallint[], p_los bigint[], p_his bigint[], p_taken integer
) returns table (
  fence bigint, tenant_id uuid, queue_id integer, queue_name text, priority smallint, attempt smallint,
  ids bigint[], job_types text[], payloads bytea[], max_attempts smallint[], timeouts double precision[],
  options jsonb[], claimed_at timestamptz, queue_max_attempts smallint, queue_timeout double precision, queue_retry jsonb
)
language plpgsql security invoker
as $$
#variable_conflict use_column
declare
  v_ranges int8multirange;
begin
  insert into flow (tenant_id, queue_id, priority, ready, leased)
  values (p_queue.tenant_id, p_queue.queue_id, p_priority, -p_taken, p_taken);

  for fence, attempt, v_ranges in
    insert into leases (worker_id, tenant_id, queue_id, priority, attempt, ranges, key_id, limit_ids)
    select p_worker, p_queue.tenant_id, p_queue.queue_id, p_priority, a, range_agg(int8range(lo, hi, '[]')), p_key, p_limits
    from unnest(p_attempts, p_los, p_his) as t (a, lo, hi)
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
    tenant_id := p_queue.tenant_id;
    queue_id := p_queue.queue_id;
    queue_name := p_queue.name;
    priority := p_priority;
    claimed_at := now();
    queue_max_attempts := p_queue.max_attempts;
    queue_timeout := p_queue.timeout_seconds;
    queue_retry := p_queue.retry;
    return next;
  end loop;
end
$$;

-- Lease up to p_want jobs of the given queues to a worker; of what is limited no more than p_startable, which is what the
-- worker could start at once, so that nobody sits on slots that another could use.
-- Queue priority first, then job priority, then oldest extent; equal queues take turns by chance. Half of a claim goes
-- first to the lane whose head has waited longest, if that is longer than its queue's ageing_seconds. Jobs with a key are
-- taken by turns of their keys (take_keyed). A shared worker divides what it wants among tenants first (share_out).
-- Lock order: rows of `limits` that concern active queues, by id; then nothing that could be waited for.
drop function if exists taskforge.claim(bigint, integer[], integer);

create or replace function taskforge.claim(p_worker bigint, p_queues integer[], p_want integer, p_startable integer)
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
  v_startable integer := p_startable;
  v_lane record;
  v_took record;
  v_budget integer;
  v_part integer;
  v_state smallint;
  v_tenant uuid;
  v_is_shared boolean;
  v_total integer := p_want;
  v_salt integer := (random() * 1e9)::integer;
  v_room claim_room;
  v_share record;
begin
  select w.state, w.tenant_id, w.is_shared into v_state, v_tenant, v_is_shared
  from workers w where w.worker_id = p_worker;
  if v_state is null or v_state = 3 then
    raise exception 'worker % is not registered any more', p_worker using errcode = 'TF002';
  end if;
  if v_state = 2 then
    return;
  end if;

  if v_is_shared or exists (
    select from limits l where l.key = '' and (l.queue_id = any (p_queues) or l.queue_id = 0 and l.tenant_id = v_tenant))
  then
    v_room := lock_limits(p_queues, case when v_is_shared then null else v_tenant end);
    if v_room is null then
      return;  -- nothing waits
    end if;
  end if;

  for v_share in
    select v_tenant as tenant_id, p_want as share where not v_is_shared
    union all
    select s.tenant_id, s.share from share_out(v_room, p_want) as s where v_is_shared
  loop
    v_left := least(v_total, v_share.share);
    exit when v_total <= 0;
    for v_lane in
      with heads as (
        -- Index: ready_pkey, from the floor up.
        select l.queue_id, l.priority, l.returned_floor, l.fresh_floor,
          (select r.ready_at from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
            and r.seq >= l.returned_floor order by r.seq limit 1) as returned_at,
          (select r.ready_at from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
            and r.seq >= l.fresh_floor order by r.seq limit 1) as fresh_at,
          q.priority as queue_priority, q as queue
        from queues q join lanes l on l.queue_id = q.queue_id
        where q.tenant_id = v_share.tenant_id and q.queue_id = any (p_queues) and not q.paused
      ), waiting as (
        select *, least(returned_at, fresh_at) as since,
          row_number() over (partition by queue_id order by least(returned_at, fresh_at)) as elder,
          count(*) over (partition by queue_id) as lanes
        from heads where returned_at is not null or fresh_at is not null
      )
      select * from (
      select w.queue_id, w.priority, w.returned_floor, w.fresh_floor, w.returned_at, w.fresh_at, w.queue_priority, w.queue,
        t.turn, false as is_keyed, t.turn = 0 as takes_half
      from waiting w cross join (values (0), (2)) as t (turn)
      where t.turn = 2 or w.elder = 1 and w.lanes > 1 and w.since < now() - make_interval(secs =>
        case when (w.queue).settings ? 'ageing_seconds' then ((w.queue).settings ->> 'ageing_seconds')::double precision
          else 300 end)
      union all
      select q.queue_id, -1::smallint, 0, 0, null, null, q.priority, q, t.turn, true,
        t.turn = 1 and exists (select from waiting w where w.queue_id = q.queue_id)
      from queues q cross join (values (1), (3)) as t (turn)
      where q.tenant_id = v_share.tenant_id and q.queue_id = any (p_queues) and q.has_keys and not q.paused
        and exists (select from limits c where c.queue_id = q.queue_id and c.is_claimable)
      ) as turns
      order by queue_priority desc, turn >= 2, priority desc, hashint4(queue_id # v_salt), turn
    loop
      exit when v_left <= 0;
      v_part := case when v_lane.takes_half then (v_left + 1) / 2 else v_left end;
      if v_room is not null then
        v_part := room_for(v_room, v_lane.queue_id, v_share.tenant_id, v_part, v_startable);
        continue when v_part <= 0;
      end if;
      if v_lane.is_keyed then
        for v_took in select * from take_keyed(v_lane.queue, v_part, v_startable) loop
          v_left := v_left - v_took.taken;
          v_total := v_total - v_took.taken;
          v_startable := v_startable - v_took.taken;
          v_room := use_room(v_room, v_lane.queue_id, v_share.tenant_id, v_took.taken);
          return query select * from hand_out(p_worker, v_lane.queue, v_took.priority, v_took.key_id,
            v_took.key_id || limits_of(v_room, v_lane.queue_id, v_share.tenant_id),
            v_took.attempts, v_took.los, v_took.his, v_took.taken);
        end loop;
        continue;
      end if;
      -- What came back goes first but may take only half, so that a storm of retries cannot hold up fresh work.
      -- Step 3 returns to what came back, for what fresh work has left over.
      for v_step in 1 .. 3 loop
        exit when v_part <= 0;
        continue when (case v_step when 2 then v_lane.fresh_at else v_lane.returned_at end) is null;
        continue when v_step = 3 and v_lane.fresh_at is null;
        v_budget := case when v_step = 1 and v_lane.fresh_at is not null then (v_part + 1) / 2 else v_part end;
        select * into v_took from take_extents(
          v_lane.queue_id, v_lane.priority, (case v_step when 2 then 1 else 0 end)::smallint,
          case v_step when 2 then v_lane.fresh_floor else v_lane.returned_floor end, v_budget);
        continue when v_took.taken = 0;
        v_left := v_left - v_took.taken;
        v_total := v_total - v_took.taken;
        v_part := v_part - v_took.taken;
        if v_room is not null then
          if limits_of(v_room, v_lane.queue_id, v_share.tenant_id) is not null then
            v_startable := v_startable - v_took.taken;
          end if;
          v_room := use_room(v_room, v_lane.queue_id, v_share.tenant_id, v_took.taken);
        end if;
        return query select * from hand_out(p_worker, v_lane.queue, v_lane.priority, null,
          case when v_room is not null then limits_of(v_room, v_lane.queue_id, v_share.tenant_id) end,
          v_took.attempts, v_took.los, v_took.his, v_took.taken);
      end loop;
    end loop;
  end loop;

  if v_room is not null then
    perform settle_room(v_room);
  end if;
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
