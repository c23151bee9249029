-- Children wait for their parents. A child is released, or cancelled, in the transaction that ends the last parent it
-- waits for (E7). Two that end at once take turns at the child's parked row, so the later one sees what the earlier did.

-- Called after new children were parked, in the same transaction; arrays run parallel, an entry per edge. Every parent's
-- place is locked until this transaction ends: whoever ends a parent does so after it, and sees the edges. Parents that
-- have ended already are settled at once. A negative parent is a workflow that has not been started. One row per child that does not wait any longer: 0 pending, 1 scheduled,
-- 3 cancelled.
-- Lock order: parents' parked rows by id, extents by lo, leases by fence; then as release_children.
create or replace function taskforge.await_parents(
  p_tenant uuid[], p_child bigint[], p_parent bigint[], p_on_failure smallint[])
returns table (child_id bigint, state smallint, queue_id integer)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_missing bigint;
  v_left bigint[];
  v_found bigint[];
  v_ended bigint[] := '{}';
  v_states smallint[];
  v_free bigint[];
begin
  select u.parent into v_missing from unnest(p_tenant, p_parent) as u (tenant, parent)
  where u.parent > 0 and not exists (select from jobs j where j.id = u.parent and j.tenant_id = u.tenant)
  order by u.parent limit 1;
  if v_missing is not null then
    raise exception '%', v_missing using errcode = 'TF004';
  end if;
  insert into edges (child_id, parent_id, tenant_id, on_failure)
  select c, p, t, f from unnest(p_child, p_parent, p_tenant, p_on_failure) as u (c, p, t, f) order by c, p;
  insert into followups (lo, hi, kind, tenant_id)
  select distinct p, p, 1, t from unnest(p_parent, p_tenant) as u (p, t) where p > 0 order by p
  on conflict do nothing;

  v_left := array(select distinct p from unnest(p_parent) as p where p > 0 order by 1);
  for round in 1 .. 20 loop
    v_found := array(select o.id from outcomes o where o.id = any (v_left));
    v_ended := v_ended || v_found;
    v_found := v_found || array(
      select id from parked where id = any (v_left) order by id for share);
    v_found := v_found || array(
      select p from (
        select r.lo, r.hi from ready r
        where (r.queue_id, r.priority, r.stream, r.seq) in (
          select n.queue_id, n.priority, n.stream, n.seq from unnest(v_left) as p
          cross join lateral (
            select * from ready where lo <= p and lo > p - 1000 order by lo desc limit 1) as n
          where n.hi >= p)
        order by r.lo for share) as locked
      join unnest(v_left) as p on p between locked.lo and locked.hi);
    v_found := v_found || array(
      select p from (
        select l.ranges from leases l where exists (select from unnest(v_left) as p where l.ranges @> p)
        order by l.fence for share) as locked
      join unnest(v_left) as p on locked.ranges @> p);
    v_left := array(select unnest(v_left) except select unnest(v_found));
    exit when cardinality(v_left) = 0;
  end loop;
  if cardinality(v_left) > 0 then
    raise exception 'jobs % change hands too fast', v_left[1 : 10] using errcode = '40001';
  end if;
  if cardinality(v_ended) > 0 then
    select array_agg(o.id), array_agg(o.state) into v_left, v_states from outcomes o where o.id = any (v_ended);
    select ids, states, free into v_found, v_states, v_free from release_children(v_left, v_states);
    -- The parents' own ends were told of long ago; those of children that were cancelled just now were not.
    if cardinality(v_found) > cardinality(v_left) then
      perform tell_of_ends(v_found[cardinality(v_left) + 1 :], v_states[cardinality(v_left) + 1 :]);
    end if;
    if cardinality(v_free) > 0 then
      perform set_free(v_free);
    end if;
    return query
    select c, case when o.id is not null then 3 when p.id is not null then 1 else 0 end::smallint, j.queue_id
    from (select distinct unnest(p_child) as c) as children
    join jobs j on j.id = c
    left join outcomes o on o.id = c
    left join parked p on p.id = c
    where p.kind is distinct from 3;
  end if;
end
$$;

-- These jobs have ended (1 succeeded, 2 failed, 3 cancelled): settle the edges from them, and those from the children that
-- are cancelled for it, and so on. Returns all that have ended now, those given included, and the children that wait for
-- nobody any longer; these are still parked, and locked.
create or replace function taskforge.release_children(
  p_ids bigint[], p_states smallint[], out ids bigint[], out states smallint[], out free bigint[])
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ids bigint[] := p_ids;
  v_states smallint[] := p_states;
  v_children bigint[];
  v_doomed bigint[];
