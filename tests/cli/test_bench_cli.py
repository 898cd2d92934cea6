"""`hala-engine bench`: figures that add up, a baseline that does the same work, refusals."""

import json
from statistics import median

import pytest
import torch

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.benchmark.baseline import Baseline
from hala_engine.benchmark.measure import generate
from hala_engine.benchmark.workload import Workload
from hala_engine.errors import InputError, JobError
from hala_engine.quantize.scheme import SCHEMES
from tests.engine.checkpoints import ARCHITECTURES, SETTINGS, VOCAB, write_checkpoint

SMALL = ("--requests", 7, "--prompt-len", "3:9", "--output-len", "2:6", "--device", "cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lfm2")
    write_checkpoint(directory)
    return directory


def write_config(path, architecture="lfm2", **overrides):
    kind = ARCHITECTURES[architecture]
    settings = SETTINGS | kind.settings | overrides
    path.write_text(kind.config(**settings).to_json_string(use_diff=False))
    return path


def test_figures_follow_from_the_samples(command, checkpoint):
    done = command("bench", "--model", checkpoint, *SMALL, "--max-batch-size", 4, "--json", "-")
    assert done.code == 0
    result = json.loads(done.stdout)
    summary, samples = result["summary"], result["measured"]["samples"]
    assert len(samples) == 3 and result["baseline"] is None
    prompt, wanted = Workload(7, (3, 9), (2, 6)).lengths()
    assert result["tokens"] == {"prompt_tokens": sum(prompt), "output_tokens": sum(wanted)}
    seconds = median(sample["seconds"] for sample in samples)
    assert summary["new_tokens_per_s"] == pytest.approx(sum(wanted) / seconds)
    assert summary["prompt_tokens_per_s"] == pytest.approx(sum(prompt) / seconds)
    assert summary["requests_per_s"] == pytest.approx(7 / seconds)
    assert summary["mean_batch"] == pytest.approx(sum(wanted) / summary["steps"])
    assert result["batch_size"] == 4 and 0 < summary["occupancy"] <= 1
    assert 0 <= summary["host_share"] <= 1
    assert summary["peak_memory_bytes"] > 50e6
    assert result["engine"]["max_batch_size"] == 4 and result["measured"]["device"] == "cpu"
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["loaded", *["run"] * 3]


def test_steps_are_those_of_continuous_batching(command, checkpoint):
    """Equal lengths, all at once: a step for the prompts, then one for each further token."""
    arguments = ("--requests", 5, "--prompt-len", "8", "--output-len", "6", "--repeats", 1)
    done = command("bench", "--model", checkpoint, *arguments, "--json", "-")
    summary = json.loads(done.stdout)["summary"]
    assert 6 <= summary["steps"] <= 7  # one that overlaps the last may be dropped
    assert summary["preemptions"] == 0


def test_baseline_decodes_the_same_tokens(checkpoint):
    workload = Workload(9, (1, 40), (1, 12), seed=5)
    prompts, (_, wanted) = workload.prompts(VOCAB, 0), workload.lengths()
    config = EngineConfig(device="cpu", dtype="float32", max_batch_size=4)
    ours = generate(Engine(checkpoint, config=config), prompts, wanted)
    baseline = Baseline(
        checkpoint, random_weights=False, dtype=torch.float32, device=torch.device("cpu")
    )
    assert baseline.generate(prompts, wanted, 4) == ours
    assert [len(tokens) for tokens in ours] == wanted


def test_table_shows_both_and_the_ratio(command, checkpoint, tmp_path):
    file = tmp_path / "result.json"
    options = ("--repeats", 1, "--baseline", "transformers", "--json", file)
    done = command("bench", "--model", checkpoint, *SMALL, *options)
    assert done.code == 0
    result = json.loads(file.read_text())
    ours, theirs = result["measured"]["samples"][0]["seconds"], result["baseline"]["seconds"][0]
    assert result["summary"]["ratio"] == pytest.approx(theirs / ours)
    assert "transformers" in done.stdout and f"{result['summary']['ratio']:.2f}x" in done.stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_weights_need_a_config_alone(command, tmp_path, architecture):
    path = write_config(tmp_path / "any-name.json", architecture)
    done = command("bench", "--config", path, *SMALL, "--repeats", 1, "--json", "-")
    assert done.code == 0
    result = json.loads(done.stdout)
    assert result["random_weights"] and result["architecture"] == architecture
    assert [p.name for p in tmp_path.iterdir()] == ["any-name.json"]


