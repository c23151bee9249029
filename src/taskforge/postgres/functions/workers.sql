-- Registration and heartbeats. One row per process, renewed every quarter of its time to live.

drop function if exists taskforge.register(
  uuid, text, boolean, integer[], text[], integer, text, text, integer, interval);

create or replace function taskforge.register(
  p_tenant uuid, p_name text, p_is_server boolean, p_queues integer[], p_job_types text[], p_concurrency integer,
  p_version text, p_host text, p_pid integer, p_ttl interval, p_is_shared boolean
) returns bigint
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into workers (tenant_id, name, is_server, queues, job_types, concurrency, version, host, pid, expires_at,
    is_shared)
  values (p_tenant, p_name, p_is_server, p_queues, p_job_types, p_concurrency, p_version, p_host, p_pid, now() + p_ttl,
    p_is_shared)
  returning worker_id;
$$;

-- The queues of these names in every tenant: what a shared worker serves.
create or replace function taskforge.shared_queues(p_names text[]) returns integer[]
language sql stable security definer
set search_path = taskforge, pg_temp
as $$
  select array(select queue_id from queues where name = any (p_names) and deleted_at is null order by queue_id);
$$;

-- The same, and the registration says so from now on.
create or replace function taskforge.serve_shared(p_worker bigint, p_names text[]) returns integer[]
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_queues integer[] := shared_queues(p_names);
begin
  update workers set queues = v_queues where worker_id = p_worker and is_shared and queues is distinct from v_queues;
  return v_queues;
end
$$;

-- Renew a registration. No row back: it is gone, and so are its leases.
-- A late heartbeat still renews while nobody has reaped the worker: its leases are untouched, so no harm is done.
-- maintain: this process is the one that should run the maintenance loops now. A server comes before a worker, then the
-- oldest; one that has missed two beats is passed over, long before it counts as dead.
create or replace function taskforge.heartbeat(p_worker bigint, p_ttl interval)
returns table (cancel bigint[], drain boolean, maintain boolean)
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
begin
  update workers w set expires_at = now() + p_ttl where w.worker_id = p_worker and w.state <> 3
  returning w.state = 2 into drain;
  if not found then
    return;
  end if;
  if exists (select from cancellations) then
    select array_agg(c.job_id) into cancel
    from leases l join cancellations c on l.ranges @> c.job_id where l.worker_id = p_worker;
  end if;
  maintain := p_worker = (
    select w.worker_id from workers w where w.state <> 3 and w.expires_at > now() + p_ttl / 2
    order by w.is_server desc, w.worker_id limit 1);
  return next;
end
$$;

-- Declare a worker gone and hand its leases back. p_running: the jobs that were running when it died, if anybody knows;
-- null means unknown, and then all that it held counts as having run (a job must not run more often than its limit).
-- Lock order: the worker, then leases by fence. Returns how many jobs came back; 0 for a worker that was gone already.
create or replace function taskforge.bury(p_worker bigint, p_running bigint[]) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  update workers set state = 3 where worker_id = p_worker and state <> 3;
  if not found then
    return 0;
  end if;
  return take_back(p_worker, p_running);
end
$$;

-- A worker that leaves in order; whatever it still held is given back uncharged.
create or replace function taskforge.deregister(p_worker bigint) returns integer
language sql security definer
set search_path = taskforge, pg_temp
as $$
  select taskforge.bury(p_worker, '{}');
$$;

drop function if exists taskforge.take_back(bigint, bigint[]);

-- Take back every lease of a worker that is gone, or those it does not know of. A job that ran has spent its attempt: it comes back for the next one,
-- or is a dead letter after the last. One that was asked to be cancelled ends cancelled.
-- Each leaves a row in attempts, so that a second start is always explained.
create or replace function taskforge.take_back(
  p_worker bigint, p_running bigint[], p_above bigint default 0, p_known bigint[] default '{}'
) returns integer
language plpgsql security invoker
as $$
declare
  v_lease record;
  v_ids bigint[];
  v_attempts smallint[];
  v_back integer;
  v_dead integer;
  v_cancelled integer;
  v_returned integer := 0;
  v_ended bigint[];
  v_states smallint[];
  v_limits bigint[] := '{}';
  v_slots integer[] := '{}';
