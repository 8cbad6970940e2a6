#!/bin/sh
# Serves /www on $PORT; the index says which release and which greeting it runs with.
set -eu
printf '<!doctype html><title>shop</title><h1>%s</h1>\n' "${GREETING:-shop}" > /tmp/index.html
mkdir -p /tmp/www
cp /www/healthz /tmp/www/healthz
mv /tmp/index.html /tmp/www/index.html
exec httpd -f -p "${PORT:-8080}" -h /tmp/www
