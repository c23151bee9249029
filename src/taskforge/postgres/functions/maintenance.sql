-- Due parked jobs become extents. Oldest first, bounded, safe to call from several processes at once.
-- Index: parked_due, read from the parked floor up, or from where the call before has come to (its last_at and last_id):
-- under a held snapshot the entries of what was promoted stay in the index, and each call would read them all again.
drop function if exists taskforge.promote(integer);

create or replace function taskforge.promote(p_limit integer, p_after timestamptz default null, p_after_id bigint default 0)
returns table (promoted integer, queues integer[], last_at timestamptz, last_id bigint)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
-- Read in the order of parked_due: sorting all that is due for every thousand would be quadratic.
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_times timestamptz[];
  v_tenants uuid[];
  v_queues integer[];
  v_priorities smallint[];
  v_attempts smallint[];
  v_kinds smallint[];
  v_keys bigint[];
begin
  with due as (
    select run_at, id from parked
    where (run_at, id) > (
      coalesce(p_after, (select to_timestamp(floor / 1e6) from floors where name = 'parked')), p_after_id)
      and run_at <= now()
    order by run_at, id limit p_limit
    for update skip locked
  ), gone as (
    delete from parked where id in (select id from due) returning *
  )
  select array_agg(id), array_agg(run_at), array_agg(tenant_id), array_agg(queue_id), array_agg(priority),
    array_agg(attempt), array_agg(kind), array_agg(key_id)
  into v_ids, v_times, v_tenants, v_queues, v_priorities, v_attempts, v_kinds, v_keys from gone;
  promoted := coalesce(cardinality(v_ids), 0);
  if promoted > 0 then
    if 0 = any (v_keys) then
      v_keys := find_keys(v_ids, v_tenants, v_queues, v_keys);  -- here, so that all keys are touched in one order
    end if;
    perform taskforge.give_back(v_ids, v_tenants, v_queues, v_priorities, v_attempts, v_keys);
    insert into flow (tenant_id, queue_id, priority, ready, scheduled, retrying)
    select t, q, p, count(*), -count(*) filter (where k = 1), -count(*) filter (where k = 2)
    from unnest(v_tenants, v_queues, v_priorities, v_kinds) as u (t, q, p, k) group by t, q, p;
    queues := array(select distinct unnest(v_queues));
    select t, i into last_at, last_id from unnest(v_times, v_ids) as u (t, i) order by t desc, i desc limit 1;
    v_keys := array_remove(v_keys, null);
    if cardinality(v_keys) > 0 then
      perform taskforge.touch_limits(v_keys, array_fill(0, array[cardinality(v_keys)]));
    end if;
  end if;
  return next;
end
$$;

-- What there is to do, in one round trip. next_ready and next_flow are the sequence values to be given out next;
-- next_enqueue likewise, 0 while taskforge.enqueue() has never been called.
drop function if exists taskforge.survey();

create or replace function taskforge.survey()
returns table (
  next_due_in double precision, next_ready bigint, next_flow bigint, next_id bigint, next_enqueue bigint, expired integer,
  flow_floor bigint, duties text[], duties_due_in double precision[])
language sql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
  select
    extract(epoch from (
      select run_at from parked
      where run_at >= (select to_timestamp(floor / 1e6) from floors where name = 'parked') and run_at < 'infinity'
      order by run_at limit 1) - now()),
    (select last_value + is_called::int from ready_seq),
    (select last_value + is_called::int from flow_seq),
    (select last_value from job_ids),
    (select case when is_called then last_value + 1 else 0 end from enqueue_ids),
    (select count(*)::int from workers where state <> 3 and expires_at < now()),
    (select floor from floors where name = 'flow'),
    duties.names, duties.due_in
  from (select coalesce(array_agg(duty), '{}') as names, coalesce(array_agg(due_in), '{}') as due_in
    from taskforge.agenda()) as duties;
$$;

