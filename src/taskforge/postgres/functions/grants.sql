-- Who may call what. Functions that must see across tenants run as taskforge_dispatch; only that role may call them.
do $$
declare
  f record;
begin
  for f in
    select p.oid::regprocedure as signature, p.proname, p.prosecdef
    from pg_proc p where p.pronamespace = 'taskforge'::regnamespace
  loop
    execute format('revoke all on function %s from public', f.signature);
    if f.proname in ('publish', 'store_few', 'park_new', 'take_keys', 'enter_groups', 'join_groups',
      'decide_slots', 'fire_waiting', 'fire_now', 'take_uniques', 'repoint_keys') then
      execute format('grant execute on function %s to taskforge_ingest', f.signature);
    elsif f.proname in ('cancel', 'retry', 'redrive', 'purge', 'refuse_deleted', 'lock_place', 'place_name',
      'change_job', 'list_under', 'retry_workflow', 'apply_bulk') then
      execute format('grant execute on function %s to taskforge_app', f.signature);
    elsif f.proname in ('ensure_keys', 'await_parents', 'open_workflow', 'enter_workflow', 'name_nodes') then
      execute format('grant execute on function %s to taskforge_ingest', f.signature);
    elsif f.proname in ('touch_limits', 'note_expiries') then
      execute format('grant execute on function %s to taskforge_ingest, taskforge_dispatch', f.signature);
    elsif f.proname in ('follow_up', 'serving', 'undo_follow_up', 'seal_group', 'ask_to_cancel_group', 'group_state', 'key_of', 'wait_again',
      'set_key', 'limit_tenant', 'reopen_workflow', 'is_unfinished', 'is_key_held', 'lock_key', 'pass_key', 'retake_key',
      'retake_keys', 'cut_extent') then
      execute format('grant execute on function %s to taskforge_dispatch, taskforge_app', f.signature);
    elsif f.proname in ('open_lanes', 'queue_document', 'count_queue_version', 'keep_queue_version') then
      execute format('grant execute on function %s to taskforge_app', f.signature);
    elsif f.proname = 'enqueue' then
      execute format('grant execute on function %s to taskforge_client', f.signature);
    else
      execute format('grant execute on function %s to taskforge_dispatch', f.signature);
    end if;
    if f.prosecdef and f.proname not in ('ensure_partitions', 'prune') then
      execute format('alter function %s owner to %I', f.signature,
        case f.proname when 'store_few' then 'taskforge_ingest' else 'taskforge_dispatch' end);
    end if;
  end loop;
end
$$;
