-- Bucket b holds waits above 1.2^(b-1) and up to 1.2^b ms; bucket 0 those of up to 1 ms. See domain/waits.py.
create or replace function taskforge.wait_bucket(p_wait interval) returns integer
language sql immutable security invoker
as $$
  select case when extract(epoch from p_wait) <= 0.001 then 0
    else ceil(ln(extract(epoch from p_wait)::double precision * 1000) / 0.1823215567939546)::integer end;
$$;

-- Take up to p_want jobs' worth of extents from one stream of one lane, oldest first.
-- Index: ready_pkey, read from the floor up; rows locked by others are skipped, so this never waits.
-- Two statements on purpose: the first locks and sees the newest version of a row that another claim has just cut;
-- the second, with a newer snapshot, deletes exactly those. A mismatch aborts the claim rather than run a job twice.
-- waits: how long they had been ready, as pairs of a bucket (wait_bucket) and a number of jobs.
drop function if exists taskforge.take_extents(integer, smallint, smallint, bigint, integer);

create or replace function taskforge.take_extents(
  p_queue integer, p_priority smallint, p_stream smallint, p_floor bigint, p_want integer,
  out attempts smallint[], out los bigint[], out his bigint[], out taken integer, out waits integer[]
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
  v_ready_ats timestamptz[];
  v_whole bigint[];
  v_size integer;
  v_rows integer;
  v_now timestamptz := clock_timestamp();
  v_ready_at timestamptz;
  v_bucket integer;
  v_alike integer := 0;
begin
  taken := 0;
  while taken < p_want loop
    select array_agg(seq), array_agg(attempt), array_agg(lo), array_agg(hi), array_agg(ready_at)
    into v_seqs, v_attempts, v_los, v_his, v_ready_ats
    from (
      select seq, attempt, lo, hi, ready_at from ready
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
        v_size := p_want - taken;
        taken := p_want;
      end if;
      -- Neighbours became ready together or one soon after the other, so runs of one bucket are long.
      if v_ready_ats[i] is distinct from v_ready_at then
        v_ready_at := v_ready_ats[i];
        if wait_bucket(v_now - v_ready_at) is distinct from v_bucket then
          waits := waits || case when v_alike > 0 then array[v_bucket, v_alike] end;
          v_bucket := wait_bucket(v_now - v_ready_at);
          v_alike := 0;
        end if;
      end if;
      v_alike := v_alike + v_size;
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
  waits := waits || case when v_alike > 0 then array[v_bucket, v_alike] end;
end
$$;

-- Make leases of extents that were taken, one per attempt, and read their jobs; one row per lease, jobs in id order.
-- Job rows are read here, after the extents were taken: a reader in the calling statement would have an older snapshot
-- and miss jobs committed in between.
drop function if exists taskforge.hand_out(
  bigint, queues, smallint, bigint, bigint[], smallint[], bigint[], bigint[], integer);

drop function if exists taskforge.hand_out(
  bigint, queues, smallint, bigint, bigint[], boolean, smallint[], bigint[], bigint[], integer);

create or replace function taskforge.hand_out(
  p_worker bigint, p_queue queues, p_priority smallint, p_key bigint, p_limits bigint[], p_is_limited boolean,
  p_attempts smallint[], p_los bigint[], p_his bigint[], p_taken integer, p_waits integer[]
) returns table (
  fence bigint, tenant_id uuid, queue_id integer, queue_name text, priority smallint, attempt smallint,
  ids bigint[], job_types text[], payloads bytea[], max_attempts smallint[], timeouts double precision[],
  options jsonb[], claimed_at timestamptz, queue_max_attempts smallint, queue_timeout double precision, queue_retry jsonb, is_limited boolean,
  starts timestamptz[], ends timestamptz[]
)
language plpgsql security invoker
as $$
#variable_conflict use_column
declare
  v_ranges int8multirange;
begin
  insert into flow (tenant_id, queue_id, priority, ready, leased, waits, restarted)
  select p_queue.tenant_id, p_queue.queue_id, p_priority, -p_taken, p_taken, p_waits,
    coalesce(sum(hi - lo + 1) filter (where a > 1), 0)
  from unnest(p_attempts, p_los, p_his) as t (a, lo, hi);

  for fence, attempt, v_ranges in
    insert into leases (worker_id, tenant_id, queue_id, priority, attempt, ranges, key_id, limit_ids)
    select p_worker, p_queue.tenant_id, p_queue.queue_id, p_priority, a, range_agg(int8range(lo, hi, '[]')), p_key, p_limits
    from unnest(p_attempts, p_los, p_his) as t (a, lo, hi)
    group by a
    returning leases.fence, leases.attempt, leases.ranges
  loop
    select array_agg(j.id), array_agg(j.job_type),
      -- One that takes the results of other jobs is fetched like a large one, with them in it.
      array_agg(case when octet_length(j.payload) <= 8192 and (j.options is null or not j.options ? 'inputs')
        then j.payload end),
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
    starts := null;
    ends := null;
    if (options is not null or p_queue.settings ? 'expires_in_seconds') and has_time_bounds(options, p_queue.settings) then
      select b.starts, b.ends into starts, ends from time_bounds(ids, options, attempt, p_queue.settings) as b;
    end if;
    tenant_id := p_queue.tenant_id;
    queue_id := p_queue.queue_id;
    queue_name := p_queue.name;
    priority := p_priority;
    claimed_at := now();
    queue_max_attempts := p_queue.max_attempts;
    queue_timeout := p_queue.timeout_seconds;
    queue_retry := p_queue.retry;
    is_limited := p_is_limited;
    return next;
  end loop;
end
$$;

-- The order in which a claim goes through lanes 1 to p_lanes, and the keyed parts of queues that follow them; negative: may
-- take half of what is left. Queues of higher priority first; within a priority, half goes to the lane that has waited
-- longest if it is older than its queue's ageing_seconds, half to keyed parts whose queue has other lanes, then all in turn.
-- The half of a claim that goes first to somebody; of a claim for one job it is that job every other time.
create or replace function taskforge.half_of(p_want integer) returns integer
language sql volatile security invoker
as $$
  select (p_want + (random() < 0.5)::integer) / 2;
$$;

-- How long a lane of the queue waits until it ages; null for never.
create or replace function taskforge.ageing_of(p_settings jsonb) returns interval
language sql immutable security invoker
as $$
  select make_interval(secs => case when p_settings ? 'ageing_seconds'
    then (p_settings ->> 'ageing_seconds')::double precision else 300 end);
$$;

-- Whether any row of `limits` may concern a claim. Index: limits_queue.
create or replace function taskforge.has_limits(p_queues integer[], p_tenant uuid) returns boolean
language sql stable security invoker
as $$
  select exists (
    select from limits l where l.key = '' and (l.queue_id = any (p_queues) or l.queue_id = 0 and l.tenant_id = p_tenant));
$$;

create or replace function taskforge.plan_turns(
  p_queues queues[], p_lanes integer, p_returned_at timestamptz[], p_fresh_at timestamptz[]) returns integer[]
language plpgsql stable security invoker
as $$
declare
  v_turns integer[] := '{}';
  v_all integer := cardinality(p_queues);
  v_elder integer;
  v_mates integer;
  v_priority smallint;
begin
  if v_all = 1 then
    return '{1}';
  end if;
  for v_priority in
    select distinct (q).priority from unnest(p_queues) as q order by 1 desc
  loop
    for i in 1 .. v_all loop
      continue when p_queues[i].priority <> v_priority;
      v_elder := i;
      v_mates := 0;
      for k in 1 .. p_lanes loop
        continue when p_queues[k].queue_id <> p_queues[i].queue_id;
        v_mates := v_mates + 1;
        if i <= p_lanes and least(p_returned_at[k], p_fresh_at[k]) < least(p_returned_at[v_elder], p_fresh_at[v_elder]) then
          v_elder := k;
        end if;
      end loop;
      if i > p_lanes then
        v_turns := v_turns || case when v_mates > 0 then -i else i end;
      elsif v_elder = i and v_mates > 1
        and least(p_returned_at[i], p_fresh_at[i]) < now() - ageing_of(p_queues[i].settings)
      then
        v_turns := v_turns || -i;
      end if;
    end loop;
    for i in 1 .. v_all loop
      if p_queues[i].priority = v_priority then
        v_turns := v_turns || i;
      end if;
    end loop;
  end loop;
  return v_turns;
end
$$;

-- Lease up to p_want jobs of the given queues to a worker; of what is limited no more than p_startable, which is what the
-- worker could start at once, so that nobody sits on slots that another could use.
-- Queue priority first, then job priority, then oldest extent; equal queues take turns by chance. Half of a claim goes
-- first to the lane whose head has waited longest, if that is longer than its queue's ageing_seconds. Jobs with a key are
-- taken by turns of their keys (take_keyed). A shared worker divides what it wants among tenants first (share_out).
-- Lock order: rows of `limits` that concern active queues, by id; then nothing that could be waited for.
drop function if exists taskforge.claim(bigint, integer[], integer);
drop function if exists taskforge.claim(bigint, integer[], integer, integer);

create or replace function taskforge.claim(p_worker bigint, p_queues integer[], p_want integer, p_startable integer)
returns table (
  fence bigint, tenant_id uuid, queue_id integer, queue_name text, priority smallint, attempt smallint,
  ids bigint[], job_types text[], payloads bytea[], max_attempts smallint[], timeouts double precision[],
  options jsonb[], claimed_at timestamptz, queue_max_attempts smallint, queue_timeout double precision, queue_retry jsonb, is_limited boolean,
  starts timestamptz[], ends timestamptz[]
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
  v_total integer := p_want;
  v_startable integer := p_startable;
  v_state smallint;
  v_tenant uuid;
  v_is_shared boolean;
  v_room claim_room;
  v_share record;
  v_queues queues[];
  v_priorities smallint[];
  v_returned_floors bigint[];
  v_fresh_floors bigint[];
  v_returned_at timestamptz[];
  v_fresh_at timestamptz[];
  v_lanes integer;
  v_left integer;
  v_turn integer;
  v_lane integer;
  v_queue queues;
  v_limits bigint[];
  v_before integer;
  v_part integer;
  v_budget integer;
  v_took record;
begin
  select w.state, w.tenant_id, w.is_shared into v_state, v_tenant, v_is_shared
  from workers w where w.worker_id = p_worker;
  if v_state is null or v_state = 3 then
    raise exception 'worker % is not registered any more', p_worker using errcode = 'TF002';
  end if;
  if v_state = 2 then
    return;
  end if;

  if v_is_shared or has_limits(p_queues, v_tenant) then
    v_room := lock_limits(p_queues, case when v_is_shared then null else v_tenant end, p_want);
    if v_room is null then
      return;  -- nothing waits
    end if;
  end if;

  for v_share in
    select v_tenant as tenant_id, p_want as share where not v_is_shared
    union all
    select s.tenant_id, s.share from share_out(v_room, p_want) as s where v_is_shared
  loop
    exit when v_total <= 0;
    v_left := least(v_total, v_share.share);
    -- The lanes in which jobs wait. Index: ready_pkey, from the floor up.
    select coalesce(array_agg(h.queue), '{}'), array_agg(h.priority), array_agg(h.returned_floor), array_agg(h.fresh_floor),
      array_agg(h.returned_at), array_agg(h.fresh_at)
    into v_queues, v_priorities, v_returned_floors, v_fresh_floors, v_returned_at, v_fresh_at
    from (
      select q as queue, l.priority, l.returned_floor, l.fresh_floor, head.returned_at, head.fresh_at
      from queues q join lanes l on l.queue_id = q.queue_id
      cross join lateral (
        select
          (select r.ready_at from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
            and r.seq >= l.returned_floor order by r.seq limit 1) as returned_at,
          (select r.ready_at from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
            and r.seq >= l.fresh_floor order by r.seq limit 1) as fresh_at
        offset 0
      ) as head
      where q.tenant_id = v_share.tenant_id and q.queue_id = any (p_queues) and not q.paused
        and (head.returned_at is not null or head.fresh_at is not null)
      order by q.priority desc, l.priority desc, random()
    ) as h;
    v_lanes := cardinality(v_queues);
    if v_room is null and v_lanes > 0 then
      -- A first limit may have been set since the look above. It counts what is claimed by transactions that are older than
      -- the first that sees it (adopt_leases); so an xid is drawn, and only then is there a last look.
      perform pg_current_xact_id();
      if has_limits(p_queues, v_tenant) then
        return;
      end if;
    end if;
    if v_room is not null then
      -- A queue that has keys comes after its lanes, as one more.
      v_queues := v_queues || array(
        select q from queues q
        where q.tenant_id = v_share.tenant_id and q.queue_id = any (p_queues) and q.has_keys and not q.paused
          and exists (select from limits c where c.queue_id = q.queue_id and c.is_claimable)
        order by q.priority desc, random());
    end if;

    foreach v_turn in array plan_turns(v_queues, v_lanes, v_returned_at, v_fresh_at) loop
      exit when v_left <= 0;
      v_lane := abs(v_turn);
      v_queue := v_queues[v_lane];
      v_part := v_left;
      if v_room is not null then
        v_part := room_for(v_room, v_queue.queue_id, v_share.tenant_id, v_part, v_startable);
      end if;
      v_part := case when v_turn < 0 then half_of(v_part) else v_part end;
      continue when v_part <= 0;
      v_limits := null;
      if v_room is not null then
        v_limits := limits_of(v_room, v_queue.queue_id, v_share.tenant_id);
      end if;
      v_before := v_left;
      if v_lane > v_lanes then
        for v_took in select * from take_keyed(v_queue, v_part, v_startable) loop
          v_left := v_left - v_took.taken;
          if v_limits is null and v_took.is_limited then
            v_startable := v_startable - v_took.taken;
          end if;
          return query select * from hand_out(p_worker, v_queue, v_took.priority, v_took.key_id, v_took.key_id || v_limits,
            v_limits is not null or v_took.is_limited, v_took.attempts, v_took.los, v_took.his, v_took.taken,
              v_took.waits);
        end loop;
      else
        -- What came back goes first but may take only half, so that a storm of retries cannot hold up fresh work.
        -- Step 3 returns to what came back, for what fresh work has left over.
        for v_step in 1 .. 3 loop
          exit when v_part <= 0;
          continue when (case v_step when 2 then v_fresh_at[v_lane] else v_returned_at[v_lane] end) is null;
          continue when v_step = 3 and v_fresh_at[v_lane] is null;
          v_budget := case when v_step = 1 and v_fresh_at[v_lane] is not null then (v_part + 1) / 2 else v_part end;
          select * into v_took from take_extents(
            v_queue.queue_id, v_priorities[v_lane], (case v_step when 2 then 1 else 0 end)::smallint,
            case v_step when 2 then v_fresh_floors[v_lane] else v_returned_floors[v_lane] end, v_budget);
          continue when v_took.taken = 0;
          v_left := v_left - v_took.taken;
          v_part := v_part - v_took.taken;
          return query select * from hand_out(p_worker, v_queue, v_priorities[v_lane], null, v_limits,
            v_limits is not null, v_took.attempts, v_took.los, v_took.his, v_took.taken, v_took.waits);
        end loop;
      end if;
      v_total := v_total - (v_before - v_left);
      if v_limits is not null then
        v_room := use_room(v_room, v_queue.queue_id, v_share.tenant_id, v_before - v_left);
      end if;
      if v_limits is not null then
        v_startable := v_startable - (v_before - v_left);
      end if;
    end loop;
  end loop;

  if v_room is not null then
    perform settle_room(v_room);
  end if;
end
$$;

-- A payload, an object, with the results of other jobs as further members; a job without a result gives null. The text of
-- both is kept as it is.
create or replace function taskforge.with_inputs(p_payload bytea, p_inputs jsonb) returns bytea
language sql stable security invoker
set search_path = taskforge, pg_temp
as $$
  select case when p_inputs is null then p_payload else (
    select substring(t.text from 1 for octet_length(t.text) - 1)
      || case when convert_from(t.text, 'UTF8') ~ '^\{\s*\}$' then ''::bytea else ','::bytea end || i.members || '}'::bytea
    from (select btrim(p_payload, '\x20090a0d'::bytea) as text) as t, (
      select string_agg(convert_to(to_json(i.key)::text || ':', 'UTF8') || coalesce(o.result, 'null'::bytea), ','::bytea
        order by i.key) as members
      from jsonb_each_text(p_inputs) as i left join outcomes o on o.id = i.value::bigint) as i
  ) end;
$$;

-- Payloads that did not travel with the claim; only for jobs this worker holds.
create or replace function taskforge.large_payloads(p_worker bigint, p_fence bigint, p_ids bigint[])
returns table (id bigint, payload bytea)
language sql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
  select j.id, with_inputs(j.payload, j.options -> 'inputs')
  from leases l join jobs j on j.id = any (p_ids) and l.ranges @> j.id
  where l.fence = p_fence and l.worker_id = p_worker;
$$;
