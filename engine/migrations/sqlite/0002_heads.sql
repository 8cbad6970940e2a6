-- How much there must be of each run, changed with every write to it: without it, facts lost at the
-- end would leave a chain that looks whole. `sum` covers the row.
create table heads (
    run         text    not null primary key references runs (id),
    started_at  text    not null,
    run_sum     blob    not null, -- over the run's row
    facts       integer not null, -- how many
    facts_sum   blob    not null, -- the last of their chain
    places_sum  blob    not null, -- over its places, in no order
    sum         blob    not null
) strict, without rowid;

-- The store itself, one row. `generation` counts its writes and is also in the file `state.seen`
-- beside it; `epoch` counts those who took the right to write; `heads_sum` covers all heads.
create table store (
    one         integer primary key check (one = 1),
    id          text    not null,
    epoch       integer not null,
    generation  integer not null,
    heads_sum   blob    not null,
    sum         blob    not null
) strict;

alter table places add column cursor_sum blob;
alter table places add column handle_sum blob;
