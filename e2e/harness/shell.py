"""Running commands, waiting for conditions, undoing things in reverse order."""

import subprocess
import time


class CommandFailed(AssertionError):
    pass


def run(*command, check=True, input=None, timeout=300, cwd=None, env=None):
    """Runs a command, returns its CompletedProcess with text; says what it printed if it fails."""
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, input=input, timeout=timeout,
                            cwd=cwd, env=env)
    if check and result.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: status {result.returncode}\n"
                            f"{result.stdout[-4000:]}{result.stderr[-4000:]}")
    return result


def output(*command, **kwargs):
    return run(*command, **kwargs).stdout.strip()


def wait_until(condition, what, timeout=30, interval=0.05):
    """Polls `condition` until it gives something true, which is returned."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(interval)


class Cleanup:
    """What has to be undone, whatever happens, last first. An undo that fails is reported after
    all others were tried."""

    def __init__(self):
        self._undo = []

    def add(self, function, *arguments, **kwargs):
        self._undo.append((function, arguments, kwargs))

    def run(self):
        problems = []
        while self._undo:
            function, arguments, kwargs = self._undo.pop()
            try:
                function(*arguments, **kwargs)
            except Exception as problem:  # noqa: BLE001: the others must still be undone
                problems.append(f"{getattr(function, '__name__', function)}{arguments}: {problem}")
        assert not problems, "cleaning up failed:\n" + "\n".join(problems)
