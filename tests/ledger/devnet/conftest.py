"""Lets the tests of the devnet share what starts its process."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
