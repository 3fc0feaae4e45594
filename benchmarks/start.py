"""Import the package and answer a first text, with the clock running; used by inference.py in a base install.

python benchmarks/start.py CASCADE [TEXT AS JSON]
"""

import json
import sys
import time

START = time.perf_counter()
import cascadebert  # noqa: E402

IMPORTED = time.perf_counter()


def main() -> None:
    """Open the cascade and answer one text or pair."""
    text = json.loads(sys.argv[2]) if len(sys.argv) > 2 else "a film that is worth the ticket"
    cascadebert.Cascade.from_pretrained(sys.argv[1]).predict([text])
    done = time.perf_counter()
    values = {"import_seconds": IMPORTED - START, "ready_seconds": done - START}
    print(json.dumps({**values, "torch_loaded": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