-- The floor rule, first look (decision 0002): the next values to be given out, then an xid of our own.
create or replace function taskforge.look(
  out next_ready bigint, out next_flow bigint, out due_us bigint, out xid bigint)
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
begin
  select last_value + is_called::int into next_ready from ready_seq;
  select last_value + is_called::int into next_flow from flow_seq;
  due_us := floor(extract(epoch from clock_timestamp()) * 1e6);
  xid := pg_current_xact_id()::text::bigint;
end
$$;

-- Second look: once everybody who may have drawn a value below the first look's has ended, raise each floor to the lowest
-- live value, or to what the first look saw. Returns false while somebody of that time is still at work.
-- Only lanes that changed since flow id p_since are looked at, and a floor moves only when it gains something: rows that
-- are few and often updated would themselves pile up under a held snapshot.
create or replace function taskforge.raise_floors(p_next_ready bigint, p_since bigint, p_due_us bigint, p_xid bigint)
returns boolean
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_lane record;
  v_returned bigint;
  v_fresh bigint;
begin
  if pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= p_xid then
    return false;
  end if;
  for v_lane in
    select * from lanes where (queue_id, priority) in (
      select distinct f.queue_id, f.priority from flow f where f.id >= p_since)
    order by queue_id, priority
  loop
    v_returned := taskforge.lowest_live(v_lane.queue_id, v_lane.priority, 0::smallint, v_lane.returned_floor, p_next_ready);
    v_fresh := taskforge.lowest_live(v_lane.queue_id, v_lane.priority, 1::smallint, v_lane.fresh_floor, p_next_ready);
    update lanes set returned_floor = v_returned, fresh_floor = v_fresh
    where queue_id = v_lane.queue_id and priority = v_lane.priority
      and (v_returned > returned_floor + 1000 or v_fresh > fresh_floor + 1000);
  end loop;
  update floors set floor = least(p_due_us, coalesce((
    select floor(extract(epoch from run_at) * 1e6)::bigint from parked
    where run_at >= to_timestamp(floors.floor / 1e6) and run_at < 'infinity' order by run_at limit 1), p_due_us))
  where name = 'parked' and floor < p_due_us - 10000000;
  return true;
end
$$;

create or replace function taskforge.lowest_live(
  p_queue integer, p_priority smallint, p_stream smallint, p_floor bigint, p_next bigint) returns bigint
language sql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  select greatest(p_floor, least(p_next, coalesce((
    select seq from ready
    where queue_id = p_queue and priority = p_priority and stream = p_stream and seq >= p_floor
    order by seq limit 1), p_next)));
$$;

-- The proof in production: extents below their floor. Must be 0, always.
create or replace function taskforge.count_below_floors() returns bigint
language sql security definer
set search_path = taskforge, pg_temp
as $$
  select count(*) from ready r join lanes l using (queue_id, priority)
  where r.stream < 2 and r.seq < case r.stream when 0 then l.returned_floor else l.fresh_floor end;
$$;

-- Fold counts older than p_age into queue_totals, and into the second in which they arose. p_next_flow and p_xid come from
-- look(): rows below were all committed. Returns the rows folded; 0 also while somebody of the look's time is at work.
create or replace function taskforge.roll_up(p_next_flow bigint, p_xid bigint, p_age interval) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_floor bigint;
  v_upto bigint;
  v_last bigint;
  v_rows integer;