begin
  ids := p_ids;
  states := p_states;
  free := '{}';
  loop
    v_children := array(
      select id from parked
      where kind = 3 and id in (select e.child_id from edges e where e.parent_id = any (v_ids) and e.state in (0, 2))
      order by id for update);
    -- Edges of children that have ended otherwise are settled, too; nobody reads those again.
    update edges e set state = case
        when u.state = 1 then case e.on_failure when 4 then 3 else 1 end
        when e.on_failure in (3, 4) then 1
        when e.on_failure = 2 then 2
        else 3 end
    from unnest(v_ids, v_states) as u (id, state)
    where e.parent_id = u.id and e.state in (0, 2);
    exit when cardinality(v_children) = 0;
    v_doomed := array(
      select distinct e.child_id from edges e where e.child_id = any (v_children) and e.state = 3);
    free := free || array(
      select c from unnest(v_children) as c
      where not exists (select from edges e where e.child_id = c and e.state in (0, 2, 3)));
    exit when cardinality(v_doomed) = 0;

    with gone as (
      delete from parked where id = any (v_doomed) returning *
    ), ended as (
      insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at, reason)
      select gone.id, gone.tenant_id, gone.queue_id, 3, gone.attempt - 1, now(), (
        select case when e.on_failure = 4 then 'not needed: job ' || e.parent_id || ' succeeded'
          else 'job ' || e.parent_id || ', which it depends on, did not succeed' end
        from edges e where e.child_id = gone.id and e.state = 3 order by e.parent_id limit 1)
      from gone
    )
    insert into flow (tenant_id, queue_id, blocked, cancelled)
    select tenant_id, queue_id, -count(*), count(*) from gone group by tenant_id, queue_id;
    v_ids := v_doomed;
    v_states := array_fill(3::smallint, array[cardinality(v_doomed)]);
    ids := ids || v_ids;
    states := states || v_states;
  end loop;
end
$$;

-- Children that wait for nobody any longer go on: ready, or scheduled when their own time has not come. Called last in its
-- transaction. Returns the queues in which jobs became ready; 0 among them when some were scheduled.
create or replace function taskforge.set_free(p_ids bigint[]) returns integer[]
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_part record;
  v_queues integer[] := '{}';
begin
  with later as (
    update parked set kind = 1, run_at = greatest(not_before, clock_timestamp()), not_before = null
    where id = any (p_ids) and not_before > clock_timestamp() returning tenant_id, queue_id
  )
  insert into flow (tenant_id, queue_id, blocked, scheduled)
  select tenant_id, queue_id, -count(*), count(*) from later group by tenant_id, queue_id;
  if found then
    v_queues := '{0}';
  end if;
  for v_part in
    with gone as (
      delete from parked where id = any (p_ids) and kind = 3 returning *
    ), counted as (
      insert into flow (tenant_id, queue_id, priority, blocked, ready)
      select tenant_id, queue_id, priority, -count(*), count(*) from gone group by tenant_id, queue_id, priority
    )
    select tenant_id, array_agg(id order by id) as ids, array_agg(queue_id order by id) as queues,
      array_agg(priority order by id) as priorities, array_agg(attempt order by id) as attempts
    from gone group by tenant_id
  loop
    perform wait_again(v_part.tenant_id, v_part.ids, v_part.queues, v_part.priorities, v_part.attempts);
    v_queues := v_queues || v_part.queues;
  end loop;
  return array(select distinct unnest(v_queues));
end
$$;

-- The parents of a job that runs, for its handler: how they ended and what they returned. Only for who holds the job.
create or replace function taskforge.parents_of(p_worker bigint, p_fence bigint, p_job bigint)
returns table (parent_id bigint, state smallint, result bytea)
language sql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select e.parent_id, o.state, o.result
  from leases l join edges e on e.child_id = p_job left join outcomes o on o.id = e.parent_id
  where l.fence = p_fence and l.worker_id = p_worker and l.ranges @> p_job
  order by e.parent_id;
$$;

-- The proof in production: blocked jobs that wait for no parent. Must be 0, always.
create or replace function taskforge.count_orphans() returns bigint
language sql security definer
set search_path = taskforge, pg_temp
as $$
  select count(*) from parked p
  where p.kind = 3 and not exists (select from edges e where e.child_id = p.id and e.state in (0, 2));
$$;
