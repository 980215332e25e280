"""Sampled music as a MIDI file that records how it was generated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aurl_trainer.data.midi import write_midi
from aurl_trainer.data.music import Music


def sampled_midi(music: Music, settings: Mapping[str, Any]) -> bytes:
    """Return music as a MIDI file, with `settings` as JSON in its first text event."""
    text = json.dumps({"generator": "aurl-trainer", **settings}, sort_keys=True, ensure_ascii=True)
    return write_midi(music, [text])
