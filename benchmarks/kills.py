"""Random kills: jobs that are interrupted at random moments, again and again, and have to end with the same bits.

    python benchmarks/kills.py --number 300 --seed 0 --out runs/kills

Jobs, all tiny: pre-training, building a corpus, packing it, a GLUE sweep, a whole experiment. Interruptions: SIGKILL, SIGTERM,
SIGHUP, SIGSTOP with SIGCONT after a while, and a full disk: a tmpfs of its own that is filled up at that moment and emptied when
the job has given up (where none can be mounted: RLIMIT_FSIZE, a file that may not grow).

A trial begins a job in an empty folder, interrupts it one to seven times, and lets it end. Moments are drawn in two ways, in turn:
uniform in the time that the job takes, and uniform over its operations on files (every open, rename, mkdir, remove, as Python's
audit events count them), with a short wait behind: half of the interruptions so fall where something is being written. The job is
the command that a user gives; it runs in a process that is forked from one which has imported everything, and finds its compiled
programs in a folder that all share, so that a trial takes seconds.

What is compared with a run that nobody has interrupted: every file of the folder, byte for byte, but checkpoints (which carry
times), plots and pages, and, in JSON, what was measured (seconds, speeds, memory). TensorBoard's events are compared as they are
read. Every trial is a line of trials.jsonl: begun again, the script goes on behind it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import commit, processor

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `tests`

SIGNALS = {
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGHUP": signal.SIGHUP,
    "SIGSTOP": signal.SIGSTOP,
    "full disk": None,
}
WEIGHTS = {"pretrain": 5, "corpus": 8, "packing": 8, "glue": 2, "experiment": 1}  # how often a job is drawn
MEASURED = (
    "seconds",
    "per_second",
    "speed",
    "mfu",
    "memory_bytes",
    "elapsed",
)  # parts of the names of what was measured
LEFT_OUT = ("checkpoints", "curves.png", "differences.png", "glue.png", "report.md", "glue.md", "glue.csv", ".lock")
DISK = 64 << 20  # bytes of a trial's own disk
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.truncate")


@dataclass(frozen=True)
class Interruption:
    """What stops a job, and when: after some operations on files, or else after some seconds."""

    kind: str  # of SIGNALS
    seconds: float
    operations: int | None


@dataclass(frozen=True)
class Ended:
    """How a process of a job ended: its status (minus the signal's number), and whether it was interrupted before that."""

    status: int
    hit: bool
    traceback: bool


def make_world(world: Path) -> None:
    """What the jobs read."""
    from distilbert_jax import config as c
    from distilbert_jax.text.tokenizer import load_tokenizer
    from tests import runs
    from tests.experiments.test_experiment import write
    from tests.runs import BERT, STUDENT, change

    made = runs.make_world(world)
    tokenizer = load_tokenizer(made.tokenizer)
    choose = random.Random(0)
    for split, rows in (("train", 64), ("validation", 32)):
        blue = [choose.randrange(2) for _ in range(rows)]
        texts = [runs.sentence(choose, 6, ("red", "blue")[one]) for one in blue]
        runs.write_split(world / "data", "sst2", split, {"sentence": texts, "label": blue})
    from distilbert_jax.pretraining.build_corpus import build_corpus

    build_corpus([world / "corpus.txt"], tokenizer, world / "shards", shard_bytes=600, processes=1)
    pretrain = runs.pretraining(made, Path("run"), steps=12, run__save_every=4, run__eval_every=6)
    runs.write_config(pretrain, world / "pretrain.py")
    corpora = {"data__corpus": "run/corpus", "data__heldout": "run/heldout", "steps": 6, "run__save_every": 3}
    source = {"init__source": made.teacher}
    teacher = runs.pretraining(made, Path("run/models/teacher"), model=BERT, **corpora, **source)
    model = "run/models/teacher/model"
    student = runs.pretraining(
        made,
        Path("run/models/student"),
        **corpora,
        model=STUDENT,
        objective="distillation",
        teacher=model,
        init__source=model,
    )
    experiment = c.ExperimentConfig(
        directory="run/models",
        variants=(c.Variant("teacher", (0,), teacher), c.Variant("student", (0,), student)),
        teacher="teacher",
        student="student",
        tokenizer=made.tokenizer,
        tasks=("sst2",),
        glue=change(c.FinetuneConfig(), length=16, batch_size=16, epochs=1, save_model=False),
        heldout_rows=16,
    )
    write(experiment, world / "experiment.py")


def run_job(name: str, world: Path) -> None:
    """Do a job in the working directory, as its command does it."""
    from distilbert_jax.base import signals
    from distilbert_jax.cli.main import main

    if name == "pretrain":
        main(["train", str(world / "pretrain.py")])
    elif name == "glue":
        sizes = "--length 16 --batch-size 16 --epochs 2 --seeds 0 1 --tasks sst2 --run.directory run --save-model"
        sizes += " --run.save-every 3"  # in the middle of a run of eight steps
        main(["glue", "--model", f"{world}/teacher", "--data", f"{world}/data", *sizes.split()])
    elif name == "experiment":
        text = ["--text", f"{world}/corpus.txt", "--heldout-text", f"{world}/heldout.txt", "--data", f"{world}/data"]
        main(["experiment", str(world / "experiment.py"), *text])
    elif name == "corpus":
        from distilbert_jax.pretraining.build_corpus import build_corpus
        from distilbert_jax.text.tokenizer import load_tokenizer

        with signals.leaving_when_asked():
            tokenizer = load_tokenizer(world / "tokenizer")
            build_corpus([world / "corpus.txt"], tokenizer, Path("run"), shard_bytes=300, processes=1)
    else:
        from distilbert_jax.pretraining.packing import pack

        if not Path("run").is_dir():
            shutil.copytree(world / "shards", ".run", dirs_exist_ok=True)
            Path(".run").rename("run")
        with signals.leaving_when_asked():
            for sequences in ("line", "document", "pair"):
                pack(Path("run"), 32, sequences=sequences)


def import_all() -> None:
    """What every job needs, so that a forked process need not import it. JAX's backend must not start here."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import distilbert_jax.cli.experiments
    import distilbert_jax.cli.glue
    import distilbert_jax.cli.train
    import distilbert_jax.experiments.experiment
    import distilbert_jax.glue.submission
    import distilbert_jax.glue.table  # noqa: F401
    import tests.experiments.test_experiment  # noqa: F401


def forked(call: Callable[[], None], folder: Path, log: Path) -> int:
    """The id of a process that makes a call in a folder; what it says goes to `log`."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        with log.open("ab") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from distilbert_jax.errors import one_line_errors

        try:
            with one_line_errors():
                call()
            status = 0
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def after_operations(number: int, act: Callable[[], None], wait: float) -> Callable[[], int]:
    """In this process: act a moment after the given operation on files below the working directory. The value counts them."""
    root, count = str(Path.cwd()), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(os.fspath(arguments[0])))  # noqa: PTH100 (resolve() reads the disk)
            if place.startswith(root):
                count += 1
                if count == number:
                    time.sleep(wait)
                    act()

    sys.addaudithook(hook)
    return lambda: count


