#!/usr/bin/env bash
# Tries the preset of Actual Budget's server with the real one, by hand: starts it, lets two budgets be synchronised all
# the while, runs the schedule to a folder and an S3 server, restores from both, and starts it on what came back. Needs
# Node.js with npm, its headers in /usr/include/node and a compiler (for the server's SQLite), curl, moto_server and some
# minutes.
#
#   PACKVAULT=target/debug/packvault tests/presets/actual.sh
set -euo pipefail
. "$(dirname "$0")/places.sh"
version=${ACTUAL:-25.6.0}
port=${PORT:-15006}

app=${APP:-$work/app}
[ -e "$app/node_modules/@actual-app/sync-server" ] ||
    npm_config_nodedir=/usr npm install --prefix "$app" --silent --no-audit --no-fund "@actual-app/sync-server@$version"

# serve FOLDER: the server on the folder.
serve() {
    ACTUAL_DATA_DIR=$1 ACTUAL_PORT=$port ACTUAL_HOSTNAME=127.0.0.1 \
        node "$app/node_modules/@actual-app/sync-server/build/app.js" > "$work/actual.log" 2>&1 &
    started+=($!)
    answers "http://127.0.0.1:$port/account/needs-bootstrap"
}

home=$work/actual
mkdir -p "$home"
serve "$home"
server=${started[-1]}

cat > "$work/budgets.mjs" <<'JS'
import { createRequire } from 'node:module';
const [app, base, task] = process.argv.slice(2);
const require = createRequire(`${app}/node_modules/`);
const { SyncProtoBuf, Timestamp, makeClock, setClock } = require('@actual-app/crdt');
setClock(makeClock(new Timestamp(0, 0, '0123456789abcdef')));

const json = async (path, body) => {
  const answer = await fetch(base + path, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
  });
  return (await answer.json()).data;
};
if (task === 'write') await json('/account/bootstrap', { password: 'a password' });
const { token } = await json('/account/login', { password: 'a password', loginMethod: 'password' });

const sync = async (fileId, groupId, since, messages) => {
  const request = new SyncProtoBuf.SyncRequest();
  request.setFileid(fileId); request.setGroupid(groupId); request.setSince(since);
  for (const [timestamp, text] of messages) {
    const message = new SyncProtoBuf.MessageEnvelope();
    message.setTimestamp(timestamp); message.setIsencrypted(false); message.setContent(Buffer.from(text));
    request.addMessages(message);
  }
  const answer = await fetch(`${base}/sync/sync`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/actual-sync', 'X-ACTUAL-TOKEN': token },
    body: Buffer.from(request.serializeBinary()),
  });
  if (!answer.ok) throw new Error(`sync: ${answer.status} ${await answer.text()}`);
  return SyncProtoBuf.SyncResponse.deserializeBinary(new Uint8Array(await answer.arrayBuffer()));
};

const EPOCH = '1970-01-01T00:00:00.000Z-0000-0000000000000000';
if (task === 'write') {
  const budgets = [];
  for (const name of ['home', 'shop']) {
    const answer = await fetch(`${base}/sync/upload-user-file`, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/encrypted-file', 'X-ACTUAL-TOKEN': token,
        'X-ACTUAL-NAME': name, 'X-ACTUAL-FILE-ID': `budget-${name}`, 'X-ACTUAL-FORMAT': '2',
      },
      body: Buffer.alloc(300000, name),
    });
    budgets.push([`budget-${name}`, (await answer.json()).groupId]);
  }
  // Bounded: whoever started it ends it long before.
  for (let round = 1; round <= 50000; round++) {
    for (const [fileId, groupId] of budgets) {
      await sync(fileId, groupId, Timestamp.send().toString(), [[Timestamp.send().toString(), `payment ${round}`]]);
    }
    console.log(round);
    // The server refuses more than 500 requests in a minute.
    await new Promise(done => setTimeout(done, 300));
  }
} else {
  const list = await fetch(`${base}/sync/list-user-files`, { headers: { 'X-ACTUAL-TOKEN': token } });
  const files = (await list.json()).data;
  if (files.length !== 2) throw new Error(`${files.length} budgets`);
  for (const { fileId, groupId } of files) {
    const blob = await fetch(`${base}/sync/download-user-file`, {
      headers: { 'X-ACTUAL-TOKEN': token, 'X-ACTUAL-FILE-ID': fileId },
    });
    if ((await blob.arrayBuffer()).byteLength !== 300000) throw new Error(`${fileId} is cut`);
    const texts = (await sync(fileId, groupId, EPOCH, [])).getMessagesList();
    // Each payment up to the last one that is there, and none twice.
    const rounds = texts.map(text => Number(Buffer.from(text.getContent_asU8()).toString().split(' ')[1]));
    rounds.forEach((round, at) => { if (round !== at + 1) throw new Error(`${fileId}: ${round} at ${at}`); });
    if (rounds.length === 0) throw new Error(`${fileId} has no payment`);
    console.log(`${fileId}: ${rounds.length} payments`);
  }
}
JS
node "$work/budgets.mjs" "$app" "http://127.0.0.1:$port" write > "$work/written" & started+=($!)
writer=${started[-1]}
until [ -s "$work/written" ]; do kill -0 "$writer"; sleep 0.2; done

places actual
for _ in 1 2 3; do "$PACKVAULT" run --all --progress none; done
kill -0 "$writer" || { echo "the writer has ended"; exit 1; }
kill -0 "$server" || { echo "the server has ended"; exit 1; }
kill "$writer"
proved
kill "$server" && wait "$server" || true

serve "$work/from-store"
node "$work/budgets.mjs" "$app" "http://127.0.0.1:$port" read
echo "the preset works with Actual Budget $version"
