#!/usr/bin/env bash
# Tries the units of the whole machine under a real system manager, by hand: the timer starts a run with the rights that
# the unit leaves it, the application's owner and modes come back, a run that fails makes the unit fail, and a stop is a
# Ctrl-C. The manager is the first process of a part of the system of its own, and knows the units tried here alone.
# Needs root, Debian's packages systemd and util-linux, and some seconds.
#
#   PACKVAULT=target/debug/packvault tests/units/system.sh
set -euo pipefail
packaged=$(dirname "$(realpath "$0")")/../../packaging/systemd/system
said() { echo "$1" >&2; exit 1; }

case ${1-} in
'')
    : "${PACKVAULT:?name the built program}"
    PACKVAULT=$(realpath "$PACKVAULT")
    work=$(mktemp -d /srv/packvault-units.XXXXXX)
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
        exec unshare --mount --cgroup --pid --uts --ipc --net --fork --kill-child --mount-proc bash "$0" first' "$0" \
        > "$work/manager.log" 2>&1 &
    part=$!
    for _ in $(seq 600); do [ ! -e "$work/ended" ] && kill -0 "$part" 2>/dev/null || break; sleep 0.1; done
    # All that is in it ends with it.
    kill -KILL "$part" 2>/dev/null || true
    wait "$part" 2>/dev/null || true
    cat "$work/told" 2>/dev/null || true
    grep -qs '^the units of the machine work' "$work/told" || { tail -20 "$work/manager.log"; exit 1; }
    exit
    ;;
first)
    mount -t tmpfs tmpfs /run
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    grep -qx 0::/ /proc/self/cgroup || said "this is no group of its own"
    # What the manager, the unit and the run write is gone with this part of the system.
    mkdir -p "$work/upper" "$work/over"
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$work/upper,workdir=$work/over" /etc
    for folder in /root /var/cache /var/lib/systemd /var/tmp; do mount -t tmpfs tmpfs "$folder"; done
    mkdir -p /run/units /etc/packvault
    "$PACKVAULT" schedule show --system --json > "$work/shown.json"
    python3 - "$work/shown.json" <<'PY'
import json, os, sys
for file in json.load(open(sys.argv[1])):
    with open("/run/units/" + os.path.basename(file["path"]), "w") as unit:
        unit.write(file["text"])
PY
    sed "s|/usr/bin/packvault|$PACKVAULT|" "$packaged/packvault@.service" > /run/units/packvault@.service
    printf '[Unit]\nDefaultDependencies=no\nRequires=try.service\n' > /run/units/try.target
    printf '[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/bash %s drive\nStandardOutput=file:%s\nStandardError=file:%s\n' \
        "$(realpath "$0")" "$work/told" "$work/told" > /run/units/try.service
    for target in sysinit shutdown basic timers network-online local-fs local-fs-pre swap; do
        printf '[Unit]\nDefaultDependencies=no\n' > "/run/units/$target.target"
    done
    printf 'PACKVAULT=%s\nwork=%s\n' "$PACKVAULT" "$work" > /run/facts
    exec env -i container=packvault PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \
        /usr/lib/systemd/systemd --system --unit=try.target --log-target=console --show-status=no
    ;;
esac

. /run/facts
trap 'touch "$work/ended"' EXIT
chmod 755 "$work"
export HOME=/root PACKVAULT_CONFIG=/etc/packvault/config.toml
snapshots() { find "$work/repo/snapshots" -name '*.mvmanifest' | wc -l; }
result() { systemctl show -P Result "$1"; }

# An application of another user, who alone may read it.
mkdir -m 700 "$work/app"
python3 - "$work/app/app.db" <<'PY'
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.executescript("PRAGMA journal_mode = wal; CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('kept')")
PY
echo configured > "$work/app/app.ini"
chmod 600 "$work/app/"*
chown -R games:games "$work/app"
cat > "$work/hook" <<'SH'
#!/bin/sh
grep -E '^(NoNewPrivs|CapBnd|Seccomp):' /proc/self/status > /var/cache/packvault/all/rights
for place in /usr /etc /boot; do ! touch "$place/packvault-was-here" 2>/dev/null || echo "wrote $place"; done >> /var/cache/packvault/all/rights
wait=$(dirname "$0")/wait
[ ! -e "$wait" ] || { touch "$wait.ing"; while [ -e "$wait" ]; do sleep 0.1; done; }
SH
chmod 755 "$work/hook"
cat > "$PACKVAULT_CONFIG" <<TOML
[archive.app]
profile = "sqlite"
home = "$work/app"
database = "app.db"
files = ["app.ini"]
repository = "$work/repo"
before = ["$work/hook"]
verify = { every = "1h", sample = "50%" }
restore_check = "1h"
TOML
"$PACKVAULT" init --repo "$work/repo" -q

mkdir -p /run/units/packvault.timer.d
printf '[Timer]\nOnCalendar=\nOnActiveSec=0\nRandomizedDelaySec=0\n' > /run/units/packvault.timer.d/now.conf
systemctl daemon-reload
systemctl start packvault.timer
for _ in $(seq 300); do
    [ "$(systemctl show -P ExecMainExitTimestampMonotonic packvault.service)" = 0 ] || break
    sleep 0.1
done
[ "$(result packvault.service)" = success ] || said "the run of the timer failed: $(systemctl status packvault.service)"
[ "$(snapshots)" = 1 ] || said "the timer made no snapshot"
cat /var/cache/packvault/all/rights
! grep wrote /var/cache/packvault/all/rights || said "the unit may write where it must not"
"$PACKVAULT" status
rm -r /run/units/packvault.timer.d
systemctl daemon-reload
systemctl restart packvault.timer
systemctl list-timers --no-pager packvault.timer | grep packvault.service > /dev/null || said "the timer waits for nothing"

mkdir -p /var/cache/packvault/all
systemctl start packvault@app.service || said "$(systemctl status packvault@app.service)"
[ "$(snapshots)" = 2 ] || said "the instance made no snapshot"
"$PACKVAULT" restore --repo "$work/repo" --target "$work/back" --progress none
[ "$(stat -c '%U %a' "$work/back/app.ini")" = "games 600" ] || said "owner and mode did not come back"
[ "$(stat -c %U "$work/app/app.db")" = games ] || said "the application's file has another owner now"
[ -z "$(find "$work/app" -not -user games)" ] || said "files of another user lie beside the database"

mv "$work/app/app.db" "$work/away"
! systemctl start packvault.service || said "a run that fails is a unit that has failed"
systemctl is-failed -q packvault.service || said "the unit has not failed"
mv "$work/away" "$work/app/app.db"

touch "$work/wait"
systemctl start --no-block packvault.service
until [ -e "$work/wait.ing" ]; do sleep 0.1; done
systemctl stop packvault.service
systemctl show -p Result -p ExecMainStatus packvault.service
rm "$work/wait"
[ "$(find "$work/repo/locks" -type f | wc -l)" = 0 ] || said "the lock was not given back"
systemctl start packvault.service
[ "$(snapshots)" = 3 ] || said "there is no snapshot after a stop"
"$PACKVAULT" verify --all --repo "$work/repo" --progress none
echo "the units of the machine work"