begin
  if pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= p_xid then
    return 0;
  end if;
  select floor into v_floor from floors where name = 'flow' for update;
  -- Ids are drawn in the order of commits only roughly; the newest old row bounds the slice.
  select max(id) filter (where at < now() - p_age) + 1, max(id) into v_upto, v_last from (
    select id, at from flow where id >= v_floor and id < p_next_flow order by id limit 50000) as f;
  if v_last is null then
    -- What was drawn and never committed is gone: nothing may be left to do for an idle system.
    update floors set floor = p_next_flow where name = 'flow' and floor < p_next_flow;
  end if;
  if v_upto is null then
    return 0;
  end if;
  with gone as (
    delete from flow where id >= v_floor and id < v_upto returning *
  ), sums as (
    select tenant_id, queue_id, count(*) as n, sum(ready) as ready, sum(scheduled) as scheduled, sum(retrying) as retrying,
      sum(blocked) as blocked, sum(leased) as leased, sum(submitted) as submitted, sum(succeeded) as succeeded,
      sum(failed) as failed, sum(cancelled) as cancelled, sum(retried) as retried
    from gone group by tenant_id, queue_id
  ), merged as (
    insert into queue_totals as t (tenant_id, queue_id, ready, scheduled, retrying, blocked, leased, submitted,
      succeeded, failed, cancelled, retried)
    select tenant_id, queue_id, ready, scheduled, retrying, blocked, leased, submitted, succeeded, failed, cancelled,
      retried from sums
    on conflict (tenant_id, queue_id) do update set
      ready = t.ready + excluded.ready, scheduled = t.scheduled + excluded.scheduled,
      retrying = t.retrying + excluded.retrying, blocked = t.blocked + excluded.blocked,
      leased = t.leased + excluded.leased, submitted = t.submitted + excluded.submitted,
      succeeded = t.succeeded + excluded.succeeded, failed = t.failed + excluded.failed,
      cancelled = t.cancelled + excluded.cancelled, retried = t.retried + excluded.retried
  ), happened as (
    -- Rates leave out what was taken back: an outcome that is undone did happen.
    select queue_id, floor(extract(epoch from at))::bigint as second, (array_agg(tenant_id))[1] as tenant_id,
      sum(submitted) as submitted, sum(greatest(leased, 0)) as started, sum(restarted) as restarted,
      sum(succeeded) as succeeded, sum(greatest(failed, 0)) as failed, sum(greatest(cancelled, 0)) as cancelled,
      coalesce(sum(retried) filter (where failed >= 0 and cancelled >= 0), 0) as retried
    from gone where at > now() - interval '15 min' group by 1, 2
  ), waited as (
    select queue_id, second, array_agg(part order by bucket, place) as waits
    from (
      select g.queue_id, floor(extract(epoch from g.at))::bigint as second, g.waits[i] as bucket,
        sum(g.waits[i + 1])::integer as jobs
      from gone g cross join lateral generate_series(1, cardinality(g.waits), 2) as i
      where g.waits is not null group by 1, 2, 3
    ) as pairs cross join lateral (values (1, bucket), (2, jobs)) as parts (place, part)
    group by queue_id, second
  ), seconds as (
    insert into queue_seconds as s (queue_id, second, tenant_id, submitted, started, restarted, succeeded, failed,
      cancelled, retried, waits)
    select h.queue_id, h.second, h.tenant_id, h.submitted, h.started, h.restarted, h.succeeded, h.failed, h.cancelled,
      h.retried, w.waits
    from happened h left join waited w using (queue_id, second)
    where h.submitted + h.started + h.succeeded + h.failed + h.cancelled + h.retried > 0
    on conflict (queue_id, second) do update set
      submitted = s.submitted + excluded.submitted, started = s.started + excluded.started,
      restarted = s.restarted + excluded.restarted, succeeded = s.succeeded + excluded.succeeded,
      failed = s.failed + excluded.failed, cancelled = s.cancelled + excluded.cancelled,
      retried = s.retried + excluded.retried, waits = s.waits || excluded.waits
  )
  select coalesce(sum(n), 0) into v_rows from sums;
  update floors set floor = v_upto where name = 'flow';
  return v_rows;
end
$$;

-- Seconds that nobody asks for any more. The floor keeps the next call from walking over what this one deleted.
-- Index: queue_seconds_old, from the floor.
create or replace function taskforge.forget_seconds() returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_upto bigint := floor(extract(epoch from now() - interval '15 min'));
  v_rows integer;
begin
  delete from queue_seconds
  where second >= (select floor from floors where name = 'seconds') and second < v_upto;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    update floors set floor = v_upto where name = 'seconds';
  end if;
  return v_rows;
end
$$;
