"""What is recomputed changes memory and work, and not one bit of a gradient."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from hala_trainer.model import attention, recompute, short_conv
from hala_trainer.planning.live_bytes import LiveBytes
from tests.trainer.conftest import small_config

LONG = [[30, 1, 1, 40, 128], [100, 100]]  # attended in spans
SHORT = [[9, 1, 10], [20]]  # attended densely, which compiles
ARCHITECTURES = ["lfm2", "gemma2", "qwen2"]


class Model:
    """The blocks of a small model on a packed batch, recomputing what `mode` says."""

    def __init__(self, architecture: str, mode: str, lengths: list[list[int]] = LONG):
        attention.register()
        torch.manual_seed(0)
        config = small_config(architecture, 16)
        config.initializer_range = 0.3
        whole = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
        self.inner = whole.model.train()
        short_conv.patch(self.inner)
        for block in self.inner.layers:
            recompute.apply(block, mode)
        sizes = [torch.tensor(row) for row in lengths]
        self.documents = torch.stack([torch.arange(len(s)).repeat_interleave(s) for s in sizes])
        self.positions = torch.stack([torch.cat([torch.arange(n) for n in s]) for s in sizes])
        shape = (*self.documents.shape, config.hidden_size)
        self.hidden = torch.randn(shape).requires_grad_()
        self.direction = torch.randn(shape)

    def loss(self) -> torch.Tensor:
        config = self.inner.config
        out = self.inner(
            inputs_embeds=self.hidden * 1,
            position_ids=self.positions,
            attention_mask=attention.masks(self.documents, config),
            use_cache=False,
            **({"seq_idx": self.documents} if config.model_type == "lfm2" else {}),
        ).last_hidden_state
        return (out.float() * self.direction).sum()

    def gradients(self) -> dict[str, torch.Tensor]:
        self.loss().backward()
        found = {n: p.grad for n, p in self.inner.layers.named_parameters()}
        return {"hidden": self.hidden.grad} | found


def assert_same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_keeping_everything_to_the_bit(architecture, mode):
    assert_same_bits(Model(architecture, mode).gradients(), Model(architecture, "none").gradients())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_less_is_kept_from_none_to_selective_to_full(architecture):
    kept = {}
    for mode in recompute.MODES:
        model = Model(architecture, mode)
        with LiveBytes() as live:
            loss = model.loss()
        kept[mode] = live.now
        del loss
        assert live.now < kept[mode]
    assert kept["none"] > 1.5 * kept["selective"] > 1.5 * 1.5 * kept["full"]


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_selective_repeats_norms_but_neither_matrix_products_nor_attention():
    count = {}
    for mode in recompute.MODES:
        model = Model("lfm2", mode)
        with Operations() as operations:
            model.loss().backward()
        count[mode] = operations.count
    for costly in ("mm", "_scaled_dot_product_flash_attention_for_cpu"):
        assert count["none"][costly] == count["selective"][costly] < count["full"][costly]
    assert count["none"]["rsqrt"] < count["selective"]["rsqrt"] <= count["full"]["rsqrt"]


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_compiled_blocks_are_one_graph_with_the_same_gradients(mode):
    torch._dynamo.reset()
    model = Model("lfm2", mode, SHORT)
    for block in model.inner.layers:
        block.forward = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
    compiled = model.gradients()
    for name, expected in Model("lfm2", "none", SHORT).gradients().items():
        assert (compiled[name] - expected).norm() / expected.norm() < 1e-5, name


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_sharded_blocks_recompute_with_their_gathered_weights(mesh):
    def gradients(mode):
        model = Model("gemma2", mode)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.inner.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        fully_shard(model.inner, mesh=mesh)
        found = model.gradients()
        return {n: g.to_local() for n, g in found.items() if n != "hidden"}

    expected = gradients("none")
    for mode in ("selective", "full"):
        assert_same_bits(gradients(mode), expected)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="none, selective, full"):
        recompute.apply(torch.nn.Linear(1, 1), "some")
