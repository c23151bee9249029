-- Dead letters of a queue. Run by the app role under row-level security; the tenant is named all the same.

-- name: redrive
select taskforge.redrive($1, $2, $3, $4, $5);

-- name: purge
select taskforge.purge($1, $2, $3, $4, $5, null, $6);

-- name: groups
-- $1 tenant, $2 queue_id, $3 how many dead letters are looked at, newest first, $4 how many groups. Largest first.
-- Indexes: outcomes_dead_letters backwards, and the keys of attempts and jobs for each.
with letters as materialized (
  select id, fence, finished_at from outcomes
  where queue_id = $2 and state = 2 and tenant_id = $1 order by id desc limit $3
), failures as (
  select l.id, l.finished_at, a.fingerprint, j.job_type
  from letters l
  cross join lateral (select job_type from jobs where id = l.id and tenant_id = $1 offset 0) as j
  left join lateral (
    select fingerprint from attempts where job_id = l.id and fence = l.fence and tenant_id = $1 offset 0) as a on true
), kinds as (
  select fingerprint, job_type, count(*) as n, min(finished_at) as first_at, max(finished_at) as last_at, max(id) as newest
  from failures group by fingerprint, job_type
), found as (
  select fingerprint, sum(n)::bigint as n, min(first_at) as first_at, max(last_at) as last_at, max(newest) as newest,
    array_agg(job_type order by n desc, job_type) as job_types, array_agg(newest order by newest desc) as samples
  from kinds group by fingerprint
)
select f.fingerprint, f.n as count, e.error_class, e.message, f.first_at, f.last_at, f.job_types[1:20] as job_types,
  f.samples[1:5] as samples, (select count(*) from letters) as looked_at
from found f
left join outcomes o on o.id = f.newest and o.tenant_id = $1
left join attempts e on e.job_id = o.id and e.fence = o.fence and e.tenant_id = $1
order by f.n desc, f.newest desc limit $4;
