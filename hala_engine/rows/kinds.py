"""Which files hold rows, told by the endings of their names."""

from pathlib import Path

from hala_engine.rows.lines import CODECS
from hala_engine.rows.tables import ARROW, PARQUET
from hala_engine.rows.text_files import READERS

TABLES = (PARQUET, ARROW)
KINDS = f"{' '.join(READERS)} (also {' and '.join(CODECS)}), {' '.join(TABLES)}"


def kind_of(path: Path) -> str:
    """The ending that says how to read the file, "" when nothing here can."""
    if path.suffix in CODECS:
        ending = Path(path.stem).suffix
        return ending if ending in READERS else ""
    return path.suffix if path.suffix in READERS or path.suffix in TABLES else ""
