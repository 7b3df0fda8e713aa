"""Reads an encrypted repository, written from docs/format.md and from nothing else; the numbers are its sections.

    reader.py REPOSITORY (--key HEX | --passphrase TEXT | --identity AGE-SECRET-KEY-1...)

Restores every snapshot in memory and prints, as JSON, the SHA-256 of each file by its path. Whatever is not as the page
says ends it. Python's own library is enough, beside the program `zstd`.
"""

import argparse
import hashlib
import hmac
import json
import pathlib
import re
import struct
import subprocess
import tomllib

MASK = 0xFFFFFFFF


def expect(holds, what):
    if not holds:
        raise SystemExit(f"not as docs/format.md says: {what}")


# The cipher: draft-irtf-cfrg-xchacha, RFC 8439.


def rounds(state):
    s = list(state)
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    quarters += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for _ in range(10):
        for a, b, c, d in quarters:
            s[a] = (s[a] + s[b]) & MASK
            x = s[d] ^ s[a]
            s[d] = (x << 16 | x >> 16) & MASK
            s[c] = (s[c] + s[d]) & MASK
            x = s[b] ^ s[c]
            s[b] = (x << 12 | x >> 20) & MASK
            s[a] = (s[a] + s[b]) & MASK
            x = s[d] ^ s[a]
            s[d] = (x << 8 | x >> 24) & MASK
            s[c] = (s[c] + s[d]) & MASK
            x = s[b] ^ s[c]
            s[b] = (x << 7 | x >> 25) & MASK
    return s


SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def stream(key, nonce, length):
    out = bytearray()
    for counter in range(1 + -(-length // 64)):
        state = [*SIGMA, *struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)]
        out += struct.pack("<16I", *[(a + b) & MASK for a, b in zip(rounds(state), state)])
    return bytes(out[:32]), bytes(out[64 : 64 + length])


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at : at + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) & ((1 << 128) - 1)).to_bytes(16, "little")


def open_chacha(key, nonce, sealed, data=b""):
    """Opens ChaCha20-Poly1305; None where it is not authentic."""
    body, tag = sealed[:-16], sealed[-16:]
    hash_key, keystream = stream(key, nonce, len(body))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (data, body))
    if len(sealed) < 16 or poly1305(hash_key, padded + struct.pack("<QQ", len(data), len(body))) != tag:
        return None
    return (int.from_bytes(body, "big") ^ int.from_bytes(keystream, "big")).to_bytes(len(body), "big")


def open_item(key, sealed, *data):
    """1.4: a sealed item, with its associated data in parts."""
    expect(len(sealed) >= 40, "a sealed item has 40 bytes more than its content")
    nonce = sealed[:24]
    out = rounds([*SIGMA, *struct.unpack("<8I", key), *struct.unpack("<4I", nonce[:16])])
    item_key = struct.pack("<8I", *out[:4], *out[12:])
    plain = open_chacha(item_key, bytes(4) + nonce[16:], sealed[24:], b"\0".join(data))
    expect(plain is not None, f"an item opens as {data}")
    return plain


# 1.5: key files, which are age's: https://age-encryption.org/v1.


def hkdf(salt, secret, info):
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def x25519(scalar, point):
    p = 2**255 - 19
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    u = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for bit in reversed(range(255)):
        if swap ^ (k >> bit & 1):
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = k >> bit & 1
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
        e = aa - bb
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def base64(text):
    import base64

    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def identity(text):
    """The 32 bytes of AGE-SECRET-KEY-1..., which is Bech32."""
    digits = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(c) for c in text.lower().rpartition("1")[2][:-6]]
    bits = "".join(f"{digit:05b}" for digit in digits)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8))


