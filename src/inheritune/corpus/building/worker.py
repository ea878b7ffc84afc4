"""A worker process: it reads the ranks of tasks from standard input, and answers each with a line of JSON.

`building.execution` starts it with a file that it wrote itself: a pickled executor (docs/security.md).
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
    """Run the tasks that standard input names. End at once when it closes, as nobody waits for answers then."""
    import dill

    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
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
            from inheritune.corpus.building.execution import report

            answer = report(error)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
