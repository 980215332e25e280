"""Show a running launch: a progress bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import IO, Any

LINE_INTERVAL = 5.0
"""Seconds between two lines when the output is not a terminal."""

BAR_WIDTH = 28


class Follower:
    """Prints what changed since the last `/progress`, each event and checkpoint once."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown_events: set[tuple[str, str]] = set()
        self._checkpoint: int | None = None
        self._next_line = 0.0
        self._last_text = ""
        self._bar_open = False

    def __call__(self, progress: dict[str, Any]) -> None:
        """Show one `/progress`."""
        for event in progress["events"]:
            key = (event["time"], event["message"])
            if key not in self._shown_events:
                self._shown_events.add(key)
                self.line(f"  {event['kind']}: {event['message']}")
        checkpoint = progress["lastCheckpoint"]
        if checkpoint is not None and checkpoint["step"] != self._checkpoint:
            self._checkpoint = checkpoint["step"]
            self.line(f"  checkpoint at step {checkpoint['step']}: {checkpoint['path']}")
        text = preparation_text(progress) if progress["role"] == "prepare" else training_text(progress)
        if self._terminal:
            columns = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + text[:columns])
            self._stream.flush()
            self._bar_open = True
        elif text != self._last_text and time.monotonic() >= self._next_line:
            self.line(text)
            self._last_text = text
            self._next_line = time.monotonic() + LINE_INTERVAL

    def line(self, text: str) -> None:
        """Print a line, clearing the bar first."""
        if self._bar_open:
            self._stream.write("\r\x1b[K")
            self._bar_open = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def finish(self, progress: dict[str, Any]) -> None:
        """Print the final state and leave the bar."""
        text = preparation_text(progress) if progress["role"] == "prepare" else training_text(progress)
        if self._terminal or text != self._last_text:
            self.line(text)


def bar(done: int, total: int | None) -> str:
    """Return a bar of `BAR_WIDTH` characters, empty while the total is unknown."""
    share = min(1.0, done / total) if total else 0.0
    filled = round(share * BAR_WIDTH)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def preparation_text(progress: dict[str, Any]) -> str:
    """Return the state of the preparation in one line."""
    preparation = progress["preparation"]
    if preparation is None:
        return "preparing the dataset"
    done, total = preparation["filesDone"], preparation["filesTotal"]
    dropped = f", {preparation['filesDropped']} dropped" if preparation["filesDropped"] else ""
    return f"preparing {bar(done, total)} {done}/{'?' if total is None else total} files{dropped}"


def training_text(progress: dict[str, Any]) -> str:
    """Return the state of the training in one line."""
    step, total = progress["step"], progress["totalSteps"]
    if total is None:
        return f"{progress['state'].lower()} …"
    parts = [f"{progress['state'].lower():9}{bar(step, total)} step {step}/{total}"]
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.3f}")
    if progress["validationLoss"] is not None:
        parts.append(f"validation {progress['validationLoss']:.3f}")
    if progress["tokensPerSecond"] is not None:
        parts.append(f"{progress['tokensPerSecond']:,.0f} tokens/s")
    if progress["samplesPerSecond"] and progress["state"] == "Training":
        parts.append(f"{progress['samplesPerSecond']:,.1f} samples/s")
    return "  ".join(parts)
