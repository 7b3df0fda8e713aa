#!/usr/bin/env bash
# Tries the preset of Calibre-Web with the real one, by hand: starts it on a library of its own, lets somebody upload
# books all the while, runs the schedule to a folder and an S3 server, restores from both, and starts it on what came
# back. Needs Python with pip, curl, sqlite3, moto_server, Debian's package calibre (for the tables of an empty library;
# it is only unpacked) and some minutes.
#
#   PACKVAULT=target/debug/packvault tests/presets/calibre-web.sh
set -euo pipefail
. "$(dirname "$0")/places.sh"
version=${CALIBRE_WEB:-0.6.27}
port=${PORT:-18083}

venv=${VENV:-$work/venv}
[ -x "$venv/bin/cps" ] || { "${PYTHON:-python3}" -m venv "$venv"; "$venv/bin/pip" install -q "calibreweb==$version"; }

# serve FOLDER PORT: Calibre-Web on the folder.
serve() {
    CALIBRE_DBPATH=$1/config "$venv/bin/cps" -i 127.0.0.1 -o "$work/calibre-web.log" > "$work/out.log" 2>&1 &
    started+=($!)
    answers "http://127.0.0.1:$port/login"
}

home=$work/calibre-web
mkdir -p "$home/config" "$home/books"
[ -e "${TABLES:=$work/metadata_sqlite.sql}" ] || (
    cd "$work"
    apt-get download -qq calibre
    dpkg-deb --fsys-tarfile calibre_*.deb | tar -xO ./usr/share/calibre/metadata_sqlite.sql > "$TABLES"
)
sqlite3 "$home/books/metadata.db" < "$TABLES"
sqlite3 "$home/books/metadata.db" "INSERT INTO library_id (uuid) VALUES ('of a test')"
# The first start makes the settings; they say then where the library is, and that books may be uploaded.
export CALIBRE_PORT=$port
serve "$home"
kill "${started[-1]}" && wait "${started[-1]}" || true
sqlite3 "$home/config/app.db" "UPDATE settings SET config_calibre_dir = '$home/books', config_uploading = 1"
serve "$home"
server=${started[-1]}

cat > "$work/reader.py" <<'PY'
import io, re, sys, uuid, zipfile
import requests

base, task = sys.argv[1:3]

def token(path):
    return re.search(r'name="csrf_token" value="([^"]+)"', session.get(base + path).text).group(1)

def book(title):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("mimetype", "application/epub+zip")
        parts.writestr("META-INF/container.xml", '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>')
        parts.writestr("c.opf", f'<package xmlns="http://www.idpf.org/2007/opf" version="2.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title><dc:creator>Ann</dc:creator><dc:language>en</dc:language></metadata><manifest/><spine/></package>')
        parts.writestr("text", uuid.uuid4().hex * 5000)
    return file.getvalue()

session = requests.Session()
login = {"csrf_token": token("/login"), "username": "admin", "password": "admin123"}
assert "logout" in session.post(base + "/login", data=login).text, "cannot log in"
if task == "write":
    # Bounded: whoever started it ends it long before.
    for number in range(2000):
        title = f"Book {number}"
        sent = session.post(base + "/upload", data={"csrf_token": token("/")}, files={"btn-upload": ("b.epub", book(title))})
        assert sent.ok and "location" in sent.text, sent.text
        print(number + 1, flush=True)
else:
    # Every book that the library knows can be downloaded, whole.
    for number in sys.argv[3:]:
        got = session.get(f"{base}/download/{number}/epub/b.epub")
        assert got.ok and zipfile.ZipFile(io.BytesIO(got.content)).testzip() is None, number
    print(len(sys.argv[3:]), "books can be read")
PY
"$venv/bin/python" "$work/reader.py" "http://127.0.0.1:$port" write > "$work/written" & started+=($!)
writer=${started[-1]}
until [ -s "$work/written" ]; do sleep 0.2; done

places calibre-web
for _ in 1 2 3; do "$PACKVAULT" run --all --progress none; done
kill -0 "$writer" || { echo "the writer has ended"; exit 1; }
kill -0 "$server" || { echo "Calibre-Web has ended"; exit 1; }
kill "$writer"
proved
kill "$server" && wait "$server" || true

back=$work/from-store
books=$(sqlite3 "$back/books/metadata.db" "SELECT id FROM books")
[ "$(wc -w <<< "$books")" -ge 1 ]
sqlite3 "$back/config/app.db" "UPDATE settings SET config_calibre_dir = '$back/books'"
cmp "$home/config/.key" "$back/config/.key"
serve "$back"
"$venv/bin/python" "$work/reader.py" "http://127.0.0.1:$port" read $books
echo "the preset works with Calibre-Web $version"
