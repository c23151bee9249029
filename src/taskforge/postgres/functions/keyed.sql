-- Jobs with a key: claimed by turns of their keys. And the shares of tenants, for workers that serve several.

-- Lock the rows that concern queues of p_queues in which jobs wait; null when none waits anywhere. p_tenant null: the
-- queues of every tenant, whose rows are made if need be. Tenants and queues by id, then keys of all the queues by id, so
-- that who gives slots back, in the same order, cannot deadlock with a claim of several queues.
drop function if exists taskforge.lock_limits(integer[], uuid);

create or replace function taskforge.lock_limits(p_queues integer[], p_tenant uuid, p_want integer)
returns taskforge.claim_room
language plpgsql security invoker
as $$
declare
  v_active integer[];
  v_tenants uuid[];
  v_room claim_room := row('{}', '{}', '{}', '{}', '{}', '{}');
  v_id bigint;
  v_limit limits;
  v_settings jsonb;
  v_most integer;
  v_rate record;
begin
  select array_agg(q.queue_id), array_agg(distinct q.tenant_id) into v_active, v_tenants from queues q
  where (p_tenant is null or q.tenant_id = p_tenant) and q.queue_id = any (p_queues) and not q.paused and (
    q.has_keys and exists (select from limits c where c.queue_id = q.queue_id and c.is_claimable)
    or exists (
      select from lanes l where l.queue_id = q.queue_id and (
        exists (select from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 0
          and r.seq >= l.returned_floor)
        or exists (select from ready r where r.queue_id = l.queue_id and r.priority = l.priority and r.stream = 1
          and r.seq >= l.fresh_floor))));
  if v_active is null then
    return null;
  end if;
  -- An xid before the rows are looked at: see adopt_leases.
  perform pg_current_xact_id();
  if p_tenant is null then
    insert into limits (tenant_id) select t from unnest(v_tenants) as t order by t
    on conflict (tenant_id, queue_id, key) do nothing;
  end if;
  for v_id in
    select l.limit_id from limits l
    where l.key = '' and (l.queue_id = any (v_active) or l.queue_id = 0 and l.tenant_id = any (v_tenants))
    order by l.limit_id
    for update of l
  loop
    -- Read now: whoever changes them holds the row's lock (open_limits).
    select * into v_limit from limits where limit_id = v_id;
    select settings into v_settings from queues where queue_id = v_limit.queue_id;
    v_most := case v_limit.queue_id when 0 then v_limit.max_concurrency
      else (v_settings ->> 'max_concurrency')::integer end;
    v_room.ids := v_room.ids || v_limit.limit_id;
    v_room.queues := v_room.queues || v_limit.queue_id;
    v_room.tenants := v_room.tenants || v_limit.tenant_id;
    v_room.used := v_room.used || 0;
    v_room.counts := v_room.counts || (v_most is not null or coalesce(jsonb_array_length(v_settings -> 'rate_limits'), 0) > 0);
    if v_limit.adopts_after is not null then
      if not adopt_leases(v_limit) then
        v_room.rooms := v_room.rooms || 0;
        continue;
      end if;
      select * into v_limit from limits where limit_id = v_id;
    end if;
    v_most := coalesce(v_most - v_limit.in_use, 2147483647);
    if coalesce(jsonb_array_length(v_settings -> 'rate_limits'), 0) > 0 then
      v_rate := start_rate(v_limit, v_settings -> 'rate_limits', 0);
      v_most := least(v_most, v_rate.room);
    end if;
    v_room.rooms := v_room.rooms || greatest(v_most, 0);
  end loop;
  perform from limits where limit_id = any (array(
    select unnest(next_keys(q.queue_id, p_want)) from queues q where q.queue_id = any (v_active) and q.has_keys))
  order by limit_id for update;
  return v_room;
end
$$;

-- The keys of a queue whose turn is next, in the order of their turns; as many as one claim serves at most.
-- Index: limits_claimable.
create or replace function taskforge.next_keys(p_queue integer, p_want integer) returns bigint[]
language plpgsql stable security invoker
as $$
declare
  v_most constant integer := least(p_want, 200);
  v_served bigint;
  v_keys bigint[];
begin
  select served into v_served from limits where queue_id = p_queue and key = '';
  v_keys := array(
    select limit_id from limits where queue_id = p_queue and is_claimable and limit_id > v_served
    order by limit_id limit v_most);
  if cardinality(v_keys) < v_most then
    v_keys := v_keys || array(
      select limit_id from limits where queue_id = p_queue and is_claimable and limit_id <= v_served
      order by limit_id limit v_most - cardinality(v_keys));
  end if;
  return v_keys;
end
$$;

