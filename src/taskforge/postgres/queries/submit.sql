-- The ingest role's statements; they run in a transaction that holds an xid.

-- name: next_blocks
-- $1 blocks. Each value is the last id of a block of 1,000.
select nextval('taskforge.job_ids') from generate_series(1, $1);

-- name: publish
select taskforge.publish($1, $2, $3, $4, $5, $6, $7);

-- name: store_few
-- A transaction of its own: the function draws the xid itself.
select taskforge.store_few($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: ensure_keys
select taskforge.ensure_keys($1, $2, $3);

-- name: touch_limits
-- $1 rows of limits, $2 slots to give back to each. Last in its transaction.
select taskforge.touch_limits($1, $2);

-- name: await_parents
-- An entry per edge: $1 tenants, $2 children, $3 parents, $4 what a failure means.
select * from taskforge.await_parents($1, $2, $3, $4);

-- name: park_new
select taskforge.park_new($1, $2, $3, $4, $5, $6, $7, $8);

-- name: take_uniques
-- An entry per key, sorted: $1 tenants, $2 job types, $3 keys, $4 jobs, $5 scopes, $6 periods, $7 what a conflict means.
select * from taskforge.take_uniques($1, $2, $3, $4, $5, $6, $7);

-- name: repoint_keys
select taskforge.repoint_keys($1, $2, $3);

-- name: note_expiries
select taskforge.note_expiries($1, $2, $3, $4, $5);

-- name: take_keys
select * from taskforge.take_keys($1, $2, $3, $4, $5);
