-- Groups of jobs: batches and workflows. Members are followups of kind 2. All that changes a group does so under its row's
-- lock, groups in the order of their ids; so the last end is known to be the last, and each callback goes off once.

-- RFC 3339, UTC, microseconds.
create or replace function taskforge.iso(p_at timestamptz) returns text
language sql stable
set search_path = taskforge, pg_temp
as $$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
$$;

-- The one word for where a group is. Members that failed outweigh those that were cancelled.
create or replace function taskforge.group_state(g taskforge.groups) returns text
language sql immutable
set search_path = taskforge, pg_temp
as $$
  select case
    when g.ended_at is null then case when g.sealed_at is null then 'open' else 'running' end
    when g.failed > 0 then 'failed'
    when g.cancelled > 0 or (g.total = 0 and g.cancel_requested_at is not null) then 'cancelled'
    else 'succeeded' end;
$$;

-- What callbacks are told about a group.
create or replace function taskforge.group_data(g taskforge.groups) returns jsonb
language sql stable
set search_path = taskforge, pg_temp
as $$
  select jsonb_build_object(
    'id', g.id::text, 'name', g.name, 'state', taskforge.group_state(g), 'total', g.total, 'succeeded', g.succeeded,
    'failed', g.failed, 'cancelled', g.cancelled, 'created_at', taskforge.iso(g.created_at),
    'sealed_at', taskforge.iso(g.sealed_at), 'ended_at', taskforge.iso(g.ended_at));
$$;

-- Locks the groups that new members are about to join, before anything else is locked or written, and says of each whether
-- that may be: 'ok', 'not_found', 'sealed', or 'received' when a numbered piece is not the next one. p_from: how many items
-- must have been received before; null for members that bear no numbers.
create or replace function taskforge.enter_groups(p_tenant uuid[], p_group bigint[], p_from bigint[])
returns table (ordinal integer, answer text, received bigint)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
declare
  v record;
  g groups;
begin
  for v in
    select u.tenant, u.id, u.before, u.place from unnest(p_tenant, p_group, p_from) with ordinality as u (tenant, id, before, place)
    order by u.id, u.place
  loop
    ordinal := v.place;
    select * into g from groups where id = v.id and tenant_id = v.tenant and kind = 1 for update;
    received := g.received;
    answer := case
      when g.id is null then 'not_found'
      when v.before is not null and v.before <> g.received then 'received'
      when g.sealed_at is not null then 'sealed'
      else 'ok' end;
    return next;
  end loop;
end
$$;

-- Members have joined: counted, and the items of their piece settled. The caller holds the locks of enter_groups.
create or replace function taskforge.join_groups(p_group bigint[], p_count bigint[], p_received bigint[]) returns void
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  update groups g set total = total + u.n, received = coalesce(u.received, g.received)
  from unnest(p_group, p_count, p_received) as u (id, n, received) where g.id = u.id;
$$;

-- Count ended members; called from follow_up. A job may be of several groups.
create or replace function taskforge.count_groups(p_ids bigint[], p_states smallint[]) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v record;
begin
  for v in select * from group_shares(p_ids, p_states) loop
    update groups g set succeeded = g.succeeded + v.succeeded, failed = g.failed + v.failed,
      cancelled = g.cancelled + v.cancelled,
      ended_at = case when g.sealed_at is not null
        and g.succeeded + g.failed + g.cancelled + v.succeeded + v.failed + v.cancelled >= g.total then clock_timestamp() end
    where g.id = v.id;
    perform fire_callbacks(v.id);
  end loop;
end
$$;

-- The other way: these members run again, and so does their group. What has gone off stays so.
create or replace function taskforge.uncount_groups(p_ids bigint[], p_states smallint[]) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v record;
begin
  for v in select * from group_shares(p_ids, p_states) loop
    update groups g set succeeded = g.succeeded - v.succeeded, failed = g.failed - v.failed,
      cancelled = g.cancelled - v.cancelled, ended_at = null
    where g.id = v.id;
  end loop;
end
$$;

-- How many of these jobs are of which group, by state; groups by id.
create or replace function taskforge.group_shares(p_ids bigint[], p_states smallint[])
returns table (id bigint, succeeded bigint, failed bigint, cancelled bigint)
language sql stable security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select m.target, count(*) filter (where m.state = 1), count(*) filter (where m.state = 2),
    count(*) filter (where m.state = 3)
  from (
    select f.target, u.state from unnest(p_ids, p_states) as u (id, state)
    join followups f on f.lo = u.id and f.kind = 2
    union all
    select f.target, u.state from unnest(p_ids, p_states) as u (id, state)
    join followups f on f.hi > f.lo and f.lo > u.id - 1000 and f.lo < u.id and f.hi >= u.id and f.kind = 2
  ) as m
  group by m.target order by m.target;
