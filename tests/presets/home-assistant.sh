#!/usr/bin/env bash
# Tries the preset of Home Assistant with the real one, by hand: starts it on a configuration of its own, backs
# it up while it runs, restores, and compares. Needs Python 3.13 with pip, and some minutes.
#
#   PACKVAULT=target/debug/packvault tests/presets/home-assistant.sh
set -euo pipefail
: "${PACKVAULT:?name the built program}"
PACKVAULT=$(realpath "$PACKVAULT")
version=${HOME_ASSISTANT:-2025.4.4}
work=$(mktemp -d /tmp/packvault-preset.XXXXXX)
hass=
trap '[ -z "$hass" ] || kill "$hass" 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT
export HOME=$work XDG_CACHE_HOME=$work/cache
unset PACKVAULT_REPO PACKVAULT_CONFIG

venv=${VENV:-$work/venv}
[ -x "$venv/bin/hass" ] || { "${PYTHON:-python3.13}" -m venv "$venv"; "$venv/bin/pip" install -q "homeassistant==$version"; }

mkdir "$work/homeassistant"
cat > "$work/homeassistant/configuration.yaml" <<END
homeassistant: {name: Home, time_zone: UTC}
http: {server_host: 127.0.0.1, server_port: ${PORT:-18123}}
recorder: {commit_interval: 1}
api:
END
"$venv/bin/hass" -c "$work/homeassistant" > "$work/hass.log" 2>&1 & hass=$!
database=$work/homeassistant/home-assistant_v2.db
for _ in $(seq 120); do [ -e "$database-wal" ] && [ -e "$work/homeassistant/.storage/auth" ] && break; sleep 1; done

"$PACKVAULT" archive presets home-assistant | sed "s|\"/srv/|\"$work/|" > "$work/config.toml"
export PACKVAULT_CONFIG=$work/config.toml
"$PACKVAULT" init --repo "$work/repo" -q
"$PACKVAULT" create home-assistant --repo "$work/repo" --progress none
"$PACKVAULT" create home-assistant --repo "$work/repo" --progress none
kill -0 "$hass" || { echo "Home Assistant has ended"; exit 1; }
"$PACKVAULT" verify --all --repo "$work/repo"
"$PACKVAULT" restore --repo "$work/repo" --target "$work/back" --progress none
for file in configuration.yaml .HA_VERSION .storage/auth; do cmp "$work/homeassistant/$file" "$work/back/$file"; done
echo "the preset works with Home Assistant $version"
