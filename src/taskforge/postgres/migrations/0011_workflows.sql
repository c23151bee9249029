-- The names of a workflow's jobs. The workflow itself is a row of groups, its edges are rows of edges.
create table workflow_nodes (
  workflow_id bigint not null,
  name text not null,
  job_id bigint not null,
  tenant_id uuid not null,
  primary key (workflow_id, name)
);

create index workflow_nodes_job on workflow_nodes (job_id);
create index workflow_nodes_order on workflow_nodes (workflow_id, job_id);

alter table workflow_nodes enable row level security;
alter table workflow_nodes force row level security;
create policy tenant on workflow_nodes to taskforge_app
  using (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid));

grant select, insert, delete on workflow_nodes to taskforge_dispatch;
grant select on workflow_nodes to taskforge_app;