$$;

-- Set off what is due and has not gone off yet. The caller has locked the group by changing it.
create or replace function taskforge.fire_callbacks(p_id bigint) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
as $$
declare
  g groups;
  v_name text;
begin
  select * into g from groups where id = p_id;
  if g.id is null or g.callbacks = '{}' then
    return;
  end if;
  foreach v_name in array array['on_failure', 'on_success', 'on_complete'] loop
    if g.callbacks ? v_name and not g.fired ? v_name and (case v_name
      when 'on_failure' then g.failed > 0
      when 'on_success' then group_state(g) = 'succeeded'
      else g.ended_at is not null end)
    then
      update groups set fired = fired || jsonb_build_object(v_name, fire_callback(g, v_name)) where id = p_id;
    end if;
  end loop;
end
$$;

-- Insert the callback's job, queue its webhook; what was made. Its queue may be gone by now: that must not keep the last
-- member from ending, so it is only noted.
create or replace function taskforge.fire_callback(g taskforge.groups, p_name text) returns jsonb
language plpgsql security invoker
set search_path = taskforge, pg_temp
as $$
declare
  v_callback jsonb := g.callbacks -> p_name;
  v_draft jsonb := v_callback -> 'job';
  v_made jsonb := jsonb_build_object('at', iso(clock_timestamp()));
begin
  if v_draft is not null then
    if v_callback ->> 'batch_as' is not null then
      v_draft := jsonb_set(
        v_draft, array['payload'],
        coalesce(v_draft -> 'payload', '{}') || jsonb_build_object(v_callback ->> 'batch_as', group_data(g)));
    end if;
    if exists (select from queues where tenant_id = g.tenant_id and name = v_draft ->> 'queue_name' and deleted_at is null)
    then
      v_made := v_made || jsonb_build_object(
        'job_id', (select id::text from enqueue(g.tenant_id, jsonb_build_array(v_draft)) as id));
    else
      v_made := v_made || jsonb_build_object('error', format('queue "%s" does not exist any more', v_draft ->> 'queue_name'));
    end if;
  end if;
  if v_callback -> 'webhook' is not null then
    v_made := v_made || jsonb_build_object('delivery_id', queue_delivery(
      g.tenant_id, v_callback -> 'webhook' ->> 'url', 'batch.' || substr(p_name, 4), 2::smallint, g.id, group_data(g))::text);
  end if;
  return v_made;
end
$$;

-- The set is complete: no job joins any more. Returns false when there is no such group, or it was sealed before.
create or replace function taskforge.seal_group(p_tenant uuid, p_id bigint) returns boolean
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
begin
  update groups set sealed_at = clock_timestamp(),
    ended_at = case when succeeded + failed + cancelled >= total then clock_timestamp() end
  where id = p_id and tenant_id = p_tenant and sealed_at is null;
  if not found then
    return false;
  end if;
  perform fire_callbacks(p_id);
  return true;
end
$$;

-- Somebody wants the group's members cancelled: sealed from now on, its members follow in cancel_members.
create or replace function taskforge.ask_to_cancel_group(p_tenant uuid, p_id bigint, p_actor text) returns text
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
begin
  update groups set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
    cancel_requested_by = coalesce(cancel_requested_by, p_actor), cancelled_up_to = 0,
    sealed_at = coalesce(sealed_at, clock_timestamp()),
    ended_at = case when succeeded + failed + cancelled >= total then clock_timestamp() end
  where id = p_id and tenant_id = p_tenant and ended_at is null;
  if found then
    perform fire_callbacks(p_id);
    return 'asked';
  end if;
  return case when exists (select from groups where id = p_id and tenant_id = p_tenant) then 'ended' else 'not_found' end;
end
$$;

-- One step: cancel the next run of members, at most 1,000, of a group that is to be cancelled; of p_group, or of any.
-- Waiting ones end at once, running ones are told to stop. Returns false when there was nothing to do; is_done when the
-- group's last run was looked at. A run whose jobs change hands all the time is left for another step.
-- Lock order: that of cancel, many at a time: parked, extents by lo, leases by fence, cancellations, groups.
create or replace function taskforge.cancel_members(p_group bigint)
returns table (did boolean, told integer)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  g groups;
  v_lo bigint;
  v_hi bigint;
  v_ended bigint[] := '{}';
  v_some bigint[];
  v_left bigint;
  v_extent ready;
  v_lease leases;
  v_rows integer;
