-- Webhooks. Functions in functions/webhooks.sql.

-- name: claim
select * from taskforge.claim_deliveries($1, $2, $3, $4, $5, $6);

-- name: settle
select taskforge.settle_delivery($1, $2, $3, $4, $5, $6, $7);

-- name: list
-- $2 below which id, $3 state or null, $4 limit. Index: deliveries_tenant, newest first
select * from deliveries
where tenant_id = $1 and id < $2 and ($3::smallint is null or state = $3)
order by id desc limit $4;

-- name: get
select * from deliveries where tenant_id = $1 and id = $2;

-- name: redeliver
-- finished_at of one that waits says when somebody asked for it again: its patience counts from then.
update deliveries set state = 1, attempts = 0, due_at = now(), finished_at = now()
where tenant_id = $1 and id = $2
returning *;

-- name: lock_secrets
-- One change of a tenant's secrets at a time.
select pg_advisory_xact_lock(hashtextextended('taskforge.webhook_secrets.' || $1::uuid::text, 0));

-- name: secrets
select * from webhook_secrets where tenant_id = $1 order by id desc limit 100;

-- name: add_secret
insert into webhook_secrets (tenant_id, hint, created_by) values ($1, $2, $3) returning *;

-- name: add_key
insert into webhook_keys (id, tenant_id, key) values ($1, $2, $3);

-- name: retire_secret
update webhook_secrets set retired_at = coalesce(retired_at, now()) where tenant_id = $1 and id = $2 returning *;

-- name: hurry
-- What waited for a secret need not wait any longer.
update deliveries set due_at = now()
where id in (select id from deliveries where tenant_id = $1 and state = 1 and last_error = 'no_secret' limit 10000);
