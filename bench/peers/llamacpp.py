"""llama.cpp through llama-cpp-python's low-level interface, as a continuous batch of slots.

Free slots are refilled from the queue by one prompt pass, then all slots decode together, as
llama.cpp's own server does it. Greedy choice is an argmax over the logits in numpy.
"""

import ctypes
from typing import Any

import llama_cpp
import numpy as np

# Tokens of one llama_decode call; prompts of a pass beyond it go in several calls.
BATCH_TOKENS = 2048


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: Any) -> None:
    pass


class Peer:
    def __init__(self, job: dict[str, Any]) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(job["gguf"].encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {job['gguf']}")
        self.vocab = job["vocab"]
        self.threads = job["threads"]
        self.context = None
        self.slots = 0
        self.slot_tokens = 0
        self.batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.notes = {"system_info": llama_cpp.llama_print_system_info().decode()}

    def run(self, prompts: list[list[int]], wanted: list[int], batch: int) -> list[list[int]]:
        longest = max(len(p) + n for p, n in zip(prompts, wanted, strict=True))
        self._use_context(min(batch, len(prompts)), longest)
        outputs: list[list[int]] = [[] for _ in prompts]
        queue = list(range(len(prompts)))[::-1]
        free = list(range(self.slots))[::-1]
        active: dict[int, int] = {}  # slot -> request
        while queue or active:
            admitted: list[int] = []
            while queue and free:
                slot = free.pop()
                active[slot] = queue.pop()
                admitted.append(slot)
            if admitted:
                rows = self._prefill([(slot, prompts[active[slot]]) for slot in admitted])
                for slot, token in zip(admitted, rows, strict=True):
                    outputs[active[slot]].append(token)
            else:
                slots = list(active)
                steps = []
                for slot, request in active.items():
                    new = outputs[request]
                    steps.append((slot, new[-1], len(prompts[request]) + len(new) - 1))
                for slot, token in zip(slots, self._decode(steps), strict=True):
                    outputs[active[slot]].append(token)
            for slot, request in list(active.items()):
                if len(outputs[request]) == wanted[request]:
                    llama_cpp.llama_memory_seq_rm(self.memory, slot, -1, -1)
                    del active[slot]
                    free.append(slot)
        return outputs

    def logits(self, ids: list[int]) -> np.ndarray:
        self._use_context(1, len(ids))
        self._decode([(0, token, position) for position, token in enumerate(ids)])
        return self._logits(len(ids)).copy()

    def _use_context(self, slots: int, slot_tokens: int) -> None:
        if (slots, slot_tokens) == (self.slots, self.slot_tokens):
            llama_cpp.llama_memory_clear(self.memory, True)
            return
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = slots
        params.n_ctx = slots * ((slot_tokens + 255) // 256 * 256)
        params.n_batch = BATCH_TOKENS
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self.threads
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.slots, self.slot_tokens = slots, slot_tokens

    def _prefill(self, prompts: list[tuple[int, list[int]]]) -> list[int]:
        """First new token of each (slot, prompt)."""
        firsts: list[int] = []
        group: list[tuple[int, list[int]]] = []
        for item in prompts:
            if sum(len(ids) for _, ids in group) + len(item[1]) > BATCH_TOKENS:
                firsts += self._prefill_group(group)
                group = []
            group.append(item)
        return firsts + self._prefill_group(group)

    def _prefill_group(self, group: list[tuple[int, list[int]]]) -> list[int]:
        entries = [
            (slot, token, position, position == len(ids) - 1)
            for slot, ids in group
            for position, token in enumerate(ids)
        ]
        self._call(entries)
        return self._logits(len(group)).argmax(axis=1).tolist()

    def _decode(self, steps: list[tuple[int, int, int]]) -> list[int]:
        self._call([(*step, True) for step in steps])
        return self._logits(len(steps)).argmax(axis=1).tolist()

    def _call(self, entries: list[tuple[int, int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (slot, token, position, wants_logits) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = slot
            batch.logits[i] = wants_logits
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {len(entries)} tokens")

    def _logits(self, rows: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.vocab))