-- Count p_started against the windows of a row that the caller has locked; what may start after that, and when more may.
create or replace function taskforge.start_rate(
  p_limit taskforge.limits, p_windows jsonb, p_started integer, out room integer, out opens_at timestamptz)
language plpgsql security invoker
as $$
declare
  v_heads bigint[];
  v_counts integer[];
begin
  select w.heads, w.counts into v_heads, v_counts
  from rewindow(p_limit.rate_limits, p_windows, clock_timestamp(), p_limit.rate_heads, p_limit.rate_counts) as w;
  select r.heads, r.counts, r.room, r.opens_at into v_heads, v_counts, room, opens_at
  from count_rate(p_windows, p_started, clock_timestamp(), v_heads, v_counts) as r;
  update limits l set rate_limits = p_windows, rate_heads = v_heads, rate_counts = v_counts, opens_at = start_rate.opens_at
  where l.limit_id = p_limit.limit_id
    and (p_started > 0 or l.rate_limits is distinct from p_windows or l.opens_at is distinct from start_rate.opens_at);
end
$$;

create or replace function taskforge.room_for(
  p_room taskforge.claim_room, p_queue integer, p_tenant uuid, p_want integer, p_startable integer) returns integer
language sql immutable security invoker
as $$
  select coalesce(min(least(r.room - r.used, p_want, p_startable)), p_want)
  from unnest(p_room.queues, p_room.tenants, p_room.rooms, p_room.used, p_room.counts) as r (queue, tenant, room, used, counts)
  where r.counts and (r.queue = p_queue or r.queue = 0 and r.tenant = p_tenant);
$$;

create or replace function taskforge.limits_of(p_room taskforge.claim_room, p_queue integer, p_tenant uuid) returns bigint[]
language sql immutable security invoker
as $$
  select array_agg(r.id)
  from unnest(p_room.ids, p_room.queues, p_room.tenants, p_room.counts) as r (id, queue, tenant, counts)
  where r.counts and (r.queue = p_queue or r.queue = 0 and r.tenant = p_tenant);
$$;

create or replace function taskforge.use_room(
  p_room taskforge.claim_room, p_queue integer, p_tenant uuid, p_taken integer) returns taskforge.claim_room
language sql immutable security invoker
as $$
  select row(p_room.ids, p_room.queues, p_room.tenants, p_room.rooms, (
    select array_agg(r.used + case when r.counts and (r.queue = p_queue or r.queue = 0 and r.tenant = p_tenant)
      then p_taken else 0 end order by r.place)
    from unnest(p_room.queues, p_room.tenants, p_room.used, p_room.counts) with ordinality as r (queue, tenant, used, counts, place)
  ), p_room.counts)::taskforge.claim_room;
$$;

-- What the claim has taken, written down; the rows are locked since lock_limits.
create or replace function taskforge.settle_room(p_room taskforge.claim_room) returns void
language plpgsql security invoker
as $$
declare
  v_limit limits;
  v_windows jsonb;
begin
  for i in 1 .. cardinality(p_room.ids) loop
    continue when p_room.used[i] = 0;
    update limits set in_use = in_use + p_room.used[i] where limit_id = p_room.ids[i] returning * into v_limit;
    select settings -> 'rate_limits' into v_windows from queues where queue_id = v_limit.queue_id;
    if coalesce(jsonb_array_length(v_windows), 0) > 0 then
      perform start_rate(v_limit, v_windows, p_room.used[i]);
    end if;
  end loop;
end
$$;

-- Take up to p_want jobs' worth of extents of one key: highest priority first, what came back before what is fresh, then
-- oldest; half of them from the priority whose head has waited longest, if that is longer than p_ageing. As take_extents,
-- but across the priorities of the key. Index: ready_keyed.
drop function if exists taskforge.take_from_key(bigint, integer);

drop function if exists taskforge.take_from_key(bigint, integer, interval);

create or replace function taskforge.take_from_key(p_key bigint, p_want integer, p_ageing interval)
returns table (priority smallint, attempts smallint[], los bigint[], his bigint[], taken integer, waits integer[])
language plpgsql security invoker
as $$
#variable_conflict use_column
declare
  v_row record;
  v_left integer;
  v_size integer;
  v_done integer := 0;
  v_aged smallint := aged_priority(p_key, p_ageing);
  v_priorities smallint[] := '{}';
  v_attempts smallint[] := '{}';
  v_los bigint[] := '{}';
  v_his bigint[] := '{}';
  v_ready_ats timestamptz[] := '{}';
