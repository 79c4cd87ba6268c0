"""Compares a transcription job's results with the reference texts: `python -m demo.score configs/demo.yaml`."""

from __future__ import annotations

import argparse
import json
from typing import cast

import jiwer
import pyarrow.dataset as pads

from dray.jobs.storage.folder import REPORT, SUMMARY, output_folder
from dray.pipelines.config import load_config

WIDTH = 56  # most characters of a transcript that are printed


def main() -> None:
    """Prints the transcripts, the word error rate, the speed, and the paths of output and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    folder = output_folder(load_config(parser.parse_args().config))
    data = pads.dataset(f"{folder.path}/data/status=ok", filesystem=folder.arrow())
    rows = sorted(data.to_table(columns=["id", "text", "seconds", "prediction"]).to_pylist(), key=lambda row: row["id"])
    transcripts = [row["prediction"]["text"].strip() for row in rows]
    references = [row["text"] for row in rows]
    for row, text in zip(rows, transcripts, strict=True):
        errors = "" if text == row["text"] else f"   ({jiwer.wer(row['text'], text):.0%} of the words wrong)"
        print(f"  {row['id']}  {row['seconds']:6.1f} s  {text if len(text) <= WIDTH else text[:WIDTH] + '...'}{errors}")
    summary = cast("dict[str, float]", json.loads(folder.read(SUMMARY) or b"{}"))
    words = sum(len(text.split()) for text in references)
    print(f"\n  word error rate  {jiwer.wer(references, transcripts):.3f} over {words:,} words")
    print(
        f"  speed            {summary['audio_seconds'] / summary['seconds']:.1f} seconds of audio per second, start-up included"
    )
    print(f"  output           {folder.path}/data, {folder.path}/subtitles\n  report           {folder.path}/{REPORT}")


if __name__ == "__main__":
    main()
