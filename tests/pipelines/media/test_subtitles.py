from dray.pipelines.media.subtitles import cues, render


def words(*timed):
    return [{"text": text, "timestamp": [start, stop]} for text, start, stop in timed]


def test_words_become_phrases_that_break_at_pauses():
    spoken = words(("one", 0.5, 0.8), ("two", 0.9, 1.2), ("three", 3.0, 3.4))
    assert render(spoken, "srt") == ("1\n00:00:00,500 --> 00:00:01,200\none two\n\n2\n00:00:03,000 --> 00:00:03,400\nthree\n")
    assert render(spoken, "vtt").startswith("WEBVTT\n\n1\n00:00:00.500 --> 00:00:01.200\none two\n")


def test_cues_keep_to_six_seconds_and_two_lines():
    spoken = words(*((f"word{i}", i * 0.3, i * 0.3 + 0.25) for i in range(200)))
    for cue in cues(spoken):
        assert cue.stop - cue.start <= 6
        assert len(cue.text) <= 84
    assert " ".join(cue.text for cue in cues(spoken)) == " ".join(f"word{i}" for i in range(200))
    blocks = render(spoken, "srt").split("\n\n")
    assert all(len(block.strip().split("\n")) <= 4 for block in blocks)


def test_segments_stay_and_missing_ends_are_filled():
    segments = words((" Hello there.", 0.0, 2.0), (" And more", 2.0, None), (" again.", 3.5, None))
    assert [(cue.start, cue.stop, cue.text) for cue in cues(segments)] == [
        (0, 2, "Hello there."),
        (2, 4.5, "And more again."),
    ]


def test_hours_and_arrows():
    assert "01:02:03,004 --> 01:02:04,000\na -> b" in render(words(("a --> b", 3723.004, 3724.0)), "srt")


def test_silence_has_no_cues():
    assert render([], "srt") == ""
    assert render([], "vtt") == "WEBVTT\n\n"
