-- How each kind of transaction begins. Everything is local to it, so a transaction-mode pooler may sit in between.

-- name: ingest
-- The xid comes before any sequence value of the transaction: decision 0002.
begin; set local role taskforge_ingest; set local jit = off; set local statement_timeout = '30s';
set local lock_timeout = '10s'; set local idle_in_transaction_session_timeout = '20s';
select pg_current_xact_id();

-- name: dispatch
begin; set local role taskforge_dispatch; set local jit = off; set local statement_timeout = '30s';
set local lock_timeout = '10s'; set local idle_in_transaction_session_timeout = '20s';

-- name: app
-- Bitmap and sequential scans read all that matches before the first row is known; tenants ask for the first page of it,
-- and for tables that nobody has analysed yet the planner does not see the difference.
begin; set local role taskforge_app; set local jit = off; set local search_path = taskforge, pg_temp;
set local enable_bitmapscan = off; set local enable_seqscan = off;
set local statement_timeout = '5s'; set local lock_timeout = '3s';
set local idle_in_transaction_session_timeout = '10s';

-- name: set_tenant
-- $1 tenant_id as text
select set_config('taskforge.tenant', $1, true);
