"""As much of curl as the documents use, for machines without it."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request


def main() -> int:
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", "--data-binary", dest="data")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-f", action="store_true")
    parser.add_argument("-sf", action="store_true")
    options = parser.parse_args()
    data = options.data
    if data is not None and data.startswith("@"):
        with open(data[1:], encoding="utf-8") as file:
            data = file.read()
    request = urllib.request.Request(
        options.url,
        data=None if data is None else data.encode(),
        method=options.method or ("GET" if data is None else "POST"),
        headers=dict(header.split(": ", 1) for header in options.headers),
    )
    try:
        with urllib.request.urlopen(request) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.read().decode())
        return 22 if options.f or options.sf else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
