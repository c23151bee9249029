-- Batches. Functions in functions/groups.sql.

-- name: enter
-- $1 tenants, $2 groups, $3 items that must have been received before
select * from taskforge.enter_groups($1, $2, $3);

-- name: join
select taskforge.join_groups($1, $2, $3);

-- name: hang
-- $1 lo, $2 hi, $3 kinds, $4 targets, $5 tenants
insert into taskforge.followups (lo, hi, kind, target, tenant_id)
select * from unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::uuid[]);

-- name: standing
-- Index: groups_pkey
select id, sealed_at is not null as is_sealed from groups
where tenant_id = $1 and id = any ($2::bigint[]) and kind = 1;

-- name: create
insert into groups as g (tenant_id, name, tags, callbacks) values ($1, $2, $3, $4::text::jsonb)
returning g.*, group_state(g) as state;

-- name: get
-- Index: groups_pkey
select g.*, group_state(g) as state from groups g where g.tenant_id = $1 and g.id = $2 and g.kind = 1;

-- name: list
-- $2 below which id, $3 state or null. Index: groups_tenant, newest first
select g.*, group_state(g) as state from groups g
where g.tenant_id = $1 and g.kind = 1 and g.id < $2 and ($3::text is null or group_state(g) = $3)
order by g.id desc limit $4;

-- name: seal
select seal_group($1, $2);

-- name: ask_to_cancel
select ask_to_cancel_group($1, $2, $3);

-- name: cancel_members
select * from taskforge.cancel_members($1);

-- name: ranges
-- $2 group, $3 above which id, $4 limit. Index: followups_members
select lo, hi from followups where tenant_id = $1 and kind = 2 and target = $2 and hi > $3 order by lo limit $4;
