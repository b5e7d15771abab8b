"""Changes to bytes, texts, tables and archives, as damage and malice would make them.

Everything follows from the random generator, so that an input can be made again from its number.
"""

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

_NUMBERS = (
    "0", "-1", "1", "-0", "1e999", "nan", "1.5", "00007", "65536", "2147483648", "4294967295",
    "9223372036854775808", "1" * 400, "٣", "",
)  # fmt: skip
_TEXTS = (
    "\x00", "\ufeff", "\r", "\n\n", '"', "'", ",", ";", "\t", "../../x", "/etc/passwd", "\\",
    "[" * 2000, "{" * 300, "a" * 20_000, "\x1b[31m", "%s%n", "[/bold]", "=1+1", "\ud7ff",
    "\U0001d54f", "\u202e",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 1e308, float("nan"), float("inf"), "", "x", [], {},
    [[[[]]]], "\x1b[0m", "../../x", {"a": {"b": {}}}, list(range(300)), "9" * 400, -0.0, 1e-320,
)  # fmt: skip
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutate(data: bytes, name: str, rng: random.Random) -> bytes:
    """Return changed content of a file; its name says what changes make sense.

    Args:
        data: Sound content.
        name: Of the file; the suffix counts.
        rng: Decides everything.
    """
    suffix = name.rpartition(".")[2].lower()
    special = _SPECIAL.get(suffix)
    if special is not None and rng.random() < 0.6:
        data = special(data, rng)
        if rng.random() < 0.8:
            return data
    return mutate_bytes(data, rng)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to eight changes anywhere, as often as not near the beginning."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            return rng.randbytes(rng.randrange(64))
        reach = len(out) if rng.random() < 0.5 else min(len(out), 400)
        rng.choice(_BYTE_CHANGES)(out, rng.randrange(reach), rng)
    return bytes(out)


def _flip(out: bytearray, at: int, rng: random.Random) -> None:
    out[at] ^= 1 << rng.randrange(8)


def _set(out: bytearray, at: int, rng: random.Random) -> None:
    out[at] = rng.choice(_INTERESTING)


def _set_word(out: bytearray, at: int, rng: random.Random) -> None:
    width = rng.choice((2, 4, 8))
    value = rng.choice((0, 1, (1 << 8 * width) - 1, 1 << (8 * width - 1), 1 << 24, 1 << 31))
    value &= (1 << 8 * width) - 1
    out[at : at + width] = value.to_bytes(width, rng.choice(("big", "little")))


def _cut(out: bytearray, at: int, rng: random.Random) -> None:
    del out[at:]


def _drop(out: bytearray, at: int, rng: random.Random) -> None:
    del out[at : at + rng.choice((1, 4, 64, 1000))]


def _insert(out: bytearray, at: int, rng: random.Random) -> None:
    out[at:at] = rng.randbytes(rng.choice((1, 4, 64, 1000)))


def _repeat(out: bytearray, at: int, rng: random.Random) -> None:
    length = rng.choice((1, 4, 64, 1000))
    out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))


def _move(out: bytearray, at: int, rng: random.Random) -> None:
    length, to = rng.choice((4, 64, 1000)), rng.randrange(len(out))
    part = out[at : at + length]
    out[to : to + len(part)] = part


_BYTE_CHANGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip, _flip, _set, _set_word, _set_word, _cut, _drop, _insert, _repeat, _move,
)  # fmt: skip


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Return text with other numbers, odd characters, and lines missing, doubled or swapped."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice((_other_number, _odd_text, _other_lines))(text, rng)
    return text.encode("utf-8", "surrogateescape")


def _other_number(text: str, rng: random.Random) -> str:
    found = list(re.finditer(r"-?\d+(?:\.\d+)?", text))
    if not found:
        return text
    place = rng.choice(found)
    return text[: place.start()] + rng.choice(_NUMBERS) + text[place.end() :]


