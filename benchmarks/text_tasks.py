"""Eight text tasks with real labels, from texts in Debian's packages (docs/concepts/trex.md).

``python benchmarks/text_tasks.py`` fetches four packages with ``apt-get download``, unpacks them into a folder of its own (nothing is
installed) and prints the tasks. ``INFL_TEXT_DIR`` names another folder than ``~/.cache/infl/text``.

| package | texts | tasks |
| --- | --- | --- |
| ``wordnet-base`` (WordNet 3.0) | definitions | part of speech; lexicographer file of nouns, of verbs; branch of the hypernyms |
| the package lists themselves | first lines of descriptions | section; language that a package is written in |
| ``bible-kjv``, ``bible-kjv-text`` | verses of the King James Version | group of books |
| ``fortunes`` | sayings | collection |
"""

from __future__ import annotations

import os
import re
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from _cell_sentences import SPECIAL, Task

PACKAGES = ("wordnet-base", "bible-kjv", "bible-kjv-text", "fortunes")
FOLDER = Path(os.environ.get("INFL_TEXT_DIR", Path.home() / ".cache" / "infl" / "text"))
LENGTH, VOCABULARY = 12, 5000
CLASSES, PER_CLASS = 10, 300
"""Of a task, its most frequent classes, and at most so many texts of each."""
BOOKS = {
    "law": 5,
    "history": 12,
    "poetry": 5,
    "major prophets": 5,
    "minor prophets": 12,
    "gospels and acts": 5,
    "letters": 21,
}
COLLECTIONS = (
    *("people", "definitions", "cookie", "computers", "songs-poems"),
    *("politics", "work", "science", "men-women", "platitudes"),
)
Labelled = list[tuple[str, str]]


def fetch(folder: Path = FOLDER) -> str | None:
    """Have the packages unpacked in `folder`; return why not, in one line, where that cannot be."""
    if all(
        (folder / part).exists()
        for part in ("usr/share/wordnet/data.noun", "usr/bin/bible", "usr/share/games/fortunes")
    ):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False
        )
        archives = sorted(folder.glob("*.deb"))
        if done.returncode or not archives:
            return f"the text tasks need Debian's {', '.join(PACKAGES)} (apt-get update, and a way to the archive)"
        for archive in archives:
            subprocess.run(["dpkg", "-x", archive.name, "."], cwd=folder, check=True)
            archive.unlink()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the text tasks need Debian's apt-get and dpkg: {error}"
    return None


def wordnet(folder: Path) -> Iterator[tuple[str, Labelled]]:
    """Definitions: part of speech, lexicographer files, and the hypernym three steps below the root."""
    glosses: dict[str, dict[str, tuple[str, str, str, list[str]]]] = {}
    for kind in ("noun", "verb", "adj", "adv"):
        found = glosses[kind] = {}
        for line in (folder / f"usr/share/wordnet/data.{kind}").read_text(encoding="latin-1").splitlines():
            if line.startswith(" "):
                continue  # the licence
            head, _, gloss = line.partition(" | ")
            offset, file, _, _, word, *_ = head.split(" ")
            above = re.findall(rf"@ (\d+) {kind[0]} ", head)
            found[offset] = (file, word, gloss.split('; "')[0].strip(), above)

    def branch(offset: str) -> str | None:
        path = [offset]
        while above := glosses["noun"][path[-1]][3]:
            path.append(above[0])
        return glosses["noun"][path[-4]][1] if len(path) > 4 else None

    yield "part of speech", [(gloss, kind) for kind, found in glosses.items() for _, _, gloss, _ in found.values()]
    for kind in ("noun", "verb"):
        yield f"{kind} file", [(gloss, file) for file, _, gloss, _ in glosses[kind].values()]
    yield "hypernym branch", [(g, b) for offset, (_, _, g, _) in glosses["noun"].items() if (b := branch(offset))]


