"""Mutated files, each given to the command line in a process of its own, which is watched while it reads them.

One process imports everything and calls each command once, so that whatever is loaded late is loaded. It then forks
one process for each mutation. The forked process has to end with an exit code of 0, 1 or 2, a failure in at most
three lines and no traceback; it may not hang, import what a file names, start a process, open a connection, or open
a file other than those that it was given and those of the installation.
"""

import json
import math
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import yaml

import encdec
from encdec.cli import main
from encdec.runs.checkpoints import METADATA_KEY, digest
from encdec.types import UserError

from .audit import Seen, watched
from .conftest import ROOT
from .mutations import damaged, harmless, hostile, mutated, tensors

_SECONDS = 60
"""How long a command may take before it counts as hanging; the slowest needs one or two."""
_MEMORY = 4 << 30
"""Bytes of address space that a command may take beside what is mapped already."""
_ON_CPU = ("--trainer.accelerator=cpu", "--trainer.devices=1")
_TINY = (
    "--model=VAE", "--model.latent_dim=2", "--model.encoder=MLPEncoder", "--model.encoder.hidden=[4]",
    "--model.decoder=MLPDecoder", "--model.decoder.hidden=[4]", "--model.optimizer=Adam", "--model.optimizer.lr=1e-3",
    "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3", "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
)  # fmt: skip
_EVALUATION = (
    "--evaluation.num_images=20", "--evaluation.num_samples=40", "--evaluation.prior_samples=40",
    "--evaluation.posterior_samples=4", "--evaluation.posterior_steps=2", "--evaluation.feature_space=pca",
)  # fmt: skip
_NEVER_IMPORTED = {"evil", "antigravity", "this", "turtle"}
"""What mutations name; no command has a reason of its own to import these."""


@dataclass(frozen=True)
class Finding:
    """A mutation that the command line did not take as it should.

    Attributes:
        case: which mutation, by its number.
        mutation: what was changed, in words.
        fault: what went wrong.
        output: of the command.
    """

    case: int
    mutation: str
    fault: str
    output: str


def fuzz(kind: str, seed: int, cases: range, folder: Path, report: Path) -> None:
    """Try mutations of one kind of file in `folder`, and write the findings to `report` as JSON.

    Args:
        kind: one of `KINDS`.
        seed: of the mutations.
        cases: the numbers of the mutations to try; a number and a seed always mean the same mutation.
        folder: an empty folder.
        report: written at the end, so that its absence says that this function failed.
    """
    _prepare(folder)
    findings, kind_of_file = [], KINDS[kind](folder)
    for case in cases:
        mutation, call = kind_of_file(random.Random(f"{seed}-{case}"))
        findings += [Finding(case, mutation, *fault) for fault in _faults(_watched_call(call, folder), folder)]
        if (folder / "ran").exists():
            findings.append(Finding(case, mutation, "it ran code", ""))
            (folder / "ran").unlink()
    report.write_text(json.dumps([vars(finding) for finding in findings], indent=1))


# ---------------------------------------------------------------------- the files


