# What the scripts beside this share: a folder of their own, an S3 server, a configuration with a folder on disk and a
# copy on the server, and the comparison of what comes back. To be sourced.
: "${PACKVAULT:?name the built program}"
PACKVAULT=$(realpath "$PACKVAULT")
work=$(mktemp -d /tmp/packvault-preset.XXXXXX)
started=()
trap 'for one in "${started[@]}"; do kill "$one" 2>/dev/null || true; done; wait || true; rm -rf "$work"' EXIT
export HOME=$work XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1
export PACKVAULT_CONFIG=$work/config.toml
unset PACKVAULT_REPO

# answers URL: waits until a server does.
answers() {
    for _ in $(seq 240); do curl -s -o "$work/answer" "$1" && return; sleep 0.5; done
    echo "nobody answers at $1" >&2
    return 1
}

# places NAME: a configuration of the preset, a repository on disk, and its encrypted copy on an S3 server.
places() {
    local name=$1 port=${S3_PORT:-18900}
    moto_server -H 127.0.0.1 -p "$port" > "$work/s3.log" 2>&1 & started+=($!)
    answers "http://127.0.0.1:$port/"
    curl -s -X PUT "http://127.0.0.1:$port/backups" > "$work/answer"
    # The keys of the archive itself stand before its table of numbers.
    "$PACKVAULT" archive presets "$name" | sed "s|\"/srv/|\"$work/|" |
        sed "s|^profile = .*|&\nrepository = \"disk\"\ncopies = [\"store\"]\nverify = { every = \"1h\", sample = \"50%\" }\nrestore_check = \"1h\"|" \
            > "$PACKVAULT_CONFIG"
    cat >> "$PACKVAULT_CONFIG" <<TOML
[repository.disk]
location = "$work/disk"
[repository.store]
location = "s3://backups/$name?endpoint=http://127.0.0.1:$port&allow_http=true"
passphrase = { file = "$work/passphrase" }
encryption = "required"
TOML
    (umask 077; echo 'four words for a test' > "$work/passphrase")
    "$PACKVAULT" init --repo disk -q
    "$PACKVAULT" init --repo store -q --encrypt
}

# proved: everything in both places is whole, and status has nothing to say against it.
proved() {
    local place
    for place in disk store; do
        "$PACKVAULT" verify --all --repo "$place" --progress none
        "$PACKVAULT" restore --repo "$place" --target "$work/from-$place" --progress none
    done
    "$PACKVAULT" status
    diff -r "$work/from-disk" "$work/from-store"
}
