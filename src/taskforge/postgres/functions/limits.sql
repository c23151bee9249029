-- The rows of `limits`: made when needed, counted under their locks. Order of the locks: tenants and queues by id, then
-- keys by id. A claim takes them before anything else; everything else takes them last.

-- How many may start now under several windows at once, and, if none, when the next may. A window of L in P seconds is
-- counted in slices of P/20; the 21 slices that reach into the last P seconds count whole, so that no P seconds ever see
-- more than L. p_started is added to the count.
create or replace function taskforge.count_rate(
  p_limits jsonb, p_started integer, p_now timestamptz, inout heads bigint[], inout counts integer[],
  out room integer, out opens_at timestamptz
)
language plpgsql immutable security invoker
set search_path = taskforge, pg_temp
as $$
declare
  v_now double precision := extract(epoch from p_now);
  v_width double precision;
  v_slice bigint;
  v_base integer;
  v_sum bigint;
  v_limit bigint;
  v_opens double precision;
  v_need bigint;
begin
  room := 2147483647;
  for i in 0 .. jsonb_array_length(p_limits) - 1 loop
    v_limit := (p_limits -> i ->> 'limit')::bigint;
    v_width := (p_limits -> i ->> 'per_seconds')::double precision / 20;
    -- The clock may go back; what was counted then stays counted until its time has passed again.
    v_slice := greatest(floor(v_now / v_width)::bigint, coalesce(heads[i + 1], 0));
    v_base := i * 21;
    if heads is null or cardinality(heads) <= i then
      heads := heads || v_slice;
      counts := counts || array_fill(0, array[21]);
    end if;
    for k in 0 .. least(v_slice - heads[i + 1], 21)::integer - 1 loop
      counts[v_base + (v_slice - k) % 21 + 1] := 0;
    end loop;
    heads[i + 1] := v_slice;
    counts[v_base + v_slice % 21 + 1] := counts[v_base + v_slice % 21 + 1] + p_started;
    select sum(n) into v_sum from unnest(counts[v_base + 1 : v_base + 21]) as n;
    room := least(room, greatest(v_limit - v_sum, 0));
    if v_sum >= v_limit then
      -- The oldest slices make room when they have left the window.
      v_need := v_sum - v_limit + 1;
      for k in 0 .. 20 loop
        v_need := v_need - counts[v_base + (v_slice - 20 + k) % 21 + 1];
        if v_need <= 0 then
          v_opens := greatest(coalesce(v_opens, 0), (v_slice + 1 + k) * v_width);
          exit;
        end if;
      end loop;
    end if;
  end loop;
  -- Two microseconds more than the slice's end, which rounding could otherwise put before it.
  opens_at := to_timestamp(v_opens + 0.000002);
end
$$;

-- The windows of a row changed: what the old ones had counted is charged to the new ones as if it had started just now.
create or replace function taskforge.rewindow(
  p_old jsonb, p_new jsonb, p_now timestamptz, inout heads bigint[], inout counts integer[])
language plpgsql immutable security invoker
set search_path = taskforge, pg_temp
as $$
declare
  v_most integer := 0;
begin
  if p_old is not distinct from p_new then
    return;
  end if;
  if heads is not null then
    select h, c into heads, counts from count_rate(p_old, 0, p_now, heads, counts) as r (h, c, room, opens_at);
    select coalesce(max(s), 0) into v_most from (
      select sum(counts[i * 21 + k]) as s from generate_series(0, cardinality(heads) - 1) as i, generate_series(1, 21) as k
      group by i) as sums;
  end if;
  heads := null;
  counts := null;
  if p_new is not null and jsonb_array_length(p_new) > 0 then
    select h, c into heads, counts from count_rate(p_new, v_most, p_now, null, null) as r (h, c, room, opens_at);
  end if;
end
$$;

