"""Writes small stories in a made-up language of a few rules, for a decoder from scratch:

    python examples/stories/write.py

The stories are in examples/stories/data/stories.txt, blank lines between them. The same stories
come out everywhere. As each follows from a few draws, it is known how unsure the best model must
be: the last line tells it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
NUM_STORIES = 4000
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo")
ANIMALS = ("cat", "dog", "goat", "mouse", "owl", "fox")
COLOURS = ("black", "white", "red", "brown")
PLACES = ("garden", "forest", "kitchen", "market", "harbour")
THINGS = ("apple", "key", "lamp", "book", "stone", "ring", "shoe")
MOODS = ("glad", "tired", "proud", "hungry")
NUMBERS = ("two", "three", "four", "five", "six")


class Writer:
    """Writes stories, and adds up how much each draw leaves open.

    Attributes:
        nats: Logarithm of the number of stories that could have been written so far.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.nats = 0.0

    def draw(self, words: Sequence[str]) -> str:
        """Draws one of some words, all of which are equally likely."""
        self.nats += math.log(len(words))
        # Of the generator, only this method gives the same numbers in all versions of Python.
        return words[int(self._random.random() * len(words))]

    def story(self) -> str:
        """One story. What is told later follows from what came before, some words ahead."""
        hero, animal, colour = self.draw(NAMES), self.draw(ANIMALS), self.draw(COLOURS)
        friend = self.draw([name for name in NAMES if name != hero])
        place, thing = self.draw(PLACES), self.draw(THINGS)
        lines = [
            f"{hero} has a {colour} {animal}.",
            f"One day {hero} and the {animal} walk to the {place}.",
            f"There they meet {friend}, who has lost a {thing}.",
        ]
        for _ in range(int(self.draw(("0", "1", "2")))):
            other = self.draw(PLACES)
            lines.append(f"They look for the {thing} in the {other}, but it is not there.")
        count = self.draw(NUMBERS)
        lines += [
            f"Then the {colour} {animal} finds {count} of them under a tree.",
            f'"{count.capitalize()} times a {thing}!" says {friend}.',
            f"{hero} and {friend} are {self.draw(MOODS)}, and the {animal} is {self.draw(MOODS)}.",
        ]
        return "\n".join(lines)


def write(folder: Path, num_stories: int = NUM_STORIES) -> float:
    """Writes the stories into a folder.

    Args:
        folder: Folder that gets `stories.txt`.
        num_stories: Number of stories.

    Returns:
        The nats that are left open in a story, on average.
    """
    writer = Writer(seed=0)
    stories = [writer.story() for _ in range(num_stories)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stories.txt").write_text("\n\n".join(stories) + "\n", encoding="utf-8")
    return writer.nats / num_stories


if __name__ == "__main__":
    open_nats = write(HERE / "data")
    print(f"{NUM_STORIES:,} stories in {HERE / 'data' / 'stories.txt'}")
    print(f"The best model has a loss of {open_nats:.2f} a story: divide it by the tokens of one.")
