"""A worker process: ranks come in by lines, answers go out.

`python -m inheritune.data.preparing.worker FILE` is started by `inheritune.data.preparing.execution`, with an executor
of our own in FILE (docs/security.md).
"""

import json
import os
import sys
from copy import deepcopy
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from inheritune.errors import is_failure


def main() -> None:
    """Run the tasks that are named on standard input; end at once when it closes, as nobody then waits for them."""
    import dill

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    executor = dill.loads(Path(sys.argv[1]).read_bytes())
    ranks: SimpleQueue[int] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            ranks.put(int(line))
        os._exit(0)

    Thread(target=listen, daemon=True).start()
    while True:
        rank = ranks.get()
        try:
            deepcopy(executor).run_task(rank)
            answer = {}
        except BaseException as error:
            if not is_failure(error):
                raise
            from inheritune.data.preparing.execution import report

            answer = report(error)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