def test_random_weights_of_a_seed_give_the_same_tokens(tmp_path):
    path = write_config(tmp_path / "config.json")

    def tokens(seed: int) -> list[list[int]]:
        config = EngineConfig(device="cpu", dtype="float32", seed=seed)
        engine = Engine(path, config=config, random_weights=True)
        outputs = list(
            engine.generate([[9, 10, 11], [12]], SamplingParams(max_new_tokens=8, ignore_eos=True))
        )
        assert {output.text for output in outputs} == {""}
        return [output.token_ids for output in outputs]

    assert tokens(1) == tokens(1) != tokens(2)


def test_a_quantized_config_and_its_baseline_run_on_the_cpu(command, tmp_path):
    path = write_config(tmp_path / "config.json", "qwen2")
    raw = json.loads(path.read_text())
    raw["quantization_config"] = SCHEMES["fp8-dynamic"].quantization_config(["lm_head"])
    path.write_text(json.dumps(raw))
    options = ("--repeats", 1, "--baseline", "transformers", "--json", "-")
    done = command("bench", "--config", tmp_path, *SMALL, *options)
    assert done.code == 0
    assert json.loads(done.stdout)["summary"]["ratio"] > 0


def test_prompts_differ_between_repeats_and_lengths_do_not():
    workload = Workload(20, (4, 8), (1, 9), seed=3)
    first, second = workload.prompts(100, 0), workload.prompts(100, 1)
    assert first != second and first == Workload(20, (4, 8), (1, 9), seed=3).prompts(100, 0)
    assert [len(p) for p in first] == [len(p) for p in second] == workload.lengths()[0]
    lengths = [n for seed in range(50) for n in Workload(20, (4, 8), (1, 9), seed).lengths()[0]]
    assert set(lengths) == {4, 5, 6, 7, 8}


class TooShort:
    """An engine that ends before it should."""

    def generate(self, prompts, params):
        from hala_engine import Output

        return [Output(i, "", [1], 1, "length") for i, _ in enumerate(prompts)]


def test_outputs_of_another_length_are_no_measurement():
    with pytest.raises(JobError, match="1 tokens where 2 were forced"):
        generate(TooShort(), [[1], [2]], [1, 2])


BAD = {
    "--prompt-len 8:4": "--prompt-len 8:4: give A:B with 1 <= A <= B",
    "--output-len 0:4": "--output-len 0:4",
    "--prompt-len 8:4:2": "give A:B, such as 16:64, or one number",
    "--requests 0": "--requests 0: must be 1 or more",
    "--repeats 0": "--repeats 0: must be 1 or more",
    "--seed -1": "--seed -1",
    "--baseline vllm": "use transformers",
    "--model a/b --config c.json": "give --model or --config, not both",
    "--config /nowhere.json": "there is no file /nowhere.json",
    "--json /nowhere/x.json": "there is no directory /nowhere",
    "--prompt-len 100:100": "up to 164 tokens, the context of hala-mini-en-ar is 128",
    "--max-batch-size 0": "max_batch_size must be at least 1",
    "--dtype int4": "dtype 'int4'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_exit_code_2(command, arguments):
    done = command("bench", *arguments.split())
    assert done.code == 2 and done.stdout == ""
    assert BAD[arguments] in done.error


def test_a_context_that_memory_does_not_hold_is_refused(checkpoint, monkeypatch):
    from hala_engine.benchmark.config import BenchConfig
    from hala_engine.benchmark.measure import measure

    monkeypatch.setattr("hala_engine.engine.available_memory", lambda device: 150_000)
    config = BenchConfig(Workload(2, (100, 200), (1, 100)), str(checkpoint))
    with pytest.raises(InputError, match="memory"):
        measure(config, lambda line: None)
