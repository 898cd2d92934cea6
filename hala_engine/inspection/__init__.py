"""What a checkpoint holds, what it needs, and how much of it fits: without loading it.

from hala_engine.inspection import inspect_model
print(inspect_model("LiquidAI/LFM2-1.2B").loaded_bytes)
"""

from hala_engine.inspection.measure import inspect_model
from hala_engine.inspection.report import Inspection

__all__ = ["Inspection", "inspect_model"]
