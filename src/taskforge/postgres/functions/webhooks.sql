-- The outbox of webhooks: filled in the transaction that ends a job, emptied by whoever sends.

create or replace function taskforge.queue_delivery(
  p_tenant uuid, p_url text, p_event text, p_kind smallint, p_subject bigint, p_data jsonb
) returns bigint
language sql security invoker
set search_path = taskforge, pg_temp
as $$
  insert into deliveries (tenant_id, url, origin, event, subject_kind, subject, data)
  values (p_tenant, p_url, lower(substring(p_url from '^[^:]+://[^/?#]+')), p_event, p_kind, p_subject, p_data)
  returning id;
$$;

-- Tell of ended jobs whom they or their queues name. What is said is fixed here: the job may run again before it is sent.
-- A URL named by both is told once.
create or replace function taskforge.queue_webhooks(p_ids bigint[], p_states smallint[]) returns void
language sql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  with ended as (
    select u.id, (array['succeeded', 'failed', 'cancelled'])[u.state] as state
    from unnest(p_ids, p_states) as u (id, state)
  ), hooks as (
    select e.id, e.state, j.options -> 'terms' -> 'webhook' as hook
    from ended e join jobs j on j.id = e.id
    where exists (select from followups f where f.lo = e.id and f.kind = 4)
      or exists (select from followups f
        where f.hi > f.lo and f.lo > e.id - 1000 and f.lo < e.id and f.hi >= e.id and f.kind = 4)
    union all
    select e.id, e.state, q.hook from ended e join outcomes o on o.id = e.id join queue_hooks q on q.queue_id = o.queue_id
  ), wanted as (
    select distinct on (id, hook ->> 'url') id, state, hook ->> 'url' as url,
      coalesce((hook ->> 'include_result')::boolean, false) as include_result
    from hooks
    where jsonb_typeof(hook) = 'object' and coalesce(hook -> 'events' ? state, true)
    order by id, hook ->> 'url', 4 desc
  )
  insert into deliveries (tenant_id, url, origin, event, subject_kind, subject, data, result)
  select j.tenant_id, w.url, lower(substring(w.url from '^[^:]+://[^/?#]+')), 'job.' || w.state, 1, j.id,
    jsonb_build_object(
      'id', j.id::text, 'queue_name', q.name, 'job_type', j.job_type, 'state', w.state, 'priority', j.priority,
      'tags', coalesce(j.options -> 'tags', '[]'), 'attempt', o.attempt,
      'submitted_at', iso(j.submitted_at), 'started_at', iso(o.started_at), 'finished_at', iso(o.finished_at),
      'error', case when a.error_class is not null
        then jsonb_build_object('error_class', a.error_class, 'message', left(a.message, 2000)) end),
    case when w.include_result and octet_length(o.result) <= 16384 then o.result end
  from wanted w
  join jobs j on j.id = w.id
  join outcomes o on o.id = w.id
  join queues q on q.queue_id = j.queue_id
  left join attempts a on a.job_id = j.id and a.fence = o.fence and w.state <> 'succeeded'
  order by j.id;
$$;

-- Take deliveries that are due, of each tenant at most as many as keep its share of what is under way within p_per_tenant;
-- tenants from a random one on, so that none is always last. Taken means: nobody else tries until p_lease is over.
-- An endpoint that fails all the time is asked by one delivery at a time; its others wait until it may be asked again, and
-- are given up when they have waited p_patience. Index: deliveries_due; rows locked by others are skipped.
drop function if exists taskforge.claim_deliveries(integer, integer, uuid[], integer[], interval, interval);

create or replace function taskforge.claim_deliveries(
  p_limit integer, p_per_tenant integer, p_tenants uuid[], p_under_way integer[], p_lease interval, p_patience interval
) returns table (
  id bigint, tenant_id uuid, url text, event text, created_at timestamptz, since timestamptz, data text, result bytea, attempts smallint, keys bytea[]
)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_start uuid := gen_random_uuid();
  v_tenant uuid := v_start;
  v_is_wrapped boolean := false;
  v_room integer;
  v_left integer := p_limit;
  v_row deliveries;
  v_endpoint webhook_endpoints;