def _prepare(folder: Path) -> None:
    """A project with a tiny run, what `given/` holds, and beside it what no command may touch."""
    os.chdir(folder)
    for name in ("configs", "plugins"):
        (folder / name).symlink_to(ROOT / name)
    os.environ |= {"HOME": str(folder / "home"), "MPLCONFIGDIR": str(folder / "out" / "matplotlib")}
    hostile = "class_path: evil.Evil\n"
    (folder / "home").mkdir()
    for path in (folder / "m.yaml", folder / "home" / "m.yaml"):
        path.write_text(hostile)
    (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Evil: pass\n")
    os.mkfifo(folder / "pipe")
    sys.path.insert(0, str(folder))
    _command("fit", *_TINY, "--name=tiny", *_ON_CPU)
    run = folder / "lightning_logs" / "tiny" / "version_0"
    last = str(run / "checkpoints" / "last.ckpt")
    _command("test", "--ckpt_path", last, *_EVALUATION, *_ON_CPU)
    _command("validate", "--ckpt_path", last, *_ON_CPU)
    _command("predict", "--ckpt_path", last, *_ON_CPU)
    _command("export", last)
    _command("fit", "--resume", str(run), *_ON_CPU)
    _command("compare", str(run))
    encdec.load(last)
    (folder / "lightning_logs").rename(folder / "given")
    (folder / "out").mkdir(exist_ok=True)


def _command(*args: str) -> None:
    try:
        main([*args])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{args} ended with {stop.code}") from stop


Call = Callable[[], None]
Mutate = Callable[[random.Random], tuple[str, Call]]
"""A mutation in words, and the call that reads the mutated file."""


def _of_configs(folder: Path) -> Mutate:
    """Configs that a user names; these may name any class, so mutations name none but encdec's."""
    good = yaml.safe_load((folder / "given" / "tiny" / "version_0" / "config.yaml").read_text())
    path = folder / "given" / "case.yaml"
    bounded = ("--trainer.max_steps=2", "--trainer.default_root_dir=out", "--trainer.strategy=auto", *_ON_CPU)

    def mutate(draw: random.Random) -> tuple[str, Call]:
        settings, mutation = mutated(good, draw, harmless(draw))
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return mutation, lambda: main(["fit", "--config", str(path), "--name=case", *bounded])

    return mutate


def _of_run_configs(folder: Path) -> Mutate:
    """The config beside a checkpoint, which a call takes that names the checkpoint alone."""
    run = folder / "given" / "tiny" / "version_0"
    text = (run / "config.yaml").read_text()
    good = yaml.safe_load(text)

    def mutate(draw: random.Random) -> tuple[str, Call]:
        settings, mutation = mutated(good, draw, hostile(draw, folder))
        dumped = yaml.safe_dump(settings, sort_keys=False)
        if draw.random() < 0.1:
            dumped, mutation = damaged(text, draw), "characters of the text"
        (run / "config.yaml").write_text(dumped)
        last = str(run / "checkpoints" / "last.ckpt")
        if draw.random() < 0.5:
            return mutation, lambda: main(["validate", "--ckpt_path", last, *_ON_CPU])
        return mutation, lambda: main(["fit", "--resume", str(run), "--trainer.max_steps=2", *_ON_CPU])

    return mutate


def _of_checkpoints(folder: Path) -> Mutate:
    """Checkpoints that are whole, with contents that nobody would write."""
    run = folder / "given" / "tiny" / "version_0"
    path = run / "checkpoints" / "last.ckpt"
    (run / "checkpoints" / "best.ckpt").unlink()
    good = torch.load(path, weights_only=True)

    def mutate(draw: random.Random) -> tuple[str, Call]:
        contents, mutation = mutated(good, draw, [*hostile(draw, folder), *tensors()], depth_first=True)
        torch.save(contents, path)
        calls: list[Call] = [
            lambda: main(["validate", "--ckpt_path", str(path), *_ON_CPU]),
            lambda: main(["fit", "--resume", str(run), "--trainer.max_epochs=2", *_ON_CPU]),
            lambda: main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(path), "--name=case",
                          "--trainer.max_epochs=2", "--trainer.default_root_dir=out", *_ON_CPU]),
            lambda: main(["predict", "--ckpt_path", str(path), "--predictions.output_dir=out/predictions", *_ON_CPU]),
            lambda: main(["export", str(path), "out/case.safetensors"]),
            lambda: _load(path),
        ]  # fmt: skip
        return mutation, draw.choice(calls)

    return mutate