def file_key(stanza, body, secrets):
    kind, *arguments = stanza
    if kind == "scrypt" and secrets.passphrase:
        salt, work = b"age-encryption.org/v1/scrypt" + base64(arguments[0]), int(arguments[1])
        words = secrets.passphrase.encode()
        key = hashlib.scrypt(words, salt=salt, n=1 << work, r=8, p=1, maxmem=1 << 30, dklen=32)
    elif kind == "X25519" and secrets.identity:
        share, own = base64(arguments[0]), identity(secrets.identity)
        public = x25519(own, (9).to_bytes(32, "little"))
        key = hkdf(share + public, x25519(own, share), b"age-encryption.org/v1/X25519")
    else:
        return None
    return open_chacha(key, bytes(12), body)


def open_age(raw, secrets):
    header, _, payload = raw.partition(b"\n--- ")
    lines = header.decode().split("\n")
    expect(lines.pop(0) == "age-encryption.org/v1", "a key file is an age file")
    found = None
    while lines:
        stanza, body = lines.pop(0).split(" ")[1:], ""
        while True:
            line = lines.pop(0)
            body += line
            if len(line) < 64:
                break
        found = found or file_key(stanza, base64(body), secrets)
    if found is None:
        return None
    mac, _, payload = payload.partition(b"\n")
    wanted = hmac.digest(hkdf(b"", found, b"header"), header + b"\n---", "sha256")
    expect(base64(mac.decode()) == wanted, "the header of a key file is whole")
    key, sealed = hkdf(payload[:16], found, b"payload"), payload[16:]
    expect(len(sealed) <= 65536, "three lines are one piece of an age file")
    return open_chacha(key, bytes(11) + b"\1", sealed)


def find_key(root, config, secrets):
    if secrets.key:
        return bytes.fromhex(secrets.key)
    for path in sorted((root / "keys").glob("*.age")):
        expect(re.fullmatch("[a-z0-9-]{1,64}", path.stem), "the name of a key file")
        text = open_age(path.read_bytes(), secrets)
        if text is not None:
            lines = text.decode().split("\n")
            expect(lines[0] == "packvault repository key 1" and lines[3:] == [""], "a key file has three lines")
            expect(lines[1] == config["repo_id"], "a key file is of its repository")
            expect(re.fullmatch("[0-9a-f]{64}", lines[2]), "a key is 64 digits")
            return bytes.fromhex(lines[2])
    raise SystemExit("no key file opens")


# 2: packs.


def crc32c(data):
    crc = MASK
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ MASK


def ulid(raw):
    number, digits = int.from_bytes(raw, "big"), ""
    for _ in range(26):
        digits = "0123456789abcdefghjkmnpqrstvwxyz"[number & 31] + digits
        number >>= 5
    return digits


def footer_of(key, pack, raw):
    expect(len(raw) >= 6 and raw[:4] == b"MVPK" and raw[4] == 1, "a pack begins with MVPK and version 1")
    expect(raw[5] == 1, "the flag of an encrypted pack")
    expect(len(raw) >= 6 + 26 and raw[-4:] == b"KPVM", "a pack ends with KPVM")
    offset, length = struct.unpack("<QQ", raw[-20:-4])
    expect(6 <= offset and length <= 1 << 30 and offset + length == len(raw) - 20, "the footer ends at the trailer")
    footer = open_item(key, raw[offset : offset + length], b"pack-footer", pack.encode())
    (count,) = struct.unpack_from("<I", footer)
    expect(len(footer) == 4 + 61 * count, "a footer has as many entries as it says")
    entries = {}
    for number in range(count):
        entry = struct.unpack_from("<32sQQQBI", footer, 4 + 61 * number)
        expect(entry[4] & ~1 == 2, "every entry is marked as encrypted")
        expect(6 <= entry[1] and entry[2] >= 40 and entry[1] + entry[2] <= offset, "frames lie before the footer")
        expect(entry[0] not in entries, "no pack holds a blob twice")
        entries[entry[0]] = entry[1:]
    return entries


def hashed(raw, magics):
    """3: what ends with the SHA of everything before it."""
    expect(raw[:4] in magics and hashlib.sha256(raw[:-32]).digest() == raw[-32:], f"{magics} is whole")
    expect(raw[4:6] == b"\1\0", "version 1")
    return raw[6:-32]


