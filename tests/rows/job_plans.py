"""Plans of a translation that is not made."""

from hala_engine.jobs.scan import make_plan
from hala_engine.rows.inputs import find_files
from hala_engine.translate import TranslateConfig


def plan_of(*inputs, **options):
    config = TranslateConfig(inputs=tuple(map(str, inputs)), output="unused", **options)
    return make_plan(config, find_files(config.inputs))