def _odd_text(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(_TEXTS) + text[at:]


def _other_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    choice = rng.randrange(4)
    if choice == 0:
        del lines[i]
    elif choice == 1:
        lines[i:i] = [lines[i]] * rng.choice((1, 300))
    elif choice == 2:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = lines[i].rstrip("\n") + lines[j]
    return "".join(lines)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON in which a value or a key anywhere is another, or the text is changed."""
    try:
        table = json.loads(data)
    except ValueError:
        return mutate_text(data, rng)
    if rng.random() < 0.25:
        return mutate_text(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        table = _other_value(table, rng)
    return json.dumps(table).encode()


def _other_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        chance = rng.random()
        if chance < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if chance < 0.2:
            return {**value, rng.choice(("", "x", key.upper(), "__class__")): value[key]}
        return {**value, key: _other_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        chance = rng.random()
        if chance < 0.2:
            return value[:place] + value[place + 1 :]
        if chance < 0.3:
            return value[: place + 1] + value[place:]
        return [*value[:place], _other_value(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, -value, value * 1000, value * 10**7, float(value)))
    if isinstance(value, str) and rng.random() < 0.4:
        return _odd_text(value, rng)
    return rng.choice(_VALUES)


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Return a PNG whose chunks are changed, doubled or left out, with the checksums made right."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunks.append((kind, data[place + 8 : place + 8 + length]))
        place += 12 + length
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    choice = rng.randrange(6)
    if choice == 0:
        del chunks[at]
    elif choice == 1:
        chunks.insert(at, chunks[rng.randrange(len(chunks))])
    elif choice == 2:
        bomb = zlib.compress(bytes(1 << 22), 9)
        packed = b"a\0\0" + bomb
        odd = ((b"zTXt", packed), (b"iCCP", packed), (b"IDAT", bomb), (b"acTL", bytes(8)))
        chunks.insert(1, rng.choice(odd))
    elif choice == 3 and kind == b"IHDR":
        size = [rng.choice((0, 1, 101, 4096, 65535, 1 << 20, (1 << 31) - 1)) for _ in range(2)]
        chunks[at] = (kind, struct.pack(">II", *size) + body[8:])
    else:
        chunks[at] = (kind, mutate_bytes(body, rng))
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"".join([data[:8], *written])


_ENTRY_NAMES = (
    "../../evil.png", "/etc/evil.png", "images/../../evil.png", "images/a\x00.png", "images/..png",
    "images//b.png", "images\\c.png", "masks/a.png", "images/" + "n" * 300 + ".png", "",
)  # fmt: skip


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """Return a zip with strange names, doubled entries, bombs, or damage inside its entries."""
    stream = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        names = old.namelist()
        victim = rng.choice(names)
        change = rng.randrange(6)
        for name in names:
            content = old.read(name)
            entry = zipfile.ZipInfo(name)
            if name == victim:
                entry, content = _other_entry(name, content, change, rng)
            new.writestr(entry, content, method)
            if name == victim and change == 4:
                new.writestr(zipfile.ZipInfo(name + "/x.png"), content)
    packed = bytearray(stream.getvalue())
    if change == 5:  # sizes that lie, in the entry and in the directory
        for sign, offset in ((b"PK\3\4", 18), (b"PK\1\2", 20)):
            found = [m.start() for m in re.finditer(re.escape(sign), packed)]
            if found:
                struct.pack_into("<I", packed, rng.choice(found) + offset + rng.choice((0, 4)),
                                 rng.choice((0, 1, 100, 1 << 24, (1 << 32) - 1)))  # fmt: skip
    return bytes(packed)


def _other_entry(
    name: str, content: bytes, change: int, rng: random.Random
) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    if change == 0:
        entry = zipfile.ZipInfo(rng.choice(_ENTRY_NAMES) or "x")
    elif change == 1:
        content = mutate(content, name, rng)
    elif change == 2:
        content = bytes(1 << 23)
    elif change == 3:
        entry.external_attr, content = 0o120777 << 16, b"/etc/passwd"
    return entry, content


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with another header, whose length is made right."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = data[8 : 8 + length], data[8 + length :]
    table = json.loads(header)
    card = table.get("__metadata__", {}).get("diapir")
    if card is not None and rng.random() < 0.5:
        table["__metadata__"]["diapir"] = mutate_json(card.encode(), rng).decode("utf-8", "replace")
        header = json.dumps(table).encode()
    elif rng.random() < 0.7:
        header = mutate_json(header, rng)
    else:
        body = mutate_bytes(body, rng)
    return struct.pack("<Q", len(header)) + header + body


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """Return a NumPy file with another header."""
    (length,) = struct.unpack_from("<H", data, 8)
    header = mutate_text(data[10 : 10 + length], rng)
    return data[:8] + struct.pack("<H", min(len(header), 65535)) + header + data[10 + length :]


_SPECIAL: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "csv": mutate_text, "toml": mutate_text, "txt": mutate_text, "json": mutate_json,
    "png": mutate_png, "zip": mutate_zip, "safetensors": mutate_safetensors, "npy": mutate_npy,
}  # fmt: skip
