"""Texts of merge files, for the tests of what reads them."""

MODELS = "models: [{model: A}, {model: B}]\n"
HEAD = "merge_method: slerp\nbase_model: A\n"
T = "parameters: {t: 0.5}\n"
PLAIN = MODELS + HEAD + T


def slices(*pieces: str) -> str:
    """A file without t. A piece is `0-4` for these layers; what follows a blank goes with them."""
    lines = ["slices:"]
    for piece in pieces:
        layers, _, rest = piece.partition(" ")
        start, stop = layers.split("-")
        sources = ", ".join(f"{{model: {m}, layer_range: [{start}, {stop}]}}" for m in "AB")
        lines.append(f"  - {{sources: [{sources}]{rest}}}")
    return "\n".join([*lines, HEAD])