def fill(disk: Path) -> None:
    """Leave nothing of a disk but what the next file's first bytes may need."""
    with contextlib.suppress(OSError), (disk / ".ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with contextlib.suppress(OSError), (disk / ".ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def take_off_disks(place: Path) -> None:
    """Unmount what this script, killed, has left below `place`."""
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.is_file() else ():
        if (where := line.split()[1]).startswith(f"{place}/"):
            subprocess.run(["umount", "-l", where], check=True)


@contextlib.contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """The folder as a disk of its own, where this machine lets one be mounted; the value says whether."""
    folder.mkdir(parents=True)
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def interrupted(
    name: str, world: Path, folder: Path, log: Path, stop: Interruption | None, *, mounted: bool, limit: float
) -> Ended:
    """One process of a job, interrupted or not, to its end."""
    number = SIGNALS[stop.kind] if stop else None

    def job() -> None:
        if stop and stop.operations is not None:
            if number is not None:
                after_operations(stop.operations, lambda: os.kill(os.getpid(), number), stop.seconds)
            elif mounted:
                after_operations(stop.operations, lambda: fill(folder), 0.0)
        if stop and number is None and not mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(1 + stop.seconds * 4096), resource.RLIM_INFINITY))
        run_job(name, world)

    begun, size = time.monotonic(), log.stat().st_size if log.exists() else 0
    pid, hit = forked(job, folder, log), False
    timed = stop is not None and stop.operations is None
    while True:
        waited, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if waited and os.WIFSTOPPED(status):
            hit = True
            time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)
        elif waited:
            break
        now = time.monotonic() - begun
        if timed and stop and now >= stop.seconds:
            timed = False
            if number is not None:
                os.kill(pid, number)
                hit = True
            elif mounted:
                fill(folder)
        if now > limit:
            os.killpg(pid, signal.SIGKILL)
            print(f"{log}: a process was still there after {limit:.0f} s", file=sys.stderr)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    (folder / ".ballast").unlink(missing_ok=True)
    if stop and stop.kind != "SIGSTOP":  # it may have come too late, or nothing more was to be written
        hit = code != 0
    with log.open("rb") as said:
        said.seek(size)
        return Ended(code, hit, b"Traceback" in said.read())


