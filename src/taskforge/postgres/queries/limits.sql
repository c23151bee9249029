-- Limits. Functions in functions/limits.sql.

-- name: open_windows
select taskforge.open_windows();

-- name: count_drift
select taskforge.count_limit_drift();
