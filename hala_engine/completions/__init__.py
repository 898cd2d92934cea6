"""The completions job: the rows of a dataset, each with what a model writes after its prompt.

from hala_engine.completions import CompletionsConfig, complete
complete(CompletionsConfig(inputs=("rows.jsonl",), output="out.jsonl", model="LiquidAI/LFM2-1.2B"))
"""

from hala_engine.completions.config import CompletionsConfig
from hala_engine.completions.job import CompletionsResult, complete

__all__ = ["CompletionsConfig", "CompletionsResult", "complete"]
