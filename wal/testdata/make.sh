#!/bin/bash
# Makes the fixtures of one PostgreSQL major from real servers:
#   make.sh BINDIR WORKDIR
# BINDIR has initdb, pg_ctl and postgres; psql comes from PATH. Run it as a user that PostgreSQL accepts, in an empty
# WORKDIR; its out/ then replaces testdata/MAJOR, but for out/*control, which belong to ../pgcontrol/testdata/MAJOR, and
# out/page/*.gz, which is ../page/testdata/MAJOR.gz. Segments are 1 MiB to keep the files small.
set -euo pipefail
bin=$1 work=$2
cd "$work"
export TZ=UTC PGHOST=$work PGUSER=postgres PGDATABASE=postgres
major=$("$bin/postgres" --version | sed 's/.* \([0-9]*\)\..*/\1/')
mkdir -p out archive archive2 archive3

conf() { # folder port archive mode
	cat >> "$1/postgresql.conf" <<-EOF
		port=$2
		listen_addresses=''
		unix_socket_directories='$work'
		archive_mode=$4
		archive_command='cp %p $work/$3/%f'
		wal_level=replica
		max_prepared_transactions=5
		max_wal_senders=5
		hot_standby=on
		autovacuum=off
		log_timezone='UTC'
		timezone='UTC'
		checkpoint_timeout=1h
		max_wal_size=1GB
		wal_keep_size=100MB
		bgwriter_lru_maxpages=0
	EOF
}
start() { "$bin/pg_ctl" -D "$1" -w -l "$1.log" start > /dev/null; }
stop() { "$bin/pg_ctl" -D "$1" -w -m "$2" stop > /dev/null; }
sql() { local port=$1; shift; psql -X -q -A -t -v ON_ERROR_STOP=1 -p "$port" "$@"; }
until_true() { local port=$1; for _ in $(seq 300); do [ "$(sql "$port" -c "$2")" = t ] && return; sleep 0.1; done; echo "never: $2" >&2; exit 1; }
until_file() { for _ in $(seq 300); do [ -e "$1" ] && return; sleep 0.1; done; echo "never: $1" >&2; exit 1; }
keep() { mkdir -p "out/$1"; gzip -9 -n -c "$2" > "out/$1/$(basename "$2").gz"; } # role file
segment() { sql "$1" -c "select pg_walfile_name(pg_current_wal_insert_lsn())"; }
message() { sql "$1" -c "select pg_logical_emit_message(false, 'fill', repeat('x', $2))" > /dev/null; }
switch() { # to a fresh segment; prints the name of the one that ended
	local s; s=$(sql "$1" -c "select pg_walfile_name(pg_switch_wal())"); until_file "$2/$s"; echo "$s"
}
fill() { # port: messages until the segment changes; prints the name of the one that is full
	local s; s=$(segment "$1"); while [ "$(segment "$1")" = "$s" ]; do message "$1" 60000; done; echo "$s"
}

trap 'for d in a b c; do [ ! -e "$d/postmaster.pid" ] || stop "$d" immediate; done' EXIT

"$bin/initdb" -D a -U postgres -A trust --wal-segsize=1 -k -E UTF8 --locale=C > /dev/null
conf a 6001 archive on
start a
sql 6001 -c "create table account (id int primary key, balance int, note text)" \
	-c "insert into account select i, 0, 'n' from generate_series(1, 200) i" -c "checkpoint"
# What initdb left to recycle compresses badly, and would be the tail of every unfinished segment.
s=$(segment 6001)
for f in $(ls a/pg_wal | grep -E '^[0-9A-F]{24}$'); do [[ ! "$f" > "$s" ]] || rm "a/pg_wal/$f"; done
traffic() { # commits, aborts, savepoints, two-phase commits
	sql 6001 <<-EOF
		update account set balance = balance + 1 where id = 1;
		begin; update account set balance = 2 where id = 2; savepoint s; update account set balance = 3 where id = 3; release s; commit;
		begin; update account set balance = 9 where id = 4; rollback;
		begin; update account set balance = 5 where id = 5; create table gone (i int); prepare transaction 'one';
		begin; update account set balance = 6 where id = 6; prepare transaction 'two';
		commit prepared 'one';
		rollback prepared 'two';
		drop table gone;
	EOF
}
traffic # and the full-page images of all it touches
switch 6001 archive > /dev/null

# plain: a full segment with all that and a restore point.
s=$(segment 6001)
traffic
sql 6001 -c "select pg_create_restore_point('before the storm')" > /dev/null
[ "$(fill 6001)" = "$s" ] || { echo "plain segment filled too early" >&2; exit 1; }
until_file "archive/$s"
keep plain "archive/$s"

# switched: ended early.
sql 6001 -c "update account set balance = 7 where id = 7"
keep switched "archive/$(switch 6001 archive)"

# huge: one record over three segments; the second one has no record of its own.
message 6001 1000
sql 6001 -c "select pg_logical_emit_message(false, 'huge', repeat('h', 2500000))" > /dev/null
s=$(switch 6001 archive)
for f in $(ls archive | grep -E '^[0-9A-F]{24}$' | tail -n 3); do keep huge "archive/$f"; done