class Repository:
    def __init__(self, root, secrets):
        self.root = root
        self.config = tomllib.loads((root / "config.toml").read_text())
        expect(self.config["format_version"] == 1 and self.config["min_reader_version"] == 5, "versions")
        expect(self.config["encryption"] == "xchacha20poly1305", "the repository is encrypted")
        self.key = find_key(root, self.config, secrets)
        proof, repo_id = bytes.fromhex(self.config["key_check"]), self.config["repo_id"].encode()
        expect(open_item(self.key, proof, b"config", repo_id) == b"", "key_check seals nothing")
        self.packs, self.places, self.blobs = {}, {}, {}
        for path in sorted((root / "indexes").glob("*.mvidx")):
            raw = hashed(open_item(self.key, path.read_bytes(), b"index", path.stem.encode()), [b"MVIX"])
            (count,) = struct.unpack_from("<I", raw)
            expect(len(raw) == 4 + 65 * count, "an index has as many entries as it says")
            entries = [struct.unpack_from("<32s16sQQB", raw, 4 + 65 * number) for number in range(count)]
            expect(all(a[0] < b[0] for a, b in zip(entries, entries[1:])), "entries ascend")
            # The file whose name sorts last counts.
            self.places.update({entry[0]: entry[1:] for entry in entries})

    def blob(self, name):
        if name not in self.blobs:
            self.blobs[name] = self.read(name)
        return self.blobs[name]

    def read(self, name):
        """2.5, 2.6: the raw bytes of a blob."""
        pack, offset, length, flags = self.places[name]
        pack = ulid(pack)
        if pack not in self.packs:
            raw = (self.root / "packs" / pack[:2] / f"{pack}.mvpack").read_bytes()
            self.packs[pack] = raw, footer_of(self.key, pack, raw)
        raw, entries = self.packs[pack]
        at, stored, raw_length, entry_flags, crc = entries[name]
        expect((at, stored, entry_flags) == (offset, length, flags), "footer and index agree")
        item = raw[at : at + stored]
        expect(crc32c(item) == crc, "the CRC is that of the sealed item")
        frame = open_item(self.key, item, name)
        if flags & 1:
            done = subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True)
            frame = done.stdout
        expect(len(frame) == raw_length and hashlib.sha256(frame).digest() == name, "a blob is what it is named by")
        return frame

    def manifests(self):
        found = {}
        for path in sorted((self.root / "snapshots").glob("*.mvmanifest")):
            name = path.stem
            text = open_item(self.key, path.read_bytes(), b"manifest", name.encode()).decode()
            # 6.3: without blanks, and without the id.
            compact = "".join(re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"]+', text))
            unnamed = compact.replace(f'"snapshot_id":"{name}"', '"snapshot_id":""', 1)
            manifest = json.loads(text)
            time = re.sub("[-:]", "", manifest["created_at"])
            expect(name == f"{time}-{hashlib.sha256(unnamed.encode()).hexdigest()[:32]}", "the id of a manifest")
            found[name] = manifest
        return found

    def notes(self):
        """Opens what lies beside manifests; returns how many notes and attributes there are."""
        counts = [0, 0]
        for path in (self.root / "snapshots").iterdir():
            if path.name.endswith(".packvault.json"):
                note = open_item(self.key, path.read_bytes(), b"note", path.name.encode())
                expect(json.loads(note)["version"] == 1, "a note is of version 1")
                counts[0] += 1
            elif path.name.endswith(".packvault-attributes"):
                frame = open_item(self.key, path.read_bytes(), b"note", path.name.encode())
                done = subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True)
                expect(json.loads(done.stdout)["version"] == 1, "attributes are of version 1")
                counts[1] += 1
        return counts

    def map_of(self, manifest):
        raw = self.blob(bytes.fromhex(manifest["db"]["page_map"]))
        body, is_delta = hashed(raw, [b"MVMK", b"MVMD"]), raw[:4] == b"MVMD"
        size, pages, blobs = struct.unpack_from("<IQI", body)
        names = [body[16 + 32 * n : 48 + 32 * n] for n in range(blobs)]
        at = 16 + 32 * blobs
        (runs,) = struct.unpack_from("<I", body, at)
        runs = [struct.unpack_from("<QIIQ", body, at + 4 + 24 * n) for n in range(runs)]
        expect(len(body) == at + 4 + 24 * len(runs), "a map has as many runs as it says")
        expect((manifest["db"]["map_chain_depth"] > 0) == is_delta, "a chain begins with a keyframe")
        return size, pages, is_delta, {
            first + k: (names[which], offset + k * size)
            for first, count, which, offset in runs
            for k in range(count)
        }

    def hashes(self, manifest, manifests):
        """3.2, 3.3: the beginning of the SHA of each page."""
        raw = self.blob(bytes.fromhex(manifest["db"]["page_hash_map"]))
        body = hashed(raw, [b"MVHK", b"MVHD"])
        _, pages = struct.unpack_from("<IQ", body)
        if raw[:4] == b"MVHK":
            expect(len(body) == 12 + 16 * pages, "there is a hash for every page")
            return [body[12 + 16 * n : 28 + 16 * n] for n in range(pages)]
        found = self.hashes(manifests[manifest["parent_id"]], manifests)
        found = (found + [None] * pages)[:pages]
        (count,) = struct.unpack_from("<I", body, 12)
        expect(len(body) == 16 + 24 * count, "a delta has as many hashes as it says")
        for n in range(count):
            (page,) = struct.unpack_from("<Q", body, 16 + 8 * n)
            found[page] = body[16 + 8 * count + 16 * n :][:16]
        return found

    def database(self, manifest, manifests):
        """3.4, 3.5: the pages, through the chain."""
        wanted = self.hashes(manifest, manifests)
        size, pages, is_delta, places = self.map_of(manifest)
        if is_delta:
            chain = [(pages, places)]
            while is_delta:
                manifest = manifests[manifest["parent_id"]]
                _, count, is_delta, older = self.map_of(manifest)
                chain.append((count, older))
            places = {}
            for count, newer in reversed(chain):
                places = {page: place for page, place in places.items() if page < count} | newer
        expect(sorted(places) == list(range(pages)), "every page is somewhere")
        blobs = {name: self.blob(name) for name, _ in places.values()}
        found = [blobs[name][at : at + size] for name, at in (places[page] for page in range(pages))]
        expect([hashlib.sha256(page).digest()[:16] for page in found] == wanted, "every page is as it was hashed")
        return b"".join(found)

    def files(self, manifest, manifests):
        stats = manifest["stats"]
        name = stats["database"] if stats.get("profile") == "sqlite" else "msgvault.db"
        files = {name: self.database(manifest, manifests)}
        for attachments in manifest["attachments"]["lists"] or []:
            body = hashed(self.blob(bytes.fromhex(attachments)), [b"MVAL"])
            (count,) = struct.unpack_from("<I", body)
            for number in range(count):
                blob, size = struct.unpack_from("<32sQ", body, 4 + 40 * number)
                content = self.blob(blob)
                expect(len(content) == size, "an attachment has its size")
                files[f"attachments/{blob.hex()[:2]}/{blob.hex()}"] = content
        if manifest["extras"]["tree"]:
            for entry in json.loads(self.blob(bytes.fromhex(manifest["extras"]["tree"])))["entries"]:
                content = self.blob(bytes.fromhex(entry["blob"]))
                expect(len(content) == entry["size"], "an extra file has its size")
                files[entry["path"]] = content
        return {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=pathlib.Path)
    parser.add_argument("--key")
    parser.add_argument("--passphrase")
    parser.add_argument("--identity")
    arguments = parser.parse_args()
    repository = Repository(arguments.repository, arguments)
    manifests = repository.manifests()
    restored = {name: repository.files(manifest, manifests) for name, manifest in manifests.items()}
    notes, attributes = repository.notes()
    print(json.dumps({"snapshots": restored, "notes": notes, "attributes": attributes}))


if __name__ == "__main__":
    main()
