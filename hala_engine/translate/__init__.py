"""The dataset job: reading, segmenting, prompting, translating, checking, writing, resuming.

from hala_engine.translate import TranslateConfig, translate_job
translate_job(TranslateConfig(inputs=("rows.jsonl",), output="rows-ar"))
"""

from hala_engine.translate.config import EngineOptions, GenerationOptions, TranslateConfig
from hala_engine.translate.job import JobResult, translate_job

__all__ = [
    "EngineOptions",
    "GenerationOptions",
    "JobResult",
    "TranslateConfig",
    "translate_job",
]
