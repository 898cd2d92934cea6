"""The plan of the cache: within the memory that it may take, and enough for what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import random_prompts, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine import Engine, EngineConfig
from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache
from hala_engine.errors import InputError
from hala_engine.memory import CachePlan, plan_cache
from hala_engine.prefix import SharedPrefixes
from hala_engine.sampling import SamplingParams
from hala_engine.schedule import Drawn
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence

PLENTY = 1 << 40
E4M3 = torch.float8_e4m3fn

PLAIN = CacheSpec((None,) * 3, kv_heads=2, head_dim=8)
WINDOWS = CacheSpec((6, None, 6), kv_heads=1, head_dim=4)
HYBRID = CacheSpec((None,), 1, 4, conv_layers=3, conv_columns=2, conv_width=16)
CONV_ONLY = CacheSpec((), 1, 4, conv_layers=3, conv_columns=2, conv_width=16)
SPECS = [PLAIN, WINDOWS, HYBRID, CONV_ONLY]


def plan(spec: CacheSpec, **changes) -> CachePlan:
    defaults = {
        "free": PLENTY,
        "dtype": torch.bfloat16,
        "kv_dtype": torch.bfloat16,
        "page_size": 4,
        "max_sequences": 3,
        "max_snapshots": 2,
        "max_model_len": 50,
        "chunk": 8,
    }
    return plan_cache(spec, **(defaults | changes))


def cache_of(spec: CacheSpec, plan: CachePlan, **changes) -> Cache:
    """The cache that the engine makes of a plan; `changes` as for `plan`."""
    kv_dtype = changes.get("kv_dtype", torch.bfloat16)
    snapshots = changes.get("max_snapshots", 2)
    return Cache(
        spec,
        num_pages=plan.num_pages,
        page_size=changes.get("page_size", 4),
        max_sequences=plan.num_states - snapshots,
        max_model_len=plan.max_model_len,
        dtype=torch.bfloat16,
        kv_dtype=kv_dtype,
        device=torch.device("cpu"),
        max_snapshots=snapshots,
    )


def allocated(cache: Cache) -> int:
    """Bytes of the tensors, each memory counted once."""
    tensors = [t for layer in cache.tensors.kv for t in (layer.k, layer.v)]
    tensors += cache.tensors.conv_states
    return sum({t.data_ptr(): t.nbytes for t in tensors if t.nbytes}.values())


def test_with_plenty_every_sequence_can_be_long():
    assert plan(PLAIN).num_pages == 3 * 13
    # A window and a chunk reach 6 + 8 - 1 tokens: 4 pages, if they begin at the end of one. Layers
    # are in groups of one, since one layer is full.
    assert plan(WINDOWS).num_pages == 3 * (13 + 2 * 4)
    assert plan(HYBRID).num_pages == 3 * 13
    assert plan(CONV_ONLY).num_pages == 0
    for spec in SPECS:
        assert (plan(spec).num_states, plan(spec).max_model_len) == (5, 50)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, E4M3])
@pytest.mark.parametrize("snapshots", [0, 16])
def test_bytes_are_what_the_cache_allocates(spec, kv_dtype, snapshots):
    changes = {"kv_dtype": kv_dtype, "max_snapshots": snapshots}
    planned = plan(spec, **changes)
    assert planned.bytes == allocated(cache_of(spec, planned, **changes))


def test_an_e4m3_cache_holds_twice_as_much():
    free = 41 * PLAIN.page_bytes(4, 2)
    wanted = {"free": free, "max_sequences": 64, "max_snapshots": 0}
    assert plan(PLAIN, **wanted).num_pages == 40
    assert plan(PLAIN, **wanted, kv_dtype=E4M3).num_pages == 81


def test_snapshots_take_states_of_their_own():
    """Each costs a row of convolution states, out of what pages may take."""
    row, page = HYBRID.state_bytes(2), HYBRID.page_bytes(4, 2)
    free = 100 * page + 10 * row
    few, many = (
        plan(HYBRID, free=free, max_sequences=10, max_snapshots=n, max_model_len=999)
        for n in (0, 8)
    )
    assert few.num_pages == 99
    assert many.num_pages == (free - 18 * row) // page - 1
    assert (few.num_states, many.num_states) == (10, 18)


@settings(max_examples=200, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    free=st.integers(0, 40_000),
    page_size=st.sampled_from([1, 4, 16]),
    max_model_len=st.integers(1, 90),
    chunk=st.integers(1, 32),
    kv_dtype=st.sampled_from([torch.bfloat16, E4M3]),
    snapshots=st.integers(0, 3),
)
def test_a_plan_stays_within_its_memory_and_lets_its_longest_sequence_run(
    spec, free, page_size, max_model_len, chunk, kv_dtype, snapshots
):
    """Alone, and with every snapshot taken: kept prefixes give way."""
    settings = {
        "free": free,
        "page_size": page_size,
        "max_model_len": max_model_len,
        "chunk": chunk,
        "kv_dtype": kv_dtype,
        "max_snapshots": snapshots,
        "max_sequences": 2,
    }
    try:
        planned = plan(spec, **settings)
    except InputError:
        least = plan(spec, **(settings | {"free": PLENTY, "max_model_len": 1}))
        pages = spec.pages(min(page_size, max_model_len), page_size, chunk)
        states = least.num_states * least.state_bytes
        assert free < states + (pages + bool(pages)) * least.page_bytes
        return
    assert planned.bytes <= free
    longest = planned.max_model_len
    assert longest == max_model_len or spec.pages(longest + 1, page_size, chunk) > planned.num_pages

    cache = cache_of(spec, planned, **settings)
    prefixes = SharedPrefixes(cache, snapshots)
    scheduler = Scheduler(cache, prefixes, chunk)
    # Two that found a prefix for the last one, which fills the cache and its context.
    prompts = [[*range(max(1, longest - 1 - i // 2))] for i in range(3)]
    for i, prompt in enumerate(p for p in prompts if len(p) < longest):
        scheduler.add(
            Sequence(i, prompt, SamplingParams(), 0, max_tokens=longest, stop_ids=frozenset())
        )
    for _ in range(1000):
        if not scheduler.has_work:
            break
        schedule = scheduler.schedule()
        assert schedule.chunks
        scheduler.update(schedule, Drawn(np.full(schedule.samples.sum(), 3)))
    assert not scheduler.has_work


def test_a_short_context_needs_no_whole_page():
    """A context below the page size is as good as it gets; a page is enough."""
    assert plan(PLAIN, page_size=16, max_model_len=10).max_model_len == 10
    short = plan(PLAIN, page_size=16, max_model_len=10, free=2 * PLAIN.page_bytes(16, 2))
    assert (short.num_pages, short.max_model_len) == (1, 10)


def test_the_context_is_cut_to_what_fits():
    page = PLAIN.page_bytes(4, 2)
    assert plan(PLAIN, free=6 * page).max_model_len == 20
    # 5 pages to share among a full and two windowed groups: 4 tokens take 3, 8 would take 6.
    assert plan(WINDOWS, free=6 * WINDOWS.page_bytes(4, 2)).max_model_len == 4


@pytest.mark.parametrize(
    "spec, free",
    [
        (PLAIN, 0),
        (PLAIN, -5),
        (PLAIN, 2 * PLAIN.page_bytes(4, 2) - 1),
        (WINDOWS, 4 * WINDOWS.page_bytes(4, 2) - 1),
        (HYBRID, 5 * HYBRID.state_bytes(2)),
        (CONV_ONLY, 5 * CONV_ONLY.state_bytes(2) - 1),
    ],
)
def test_too_little_memory_is_said(spec, free):
    with pytest.raises(InputError, match="no memory left for the cache on cuda:0") as error:
        plan(spec, free=free, where="cuda:0")
    assert "\n" not in str(error.value) and "--max-batch-size" in str(error.value)


def test_a_plan_can_be_made_smaller():
    """As tests do to bring preemption about."""
    assert replace(plan(PLAIN), num_pages=7).bytes == 8 * PLAIN.page_bytes(4, 2)


@pytest.mark.parametrize("architecture", ["lfm2", "gemma2"])
def test_the_cache_holds_as_many_tokens_as_it_is_told(architecture, tmp_path):
    write_checkpoint(tmp_path, architecture)
    settings = {"device": "cpu", "dtype": "float32", "max_batch_size": 8}
    for tokens, pages in ((64, 4), (65, 5), (10**12, None)):
        engine = Engine(tmp_path, config=EngineConfig(**settings, max_cached_tokens=tokens))
        groups = len(engine.cache.spec.groups)
        if pages:
            assert engine.cache.num_pages == pages * groups
            outputs = engine.generate(random_prompts(9), SamplingParams(max_new_tokens=3))
            assert all(output.finish_reason for output in outputs)
        else:
            unlimited = Engine(tmp_path, config=EngineConfig(**settings))
            assert engine.cache.num_pages == unlimited.cache.num_pages
