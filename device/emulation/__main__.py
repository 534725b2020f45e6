"""`python -m embernet.device.emulation`: count instructions on the emulated CPU, and compare with the kept counts.

`... board`: boot the emulated board, install the wheel there, and look at the memory that it takes.
`... python`: unpack an arm64 Python that QEMU's user mode can run, for the tests.
"""

import argparse
import json
import sys
from pathlib import Path

from embernet.device.emulation import board, debian, icount, machine, user_mode
from embernet.errors import EmbernetError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m embernet.device.emulation", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("count", "board", "python"), default="count")
    parser.add_argument("--full-size", action="store_true", help="also the 840.8 M parameter model: 4 GB of disk")
    parser.add_argument(
        "--write", action="store_true", help="keep the result; counts are else compared with the kept ones"
    )
    parser.add_argument("--wheel", type=Path, default=board.WHEEL, help="board: what to install (make wheels)")
    parser.add_argument("--operators", action="store_true", help="show where the instructions go, and nothing else")
    parser.add_argument("--folder", type=Path, default=debian.ROOT / "build" / "emulation", help="for disk images")
    options = parser.parse_args()
    if options.what == "board" and options.write and not options.full_size:
        parser.error("the board's results are kept together: add --full-size")
    options.folder = options.folder.resolve()
    try:
        if options.what == "python":
            user_mode.make(options.folder / "python")
            return 0
        machine.require_host()
        if options.what == "board":
            return _show_board(options.folder, options.wheel, options.full_size, options.write)
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


def _show_board(folder: Path, wheel: Path, full_size: bool, write: bool) -> int:
    result = board.run(folder, wheel, full_size)
    sys.stdout.write(f"{json.dumps(result, indent=2)}\n\n{board.tables(result)}")
    found = board.complaints(result)
    sys.stdout.write("".join(f"{line}\n" for line in found) or "no swap, no program killed, memory as promised\n")
    if write and not found:
        board.keep(result)
    return 1 if found else 0


def _show_operators(folder: Path, full_size: bool) -> int:
    for stage, rows in icount.count_operators(folder, full_size).items():
        sys.stdout.write(f"{stage}: million instructions, runs, operator with the shapes of its inputs\n")
        for name, runs, millions in rows:
            sys.stdout.write(f"{millions:12.3f} {runs:4} {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
