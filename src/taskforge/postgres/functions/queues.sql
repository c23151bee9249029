-- Who serves these queues of a tenant now: live workers, and how many jobs they can run at once. Workers that the operator
-- shares among tenants count too, which is why this looks across tenants; it tells of them only that they are there.
create or replace function taskforge.serving(p_tenant uuid, p_queues integer[])
returns table (queue_id integer, workers integer, slots integer)
language sql stable security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
  select q.queue_id, count(*)::integer, sum(w.concurrency)::integer
  from workers w
  cross join lateral unnest(w.queues) as served (queue_id)
  join queues q on q.queue_id = served.queue_id and q.tenant_id = p_tenant
  where (w.tenant_id = p_tenant or w.is_shared) and w.state <> 3 and w.expires_at > now() and not w.is_server
    and q.queue_id = any (p_queues)
  group by q.queue_id;
$$;
