"""Tokenise files in several processes; a file that kills its process is identified, reported and skipped.

Music files may be hostile, so nothing that comes back from these processes is unpickled: they answer with
JSON and the bytes of the tokens.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Final

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.errors import BadMidiError, PreparationError
from aurl_trainer.data.shards import TOKEN_TYPE
from aurl_trainer.data.source_file import SourceFile
from aurl_trainer.data.vocabulary import Vocabulary

CHUNK, LARGEST_CHUNK = 8, 64
"""Bounds of the files per task; larger sources use larger tasks, which cost less to hand over."""
SHARES: Final = 16
"""Minimum number of tasks per worker, so that all finish at about the same time."""
AHEAD: Final = 4
"""Tasks per worker to queue ahead; bounds the memory for any number of files."""
READY: Final = b"ready"
"""First message of a worker."""


@dataclass(frozen=True)
class TokenizedFile:
    """The result for a file: its tokens as bytes of TOKEN_TYPE, or the reason why it has none."""

    tokens: bytes = b""
    reason: str = ""
    notes: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of omitted notes by reason."""


def start_fork_server() -> None:
    """Start the process that workers are forked from, early, because it takes a while."""
    _context()
    forkserver.ensure_running()


def tokenize_files(
    files: Sequence[SourceFile], config: TokenizerConfig, workers: int
) -> Iterator[tuple[SourceFile, TokenizedFile]]:
    """Yield each of `files` with its result, in order, holding only a few in memory.

    Raises PreparationError if no worker can be started.
    """
    done, size = 0, min(LARGEST_CHUNK, max(CHUNK, len(files) // (SHARES * workers)))
    while done < len(files):
        with _workers(config, min(workers, -(-(len(files) - done) // size))) as pool:
            try:
                for chunk, outcomes in _in_order(pool, files, done, size, AHEAD * workers):
                    yield from zip(chunk, outcomes, strict=True)
                    done += len(chunk)
            except _WorkerDiedError:
                # Reading the files one by one shows which of them killed it.
                chunk = files[done : done + size]
                yield from _one_by_one(chunk, config)
                done += len(chunk)


def _in_order(
    pool: _Workers, files: Sequence[SourceFile], begin: int, size: int, ahead: int
) -> Iterator[tuple[Sequence[SourceFile], list[TokenizedFile]]]:
    waiting: deque[tuple[Sequence[SourceFile], Future[list[TokenizedFile]]]] = deque()
    for start in range(begin, len(files), size):
        chunk = files[start : start + size]
        waiting.append((chunk, pool.submit(chunk)))
        if len(waiting) >= ahead:
            chunk, outcomes = waiting.popleft()
            yield chunk, outcomes.result()
    while waiting:
        chunk, outcomes = waiting.popleft()
        yield chunk, outcomes.result()


def _one_by_one(
    files: Sequence[SourceFile], config: TokenizerConfig
) -> Iterator[tuple[SourceFile, TokenizedFile]]:
    rest = deque(files)
    while rest:
        with _workers(config, 1) as pool:
            try:
                while rest:
                    yield rest[0], pool.submit([rest[0]]).result()[0]
                    rest.popleft()
            except _WorkerDiedError:
                yield rest.popleft(), TokenizedFile(reason="it crashes the reader")


class _WorkerDiedError(Exception):
    """A worker died or sent nonsense while it read files."""


class _Worker:
    """A process that tokenises files, and the connection to it."""

    def __init__(self, config: TokenizerConfig) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        self._started = False
        self._process = context.Process(target=_serve, args=(theirs, config), daemon=True)
        try:
            self._process.start()
        except (OSError, EOFError) as error:
            raise _not_started(str(error)) from error
        theirs.close()

    def tokenize(self, files: Sequence[SourceFile]) -> list[TokenizedFile]:
        """Return the result of each file. Raises PreparationError if the process could not start."""
        try:
            if not self._started:
                self._started = self._connection.recv_bytes() == READY
        except (OSError, EOFError) as error:
            self._process.join()
            raise _not_started(f"exit code {self._process.exitcode}") from error
        try:
            self._connection.send(files)
            return _unpacked(self._connection.recv_bytes(), len(files))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise _WorkerDiedError from error

    def close(self) -> None:
        """Let the process end."""
        self._connection.close()
        self._process.join()


class _Workers:
    """Several workers; each thread hands a task to an idle one and waits for its answer."""

    def __init__(self, config: TokenizerConfig, count: int) -> None:
        self._threads = ThreadPoolExecutor(count)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._config, self._count = config, count

    def start(self) -> None:
        """Start all processes."""
        for _ in range(self._count):
            self._workers.append(_Worker(self._config))
            self._idle.put(self._workers[-1])

    def submit(self, files: Sequence[SourceFile]) -> Future[list[TokenizedFile]]:
        """Tokenise files when a worker is idle."""
        return self._threads.submit(self._run, files)

    def _run(self, files: Sequence[SourceFile]) -> list[TokenizedFile]:
        worker = self._idle.get()
        try:
            return worker.tokenize(files)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Wait for tasks in progress and stop all processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()


@contextmanager
def _workers(config: TokenizerConfig, count: int) -> Iterator[_Workers]:
    pool = _Workers(config, count)
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


def _not_started(reason: str) -> PreparationError:
    return PreparationError(
        f"The processes that read the music cannot be started ({reason}); the log has their output. Give the "
        "pod more memory or processes, or set a lower dataset.workers."
    )


def _context() -> ForkServerContext:
    # Not a plain fork: this process may have threads, and a child would inherit their locks. The fork server
    # has none, and preloads this module.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _serve(connection: Connection[Any, Any], config: TokenizerConfig) -> None:
    """Tokenise what the parent sends, until it closes the connection."""
    # Ctrl-C reaches the whole process group; the parent stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    vocabulary = Vocabulary(config)
    connection.send_bytes(READY)
    with suppress(EOFError, ConnectionError):
        while True:
            files: Sequence[SourceFile] = connection.recv()
            connection.send_bytes(_packed([_tokenize_one(file, vocabulary) for file in files]))


def _packed(outcomes: list[TokenizedFile]) -> bytes:
    """Return a line of JSON, and the tokens of all files."""
    files = [[len(o.tokens), o.reason, o.notes, dict(o.left_out)] for o in outcomes]
    return b"".join([json.dumps({"files": files}).encode(), b"\n", *(o.tokens for o in outcomes)])


def _unpacked(answer: bytes, count: int) -> list[TokenizedFile]:
    """Parse the answer for `count` files. Raises ValueError, KeyError or TypeError if it has another form."""
    head, _, tokens = answer.partition(b"\n")
    content = json.loads(head)
    outcomes, at = [], 0
    for size, reason, notes, left_out in content["files"]:
        counts = {str(why): int(number) for why, number in left_out.items()}
        outcomes.append(TokenizedFile(tokens[at : at + int(size)], str(reason), int(notes), counts))
        at += int(size)
    if len(outcomes) != count or at != len(tokens):
        raise ValueError("the answer is incomplete")
    return outcomes


def _tokenize_one(file: SourceFile, vocabulary: Vocabulary) -> TokenizedFile:
    try:
        encoded = file.encode(vocabulary)
    except BadMidiError as error:
        return TokenizedFile(reason=error.reason)
    if not encoded.notes:
        return TokenizedFile(reason="it has no notes that the tokenizer keeps")
    return TokenizedFile(encoded.tokens.astype(TOKEN_TYPE).tobytes(), "", encoded.notes, encoded.left_out)
