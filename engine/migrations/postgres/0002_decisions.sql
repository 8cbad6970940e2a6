-- What people have decided about gates: written by whoever decides, without the lease, and never replaced.
create table decisions (
    project text    not null,
    run     text    not null,
    key     text    not null,           -- the question
    body    text    not null,           -- JSON
    primary key (project, run, key),
    foreign key (project, run) references runs (project, id)
);