def without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if not any(part in name for part in MEASURED)}
        return {name: without_measured(one) for name, one in kept.items()}
    return [without_measured(one) for one in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, str]:
    """What a job has left: the digest of each file, without what was measured."""
    from tests import runs

    found = {}
    for path in sorted((folder / "run").rglob("*")):
        name = str(path.relative_to(folder / "run"))
        if not path.is_file() or any(part in LEFT_OUT or part.startswith(".") for part in Path(name).parts):
            continue
        if "tensorboard" in path.parts:
            found[str(path.parent)] = hashlib.sha256(repr(runs.events(path.parents[1])).encode()).hexdigest()
            continue
        content = path.read_bytes()
        if path.suffix in (".json", ".jsonl") and b'"tokenizer"' not in content[:20]:
            lines = content.splitlines() if path.suffix == ".jsonl" else [content]
            values = [without_measured(json.loads(line)) for line in lines]
            if name.endswith("outputs.json"):  # digests of what has seconds in it, too; both are compared above
                for measured in ("metrics.jsonl", "results.json"):
                    values[0].pop(measured, None)
            content = json.dumps(values, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return {name.replace(str(folder), ""): digest for name, digest in found.items()}


@dataclass(frozen=True)
class Reference:
    """A job that nobody has interrupted: what it leaves, how long it takes, and its operations on files."""

    files: dict[str, str]
    seconds: float
    operations: int


def reference(name: str, world: Path, folder: Path) -> Reference:
    """Twice: the first compiles."""
    counted, log = folder / f"{name}.count", folder / f"{name}.log"

    def job() -> None:
        count = after_operations(0, lambda: None, 0.0)
        run_job(name, world)
        counted.write_text(str(count()))

    results = []
    for _ in range(2):
        with own_disk(folder / name):
            begun = time.monotonic()
            pid = forked(job, folder / name, log)
            if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                sys.exit(f"{name}: ended with {code}, see {log}")
            results.append(Reference(outcome(folder / name), time.monotonic() - begun, int(counted.read_text())))
    if results[0].files != results[1].files:
        differ = [n for n in results[0].files | results[1].files if results[0].files.get(n) != results[1].files.get(n)]
        sys.exit(f"{name}: two runs that nobody has interrupted differ in {', '.join(differ)}")
    return results[1]


def kept_references(world: Path, place: Path, of_commit: str) -> dict[str, Reference]:
    """`reference` of every job; where the script goes on with the same code, those that it began with."""
    file, folder = place / "references.json", place / "reference"
    if file.is_file() and (kept := json.loads(file.read_text()))["commit"] == of_commit:
        return {name: Reference(**kept[name]) for name in WEIGHTS}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    references = {name: reference(name, world, folder) for name in WEIGHTS}
    values = {name: dataclasses.asdict(of) for name, of in references.items()}
    file.write_text(json.dumps({"commit": of_commit, **values}))
    return references


def drawn(choose: random.Random, of: Reference) -> Interruption:
    """An interruption at a random moment of a job."""
    kind = choose.choice(list(SIGNALS))
    if choose.random() < 0.5:
        return Interruption(kind, choose.uniform(0.0, of.seconds), None)
    return Interruption(kind, choose.choice((0.0, choose.uniform(0.0, 0.02))), choose.randint(1, of.operations))


def trial(seed: int, world: Path, references: dict[str, Reference], out: Path) -> dict[str, Any]:
    """One trial, and what it came to."""
    choose = random.Random(seed)
    name = choose.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    of, kills, folder = references[name], [], out / "trial"
    log = out / "trial.log"
    log.write_bytes(b"")  # a process may be killed before it opens it
    limit = max(600.0, 20 * of.seconds)  # other jobs may starve this one
    with own_disk(folder) as mounted:
        ended = Ended(1, False, False)
        for _ in range(choose.randint(1, 7)):
            stop = drawn(choose, of)
            ended = interrupted(name, world, folder, log, stop, mounted=mounted, limit=limit)
            if ended.hit:
                kills.append({**dataclasses.asdict(stop), "status": ended.status, "traceback": ended.traceback})
        ended = interrupted(name, world, folder, log, None, mounted=mounted, limit=limit)
        files = outcome(folder) if ended.status == 0 else {}
    differ = sorted(n for n in files.keys() | of.files.keys() if files.get(n) != of.files.get(n))
    if differ or ended.status or any(kill["traceback"] for kill in kills):
        shutil.copy(log, out / f"trial-{seed}.log")
    said = {"seed": seed, "job": name, "kills": kills, "status": ended.status, "differ": differ, "disk": mounted}
    return {**said, "commit": commit()}


def landed(trial: dict[str, Any]) -> list[dict[str, Any]]:
    """The interruptions of a trial that have stopped its job."""
    return [kill for kill in trial["kills"] if kill["kind"] == "SIGSTOP" or kill["status"]]


def table(trials: list[dict[str, Any]]) -> str:
    """Of each job and interruption: how many ended with the same bits, of how many."""
    all_, same = Counter(), Counter()
    for one in trials:
        for kill in landed(one):
            key = one["job"], kill["kind"]
            all_[key] += 1
            same[key] += not one["differ"] and not one["status"]
    lines = [["job", *SIGNALS, "all"]]
    for job in (*WEIGHTS, "all"):
        jobs = list(WEIGHTS) if job == "all" else [job]
        cells = []
        for kinds in (*([kind] for kind in SIGNALS), list(SIGNALS)):
            of = [(one, kind) for one in jobs for kind in kinds]
            cells.append(f"{sum(same[key] for key in of)} of {sum(all_[key] for key in of)}")
        lines.append([job, *cells])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]])


