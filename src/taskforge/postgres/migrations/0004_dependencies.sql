-- Dependencies: a child waits parked (kind 3) until none of its edges does.

-- on_failure, what it means when the parent does not succeed: 1 cancel the child and its descendants, 2 block it until the
-- parent is retried, 3 run it anyway, 4 run it only then.
-- state: 0 waits, 1 satisfied, 2 failed (the child is blocked by it), 3 the child was cancelled because of it
create table edges (
  child_id bigint not null,
  parent_id bigint not null,
  tenant_id uuid not null,
  on_failure smallint not null check (on_failure between 1 and 4),
  state smallint not null default 0 check (state between 0 and 3),
  primary key (child_id, parent_id),
  check (child_id <> parent_id)
) with (fillfactor = 80);

create index edges_waiting on edges (parent_id, child_id) where state in (0, 2);
create index edges_parent on edges (parent_id);

alter table edges enable row level security;
alter table edges force row level security;
create policy tenant on edges to taskforge_app
  using (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid));

grant select, insert, update, delete on edges to taskforge_dispatch;
grant select on edges to taskforge_app;

-- When a blocked job may run at the earliest, once its parents let it.
alter table parked add column not_before timestamptz;

-- Why a job ended without a handler's having said so.
alter table outcomes add column if not exists reason text;