# straddle: a switch record over the boundary of two segments, with 8 or 16 of its 24 bytes in the first; all of the second
# is its end.
for head in 8 16; do
	message 6001 1000
	s=$(segment 6001)
	sql 6001 <<-EOF
		do \$\$
		declare
			size constant int := 1048576;
			head constant int := $head;
			overhead constant int := 55; -- of a logical message with a one-letter prefix: record header, data header, its own
			left_ int;
		begin
			loop
				left_ := size - mod((pg_current_wal_insert_lsn() - '0/0')::bigint, size);
				exit when left_ <= head;
				if left_ > 8000 then -- to the last page
					perform pg_logical_emit_message(false, 'f', repeat('x', least(60000, left_ - 7000)));
				else
					perform pg_logical_emit_message(false, 'f', repeat('x', left_ - head - overhead));
				end if;
			end loop;
			if left_ <> head then raise 'the record fell at % bytes before the end', left_; end if;
			perform pg_switch_wal();
		end \$\$;
	EOF
	next=${s:0:16}$(printf %08X $((16#${s:16} + 1)))
	until_file "archive/$next"
	keep straddle "archive/$s"
	keep straddle "archive/$next"
done

# control: a running server's control file and what the server says of it; page: a relation with checksums.
control() { # port folder role
	keep "$3" "$2/global/pg_control"
	sql "$1" -x -F ' ' -c "select * from pg_control_system()" -c "select * from pg_control_checkpoint()" \
		-c "select * from pg_control_recovery()" -c "select * from pg_control_init()" > "out/$3/server-says"
}
sql 6001 -c checkpoint
control 6001 a control
keep page "a/$(sql 6001 -c "select pg_relation_filepath('account')")"

# backup: label and history file.
start_fn="pg_backup_start('a label', true)" stop_fn="pg_backup_stop(true)"
[ "$major" -ge 15 ] || { start_fn="pg_start_backup('a label', true, false)"; stop_fn="pg_stop_backup(false, true)"; }
mkdir out/backup
sql 6001 -c "select 1 from $start_fn" -c "select labelfile from $stop_fn" | sed '1d;$d' > out/backup/backup_label
for f in archive/*.backup; do cp "$f" out/backup/; done

# fork: a streaming standby is promoted in the middle of a segment; a second one archives always and follows.
stop a fast
cp -r a b; cp -r a c
touch b/standby.signal c/standby.signal
printf "port=6002\narchive_command='cp %%p $work/archive2/%%f'\nprimary_conninfo='host=$work port=6001 user=postgres'\n" >> b/postgresql.conf
printf "port=6003\narchive_mode=always\narchive_command='cp %%p $work/archive3/%%f'\nprimary_conninfo='host=$work port=6002 user=postgres'\n" >> c/postgresql.conf
start a; start b; start c
sql 6001 -c "update account set balance = 8 where id = 8"
message 6001 300000
lsn=$(sql 6001 -c "select pg_current_wal_flush_lsn()")
until_true 6002 "select pg_last_wal_replay_lsn() >= '$lsn'"
until_true 6003 "select pg_last_wal_replay_lsn() >= '$lsn'"
control 6002 b standby-control
stop a immediate
"$bin/pg_ctl" -D b -w promote > /dev/null
sql 6002 -c "update account set balance = 9 where id = 9" -c "checkpoint"
s=$(segment 6002)
[ "$(fill 6002)" = "$s" ]
until_file "archive2/$s"; until_file archive2/00000002.history
keep fork "archive2/$s"
cp archive2/00000002.history out/fork/
until_file "$(ls archive2/*.partial)"
keep partial "$(ls archive2/*.partial)"
cut=00000001${s#????????}
sql 6002 -c "update account set balance = 10 where id = 10"
switch 6002 archive2 > /dev/null
until_file "archive3/$cut"
keep cut "archive3/$cut"
# a second fork, so that a history file has two lines
lsn=$(sql 6002 -c "select pg_current_wal_flush_lsn()")
until_true 6003 "select pg_last_wal_replay_lsn() >= '$lsn'"
stop b immediate
"$bin/pg_ctl" -D c -w promote > /dev/null
until_file archive3/00000003.history
cp archive3/00000003.history out/fork/
stop c fast

# overwrite: the end of a long record is lost in a crash, and recovery abandons the record (026_overwrite_contrecord.pl).
start a
while :; do # to a place near the end of a segment
	left=$(sql 6001 -c "select 1048576 - mod((pg_current_wal_insert_lsn() - '0/0')::bigint, 1048576)")
	[ "$left" -gt 30000 ] || break
	message 6001 $((left > 80000 ? 60000 : left - 25000))
done
s=$(segment 6001)
message 6001 2000000
t=$(segment 6001)
[ "$s" != "$t" ]
until_file "archive/$s"
stop a immediate
lost=$(ls a/pg_wal | grep -E '^[0-9A-F]{24}$' | grep -A1 "$s" | tail -n 1)
# the second segment of the record keeps its first pages and loses the rest
dd if=/dev/zero of="a/pg_wal/$lost" bs=8192 seek=5 count=123 conv=notrunc status=none
for f in $(ls a/pg_wal | grep -E '^[0-9A-F]{24}$'); do [[ "$f" > "$lost" ]] && rm -f "a/pg_wal/$f" "a/pg_wal/archive_status/$f".*; done
rm -f "archive/$lost" "a/pg_wal/archive_status/$lost".*
start a
sql 6001 -c "update account set balance = 11 where id = 11"
[ "$(fill 6001)" = "$lost" ]
sql 6001 -c checkpoint
until_file "archive/$lost"
keep overwrite "archive/$s"; keep overwrite "archive/$lost"
stop a fast
keep stopped-control a/global/pg_control
