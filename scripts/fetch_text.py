"""Fetch the public-domain books that the demo and evaluation models learn: the King James Bible, Jane Austen's novels.

    python scripts/fetch_text.py FOLDER          # on Debian or Ubuntu: apt-get, dpkg-deb; about 4 MB

Writes FOLDER/train.txt.xz and FOLDER/heldout.txt.xz. Sources, both Debian packages:
- bible-kjv-text: the King James Version of 1611, out of copyright. Its own reader (bible-kjv) prints it.
- r-cran-janeaustenr: six novels of 1811-1818, out of copyright, as Project Gutenberg typed them; the packaging is MIT.
A paragraph (of the Bible a verse, without its number) is a line. Every twentieth piece of 64 KiB of a book is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

PACKAGES = ("bible-kjv", "bible-kjv-text", "r-cran-janeaustenr")
NOVELS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
PIECE, HELD_OUT_EVERY = 64 << 10, 20
SHA256 = {
    "train.txt": "b14eb046d9b7843232e1f0ba72504959aecbb7575b6ae2c3c05de8c2bf360acb",
    "heldout.txt": "94edeca7433d52c77a3a1d0a1631292f988bc628588cc07f856e7052f9bc6e2b",
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        root = unpack(Path(place))
        books = [bible(root), *novels((root / NOVELS).read_bytes())]
    for name, text in zip(SHA256, split(books), strict=True):
        found = hashlib.sha256(text).hexdigest()
        if found != SHA256[name]:
            sys.exit(f"{name} differs: expected sha256 {SHA256[name]}, got {found}; the packages hold another text")
        (folder / f"{name}.xz").write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        print(f"{folder / name}.xz: {len(text):,} bytes of text")


def unpack(place: Path) -> Path:
    """Download the packages into `place` and return the folder that holds their files; nothing is installed."""
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=place, check=True, stdout=subprocess.DEVNULL)
    for package in place.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(place / "root")], check=True)
    return place / "root"


def bible(root: Path) -> str:
    """Return the Bible: a line a verse, and a line such as 'Genesis 1' before each chapter."""
    reader = [str(root / "usr/bin/bible"), "-l100000", "-p", str(root / "usr/lib"), "gen1:1-rev22:21"]
    printed = subprocess.run(reader, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\n{2,}", "\n", re.sub(r"^ +\d+ ", "", printed, flags=re.MULTILINE)).lstrip()


def novels(database: bytes) -> list[str]:
    """Return the novels of an R lazy-load database: records of a length and a zlib stream, each a vector of lines."""
    texts, at = [], 0
    while at < len(database):
        stream = zlib.decompressobj()
        lines = strings(stream.decompress(database[at + 4 :]))
        at = len(database) - len(stream.unused_data)
        paragraphs = "\n".join(lines).split("\n\n")
        joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
        texts.append("\n".join(filter(None, joined)) + "\n")
    return texts


def strings(serialised: bytes) -> list[str]:
    """Return the character vector in R's XDR serialisation, version 3 (R Internals, section 1.8)."""
    (encoding_length,) = struct.unpack_from(">i", serialised, 14)
    _, count = struct.unpack_from(">ii", serialised, at := 18 + encoding_length)
    at += 8
    found = []
    for _ in range(count):
        _, length = struct.unpack_from(">ii", serialised, at)
        found.append(serialised[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return found


def split(books: list[str]) -> tuple[bytes, bytes]:
    """Return what is learned and what is held out."""
    learned, held_out = bytearray(), bytearray()
    for book in books:
        data = book.encode()
        for number, start in enumerate(range(0, len(data), PIECE)):
            target = held_out if number % HELD_OUT_EVERY == HELD_OUT_EVERY // 2 else learned
            target += data[start : start + PIECE]
    return bytes(learned), bytes(held_out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
