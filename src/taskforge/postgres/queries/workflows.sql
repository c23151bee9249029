-- Workflows. The first four run in the transaction that stores the nodes, the others by the app role.

-- name: open
select taskforge.open_workflow($1, $2, $3, $4, $5);

-- name: enter
select taskforge.enter_workflow($1, $2);

-- name: name_nodes
select taskforge.name_nodes($1, $2, $3, $4);

-- name: node_ids
-- $1 tenant, $2 workflow, $3 names
select name, job_id from taskforge.workflow_nodes where workflow_id = $2 and tenant_id = $1 and name = any ($3);

-- name: start
select * from taskforge.start_workflow($1, $2);

-- name: retry
select * from taskforge.retry_workflow($1, $2, $3);

-- name: get
-- has_only_blocked: it has not ended, something failed, and every job that has not ended is blocked.
select g.*, group_state(g) as state,
  g.ended_at is null and g.failed > 0 and not exists (
    select from taskforge.workflow_nodes n
    where n.workflow_id = g.id and n.tenant_id = $1
      and not exists (select from taskforge.outcomes o where o.id = n.job_id and o.tenant_id = $1)
      and not exists (select from taskforge.parked p where p.id = n.job_id and p.kind = 3 and p.tenant_id = $1)
  ) as has_only_blocked
from taskforge.groups g where g.tenant_id = $1 and g.id = $2 and g.kind = 2;

-- name: list
-- $1 tenant, $2 ids below this, $3 limit. Index: groups_tenant backwards.
select g.*, group_state(g) as state, false as has_only_blocked
from taskforge.groups g where g.tenant_id = $1 and g.kind = 2 and g.id < $2 order by g.id desc limit $3;

-- name: nodes
-- $1 tenant, $2 workflow, $3 job ids above this, $4 limit. Index: workflow_nodes_order.
select n.name, n.job_id, array(
    select coalesce(p.name, e.parent_id::text) from taskforge.edges e
    left join taskforge.workflow_nodes p on p.job_id = e.parent_id and p.workflow_id = $2 and p.tenant_id = $1
    where e.child_id = n.job_id and e.tenant_id = $1 and e.parent_id > 0 order by e.parent_id limit 1000) as parents
from taskforge.workflow_nodes n
where n.tenant_id = $1 and n.workflow_id = $2 and n.job_id > $3 order by n.job_id limit $4;

-- name: states
-- $1 tenant, $2 workflow: how many of its jobs are in which place.
select case o.state when 1 then 'succeeded' when 2 then 'failed' when 3 then 'cancelled' else
    case p.kind when 1 then 'scheduled' when 2 then 'retrying' when 3 then 'blocked' else
      case when exists (select from taskforge.leases l where l.tenant_id = $1 and l.ranges @> n.job_id)
        then 'processing' else 'pending' end end end as state, count(*) as jobs
from taskforge.workflow_nodes n
left join taskforge.outcomes o on o.id = n.job_id and o.tenant_id = $1
left join taskforge.parked p on p.id = n.job_id and p.tenant_id = $1
where n.workflow_id = $2 and n.tenant_id = $1
group by 1;
