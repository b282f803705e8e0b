"""A queue in a file that Slurm's commands, as far as a study calls them, read and write; nothing of it ever runs.

Each command is a script of that name on PATH. What was called is kept, with the arguments.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")


class FakeSlurm:
    """The queue in a folder.

    Args:
        folder: where it and the commands are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self) -> None:
        """Write the commands."""
        self.folder.mkdir()
        for name in COMMANDS:
            script = self.folder / name
            script.write_text(f'#!/bin/bash\nexec {sys.executable} {__file__} {name} {self.folder} "$@"\n')
            script.chmod(0o755)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All arrays and jobs that are in the queue."""
        path = self.folder / "queue.json"
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
        return found

    @jobs.setter
    def jobs(self, jobs: list[dict[str, Any]]) -> None:
        (self.folder / "queue.json").write_text(json.dumps(jobs))

    def calls(self, name: str) -> list[str]:
        """The arguments of all calls of a command."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.is_file() else []

    def set(self, array: int, task: int, status: str | None, reason: str = "None") -> None:
        """Give a job of an array another state; None takes it out of the queue."""
        jobs = self.jobs
        of_array = next(job for job in jobs if job["id"] == array)
        if status is None:
            del of_array["tasks"][str(task)]
        else:
            of_array["tasks"][str(task)] = [status, reason]
        self.jobs = jobs

    def refuse(self, command: str, pattern: str, said: str) -> None:
        """Let a command refuse whatever the arguments, or the script for sbatch, match."""
        (self.folder / f"{command}.refuses").write_text(f"{pattern}\n{said}")

    def call(self, name: str, args: list[str]) -> str:
        """Do what a command does, and give what it prints."""
        with (self.folder / f"{name}.calls").open("a") as file:
            file.write(" ".join(args) + "\n")
        leaked = [variable for variable in os.environ if variable.startswith("SLURM_") and variable != "SLURM_CONF"]
        if leaked and name != "scontrol":  # which a job calls for itself
            raise SystemExit(f"{name}: error: {leaked} reached it")
        text = Path(args[-1]).read_text() if name == "sbatch" else " ".join(args)
        refuses = self.folder / f"{name}.refuses"
        if refuses.is_file():
            pattern, said = refuses.read_text().split("\n")
            if re.search(pattern, text):
                raise SystemExit(f"{name}: error: {said}")
        return str(getattr(self, f"_{name}")(text))

    def _sbatch(self, script: str) -> str:
        options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE))
        number = 1 + max([int(each) for each in self.calls("numbers")], default=10)
        with (self.folder / "numbers.calls").open("a") as file:
            file.write(f"{number}\n")
        last = re.match(r"0-(\d+)", options.get("array", ""))
        tasks = [str(task) for task in range(int(last[1]) + 1)] if last else [""]
        reason = "Dependency" if "dependency" in options else "Priority"
        job = {
            "id": number,
            "options": options,
            "script": script,
            "tasks": {task: ["PENDING", reason] for task in tasks},
        }
        self.jobs = [*self.jobs, job]
        return f"{number};cluster\n"

    def _squeue(self, args: str) -> str:
        names = args.partition("--name=")[2].split(" ")[0].split(",")
        lines = []
        for job in self.jobs:
            for task, (status, reason) in job["tasks"].items():
                number = f"{job['id']}_{task}" if task else job["id"]
                if job["options"]["job-name"] in names:
                    lines.append(f"{number}|{job['id']}|{status}|{reason}|{job['options']['job-name']}\n")
        return "".join(lines)

    def _scancel(self, args: str) -> str:
        self.jobs = [job for job in self.jobs if str(job["id"]) != args]
        return ""

    def _scontrol(self, args: str) -> str:
        return ""


if __name__ == "__main__":
    sys.stdout.write(FakeSlurm(Path(sys.argv[2])).call(sys.argv[1], sys.argv[3:]))
