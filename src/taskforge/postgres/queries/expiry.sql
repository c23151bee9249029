-- Duties of the elected process. Functions in functions/{expiry,uniques}.sql.

-- name: expire_due
select * from taskforge.expire_due($1);

-- name: expire_queues
select * from taskforge.expire_queues($1);

-- name: sweep_uniques
select taskforge.sweep_uniques($1);
