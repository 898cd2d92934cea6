"""The judge's job: a model reads pairs of texts and accepts or rejects each.

from hala_engine.judge import JudgeConfig, judge_job
judge_job(JudgeConfig(inputs=("pairs.jsonl",), output="judged", model="Qwen/Qwen2.5-3B-Instruct",
                      source_column="en", target_column="ar"))
"""

from hala_engine.jobs.config import EngineOptions
from hala_engine.jobs.job import JobResult, Kind, run_job
from hala_engine.judge.card import make_card
from hala_engine.judge.config import JudgeConfig
from hala_engine.judge.worker import Judge

__all__ = ["EngineOptions", "JobResult", "JudgeConfig", "judge_job"]


def judge_job(config: JudgeConfig, *, quiet: bool = True) -> JobResult:
    """Judge a dataset's pairs, or go on where an earlier run of the same job stopped.

    Raises InputError before any work is done, JobError when work has begun and cannot go on.
    """
    return run_job(config, Kind(Judge, make_card), quiet=quiet)
