"""Puts a job of a Slurm cluster back into the queue."""

import os
import subprocess

from encdec.messages import say


def requeue() -> None:
    """Put this process's own job back into the queue, where it will be started again with the same command.

    Slurm then ends the processes of the job, and what they print may be lost: so this comes last, and speaks first.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    say(f"Slurm job {job} goes back into the queue.")
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        reason = result.stderr.strip() if result.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        say(f"Slurm job {job} could not be put back into the queue: {reason}")
