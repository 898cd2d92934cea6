"""Several processes of a run without the price of starting each: forked from one that has imported
everything and has no threads, which the test's own may have."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from hala_trainer.distributed import processes

PATIENCE = 200.0  # seconds
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["hala_trainer.loop", "transformers.models.lfm2.modeling_lfm2"])


def on_ranks(world: int, work: Callable, *arguments: Any) -> list:
    """What `work(processes, *arguments)`, a function of a module, returned on each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends, ranks = [], []
    for rank in range(world):
        mine, its = SERVER.Pipe()
        arguments_of_rank = (its, rank, world, port, work, arguments)
        ranks.append(SERVER.Process(target=_rank, args=arguments_of_rank, daemon=True))
        ranks[-1].start()
        ends.append(mine)
    outcomes = []
    try:
        for rank, end in enumerate(ends):
            assert end.poll(PATIENCE), f"rank {rank} of {world} does not end"
            outcomes.append(pickle.loads(end.recv_bytes()))
    finally:
        for process in ranks:
            process.kill()
    failures = [text for failed, text in outcomes if failed]
    assert not failures, "\n".join(failures)
    return [value for _, value in outcomes]


def _rank(
    end: Connection, rank: int, world: int, port: int, work: Callable, arguments: tuple
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with processes("cpu") as group:
            outcome = (False, work(group, *arguments))
    except Exception:
        outcome = (True, f"rank {rank}: {traceback.format_exc()}")
    end.send_bytes(pickle.dumps(outcome))
    os._exit(0)