begin
  for v_turn in 1 .. 2 loop
    continue when v_turn = 1 and v_aged is null;
    v_left := case v_turn when 1 then half_of(p_want) else p_want - v_done end;
    while v_left > 0 loop
      v_size := v_left;
      for v_row in
        select r.queue_id, r.priority, r.stream, r.seq, r.attempt, r.lo, r.hi, r.ready_at from ready r
        where r.key_id = p_key and (v_turn = 2 or r.priority = v_aged)
        order by r.priority desc, r.stream, r.seq
        limit least(v_left, 1000)
        for update skip locked
      loop
        exit when v_left <= 0;
        v_priorities := v_priorities || v_row.priority;
        v_attempts := v_attempts || v_row.attempt;
        v_los := v_los || v_row.lo;
        v_ready_ats := v_ready_ats || v_row.ready_at;
        if v_row.hi - v_row.lo + 1 <= v_left then
          v_his := v_his || v_row.hi;
          v_left := v_left - (v_row.hi - v_row.lo + 1);
          delete from ready r where r.queue_id = v_row.queue_id and r.priority = v_row.priority
            and r.stream = v_row.stream and r.seq = v_row.seq;
        else
          v_his := v_his || (v_row.lo + v_left - 1);
          update ready r set lo = lo + v_left where r.queue_id = v_row.queue_id and r.priority = v_row.priority
            and r.stream = v_row.stream and r.seq = v_row.seq;
          v_left := 0;
        end if;
      end loop;
      v_done := v_done + v_size - v_left;
      exit when v_size = v_left;  -- nothing more, or nothing that is not locked
    end loop;
  end loop;
  return query
    select p, array_agg(a), array_agg(lo), array_agg(hi), sum(hi - lo + 1)::integer,
      count_waits(array_agg(since), array_agg((hi - lo + 1)::integer))
    from unnest(v_priorities, v_attempts, v_los, v_his, v_ready_ats) as t (p, a, lo, hi, since) group by p order by p desc;
end
$$;

-- How long jobs have been ready, as take_extents says it; arrays run parallel.
create or replace function taskforge.count_waits(p_ready_ats timestamptz[], p_jobs integer[]) returns integer[]
language sql stable security invoker
as $$
  select array_agg(part order by bucket, place)
  from (
    select taskforge.wait_bucket(clock_timestamp() - since) as bucket, sum(jobs)::integer as jobs
    from unnest(p_ready_ats, p_jobs) as u (since, jobs) group by 1) as counted
  cross join lateral (values (1, bucket), (2, jobs)) as parts (place, part);
$$;

-- The priority of a key whose head has waited longest, if that is longer than p_ageing and another priority waits, too.
create or replace function taskforge.aged_priority(p_key bigint, p_ageing interval) returns smallint
language plpgsql stable security invoker
as $$
declare
  v_highest smallint;
  v_lowest smallint;
  v_aged smallint;
begin
  select r.priority into v_highest from ready r where r.key_id = p_key order by r.priority desc limit 1;
  select r.priority into v_lowest from ready r where r.key_id = p_key order by r.priority limit 1;
  if p_ageing is null or v_highest = v_lowest then
    return null;
  end if;
  select p into v_aged from generate_series(v_lowest::integer, v_highest::integer) as p cross join lateral (
    select min(r.ready_at) as since from (
      (select ready_at from ready where key_id = p_key and priority = p and stream = 2 order by seq limit 1)
      union all
      (select ready_at from ready where key_id = p_key and priority = p and stream = 3 order by seq limit 1)) as r
  ) as head
  where head.since < now() - p_ageing
  order by head.since limit 1;
  return v_aged;
end
$$;

-- Deficit round robin over the keys of a queue (Shreedhar and Varghese, 1995): each turn adds weight x quantum to what a
-- key may take, what it could not take stays for its next turn, and a key that runs empty loses it. Turns go on where the
-- last claim stopped. The caller holds the queue's own row, so claims of one queue take turns, too.
-- Cost: the keys that get a turn, not those that wait, nor those at their limit.
drop function if exists taskforge.take_keyed(taskforge.queues, integer, integer);

create or replace function taskforge.take_keyed(p_queue taskforge.queues, p_want integer, p_startable integer)
returns table (
  key_id bigint, priority smallint, attempts smallint[], los bigint[], his bigint[], taken integer, is_limited boolean,
  waits integer[])
language plpgsql security invoker
as $$
#variable_conflict use_column
declare
  v_most integer := (p_queue.settings ->> 'key_max_concurrency')::integer;
  v_windows jsonb := nullif(nullif(p_queue.settings -> 'key_rate_limits', '[]'), 'null');
  v_ageing interval := ageing_of(p_queue.settings);
  v_served bigint;
  v_keys bigint[];
  v_locked bigint[];
  v_quantum real;
  v_left integer := p_want;
  v_startable integer := p_startable;
  v_before integer;
  v_key limits;
  v_room integer;
  v_share real;
  v_took integer;
  v_part record;
  v_rate record;
  v_is_open boolean := true;
