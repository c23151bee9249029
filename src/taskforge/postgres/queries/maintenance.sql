-- What keeps the queue healthy. Functions in functions/{maintenance,partitions,workers}.sql.

-- name: survey
select * from taskforge.survey();

-- name: promote
select * from taskforge.promote($1, $2, $3);

-- name: reap
select * from taskforge.reap($1, $2);

-- name: look
select * from taskforge.look();

-- name: raise_floors
select taskforge.raise_floors($1, $2, $3, $4);

-- name: roll_up
select taskforge.roll_up($1, $2, $3);

-- name: count_orphans
select taskforge.count_orphans();

-- name: count_below_floors
select taskforge.count_below_floors();

-- name: ensure_partitions
select taskforge.ensure_partitions($1);

-- name: prune
select taskforge.prune($1);

-- name: sweep
select taskforge.sweep($1, $2);

-- name: stock_blocks
select taskforge.stock_blocks($1);

-- name: forget_seconds
select taskforge.forget_seconds();