def packages() -> Iterator[tuple[str, Labelled]]:
    """First lines of descriptions: section, and language by the package's tag."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    section, language = [], []
    for entry in listed.split("\n\n"):
        fields = dict(re.findall(r"^(\w+): ((?:.+)(?:\n .+)*)", entry, re.MULTILINE))
        text = fields.get("Description", "").partition("\n")[0]
        if "Section" in fields:
            section.append((text, fields["Section"].rpartition("/")[2]))
        languages = re.findall(r"implemented-in::([\w+:]+)", fields.get("Tag", ""))
        if len(languages) == 1:
            language.append((text, languages[0]))
    yield "package section", section
    yield "package language", language


def bible(folder: Path) -> Iterator[tuple[str, Labelled]]:
    """Verses: group of books."""
    command = ["../bin/bible", "-p", ".", "-f", "gen1:1-rev22:21"]
    verses = subprocess.run(command, cwd=folder / "usr/lib", capture_output=True, text=True, check=True).stdout
    groups = [group for group, books in BOOKS.items() for _ in range(books)]
    found: Labelled = []
    order: dict[str, int] = {}
    for name, text in re.findall(r"^(\d?\D+)\d+:\d+ (.*)$", verses, re.MULTILINE):
        if (book := order.setdefault(name, len(order))) < len(groups):
            found.append((text, groups[book]))
    yield "books of the Bible", found


def fortunes(folder: Path) -> Iterator[tuple[str, Labelled]]:
    """Sayings: collection."""
    where = folder / "usr/share/games/fortunes"
    yield (
        "collection of sayings",
        [(text, name) for name in COLLECTIONS for text in (where / name).read_text(encoding="utf-8").split("\n%\n")],
    )


def chosen(folder: Path = FOLDER) -> tuple[dict[str, Labelled], list[str]]:
    """Return the texts of each task with their labels, and the texts to pretrain on."""
    found: dict[str, Labelled] = {}
    corpus: list[str] = []
    rng = np.random.default_rng(0)
    for name, labelled in (*wordnet(folder), *packages(), *bible(folder), *fortunes(folder)):
        texts = {" ".join(re.findall(r"[a-z]+", text.lower())): label for text, label in labelled}
        texts = {text: label for text, label in texts.items() if len(text.split()) >= 3}
        frequent = [label for label, _ in Counter(texts.values()).most_common(CLASSES)]
        rows = []
        for label in frequent:
            candidates = [text for text, own in texts.items() if own == label]
            rows += [(candidates[i], label) for i in rng.permutation(len(candidates))[:PER_CLASS]]
        found[name] = rows
        everything = [text for text in texts if not _judges(text)]
        corpus += [everything[i] for i in rng.permutation(len(everything))[:5000]]
    return found, sorted({*corpus, *(text for rows in found.values() for text, _ in rows if not _judges(text))})


def suite(folder: Path = FOLDER) -> tuple[list[Task], torch.Tensor, list[str]]:
    """Return the tasks, the sentences to pretrain on, and the vocabulary.

    Which texts judge follows from the text: one that does so in one task is nowhere pretrained, trained or chosen on.
    """
    found, corpus = chosen(folder)
    counts = Counter(word for text in corpus for word in text.split())
    words = [*SPECIAL, *(word for word, _ in counts.most_common(VOCABULARY - len(SPECIAL)))]
    number = {word: i for i, word in enumerate(words)}
    tasks = []
    for name, rows in found.items():
        ids = _ids([text for text, _ in rows], number)
        tasks.append(Task(name, ids, (ids > 0).long(), *classes_and_judges(rows)))
    return tasks, _ids(corpus, number), words


def classes_and_judges(rows: Labelled) -> tuple[torch.Tensor, np.ndarray]:
    """Return class numbers of texts with labels, and which of them judge."""
    y = np.unique([label for _, label in rows], return_inverse=True)[1]
    return torch.from_numpy(y.astype(np.int64)), np.asarray([_judges(text) for text, _ in rows])


def _judges(text: str) -> bool:
    """Three texts of ten, always the same."""
    return zlib.crc32(text.encode()) % 10 < 3


def _ids(texts: list[str], number: dict[str, int]) -> torch.Tensor:
    ids = np.zeros((len(texts), LENGTH), dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        found = [number.get(word, 1) for word in text.split()[:LENGTH]]
        row[: len(found)] = found
    return torch.from_numpy(ids)


if __name__ == "__main__":
    if missing := fetch():
        raise SystemExit(f"left out: {missing}")
    for task in suite()[0]:
        print(f"{task.name:<24} {len(task.y):>5} texts, {task.n_classes} classes, {task.test.mean():.0%} judge")
