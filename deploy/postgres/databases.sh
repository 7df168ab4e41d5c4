#!/usr/bin/env bash
# Run once by PostgreSQL's image, on an empty volume: each service gets its own role and its own database, and no other may
# enter it. Name and password are those of the URL that the service reads from the same secret.
set -euo pipefail

for service in order product payment user notification; do
  login=$(sed -E 's|^postgres(ql)?://([^@]+)@.*|\2|' "/run/secrets/$service-database")
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
    --set=name="${login%%:*}" --set=password="${login#*:}" --set=database="$service" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"name";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
done