begin
  did := false;
  told := 0;
  select * into g from groups
  where cancel_requested_at is not null and cancelled_up_to < 9223372036854775807 and (p_group is null or id = p_group)
  order by id limit 1;
  if not found then
    return next;
    return;
  end if;
  did := true;
  select f.lo, f.hi into v_lo, v_hi from followups f
  where f.kind = 2 and f.target = g.id and f.lo > g.cancelled_up_to order by f.lo limit 1;
  if not found then
    update groups set cancelled_up_to = 9223372036854775807 where id = g.id;
    return next;
    return;
  end if;
  perform pg_current_xact_id();
  for round in 1 .. 5 loop
    with gone as (
      delete from parked where id in (
        select id from parked where id between v_lo and v_hi and tenant_id = g.tenant_id order by id for update)
      returning *
    ), ended as (
      insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
      select id, tenant_id, queue_id, 3, attempt - 1, now() from gone
    ), counted as (
      insert into flow (tenant_id, queue_id, scheduled, retrying, blocked, cancelled)
      select g.tenant_id, queue_id, -count(*) filter (where kind = 1), -count(*) filter (where kind = 2),
        -count(*) filter (where kind = 3), count(*)
      from gone group by queue_id
    )
    select array_agg(id) into v_some from gone;
    v_ended := v_ended || coalesce(v_some, '{}');

    for v_extent in
      select * from ready where lo > v_lo - 1000 and lo <= v_hi and hi >= v_lo and tenant_id = g.tenant_id
      order by lo for update
    loop
      delete from ready where queue_id = v_extent.queue_id and priority = v_extent.priority
        and stream = v_extent.stream and seq = v_extent.seq;
      insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, ready_at, key_id)
      select v_extent.queue_id, v_extent.priority, case when v_extent.key_id is null then 0 else 2 end, g.tenant_id,
        v_extent.attempt, lo, hi, v_extent.ready_at, v_extent.key_id
      from (values (v_extent.lo, v_lo - 1), (v_hi + 1, v_extent.hi)) as rest (lo, hi) where lo <= hi;
      v_some := array(select generate_series(greatest(v_lo, v_extent.lo), least(v_hi, v_extent.hi)));
      insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
      select id, g.tenant_id, v_extent.queue_id, 3, v_extent.attempt - 1, now() from unnest(v_some) as id;
      insert into flow (tenant_id, queue_id, priority, ready, cancelled)
      values (g.tenant_id, v_extent.queue_id, v_extent.priority, -cardinality(v_some), cardinality(v_some));
      v_ended := v_ended || v_some;
    end loop;

    for v_lease in
      select * from leases
      where tenant_id = g.tenant_id and ranges && int8multirange(int8range(v_lo, v_hi, '[]')) order by fence for update
    loop
      insert into cancellations (job_id, tenant_id, requested_by)
      select id, g.tenant_id, coalesce(g.cancel_requested_by, '')
      from unnest(v_lease.ranges * int8multirange(int8range(v_lo, v_hi, '[]'))) as r,
        generate_series(lower(r), upper(r) - 1) as id
      on conflict do nothing;
      get diagnostics v_rows = row_count;
      told := told + v_rows;
    end loop;

    select count(*) into v_left from jobs j
    where j.id between v_lo and v_hi and j.tenant_id = g.tenant_id
      and not exists (select from outcomes o where o.id = j.id)
      and not exists (select from cancellations c where c.job_id = j.id);
    exit when v_left = 0;
  end loop;
  if cardinality(v_ended) > 0 then
    perform follow_up(v_ended, array_fill(3::smallint, array[cardinality(v_ended)]));
  end if;
  if v_left = 0 then
    update groups set cancelled_up_to = v_hi where id = g.id;
  end if;
  return next;
end
$$;

-- Groups that ended long ago, and their memberships, a bounded number at a time.
create or replace function taskforge.sweep_groups(p_keep interval, p_limit integer) returns integer
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
declare
  v_ids bigint[];
  v_rows integer;
begin
  select array_agg(id) into v_ids from (
    select id from groups where ended_at < now() - p_keep order by ended_at limit 100 for update skip locked) as old;
  if v_ids is null then
    return 0;
  end if;
  delete from followups where (lo, kind, target) in (
    select lo, kind, target from followups where kind = 2 and target = any (v_ids) limit p_limit);
  get diagnostics v_rows = row_count;
  delete from groups g where g.id = any (v_ids)
    and not exists (select from followups f where f.kind = 2 and f.target = g.id);
  return v_rows;
end
$$;
