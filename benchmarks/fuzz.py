"""Fuzzing of model directories, corpora, run folders, texts and parquet files, by the thousand: `python benchmarks/fuzz.py`.

The mutations are those of `tests/fuzzing.py`; `--seed` and a number make each of them again (`--first N --count 1`). They are tried
in processes of 200 each, so that what hangs in compiled code or takes the process with it costs one of them: it is told as such,
and the next process goes on behind it. The last lines count what became of them; the exit status is 1 where one is no good.
"""

import argparse
import collections
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHUNK, PATIENCE = 200, 900  # mutations of a process; seconds that one may be silent


def child(seed: int, first: int, count: int) -> None:
    from tests.fuzzing import Fuzzer, forget_programs

    out, sys.stdout = sys.stdout, sys.stderr  # for outcomes alone
    with tempfile.TemporaryDirectory() as place:
        fuzzer = Fuzzer(Path(place))
        print(json.dumps("ready"), file=out, flush=True)
        for number in range(first, first + count):
            print(json.dumps(dataclasses.asdict(fuzzer.run(seed, number))), file=out, flush=True)
            if number % 10 == 0:
                forget_programs()


def chunk(seed: int, first: int, count: int) -> list[dict]:
    """The outcomes of some mutations, in a process of their own; of one that ends it, "crash" or "hang"."""
    command = [
        sys.executable,
        str(Path(__file__)),
        "--child",
        "--seed",
        str(seed),
        "--first",
        str(first),
        "--count",
        str(count),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    outcomes = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, env=environment)
        read, heard = 0, time.monotonic()
        while process.poll() is None and time.monotonic() - heard < PATIENCE:
            time.sleep(0.5)
            if (size := os.fstat(said.fileno()).st_size) > read:
                read, heard = size, time.monotonic()
        hung = process.poll() is None
        process.kill()
        process.wait()
        said.seek(0)
        lines = [json.loads(line) for line in said if line.endswith("\n")]
    if not lines:
        raise SystemExit("the originals could not be made")
    outcomes = lines[1:]
    if len(outcomes) < count:
        what = "hang" if hung else "crash"
        lost = {"number": first + len(outcomes), "kind": "?", "what": "?", "outcome": what}
        outcomes.append({**lost, "said": f"status {process.returncode}"})
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of all mutations")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--count", type=int, default=2000, help="mutations")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.seed, given.first, given.count)
        return
    from tests.fuzzing import GOOD

    number, end, bad = given.first, given.first + given.count, 0
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    try:
        while number < end:
            for one in chunk(given.seed, number, min(CHUNK, end - number)):
                number = one["number"] + 1
                counts[one["kind"], one["outcome"]] += 1
                bad += one["outcome"] not in GOOD
                if one["outcome"] not in ("same", "refused"):
                    print(json.dumps(one, ensure_ascii=False), flush=True)
            print(f"{number - given.first} of {given.count}, {bad} bad", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {number - given.first}", file=sys.stderr)
    for (kind, outcome), times in sorted(counts.items()):
        print(f"{kind:8} {outcome:10} {times}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