def main(number: int = 300, seed: int = 0, out: str = "runs/kills", minutes: float = 600.0) -> None:
    """Interrupt jobs until `number` interruptions are done, and show how many ended with the same bits.

    Args:
        seed: of the first trial; the others count on from it.
        out: directory for trials.jsonl, and for the logs of trials that went wrong.
        minutes: stop after so many; the same command goes on.
    """
    place, begun = Path(out).absolute(), time.monotonic()
    place.mkdir(parents=True, exist_ok=True)
    take_off_disks(place)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(place / "programs"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tests import compiling

    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiling.quick_flags()}"
    import_all()
    world, file = place / "world", place / "trials.jsonl"
    if not (world / "experiment.py").is_file():
        shutil.rmtree(world, ignore_errors=True)
        pid = forked(lambda: make_world(world), place, place / "world.log")
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"see {place / 'world.log'}")
    references = kept_references(world, place, commit())
    for name, of in references.items():
        print(f"{name}: {of.seconds:.1f} s, {of.operations} operations, {len(of.files)} files", flush=True)
    trials = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    while sum(len(landed(one)) for one in trials) < number and time.monotonic() - begun < 60 * minutes:
        result = trial(seed + len(trials), world, references, place)
        trials.append(result)
        with file.open("a") as log:
            log.write(json.dumps(result) + "\n")
        said = ", ".join(f"{kill['kind']} → {kill['status']}" for kill in result["kills"])
        wrong = f"DIFFERS: {', '.join(result['differ'])[:200]}" if result["differ"] or result["status"] else "same"
        print(f"{result['seed']} {result['job']}: {said or 'not hit'}: {wrong}", flush=True)
    print(f"\n{table(trials)}\n")
    tracebacks = sum(kill["traceback"] for one in trials for kill in one["kills"])
    disk = "a tmpfs of its own" if all(one["disk"] for one in trials) else "RLIMIT_FSIZE"
    commits = ", ".join(dict.fromkeys(one["commit"] for one in trials))
    print(f"{len(trials)} trials; {tracebacks} tracebacks; full disk: {disk}")
    print(f"commits {commits}; {processor()}; jax {version('jax')}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
