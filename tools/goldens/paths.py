"""Where the script reads and writes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"
EMBEDDED_TOKENIZER = ROOT / "models/target/tokenizer.json"
