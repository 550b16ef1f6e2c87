"""The words of docs/glossary.md are used, and those that they replaced do not come back."""

import re

import pytest

INSTEAD = {
    "batch group": r"\b[Ll]anes?\b|lane_key\b",
    "promote_after, promoted": r"\b([Aa]ge?ing_ns|AGE?ING_NS)\b|`ageing`|queue\.ageing|\b(AGED|aged|ages_ns|promotes_ns)\b",
    "late": r"\bmake_best_effort\b|\bBEST_EFFORT\b",
    "deadline_ns, finish_by_ns, latest_finish_ns": r"\bmust_end(_ns)?\b|\bleaves_ns\b",
    "arrival statistics, ArrivalStats": r"\bPace\b|\.pace\b|\bpace_of\b",
    "PolicyInput, Decision": r"\bSituation\b|\bsituation\.|\b[Vv]erdicts?\b",
    "prefetch, prefetched": r"\b[Hh]andovers?\b|\bin[_ ]hand\b",
    "fault-aware batch cap": r"\b([Cc]aution|CAUTION)\b",
    "bisection": r"\bBisecting\b(?! )|\b[Cc]ulprits?\b",
    "failing request": r"\b(is|are|be|was|were|not) at fault\b",
    "decaying": r"\bFading[A-Z]\w*|\bfading_",
    "which, that, no request": r"\b([Ww]hoever|[Ww]homever|[Nn]obody|[Ss]omebody|[Ee]verybody|[Aa]nybody)\b",
    "package, module, layer": r"\b[Hh]ouses?\b|\bown door\b|\bthe (rooms|door|floor)\b",
    "admission": r"\bgates?\b|\bGATE\b",
    "preface received": r"\b[Gg]reet(s|ed|ing)?\b",
    "American spelling": (
        r"\b([Nn]eighbour|[Bb]ehaviour|[Cc]olour|[Ff]avour|[Hh]onour)\w*|\bageing\b|\bgrey\b"
        r"|\b(summaris|serialis|normalis|organis|optimis|initialis|synchronis|recognis|minimis"
        r"|maximis|generalis|quantis|tokenis|vectoris)(e|ed|es|ing|ation|er)\b"
        r"|\b(centred?|catalogue|levelled|labelled|modelled|artefacts?|whilst)\b"
    ),
}
"""What to say, and a pattern of what it replaced."""

WITHIN = {
    ("batcher/core/", "canary request"): r"\b[Pp]rob(e|es|ed|ing)\b",
    ("batcher/core/", "backlog planner"): r"\bReach\b|\breach_ns\b",
    ("batcher/core/", "expected, p95"): r"\btypical_ns\b|\.typical\b|\banswered_ns\b",
    ("batcher/http2/", "receive window, unconsumed"): r"\b[Cc]redits?\b",
    ("batcher/http2/", "GOAWAY sent, aborted"): r"\bdef (cut|leave)\b|\.(cut|leave)\(",
}
"""By folder: words that are replaced there, and mean something else elsewhere."""

MEANT_OTHERWISE = {
    ("American spelling", "batcher/config/explain.py"): "tells what became of the old key",
    ("American spelling", "tests/unit/config/test_loader.py"): "reads the old key",
    ("prefetch, prefetched", "batcher/cli/renamed.py"): "tells the new name of the old option",
    ("prefetch, prefetched", "tests/unit/cli/test_simulate.py"): "gives the old option",
    ("admission", "examples/minilm/graph.py"): "the gate of an activation function",
}
"""Files in which a pattern finds something else than the word that was replaced."""

HISTORY = ("CHANGELOG.md", "bench/results/", "tests/unit/test_words.py")
"""Files that name old words, or were recorded with them."""

TEXTS = (".py", ".md", ".toml", ".yaml", ".yml", "Makefile")


@pytest.fixture(scope="module")
def texts(repository, tracked_files):
    """The tracked text files by path."""
    return {
        path: (repository / path).read_text(encoding="utf-8")
        for path in tracked_files
        if path.endswith(TEXTS) and not path.startswith(HISTORY)
    }


def says(pattern, text):
    """Whether the text has the word by itself or as a part of a name."""
    return re.search(pattern, text) or re.search(pattern, text.replace("_", " "))


@pytest.mark.parametrize(
    ("folder", "instead", "pattern"),
    [
        *(("", instead, pattern) for instead, pattern in INSTEAD.items()),
        *((folder, instead, pattern) for (folder, instead), pattern in WITHIN.items()),
    ],
)
def test_a_word_that_was_replaced_does_not_come_back(folder, instead, pattern, texts):
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts.items()
        if path.startswith(folder) and (instead, path) not in MEANT_OTHERWISE
        if says(pattern, text)
        for number, line in enumerate(text.splitlines(), 1)
        if says(pattern, line)
    ]
    assert not found, f"say {instead}:\n" + "\n".join(found)


def test_exceptions_are_still_needed(texts):
    for instead, path in MEANT_OTHERWISE:
        assert says(INSTEAD[instead], texts[path]), (instead, path)


@pytest.mark.parametrize(
    ("instead", "line"),
    [
        ("batch group", "lane = self.lanes[key]"),
        ("PolicyInput, Decision", "return Verdict(take)"),
        ("which, that, no request", "def test_nobody_waits_for_longer():"),
        ("prefetch, prefetched", "one batch in hand"),
        ("American spelling", "the behaviour of a neighbour"),
    ],
)
def test_the_patterns_find_the_old_words(instead, line):
    assert says(INSTEAD[instead], line)
