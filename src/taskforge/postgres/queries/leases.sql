-- The worker protocol. Functions in functions/{claim,finish,workers}.sql.

-- name: register
select taskforge.register($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: shared_queues
select taskforge.shared_queues($1);

-- name: serve_shared
select taskforge.serve_shared($1, $2);

-- name: claim
select * from taskforge.claim($1, $2, $3, $4);

-- name: large_payloads
select * from taskforge.large_payloads($1, $2, $3);

-- name: settle
select * from taskforge.settle($1, $2, $3, $4, $5);

-- name: sort_out
select * from taskforge.sort_out($1, $2, $3, $4);

-- name: follow_up
select taskforge.follow_up($1, $2);

-- name: touch_limits
-- $1 rows of limits, $2 slots to give back to each. Last in its transaction.
select taskforge.touch_limits($1, $2);

-- name: parents_of
select * from taskforge.parents_of($1, $2, $3);

-- name: record_attempts
select taskforge.record_attempts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: park
select taskforge.park($1, $2, $3, $4, $5, $6, $7, $8);

-- name: give_back
select taskforge.give_back($1, $2, $3, $4, $5, $6);

-- name: count_flow
select taskforge.count_flow($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: record_stale
select taskforge.record_stale($1, $2, $3);

-- name: heartbeat
select * from taskforge.heartbeat($1, $2);

-- name: deregister
select taskforge.deregister($1);

-- name: bury
select taskforge.bury($1, $2);

-- name: disown
select taskforge.disown($1, $2, $3);

-- name: report_progress
select taskforge.report_progress($1, $2, $3, $4, $5);