-- Rows of keys, made if need be; one id per entry, in their order. The first key of a queue makes the queue's own row,
-- whose lock lets claims of keyed jobs take turns.
create or replace function taskforge.ensure_keys(p_tenant uuid[], p_queue integer[], p_key text[]) returns bigint[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
declare
  v_ids bigint[];
begin
  for i in 1 .. 3 loop
    select array_agg(l.limit_id order by u.place) into v_ids
    from unnest(p_tenant, p_queue, p_key) with ordinality as u (t, q, k, place)
    left join limits l on l.tenant_id = u.t and l.queue_id = u.q and l.key = u.k;
    if array_position(v_ids, null) is null then
      return v_ids;
    end if;
    update queues q set has_keys = true
    from (select distinct t, q from unnest(p_tenant, p_queue) as u (t, q) order by t, q) as named
    where q.queue_id = named.q and q.tenant_id = named.t and not q.has_keys;
    insert into limits (tenant_id, queue_id, key)
    select t, q, k from (
      select t, q, k from unnest(p_tenant, p_queue, p_key) as u (t, q, k)
      union
      select t, q, '' from unnest(p_tenant, p_queue) as u (t, q)) as wanted
    order by t, q, k
    on conflict (tenant_id, queue_id, key) do nothing;
  end loop;
  raise exception 'keys could not be made' using errcode = '40001';
end
$$;

-- The key of a job as a row of `limits`; null for a job without one.
create or replace function taskforge.key_of(p_tenant uuid, p_queue integer, p_options jsonb) returns bigint
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_key text := p_options -> 'terms' ->> 'concurrency_key';
begin
  if v_key is null then
    return null;
  end if;
  return (ensure_keys(array[p_tenant], array[p_queue], array[v_key]))[1];
end
$$;

-- The rows of the keys of these jobs where p_keys is 0, made if need be; the others as they are. Arrays run parallel.
create or replace function taskforge.find_keys(p_ids bigint[], p_tenants uuid[], p_queues integer[], p_keys bigint[])
returns bigint[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_named text[];
begin
  select array_agg(j.options -> 'terms' ->> 'concurrency_key' order by u.place) into v_named
  from unnest(p_ids, p_tenants, p_keys) with ordinality as u (id, t, k, place)
  left join jobs j on u.k = 0 and j.id = u.id and j.tenant_id = u.t;
  -- All at once, so that their rows are made in one order.
  perform ensure_keys(array_agg(t), array_agg(q), array_agg(k))
    from (select distinct t, q, k from unnest(p_tenants, p_queues, v_named) as u (t, q, k) where k is not null) as wanted
    having count(*) > 0;
  return array(
    select coalesce(l.limit_id, nullif(u.was, 0))
    from unnest(p_tenants, p_queues, v_named, p_keys) with ordinality as u (t, q, k, was, place)
    left join limits l on l.tenant_id = u.t and l.queue_id = u.q and l.key = u.k
    order by place);
end
$$;

-- Jobs that were somewhere else wait in these lanes again, in the stream of what came back; arrays run parallel. Called
-- last in its transaction, because it locks the rows of keys.
create or replace function taskforge.wait_again(
  p_tenant uuid, p_ids bigint[], p_queues integer[], p_priorities smallint[], p_attempts smallint[],
  p_ready_at timestamptz default null
) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_keys bigint[];
begin
  perform pg_current_xact_id();
  v_keys := find_keys(
    p_ids, array_fill(p_tenant, array[cardinality(p_ids)]), p_queues, array_fill(0::bigint, array[cardinality(p_ids)]));
  insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, key_id, ready_at)
  select q, p, case when k is null then 0 else 2 end, p_tenant, a, id, id, k, coalesce(p_ready_at, now())
  from unnest(p_ids, p_queues, p_priorities, p_attempts, v_keys) as u (id, q, p, a, k)
  order by id;
  v_keys := array_remove(v_keys, null);
  if cardinality(v_keys) > 0 then
    perform touch_limits(v_keys, array_fill(0, array[cardinality(v_keys)]));
  end if;
end
$$;

-- Give slots back (p_back, 0 for none) and see anew which keys have jobs waiting and room for them. Called last in its
-- transaction, after the extents and leases it is about were written. Returns the queues that may have become claimable.
create or replace function taskforge.touch_limits(p_ids bigint[], p_back integer[]) returns integer[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_row record;
  v_queues integer[] := '{}';
begin
  for v_row in
    select l.limit_id, l.tenant_id, l.queue_id, l.key, l.max_concurrency, l.in_use, l.is_claimable, l.opens_at, touched.back
    from (select id, sum(back)::integer as back from unnest(p_ids, p_back) as u (id, back) group by id) as touched
    join limits l on l.limit_id = touched.id
    order by l.key <> '', l.limit_id
    for update of l
  loop
    update limits l
    set in_use = l.in_use - v_row.back,
      is_claimable = l.key <> '' and l.opens_at is null
        and exists (select from ready r where r.key_id = l.limit_id)
        and l.in_use - v_row.back < coalesce(l.max_concurrency,
          (select (q.settings ->> 'key_max_concurrency')::integer from queues q where q.queue_id = l.queue_id), 2147483647)
    where l.limit_id = v_row.limit_id;
    -- Room under a tenant's limit is room in any of its queues.
    v_queues := v_queues || case v_row.queue_id when 0 then array(
      select q.queue_id from queues q where q.tenant_id = v_row.tenant_id and q.deleted_at is null limit 100)
      else array[v_row.queue_id] end;
  end loop;
  return v_queues;
end
$$;

-- A queue got its first limit: the leases made before it are counted once nobody can be making more of them, which a claim
-- finds out (adopt_leases). Until then nothing of the queue is claimed. A change of limits holds the rows that claims hold
-- while they read them, so that no claim goes by the old ones once the change has been committed.
create or replace function taskforge.open_limits() returns trigger
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_keys bigint[];
begin
  if new.is_limited and (tg_op = 'INSERT' or not old.is_limited) then
    insert into limits (tenant_id, queue_id, adopts_after, adopts_at)
    values (new.tenant_id, new.queue_id, case tg_op when 'UPDATE' then 0 end, case tg_op when 'UPDATE' then now() end)
    on conflict (tenant_id, queue_id, key) do update
      set adopts_after = excluded.adopts_after, adopts_at = excluded.adopts_at;
  elsif tg_op = 'UPDATE' and old.settings is distinct from new.settings then
    perform from limits where queue_id = new.queue_id and key = '' for update;
  end if;
  if tg_op = 'UPDATE' and (
    old.settings -> 'key_max_concurrency' is distinct from new.settings -> 'key_max_concurrency'
    or old.settings -> 'key_rate_limits' is distinct from new.settings -> 'key_rate_limits')
  then
    -- Keys that had no room look again; claims do the same for those that are claimable.
    v_keys := array(
      select limit_id from limits where queue_id = new.queue_id and tenant_id = new.tenant_id and key <> ''
        and not is_claimable and (in_use > 0 or opens_at is not null)
      order by limit_id for update);
    update limits set opens_at = null where limit_id = any (v_keys) and opens_at is not null;
    perform touch_limits(v_keys, array_fill(0, array[cardinality(v_keys)])) where cardinality(v_keys) > 0;
  end if;
  return null;
end
$$;

drop trigger if exists open_limits on queues;
create trigger open_limits after insert or update of settings on queues for each row execute function open_limits();

-- Count the leases that were made before the row counted. False while a claim that does not know of the row may still make
-- one; a claim lives for half a minute at most. The caller holds the row's lock.
-- As with floors it takes two looks. A claim draws its xid before it looks for limits, so one that missed the row is older
-- than an xid drawn after the row was committed: the first to see the row (adopts_after 0) draws one, the others wait until
-- it is the oldest. The xid of whoever set the limit would not do: a claim may be younger and yet have looked too early.
create or replace function taskforge.adopt_leases(p_limit limits) returns boolean
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
declare
  v_fences bigint[];
begin
  if p_limit.adopts_after = 0 then
    update limits set adopts_after = pg_current_xact_id()::text::bigint where limit_id = p_limit.limit_id;
    return false;
  end if;
  if pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= p_limit.adopts_after
    and now() < p_limit.adopts_at + interval '60 seconds'
  then
    return false;
  end if;
  select array_agg(fence) into v_fences from leases
  where tenant_id = p_limit.tenant_id and (p_limit.queue_id = 0 or queue_id = p_limit.queue_id)
    and not coalesce(p_limit.limit_id = any (limit_ids), false);
  -- Not waited for: who ends a lease right now will want our row.
  if exists (
    select from unnest(v_fences) as fence
    where fence not in (select l.fence from leases l where l.fence = any (v_fences) order by l.fence for update skip locked))
  then
    return false;
  end if;
  update leases set limit_ids = limit_ids || p_limit.limit_id where fence = any (v_fences);
  update limits set adopts_after = null, adopts_at = null,
    in_use = (select coalesce(sum(upper(r) - lower(r)), 0) from leases cross join lateral unnest(ranges) as r
      where p_limit.limit_id = any (limit_ids))
  where limit_id = p_limit.limit_id;
  return true;
end
$$;

-- Set what a tenant may run at the same time; null for no limit.
create or replace function taskforge.limit_tenant(p_tenant uuid, p_max integer) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into limits (tenant_id, max_concurrency, adopts_after, adopts_at)
  values (p_tenant, p_max, 0, now())
  on conflict (tenant_id, queue_id, key) do update set max_concurrency = excluded.max_concurrency,
    adopts_after = case when limits.max_concurrency is null then excluded.adopts_after end,
    adopts_at = case when limits.max_concurrency is null then excluded.adopts_at end;
$$;

-- The proof in production: rows whose count is not that of their leases. Must be 0, always.
create or replace function taskforge.count_limit_drift() returns bigint
language sql security definer
set search_path = taskforge, pg_temp
as $$
  select count(*) from (
    select id as limit_id, sum(upper(r) - lower(r)) as held
    from leases cross join lateral unnest(leases.limit_ids) as id cross join lateral unnest(leases.ranges) as r
    group by id) as counted
  full join (select limit_id, in_use, adopts_after from limits where in_use <> 0) as noted using (limit_id)
  where coalesce(counted.held, 0) <> coalesce(noted.in_use, 0) and noted.adopts_after is null;
$$;

-- Keys and queues whose rate window has opened: claimable again. Returns their queues, to be woken.
create or replace function taskforge.open_windows() returns integer[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ids bigint[];
begin
  select array_agg(limit_id) into v_ids from (
    select limit_id from limits where opens_at <= now() order by opens_at limit 1000) as due;
  if v_ids is null then
    return '{}';
  end if;
  update limits set opens_at = null where limit_id in (
    select limit_id from limits where limit_id = any (v_ids) and opens_at <= now()
    order by key <> '', limit_id for update);
  return touch_limits(v_ids, array_fill(0, array[cardinality(v_ids)]));
end
$$;

-- Set a key of a queue apart; it is made if no job has used it yet. It counts at the next claim.
create or replace function taskforge.set_key(p_tenant uuid, p_queue integer, p_key text, p_weight real, p_max integer)
returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_ids bigint[] := ensure_keys(array[p_tenant], array[p_queue], array[p_key]);
begin
  update limits set weight = p_weight, max_concurrency = p_max, deficit = least(deficit, p_weight)
  where limit_id = v_ids[1];
  perform touch_limits(v_ids, '{0}');
end
$$;

-- The share of a tenant of workers that serve several.
create or replace function taskforge.weigh_tenant(p_tenant uuid, p_weight real) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into limits (tenant_id, weight) values (p_tenant, p_weight)
  on conflict (tenant_id, queue_id, key) do update set weight = excluded.weight, deficit = 0;
$$;
