-- In which order runs were made, whatever the clock said then: the generation of the write that made it. 0 in
-- runs of earlier versions; those are older than all others, and among them their time counts.
alter table heads add column created integer not null default 0;
