"""What NVIDIA's driver says of the GPUs of this machine."""

import shutil
import subprocess


class DriverError(Exception):
    """nvidia-smi hangs, or fails."""


def query_gpus(*fields: str) -> list[str] | None:
    """A line for each GPU, with the values of these fields of nvidia-smi; None where there is no nvidia-smi.

    Raises:
        DriverError: It gives no answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired as error:
        raise DriverError("nvidia-smi hangs") from error
    except OSError as error:
        raise DriverError(f"nvidia-smi fails: {error.strerror}") from error
    if done.returncode != 0:
        raise DriverError(f"nvidia-smi fails: {(done.stdout + done.stderr).strip().splitlines()[:1]}")
    return done.stdout.strip().splitlines()