begin
  perform pg_current_xact_id();
  for v_lease in
    select * from leases where worker_id = p_worker and fence > p_above and fence <> all (p_known)
    order by fence for update
  loop
    delete from leases where fence = v_lease.fence;
    with held as materialized (
      select j.id, x.ran,
        x.ran and v_lease.attempt >= coalesce(j.max_attempts, q.max_attempts) as is_dead,
        exists (select from cancellations c where c.job_id = j.id) as is_cancelled
      from unnest(v_lease.ranges) as r
      cross join lateral (select * from jobs where id >= lower(r) and id < upper(r) order by id offset 0) as j
      join queues q on q.queue_id = j.queue_id
      cross join lateral (select p_running is null or j.id = any (p_running) as ran) as x
    ), recorded as (
      insert into attempts (job_id, fence, tenant_id, attempt, kind, error_class, message, fingerprint, worker_id)
      select id, v_lease.fence, v_lease.tenant_id, v_lease.attempt, case when ran then 2 else 3 end,
        'WorkerLost', 'the worker that held the job was lost', '0a54ee4cca6f3c05', p_worker
      from held
    ), ended as (
      insert into outcomes (id, tenant_id, queue_id, state, attempt, fence, worker_id, finished_at)
      select id, v_lease.tenant_id, v_lease.queue_id, case when is_cancelled then 3 else 2 end, v_lease.attempt,
        v_lease.fence, p_worker, now()
      from held where is_dead or is_cancelled
    ), forgotten as (
      delete from cancellations where job_id in (select id from held where is_cancelled)
    )
    select
      array_agg(id order by id) filter (where not (is_dead or is_cancelled)),
      array_agg((v_lease.attempt + ran::int)::smallint order by id) filter (where not (is_dead or is_cancelled)),
      count(*) filter (where is_dead and not is_cancelled), count(*) filter (where is_cancelled),
      array_agg(id order by id) filter (where is_dead or is_cancelled),
      array_agg((case when is_cancelled then 3 else 2 end)::smallint order by id) filter (where is_dead or is_cancelled)
    into v_ids, v_attempts, v_dead, v_cancelled, v_ended, v_states from held;
    if v_ended is not null then
      if v_dead > 0 then
        perform forward_dead_letters(v_lease.tenant_id, v_lease.queue_id,
          array(select id from unnest(v_ended, v_states) as u (id, state) where state = 2));
      end if;
      perform follow_up(v_ended, v_states);
    end if;

    v_back := coalesce(cardinality(v_ids), 0);
    if v_back > 0 then
      perform give_back(
        v_ids, array_fill(v_lease.tenant_id, array[v_back]), array_fill(v_lease.queue_id, array[v_back]),
        array_fill(v_lease.priority, array[v_back]), v_attempts, array_fill(v_lease.key_id, array[v_back]));
    end if;
    insert into flow (tenant_id, queue_id, priority, ready, leased, failed, cancelled)
    values (v_lease.tenant_id, v_lease.queue_id, v_lease.priority, v_back, -(v_back + v_dead + v_cancelled), v_dead, v_cancelled);
    v_returned := v_returned + v_back;
    if v_lease.limit_ids is not null then
      v_limits := v_limits || v_lease.limit_ids;
      v_slots := v_slots || array_fill(v_back + v_dead + v_cancelled, array[cardinality(v_lease.limit_ids)]);
    end if;
  end loop;
  if cardinality(v_limits) > 0 then
    perform touch_limits(v_limits, v_slots);
  end if;
  return v_returned;
end
$$;

-- Give back, uncharged, what a living worker holds without knowing: the answer to a claim of its was lost. Its claims go
-- one by one, so such leases have fences above that of the last lease it had heard of before, and are none of those since.
create or replace function taskforge.disown(p_worker bigint, p_above bigint, p_known bigint[]) returns integer
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select taskforge.take_back(p_worker, '{}', p_above, p_known);
$$;

-- Bury the workers whose time has run out, a few at a time. A restart of the database counts as a heartbeat of everyone:
-- nobody could renew while it was down. Leases of workers that are gone already are swept up too: a claim may have
-- committed while its worker was being declared gone.
create or replace function taskforge.reap(p_ttl interval, p_limit integer)
returns table (worker_id bigint, returned integer)
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
#variable_conflict use_column
begin
  for worker_id in
    select w.worker_id from workers w
    where w.state <> 3 and greatest(w.expires_at, pg_postmaster_start_time() + p_ttl) < now()
    order by w.worker_id limit p_limit
    for update skip locked
  loop
    returned := bury(worker_id, null);
    return next;
  end loop;
  for worker_id in
    select distinct l.worker_id from leases l
    where not exists (select from workers w where w.worker_id = l.worker_id and w.state <> 3)
    limit p_limit
  loop
    returned := take_back(worker_id, null);
    return next;
  end loop;
end
$$;