begin
  while v_left > 0 loop
    select d.tenant_id into v_tenant from deliveries d
    where d.state = 1 and d.tenant_id > v_tenant order by d.tenant_id limit 1;
    if not found then
      exit when v_is_wrapped;
      v_is_wrapped := true;
      v_tenant := '00000000-0000-0000-0000-000000000000';
      continue;
    end if;
    exit when v_is_wrapped and v_tenant > v_start;
    v_room := least(v_left, p_per_tenant - coalesce(
      (select n from unnest(p_tenants, p_under_way) as u (t, n) where u.t = v_tenant), 0));
    continue when v_room <= 0;
    keys := array(
      select k.key from webhook_secrets s join webhook_keys k on k.id = s.id
      where s.tenant_id = v_tenant and s.retired_at is null order by s.id desc);
    for v_row in
      select * from deliveries d where d.state = 1 and d.tenant_id = v_tenant and d.due_at <= now()
      order by d.due_at, d.id limit 200 for update skip locked
    loop
      select * into v_endpoint from webhook_endpoints e
      where e.tenant_id = v_row.tenant_id and e.origin = v_row.origin and e.failures >= 5 for update;
      if found and v_endpoint.retry_at > now() then
        update deliveries d set due_at = v_endpoint.retry_at + random() * interval '1 s',
          state = case when coalesce(d.finished_at, d.created_at) < now() - p_patience then 3 else 1 end,
          finished_at = case when coalesce(d.finished_at, d.created_at) < now() - p_patience then now() else d.finished_at end,
          last_error = coalesce(d.last_error, 'endpoint.slowed_down')
        where d.id = v_row.id;
        continue;
      elsif found then
        update webhook_endpoints e set retry_at = now() + p_lease
        where e.tenant_id = v_row.tenant_id and e.origin = v_row.origin;
      end if;
      update deliveries d set due_at = now() + p_lease, attempts = d.attempts + 1, last_attempt_at = now()
      where d.id = v_row.id;
      id := v_row.id;
      tenant_id := v_row.tenant_id;
      url := v_row.url;
      event := v_row.event;
      created_at := v_row.created_at;
      since := coalesce(v_row.finished_at, v_row.created_at);
      data := v_row.data::text;
      result := v_row.result;
      attempts := v_row.attempts + 1;
      return next;
      v_room := v_room - 1;
      v_left := v_left - 1;
      exit when v_room <= 0;
    end loop;
  end loop;
end
$$;

-- What became of an attempt; of one that is no longer the newest nothing is written. p_retry_in null: not again.
-- p_blames: the endpoint itself did not answer well. From the fifth failure in a row on it is asked ever more seldom.
create or replace function taskforge.settle_delivery(
  p_id bigint, p_attempt smallint, p_is_delivered boolean, p_status smallint, p_error text,
  p_retry_in double precision, p_blames boolean
) returns boolean
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  d deliveries;
begin
  update deliveries set
    state = case when p_is_delivered then 2 when p_retry_in is null then 3 else 1 end,
    due_at = case when p_is_delivered or p_retry_in is null then due_at else now() + make_interval(secs => p_retry_in) end,
    finished_at = case when p_is_delivered or p_retry_in is null then now() else finished_at end,
    last_status = p_status, last_error = p_error
  where id = p_id and state = 1 and attempts = p_attempt
  returning * into d;
  if not found then
    return false;
  end if;
  if p_is_delivered then
    delete from webhook_endpoints where tenant_id = d.tenant_id and origin = d.origin;
    if found then
      update deliveries set due_at = now() where id in (
        select w.id from deliveries w
        where w.state = 1 and w.tenant_id = d.tenant_id and w.origin = d.origin and w.attempts = 0 and w.due_at > now()
        order by w.due_at limit 10000 for update skip locked);
    end if;
  elsif p_blames then
    insert into webhook_endpoints as e (tenant_id, origin, failures, retry_at) values (d.tenant_id, d.origin, 1, now())
    on conflict (tenant_id, origin) do update set failures = e.failures + 1,
      retry_at = now() + least(interval '15 min', interval '5 s' * 2 ^ greatest(0, least(e.failures - 4, 20)));
  end if;
  return true;
end
$$;

-- Deliveries that were settled long ago, and what hangs on jobs that are gone, a bounded number at a time.
create or replace function taskforge.sweep_webhooks(p_keep interval, p_limit integer) returns integer
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
declare
  v_rows integer;
  v_total integer;
begin
  delete from deliveries where id in (
    select id from deliveries where state <> 1 and finished_at < now() - p_keep order by finished_at limit p_limit);
  get diagnostics v_total = row_count;
  delete from webhook_endpoints where retry_at < now() - interval '7 days';
  delete from followups where (lo, kind, target) in (
    select f.lo, f.kind, f.target from (select * from followups where kind = 4 order by lo limit p_limit) as f
    where not exists (select from jobs j where j.id between f.lo and f.hi));
  get diagnostics v_rows = row_count;
  return v_total + v_rows;
end
$$;