begin
  select served into v_served from limits where queue_id = p_queue.queue_id and key = '';
  v_keys := next_keys(p_queue.queue_id, p_want);
  -- Locked by lock_limits already; one that became claimable since is taken if nobody holds it.
  v_locked := array(select limit_id from limits where limit_id = any (v_keys) for update skip locked);
  v_keys := array(select id from unnest(v_keys) with ordinality as u (id, place) where id = any (v_locked) order by place);
  -- Large enough that even the lightest key gets a job in its turn.
  select greatest(1 / min(weight), p_want / sum(weight)) into v_quantum from limits where limit_id = any (v_keys);
  loop
    v_before := v_left;
    for i in 1 .. cardinality(v_keys) loop
      exit when v_left <= 0;
      continue when v_keys[i] is null;
      select * into v_key from limits where limit_id = v_keys[i];
      v_room := coalesce(v_key.max_concurrency, v_most, 2147483647) - v_key.in_use;
      if v_windows is not null then
        v_rate := start_rate(v_key, v_windows, 0);
        v_room := least(v_room, v_rate.room);
      end if;
      is_limited := v_windows is not null or coalesce(v_key.max_concurrency, v_most) is not null;
      if is_limited then
        v_room := least(v_room, v_startable);
      end if;
      v_share := v_key.deficit + v_key.weight * v_quantum;
      v_took := 0;
      if least(v_share, v_room, v_left) >= 1 then
        for v_part in
          select * from take_from_key(v_key.limit_id, floor(least(v_share, v_room, v_left))::integer, v_ageing)
        loop
          v_took := v_took + v_part.taken;
          key_id := v_key.limit_id;
          priority := v_part.priority;
          attempts := v_part.attempts;
          los := v_part.los;
          his := v_part.his;
          taken := v_part.taken;
          waits := v_part.waits;
          return next;
        end loop;
      end if;
      v_left := v_left - v_took;
      v_startable := v_startable - case when is_limited then v_took else 0 end;
      if v_windows is not null then
        if v_took > 0 then
          select * into v_key from limits where limit_id = v_key.limit_id;
          v_rate := start_rate(v_key, v_windows, v_took);
        end if;
        v_is_open := v_rate.room > 0;
      end if;
      update limits l set
        in_use = l.in_use + v_took,
        deficit = case when exists (select from ready r where r.key_id = l.limit_id) then least(v_share - v_took, l.weight * v_quantum)
          else 0 end,
        is_claimable = exists (select from ready r where r.key_id = l.limit_id)
          and l.in_use + v_took < coalesce(l.max_concurrency, v_most, 2147483647)
          and v_is_open
      where l.limit_id = v_key.limit_id
      returning l.is_claimable into v_key.is_claimable;
      v_served := v_key.limit_id;
      if not v_key.is_claimable or v_room <= v_took then
        v_keys[i] := null;
      end if;
    end loop;
    exit when v_left <= 0 or v_left = v_before;
  end loop;
  update limits set served = v_served where queue_id = p_queue.queue_id and key = '';
end
$$;

-- Divide p_want among the tenants whose queues have jobs waiting, by weight, with what the last divisions left them; then
-- once more for whatever others did not use (share null). The rows are locked since lock_limits.
create or replace function taskforge.share_out(p_room taskforge.claim_room, p_want integer)
returns table (tenant_id uuid, share integer)
language plpgsql security invoker
as $$
#variable_conflict use_column
declare
  v_tenants uuid[];
begin
  with mine as (
    select l.limit_id, l.tenant_id, l.deficit + p_want * l.weight / sum(l.weight) over () as due
    from limits l where l.limit_id = any (p_room.ids) and l.queue_id = 0 and l.key = ''
  ), whole as (
    select *, greatest(floor(due), 0)::integer as share from mine
  ), shares as (
    -- What rounding left over goes to those that are owed most.
    select limit_id, tenant_id, due, share + case when row_number() over (order by due - share desc, limit_id)
      <= p_want - sum(share) over () then 1 else 0 end as share
    from whole
  ), kept as (
    update limits l set deficit = greatest(least(s.due - s.share, 1000), -1000) from shares s where l.limit_id = s.limit_id
  )
  select array_agg(s.tenant_id order by s.due desc), array_agg(s.share order by s.due desc) into v_tenants, p_room.used
  from shares s;
  return query select t, n from unnest(v_tenants, p_room.used) as u (t, n) where n > 0;
  return query select t, null::integer from unnest(v_tenants) as t;
end
$$;
