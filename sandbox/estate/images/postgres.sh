#!/bin/sh
# Runs PostgreSQL from $PGDATA, made on the first start with user $POSTGRES_USER and database
# $POSTGRES_DB. Started as root it gives the folder to postgres and goes on as that user.
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA"
    chmod 0700 "$PGDATA"
    exec su -s /bin/sh postgres -c 'exec /entrypoint.sh'
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # The password stays out of argv; a half-made cluster is made again.
    unfinished="$PGDATA/unfinished"
    rm -rf "$unfinished"
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata "$unfinished" --username "$POSTGRES_USER" --pwfile /tmp/password \
        --encoding UTF8 --no-locale --no-sync --auth-local trust --auth-host scram-sha-256
    rm /tmp/password
    printf 'create database "%s";\n' "$POSTGRES_DB" | postgres --single -D "$unfinished" postgres
    printf 'host all all all scram-sha-256\n' >> "$unfinished/pg_hba.conf"
    mv "$unfinished/PG_VERSION" "$unfinished/PG_VERSION.last"
    for entry in "$unfinished"/*; do
        [ "$entry" = "$unfinished/PG_VERSION.last" ] || mv "$entry" "$PGDATA/"
    done
    mv "$unfinished/PG_VERSION.last" "$PGDATA/PG_VERSION"
    rmdir "$unfinished"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
