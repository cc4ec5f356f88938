-- The schema of a store in PostgreSQL, format 1. Run with search_path set to the store's schema.
--
-- Rules:
-- 1. An append updates the one row of `log` and holds its lock until commit. So commits are in the order of
--    positions, and positions have no gaps. A sequence cannot do that: it gives positions before the commit.
-- 2. `event_data` is json, not jsonb: jsonb changes numbers, drops duplicate keys and refuses \u0000.
-- 3. `append` runs with the rights of the schema's owner, so a role that may only append needs no right on any
--    table: USAGE of the schema, and EXECUTE of `describe` and `append`.

create table log (
    one boolean primary key default true check (one),
    store_id uuid not null,
    format int not null,
    position bigint not null,
    last_time timestamptz not null,
    policies bigint not null,      -- how many policy events there are: 0 spares their look-up
    removed bigint not null,       -- how many events were removed: the same
    lost bigint not null default 0,    -- of a mirror: how many positions its source had lost
    mirror_of uuid,                -- the store that this one is a mirror of: nothing else may write to it
    moved_to text                  -- the address of the store that has taken this one's place: the same
);

create table events (
    id uuid not null unique,
    stream_id text collate "C" not null,
    stream_type text collate "C" not null,          -- the category
    event_type text collate "C" not null,
    event_data json,
    raw bytea,                                      -- text and binary events, and JSON that PostgreSQL refuses
    content_type text not null default 'json',
    metadata json,
    tags text[],                                    -- those in the metadata, null if there are none
    version bigint not null,
    global_position bigint primary key,
    frame bigint not null,                          -- the position of the first event of the same append
    created_at timestamptz not null,
    unique (stream_id, version),
    check ((event_data is null) <> (raw is null))
);
create index events_by_category on events (stream_type, global_position);
create index events_by_type on events (event_type, global_position);
create index events_by_tag on events using gin (tags) where tags is not null;
create index events_by_time on events using brin (created_at);
create view events_jsonb as select *, event_data::jsonb as data from events where event_data is not null;

create table streams (
    stream_id text collate "C" primary key,
    stream_type text collate "C" not null,
    version bigint not null,                        -- the last one, also of removed events
    events bigint not null,                         -- rows in `events`
    last_time timestamptz not null
);

create table removed_ids (
    id uuid primary key,
    digest bytea not null,                          -- of stream, type, content type and data: content_digest;
                                                    -- of another length: another engine's, not compared
    stream_id text collate "C" not null,
    version bigint not null,
    global_position bigint not null unique
);

create table snapshots (
    stream_id text collate "C" not null,
    name text collate "C" not null,
    snapshot_data bytea not null,
    version bigint not null,
    created_at timestamptz not null,
    primary key (stream_id, name)
);

create table subscription_checkpoints (
    subscription_id text collate "C" primary key,
    last_position bigint not null,
    event_id uuid,
    filter json,
    updated_at timestamptz not null
);

create table parked_events (
    subscription_id text collate "C" not null references subscription_checkpoints on delete cascade,
    global_position bigint not null,
    number bigint generated always as identity,     -- the order in which they were parked first
    stream_id text collate "C" not null,
    version bigint not null,
    event_type text not null,
    id uuid not null,
    error text not null,
    attempts int not null,
    parked_at timestamptz not null,
    primary key (subscription_id, global_position)
);

create function content_digest(stream text, type text, code text, data bytea) returns bytea
    language sql immutable parallel safe as $body$
    select sha256(sha256(convert_to(stream, 'UTF8')) || sha256(convert_to(type, 'UTF8'))
                  || convert_to(code, 'UTF8') || data)
$body$;

-- The tags in metadata as evlog writes it, where they come first; null if there are none.
create function tags_in(metadata text) returns text[] language sql immutable parallel safe as $body$
    select case when starts_with(metadata, '{"$tags":[')
        then array(select json_array_elements_text(metadata::json->'$tags')) end
$body$;

-- The words of the policy that a stream has of its own; null if there is none.
create function policy_of(stream text) returns json language sql stable as $body$
    select event_data from events where stream_id = '$$' || stream order by version desc limit 1
$body$;

-- What a program asks when it opens the store.
create function describe(out o_format int, out o_store_id uuid) language sql stable
    security definer set search_path from current as $body$
    select format, store_id from log