def _of_exports(folder: Path) -> Mutate:
    """Exports with the right checksum over the wrong contents."""
    run = folder / "given" / "tiny" / "version_0" / "checkpoints"
    path = run / "case.safetensors"
    with safetensors.safe_open(run / "last.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
    weights = safetensors.torch.load_file(run / "last.safetensors")
    metadata.pop("sha256")

    def mutate(draw: random.Random) -> tuple[str, Call]:
        held, mutation = mutated(metadata, draw, [v for v in hostile(draw, folder) if not isinstance(v, bytes)])
        now = dict(weights)
        if draw.random() < 0.2:
            name, dense = (
                draw.choice(sorted(now)),
                [t for t in tensors() if isinstance(t, torch.Tensor) and not t.is_sparse],
            )
            now[name], mutation = draw.choice(dense).clone().contiguous(), f"the weight {name}"
        if isinstance(held, dict):
            held["sha256"] = digest(held, now)
        safetensors.torch.save_file(now, path, {METADATA_KEY: json.dumps(held)})
        calls: list[Call] = [
            lambda: main(["validate", "--ckpt_path", str(path), *_ON_CPU]),
            lambda: main(["predict", "--ckpt_path", str(path), "--predictions.output_dir=out/predictions", *_ON_CPU]),
            lambda: _load(path),
        ]
        return mutation, draw.choice(calls)

    return mutate


def _of_reports(folder: Path) -> Mutate:
    """Reports of evaluations, beside a good one."""
    run = folder / "given" / "tiny" / "version_0"
    text = (run / "checkpoints" / "last.evaluation.json").read_text()
    good, path = json.loads(text), folder / "given" / "tiny" / "version_1" / "checkpoints" / "last.evaluation.json"
    path.parent.mkdir(parents=True)

    def mutate(draw: random.Random) -> tuple[str, Call]:
        report, mutation = mutated(good, draw, [*hostile(draw, folder), math.inf, 3], depth_first=draw.random() < 0.5)
        dumped = json.dumps(report)
        if draw.random() < 0.1:
            dumped, mutation = damaged(text, draw), "characters of the text"
        path.write_text(dumped, errors="surrogatepass")
        extra = draw.choice([[], ["--markdown"], ["--metrics", "all"]])
        return mutation, lambda: main(["compare", str(folder / "given" / "tiny"), *extra])

    return mutate


def _load(path: Path) -> None:
    try:
        encdec.load(path)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


KINDS: dict[str, Callable[[Path], Mutate]] = {
    "configs": _of_configs,
    "run configs": _of_run_configs,
    "checkpoints": _of_checkpoints,
    "exports": _of_exports,
    "reports": _of_reports,
}


# ---------------------------------------------------------------------- watching


@dataclass(frozen=True)
class _Outcome:
    code: int | None
    out: str
    err: str
    seen: Seen


def _watched_call(call: Call, folder: Path) -> _Outcome:
    """Make a call in a forked process; the code is None if it had to be ended or died."""
    out, err, answer = (folder.parent / name for name in ("out.txt", "err.txt", "answer.json"))
    for path in (out, err, answer):
        path.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            _call(call, out, err, answer)
        finally:
            os._exit(0)
    deadline = time.monotonic() + _SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
    printed, said = (path.read_text(errors="replace") if path.exists() else "" for path in (out, err))
    answered = json.loads(answer.read_text()) if answer.exists() else {"code": None, "seen": {}}
    return _Outcome(answered["code"], printed, said, Seen(**answered["seen"]))


def _call(call: Call, out: Path, err: Path, answer: Path) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    code: int | None = 0
    with watched() as seen:
        try:
            call()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException as error:
            code = None
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    answer.write_text(json.dumps({"code": code, "seen": vars(seen)}))


def _faults(outcome: _Outcome, folder: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with an outcome, each with what the command printed."""
    seen, printed = outcome.seen, outcome.out[-1000:] + outcome.err[-2000:]
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    if outcome.code not in (0, 1, 2):
        yield f"its exit code is {outcome.code}", printed
    if outcome.code and not 1 <= len(lines) <= 3:
        yield f"it fails in {len(lines)} lines", printed
    words = [word for word in _UNFORESEEN if word in outcome.out + outcome.err]
    if words:
        yield f"it says {', '.join(words)}", printed
    imported = [name for name in seen.imported if name.partition(".")[0] in _NEVER_IMPORTED]
    opened = [path for path in seen.opened if not _may_be_opened(path, folder)]
    started = [event for event in seen.started if event not in _LIBRARIES]
    actions = {"imports": imported, "opens": opened, "connects to": seen.connected, "starts": started}
    for verb, names in actions.items():
        if names:
            yield f"it {verb} {', '.join(names)}", printed


_UNFORESEEN = ("Traceback", "ENCDEC_DEBUG", "Parser key", "Union", "<class '")
"""What no sentence for a user holds: a sign of an error that nobody foresaw, or of the parser's own words."""
_LIBRARIES = ("ctypes.dlopen (None,)", "ctypes.dlopen ('libnvidia-ml.so.1',)")
"""What PyTorch and encdec open of themselves: the process itself, and the library that counts GPUs."""
_INSTALLED = tuple(
    os.path.realpath(path)
    for path in ("/proc", "/sys", "/dev", "/etc/ssl", "/etc/localtime", "/usr", sys.prefix, sys.base_prefix, ROOT,
                 os.path.dirname(os.path.dirname(torch.__file__)))
)  # fmt: skip


def _may_be_opened(path: str, folder: Path) -> bool:
    real = os.path.realpath(os.path.join(folder, path))
    own = (folder / "given", folder / "out")
    return real.startswith((*_INSTALLED, *(f"{os.path.realpath(place)}" for place in own)))
