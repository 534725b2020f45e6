"""`python -m embernet.device.emulation`: count instructions on the emulated CPU, and compare with the kept counts."""

import argparse
import json
import sys
from pathlib import Path

from embernet.device.emulation import icount, machine
from embernet.errors import EmbernetError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m embernet.device.emulation", description=__doc__)
    parser.add_argument("--full-size", action="store_true", help="also the 840.8 M parameter model: 4 GB of disk")
    parser.add_argument("--write", action="store_true", help="keep the counts instead of comparing with them")
    parser.add_argument("--operators", action="store_true", help="show where the instructions go, and nothing else")
    parser.add_argument("--folder", type=Path, default=machine.ROOT / "build" / "emulation", help="for disk images")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    try:
        machine.require_host()
        if options.operators:
            return _show_operators(options.folder, options.full_size)
        found = {"spark": icount.count_spark(options.folder)}
        if options.full_size:
            found["full"] = icount.count_full_size(options.folder)
    except EmbernetError as error:
        sys.stderr.write(f"{error}\n" + (f"try: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if options.write:
        icount.keep(found)
        return 0
    worse = icount.regressions(json.loads(icount.KEPT.read_text())["models"], found)
    sys.stdout.write("".join(f"{line}\n" for line in worse) or "no stage needs more instructions than allowed\n")
    return 1 if worse else 0


def _show_operators(folder: Path, full_size: bool) -> int:
    for stage, rows in icount.count_operators(folder, full_size).items():
        sys.stdout.write(f"{stage}: million instructions, runs, operator with the shapes of its inputs\n")
        for name, runs, millions in rows:
            sys.stdout.write(f"{millions:12.3f} {runs:4} {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
