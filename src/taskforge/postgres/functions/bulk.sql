-- One verb for many jobs, a piece at a time. Run by the app role under row-level security.

-- Do it to these jobs, in the order of their ids; a row for each. 'done' is success; anything else says why the job was
-- left as it is. ready_in is the queue whose workers have something new.
-- Lock order: that of the verb, job after job. A piece of many can therefore meet whoever takes the same locks in another
-- order (a finish whose follow-up waits for a parked child); it gives up first, before anybody looks for a deadlock, and is
-- tried again in smaller pieces, the smallest of which is the verb itself.
create or replace function taskforge.apply_bulk(
  p_tenant uuid, p_operation bigint, p_actor text, p_verb text, p_ids bigint[], p_queue integer, p_priority smallint,
  p_run_at timestamptz, p_delay double precision
) returns table (job_id bigint, verdict text, ready_in integer)
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_queue record;
  v_done bigint[];
  v_changed record;
begin
  if cardinality(p_ids) > 1 then
    set local lock_timeout = '300ms';
  end if;
  if p_verb in ('redrive', 'purge') then
    for v_queue in
      select o.queue_id, array_agg(o.id) as ids from outcomes o
      where o.id = any (p_ids) and o.tenant_id = p_tenant and o.state = 2
      group by o.queue_id order by o.queue_id
    loop
      begin
        if p_verb = 'redrive' then
          v_done := redrive(p_tenant, v_queue.queue_id, v_queue.ids, p_actor, cardinality(v_queue.ids), p_operation);
        else
          v_done := purge(p_tenant, v_queue.queue_id, v_queue.ids, p_actor, cardinality(v_queue.ids), p_operation);
        end if;
        return query select i, case when i = any (v_done) then 'done' when p_verb = 'redrive' then 'not_unique' else 'ended' end,
          case p_verb when 'redrive' then v_queue.queue_id end from unnest(v_queue.ids) as i;
      exception when sqlstate 'TF001' then
        return query select i, 'queue_gone', null::integer from unnest(v_queue.ids) as i;
      end;
    end loop;
    return;
  end if;

  foreach job_id in array p_ids loop
    ready_in := null;
    case p_verb
      when 'cancel' then
        verdict := cancel(p_tenant, job_id, p_actor, p_operation);
        if verdict = 'cancelled' then
          verdict := 'done';
        end if;
      when 'retry' then
        begin
          verdict := split_part(retry(p_tenant, job_id, p_actor, p_operation), ' ', 1);
          if verdict = 'retried' then
            verdict := 'done';
            ready_in := (select j.queue_id from jobs j where j.id = job_id and j.tenant_id = p_tenant);
          end if;
        exception when sqlstate 'TF001' then
          verdict := 'queue_gone';
        end;
      else
        select * into v_changed from change_job(
          p_tenant, job_id, p_actor, p_queue, p_priority, p_run_at, p_delay, null, null, p_operation);
        verdict := case v_changed.verdict when 'changed' then 'done' else v_changed.verdict end;
        ready_in := v_changed.ready_in;
    end case;
    return next;
  end loop;
end
$$;

-- Operations with something to do now, of all tenants, those that have waited longest first. Index: bulk_operations_due.
create or replace function taskforge.due_operations(p_limit integer)
returns table (tenant_id uuid, operation_id bigint)
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  select tenant_id, operation_id from bulk_operations
  where state <= 3 and next_at <= clock_timestamp() order by next_at limit p_limit;
$$;

-- Queues that keep their dead letters for a limited time, and since when. Index: queues_dead_letter_retention.
create or replace function taskforge.limited_dead_letters()
returns table (tenant_id uuid, queue_id integer, failed_before timestamptz)
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  select tenant_id, queue_id,
    now() - make_interval(secs => (settings ->> 'dead_letter_retention_seconds')::double precision)
  from queues
  where settings ? 'dead_letter_retention_seconds' and (settings ->> 'dead_letter_retention_seconds') is not null
    and deleted_at is null;
$$;

create or replace function taskforge.set_duty_time(p_duty text, p_in interval) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  update duty_times set due_at = clock_timestamp() + p_in where duty = p_duty;
$$;
