#!/usr/bin/env bash
# Tries the units of a user under a real manager, by hand: the timer starts a run, a run that fails makes the unit fail,
# and a stop is a Ctrl-C. The manager sees a part of the system of its own: its own control group, processes and /run.
# Needs root, Debian's packages systemd and util-linux, and some seconds.
#
#   PACKVAULT=target/debug/packvault tests/units/user.sh
set -euo pipefail
if [ "${1-}" != inside ]; then
    : "${PACKVAULT:?name the built program}"
    PACKVAULT=$(realpath "$PACKVAULT")
    work=$(mktemp -d /tmp/packvault-units.XXXXXX)
    groups=/sys/fs/cgroup
    [ ! -d "$groups/unified" ] || groups=$groups/unified
    group=$groups/packvault-units.$$
    mkdir "$group"
    # The last of its processes may still be ending.
    leave() { for _ in $(seq 20); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done; rm -rf "$work"; }
    trap leave EXIT
    # Whoever begins in a group of its own sees no other group: the manager moves every process of the topmost one.
    export PACKVAULT work group
    bash -c 'echo $$ > "$group/cgroup.procs"
        exec unshare --mount --cgroup --pid --uts --ipc --fork --kill-child --mount-proc bash "$0" inside' "$0"
    exit
fi

mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ "$(cat /proc/self/cgroup | sed -n 's/^0:://p')" = / ] || { echo "this is no group of its own"; exit 1; }
mkdir -p /run/systemd/system /run/user/0
chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 HOME=$work
unset PACKVAULT_CONFIG PACKVAULT_REPO XDG_CONFIG_HOME XDG_STATE_HOME XDG_CACHE_HOME DBUS_SESSION_BUS_ADDRESS
units=$HOME/.config/systemd/user
mkdir -p "$units" "$HOME/.config/packvault" "$HOME/app"

# What `schedule show` prints, at the places it names.
"$PACKVAULT" schedule show --user --json > "$work/shown.json"
python3 - "$work/shown.json" <<'PY'
import json, os, sys
for file in json.load(open(sys.argv[1])):
    with open(os.path.expanduser(file["path"]), "w") as unit:
        unit.write(file["text"])
PY
sed "s|/usr/bin/packvault|$PACKVAULT|" "$(dirname "$0")/../../packaging/systemd/user/packvault@.service" \
    > "$units/packvault@.service"
cp "$(dirname "$0")/../../packaging/systemd/user/packvault@.timer" "$units"
# The hook waits for a file if it is told to, so that a run can be stopped.
cat > "$work/hook" <<'SH'
#!/bin/sh
[ ! -e "$HOME/wait" ] || { touch "$HOME/waiting"; while [ -e "$HOME/wait" ]; do sleep 0.1; done; }
SH
chmod 755 "$work/hook"
python3 - "$HOME/app/app.db" <<'PY'
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.executescript("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('kept')")
PY
cat > "$HOME/.config/packvault/config.toml" <<TOML
[archive.app]
profile = "sqlite"
home = "$HOME/app"
database = "app.db"
repository = "$HOME/repo"
before = ["$work/hook"]
verify = { every = "1h", sample = "50%" }
restore_check = "1h"
TOML
"$PACKVAULT" init --repo "$HOME/repo" -q
snapshots() { find "$HOME/repo/snapshots" -name '*.mvmanifest' | wc -l; }
said() { echo "$1"; exit 1; }

/usr/lib/systemd/systemd --user --unit=basic.target > "$work/manager.log" 2>&1 &
manager=$!
for _ in $(seq 100); do
    [ "$(systemctl --user is-active basic.target 2>/dev/null)" != active ] || break
    sleep 0.1
done
systemctl --user is-active -q basic.target || { cat "$work/manager.log"; said "the manager did not start"; }

# The timer, at its time: of the file as it is, the time alone is moved to now.
mkdir -p "$units/packvault.timer.d"
printf '[Timer]\nOnCalendar=\nOnActiveSec=0\nRandomizedDelaySec=0\n' > "$units/packvault.timer.d/now.conf"
systemctl --user daemon-reload
systemctl --user enable --now packvault.timer
for _ in $(seq 300); do
    [ "$(systemctl --user show -P ExecMainExitTimestampMonotonic packvault.service)" = 0 ] || break
    sleep 0.1
done
[ "$(systemctl --user show -P Result packvault.service)" = success ] || said "the run of the timer failed"
[ "$(snapshots)" = 1 ] || said "the timer made no snapshot"
rm -r "$units/packvault.timer.d"
systemctl --user daemon-reload
systemctl --user restart packvault.timer
systemctl --user list-timers --no-pager packvault.timer | grep packvault.service > /dev/null || said "the timer waits for nothing"
"$PACKVAULT" status

# One archive, by its name.
systemctl --user start packvault@app.service
[ "$(snapshots)" = 2 ] || said "the instance made no snapshot"

# A run that fails.
mv "$HOME/app/app.db" "$HOME/away"
! systemctl --user start packvault.service || said "a run that fails is a unit that has failed"
systemctl --user show -p Result -p ExecMainStatus packvault.service
systemctl --user is-failed -q packvault.service || said "the unit has not failed"
mv "$HOME/away" "$HOME/app/app.db"

# A stop is a Ctrl-C, and nothing is in the way of the next run.
touch "$HOME/wait"
systemctl --user start --no-block packvault.service
until [ -e "$HOME/waiting" ]; do sleep 0.1; done
systemctl --user stop packvault.service
systemctl --user show -p Result -p ExecMainStatus packvault.service
rm "$HOME/wait"
[ "$(find "$HOME/repo/locks" -type f | wc -l)" = 0 ] || said "the lock was not given back"
systemctl --user start packvault.service
[ "$(snapshots)" = 3 ] || said "there is no snapshot after a stop"
"$PACKVAULT" verify --all --repo "$HOME/repo" --progress none
kill "$manager"
wait "$manager" || true
echo "the units of a user work"