$body$;

-- Append events, or refuse all of them. Errors have the SQLSTATE EV000; their detail is a JSON object.
create function append(
    p_streams text[], p_types text[], p_ids uuid[], p_given boolean[], p_codes text[],
    p_json text[], p_raw bytea[], p_metadata text[],
    p_expect_at int[], p_expect_stream text[], p_expect text[],
    p_skip_known boolean, p_system boolean,
    out o_positions bigint[], out o_versions bigint[], out o_duplicates boolean[]
) language plpgsql security definer set search_path from current as $body$
declare
    v_position bigint;
    v_time timestamptz;
    v_policies bigint;
    v_removed bigint;
    v_standing text;
    v_known int := 0;
    v_count int := cardinality(p_ids);
    v_actual bigint;
    v_before bigint;
    v_expected text;
    v_stream text;
    v_policy json;
    r record;
begin
    if p_system then
        if not has_table_privilege(session_user, 'log', 'update') then
            raise insufficient_privilege using message = 'permission denied for the store''s own streams';
        end if;
    elsif exists (select from unnest(p_streams) s where starts_with(s, '$')) then
        raise insufficient_privilege using message = 'permission denied for the store''s own streams';
    end if;
    select position, last_time, policies, removed, coalesce(moved_to, mirror_of::text)
        into strict v_position, v_time, v_policies, v_removed, v_standing from log for update;
    if v_standing is not null then
        raise exception 'mirror or moved' using errcode = 'EV000', detail = (
            select json_build_object('error', 'Refused', 'stream', '', 'mirror_of', mirror_of,
                                     'moved_to', moved_to) from log)::text;
    end if;
    v_time := greatest(clock_timestamp(), v_time);

    -- 1. Duplicates, first: a retry after a lost answer succeeds.
    if true = any(p_given) then
        for r in
            select u.n, e.global_position, e.version, e.stream_id,
                   (e.stream_id, e.event_type, e.content_type,
                    coalesce(e.raw, convert_to(e.event_data::text, 'UTF8')))
                   is not distinct from
                   (u.stream, u.type, u.code, coalesce(u.raw, convert_to(u.json, 'UTF8'))) as same
            from unnest(p_ids, p_given, p_streams, p_types, p_codes, p_json, p_raw)
                 with ordinality u(id, given, stream, type, code, json, raw, n)
            join events e on e.id = u.id
            where u.given
            union all
            select u.n, e.global_position, e.version, e.stream_id,
                   e.stream_id = u.stream and (length(e.digest) <> 32 or
                   e.digest = content_digest(u.stream, u.type, u.code,
                                             coalesce(u.raw, convert_to(u.json, 'UTF8'))))
            from unnest(p_ids, p_given, p_streams, p_types, p_codes, p_json, p_raw)
                 with ordinality u(id, given, stream, type, code, json, raw, n)
            join removed_ids e on e.id = u.id
            where u.given and v_removed > 0
        loop
            if not r.same then
                raise exception 'id conflict' using errcode = 'EV000', detail = json_build_object(
                    'error', 'IdConflict', 'at', r.n - 1, 'stream', r.stream_id,
                    'position', r.global_position)::text;
            end if;
            if v_known = 0 then
                o_positions := array_fill(0::bigint, array[v_count]);
                o_versions := o_positions;
                o_duplicates := array_fill(false, array[v_count]);
            end if;
            v_known := v_known + 1;
            o_positions[r.n] := r.global_position;
            o_versions[r.n] := r.version;
            o_duplicates[r.n] := true;
        end loop;
        if v_known = v_count then
            return;
        end if;
        if v_known > 0 and not p_skip_known then
            raise exception 'partly known' using errcode = 'EV000', detail = (
                select json_build_object('error', 'PartlyKnown', 'at', n - 1, 'stream', p_streams[n],
                                         'position', o_positions[n])
                from generate_subscripts(o_duplicates, 1) n where o_duplicates[n] limit 1)::text;
        end if;
    end if;

    -- 2. Conditions.
    if v_policies > 0 then
        select s into v_stream from (select distinct s from unnest(p_streams) s) d
            where policy_of(s)->>'$tombstone' = 'true' limit 1;
        if found then
            raise exception 'tombstone' using errcode = 'EV000', detail = json_build_object(
                'error', 'StreamTombstoned', 'stream', v_stream)::text;
        end if;
    end if;
    for i in 1 .. cardinality(p_expect_at) loop
        v_stream := p_expect_stream[i];
        v_expected := p_expect[i];
        v_actual := coalesce((select version from streams where stream_id = v_stream), 0);
        v_before := 0;
        if p_expect_at[i] > 0 then
            select count(*) into v_before from unnest(p_streams) with ordinality u(s, n)
                where n <= p_expect_at[i] and s = v_stream
                  and (v_known = 0 or not o_duplicates[n]);
        end if;
        if v_before = 0 and v_policies > 0 and v_expected in ('0', 'exists') then
            v_policy := policy_of(v_stream);
            if v_policy->>'$tombstone' = 'true' or (v_policy->>'$deleted')::numeric >= v_actual then
                v_actual := 0;      -- as in KurrentDB: it does not exist, though its versions continue
            end if;
        end if;
        v_actual := v_actual + v_before;
        if not (v_expected = 'any' or (v_expected = 'exists' and v_actual > 0)
                or v_expected = v_actual::text) then
            raise exception 'wrong expected version' using errcode = 'EV000', detail = json_build_object(
                'error', 'WrongExpectedVersion', 'stream', v_stream, 'expected', v_expected,
                'actual', v_actual)::text;
        end if;
    end loop;

    -- 3. The events, their streams, and the end of the log.
    with given as (
        select split_part(stream, '-', 1) as category, u.*
        from unnest(p_streams, p_types, p_ids, p_codes, p_json, p_raw, p_metadata)
            with ordinality u(stream, type, id, code, json, raw, metadata, n)
        where v_known = 0 or not o_duplicates[n]
    ), placed as (
        select g.*, v_position + row_number() over (order by n) as position,
               coalesce(s.version, 0) + row_number() over (partition by g.stream order by n) as version
        from given g left join streams s on s.stream_id = g.stream
    ), written as (
        insert into events (id, stream_id, stream_type, event_type, event_data, raw, content_type, metadata,
                            tags, version, global_position, frame, created_at)
        select id, stream, category, type, json::json, raw, code, metadata::json, tags_in(metadata), version, position,
               v_position + 1, v_time
        from placed
    ), counted as (
        insert into streams as s (stream_id, stream_type, version, events, last_time)
        select stream, category, max(version), count(*), v_time from placed group by stream, category
        on conflict (stream_id) do update set
            version = excluded.version, events = s.events + excluded.events, last_time = excluded.last_time
    )
    select array_agg(position order by n) as positions, array_agg(version order by n) as versions,
           array_agg(n order by n) as numbers, count(*) as added,
           count(*) filter (where type = '$metadata' and p_system) as policies
    into r from placed;
    if v_known = 0 then
        o_positions := r.positions;
        o_versions := r.versions;
    else
        for i in 1 .. r.added loop
            o_positions[r.numbers[i]] := r.positions[i];
            o_versions[r.numbers[i]] := r.versions[i];
        end loop;
    end if;
    update log set position = v_position + r.added, last_time = v_time, policies = v_policies + r.policies;
    perform pg_notify('evlog_' || current_schema(), '');
end $body$;

-- Remove the given versions of a stream: their ids stay known. Holds the log's lock until commit.
create function remove_events(p_stream text, p_first bigint, p_before timestamptz, p_limit bigint)
    returns bigint language plpgsql set search_path from current as $body$
declare
    v_removed bigint;
begin
    perform 1 from log where mirror_of is null and moved_to is null for update;
    if not found then
        raise exception 'a mirror, or a store that has moved, is not compacted';
    end if;
    with removed as (
        delete from events where global_position in (
            select global_position from events
            where stream_id = p_stream and (version < p_first or created_at < p_before)
            order by version limit p_limit)
        returning id, stream_id, event_type, content_type, coalesce(raw, convert_to(event_data::text, 'UTF8')) as data,
                  version, global_position
    ), kept as (
        insert into removed_ids (id, digest, stream_id, version, global_position)
        select id, content_digest(stream_id, event_type, content_type, data), stream_id, version,
               global_position from removed
    )
    select count(*) into v_removed from removed;
    update streams set events = events - v_removed where stream_id = p_stream;
    update log set removed = removed + v_removed;
    return v_removed;
end $body$;
