-- Hints between processes. They may be lost; polling is the truth.

-- name: hint
-- $1 queue ids. Its own short transaction, whose commit waits for no disk.
select taskforge.hint($1);
