-- Limits. Functions in functions/limits.sql.

-- name: open_windows
select taskforge.open_windows();

-- name: count_drift
select taskforge.count_limit_drift();

-- name: set_key
-- $1 tenant, $2 queue_id, $3 key, $4 weight, $5 max_concurrency
select taskforge.set_key($1, $2, $3, $4, $5);

-- name: limit_tenant
-- $1 tenant, $2 max_concurrency, null for none
select taskforge.limit_tenant($1, $2);

-- name: weigh_tenant
-- $1 tenant, $2 weight. An operator's, so it is not the tenant's own role that says it.
select taskforge.weigh_tenant($1, $2);

-- name: keys
-- $1 tenant, $2 queue_id, $3 keys after this one, $4 limit. Index: limits_tenant_id_queue_id_key_key, then ready_keyed for
-- what waits, of which no more than 1,000 extents a key are looked at.
select l.key, l.weight, l.max_concurrency, l.in_use, coalesce(w.jobs, 0) as waiting, coalesce(w.extents > 1000, false) as has_more,
  l.opens_at
from taskforge.limits l
cross join lateral (
  select sum(hi - lo + 1)::bigint as jobs, count(*) as extents
  from (select r.lo, r.hi from taskforge.ready r where r.key_id = l.limit_id limit 1001) as first
) as w
where l.tenant_id = $1 and l.queue_id = $2 and l.key > $3
order by l.key limit $4;

-- name: key
-- $1 tenant, $2 queue_id, $3 key
select l.key, l.weight, l.max_concurrency, l.in_use, coalesce(w.jobs, 0) as waiting, coalesce(w.extents > 1000, false) as has_more,
  l.opens_at
from taskforge.limits l
cross join lateral (
  select sum(hi - lo + 1)::bigint as jobs, count(*) as extents
  from (select r.lo, r.hi from taskforge.ready r where r.key_id = l.limit_id limit 1001) as first
) as w
where l.tenant_id = $1 and l.queue_id = $2 and l.key = $3 and l.key <> '';

-- name: tenant
select t.tenant_id, t.name, coalesce(l.weight, 1) as weight, l.max_concurrency,
  case when l.max_concurrency is not null then l.in_use end as in_use
from taskforge.tenants t
left join taskforge.limits l on l.tenant_id = t.tenant_id and l.queue_id = 0 and l.key = ''
where t.tenant_id = $1;
