"""The translation job: masking, cutting, prompting, translating, joining, checking.

from hala_engine.translate import TranslateConfig, translate_job
translate_job(TranslateConfig(inputs=("rows.jsonl",), output="rows-ar"))
"""

from hala_engine.jobs.config import EngineOptions, GenerationOptions
from hala_engine.jobs.job import JobResult, Kind, run_job
from hala_engine.translate.card import make_card
from hala_engine.translate.checks import CheckOptions
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.worker import Translator

__all__ = [
    "CheckOptions",
    "EngineOptions",
    "GenerationOptions",
    "JobResult",
    "TranslateConfig",
    "translate_job",
]


def translate_job(config: TranslateConfig, *, quiet: bool = True) -> JobResult:
    """Translate a dataset, or go on where an earlier run of the same job stopped.

    Raises InputError before any work is done, JobError when work has begun and cannot go on.
    """
    return run_job(config, Kind(Translator, make_card), quiet=quiet)
