"""Writes the rows of y = 2x + 1 + noise to examples/seeds/data/line.csv:

python examples/seeds/make_line.py [FILE]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

NUM_ROWS = 1000
FILE = Path(__file__).resolve().parent / "data" / "line.csv"


def write(path: Path) -> None:
    """Writes x from -3 to 3 with y = 2x + 1 + noise of standard deviation 0.3."""
    draws = random.Random(0)
    lines = ["x,y"]
    for _ in range(NUM_ROWS):
        x = draws.uniform(-3.0, 3.0)
        lines.append(f"{x:.6f},{2.0 * x + 1.0 + draws.gauss(0.0, 0.3):.6f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
