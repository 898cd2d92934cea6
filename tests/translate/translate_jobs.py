"""Running `hala-engine translate` as a command, and looking at what it wrote."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FAKE_COMMAND = [sys.executable, str(Path(__file__).parent / "fake_engine.py"), "translate"]


def command_env(crash=None, **fake_options):
    fake = {
        "FAKE_ENGINE": json.dumps(fake_options),
        "FAKE_CRASH": json.dumps(crash) if crash else "",
    }
    return os.environ | fake | {"OMP_NUM_THREADS": "1"}


def start_command(*arguments, stderr=subprocess.PIPE, **fake_options):
    """`hala-engine translate` with the fake engine, running."""
    return subprocess.Popen(
        [*FAKE_COMMAND, *map(str, arguments)],
        env=command_env(**fake_options),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def run_command(*arguments, **fake_options):
    """The same, to its end."""
    process = start_command(*arguments, **fake_options)
    out, err = process.communicate(timeout=250)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(condition, process):
    """Return once the condition holds; the process must not have ended before."""
    end = time.monotonic() + 200  # for a machine that is busy with something else
    while not condition():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > end:
            process.kill()
            raise AssertionError("the job got nowhere")
        time.sleep(0.002)


def read_rows(output, format="jsonl"):
    """All output rows, in the order of the shards."""
    rows = []
    for path in sorted((Path(output) / "data").glob(f"part-*.{format}")):
        if format == "parquet":
            import pyarrow.parquet as pq

            rows += pq.read_table(path).to_pylist()
        else:
            with path.open(newline="\n") as lines:
                rows += [json.loads(line) for line in lines]
    return rows


def result_bytes(output):
    """What an interrupted and an unbroken run must have alike."""
    output = Path(output)
    files = [*sorted((output / "data").iterdir()), output / "failures.jsonl", output / "README.md"]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}
