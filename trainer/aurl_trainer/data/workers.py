"""Tokenise files in several processes; a file that kills its process is identified, reported and skipped."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Final

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
        pool = _pool(config, min(workers, -(-(len(files) - done) // size)))
        try:
            for chunk, outcomes in _in_order(pool, files, done, size, AHEAD * workers):
                yield from zip(chunk, outcomes, strict=True)
                done += len(chunk)
        except (BrokenProcessPool, EOFError, ConnectionError):
            # A process died, or the server that forks them; reading the files one by one shows why.
            chunk = files[done : done + size]
            yield from _one_by_one(chunk, config)
            done += len(chunk)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, files: Sequence[SourceFile], begin: int, size: int, ahead: int
) -> Iterator[tuple[Sequence[SourceFile], list[TokenizedFile]]]:
    waiting: deque[tuple[Sequence[SourceFile], Future[list[TokenizedFile]]]] = deque()
    for start in range(begin, len(files), size):
        chunk = files[start : start + size]
        waiting.append((chunk, pool.submit(_tokenize, chunk)))
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
        with _pool(config, 1) as pool:
            _ensure_started(pool)
            try:
                while rest:
                    yield rest[0], pool.submit(_tokenize, [rest[0]]).result()[0]
                    rest.popleft()
            except BrokenProcessPool:
                yield rest.popleft(), TokenizedFile(reason="it crashes the reader")


def _ensure_started(pool: ProcessPoolExecutor) -> None:
    """Raise PreparationError if the pool has no live worker, which is not the fault of a file."""
    try:
        pool.submit(_do_nothing).result()
    except (BrokenProcessPool, OSError, EOFError) as error:
        raise PreparationError(
            f"The processes that read the music cannot be started ({error}); the log has their output. Give "
            "the pod more memory or processes, or set a lower dataset.workers."
        ) from error


def _do_nothing() -> None:
    pass


def _pool(config: TokenizerConfig, workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, _context(), _initialise, (config,))


def _context() -> ForkServerContext:
    # Not a plain fork: this process may have threads, and a child would inherit their locks. The fork server
    # has none, and preloads this module.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_vocabulary: Vocabulary | None = None


def _initialise(config: TokenizerConfig) -> None:
    global _vocabulary
    _vocabulary = Vocabulary(config)
    # Ctrl-C reaches the whole process group; the parent stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tokenize(files: Sequence[SourceFile]) -> list[TokenizedFile]:
    assert _vocabulary is not None
    return [_tokenize_one(file, _vocabulary) for file in files]


def _tokenize_one(file: SourceFile, vocabulary: Vocabulary) -> TokenizedFile:
    try:
        encoded = file.encode(vocabulary)
    except BadMidiError as error:
        return TokenizedFile(reason=error.reason)
    if not encoded.notes:
        return TokenizedFile(reason="it has no notes that the tokenizer keeps")
    return TokenizedFile(encoded.tokens.astype(TOKEN_TYPE).tobytes(), "", encoded.notes, encoded.left_out)
