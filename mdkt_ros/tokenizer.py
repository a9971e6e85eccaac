"""Words to numbers for a small image-text model: a vocabulary of whole words that lies beside the model's weights.

The stock vocabulary of open_clip has 49,408 tokens, whose embeddings are nine tenths of a small model. This one has as
many as its captions use. The file is `word_tokenizer.json` in the model's folder (`local-dir:`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from mdkt_ros.errors import ConfigError

FILE = "word_tokenizer.json"
FORMAT = 1
PAD, UNKNOWN, START = 0, 1, 2
_SPECIAL = 3
_WORD = re.compile(r"[a-z0-9]+")


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return _WORD.findall(text.lower())


class WordTokenizer:
    """Called as open_clip's tokenizers are: texts to (n, context_length) int64.

    A row is start, words, end, then zeros. The end has the highest number, as open_clip's `argmax` pooling expects; a
    text too long loses its last words, never its end. Words that the model never saw share one number.

    Args:
        words: the vocabulary, each once, lower case.
        context_length: numbers a row, at least 3.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        if context_length < 3 or len(set(words)) != len(words) or any(split_words(w) != [w] for w in words):
            raise ConfigError("a word tokenizer needs distinct lower-case words and a context of at least 3")
        self.words, self.context_length = tuple(words), context_length
        self._ids = {word: _SPECIAL + i for i, word in enumerate(self.words)}

    @classmethod
    def of(cls, texts: Iterable[str], context_length: int) -> WordTokenizer:
        """The vocabulary of some texts, in alphabetical order."""
        return cls(sorted({word for text in texts for word in split_words(text)}), context_length)

    @property
    def vocab_size(self) -> int:
        """Number of embeddings that the text tower needs."""
        return _SPECIAL + len(self.words) + 1

    @property
    def end(self) -> int:
        """Number of the end of a text."""
        return self.vocab_size - 1

    def knows(self, text: str) -> bool:
        """Whether every word of a text is in the vocabulary."""
        return all(word in self._ids for word in split_words(text))

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Numbers (n, context_length) int64 of n texts, or of one."""
        length = self.context_length if context_length is None else context_length
        listed = [texts] if isinstance(texts, str) else list(texts)
        rows = torch.zeros(len(listed), length, dtype=torch.int64)
        for row, text in zip(rows, listed, strict=True):
            known = [self._ids.get(word, UNKNOWN) for word in split_words(text)]
            ids = [START, *known[: length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, row: torch.Tensor | Sequence[int]) -> str:
        """The words of a row; those that the vocabulary lacks read `<unknown>`."""
        numbers = [int(i) for i in row]
        inner = numbers[1 : numbers.index(self.end)] if self.end in numbers else numbers[1:]
        return " ".join("<unknown>" if i == UNKNOWN else self.words[i - _SPECIAL] for i in inner)

    def save(self, folder: Path) -> None:
        """Write `word_tokenizer.json` into an existing folder."""
        data = {"format": FORMAT, "context_length": self.context_length, "words": list(self.words)}
        (folder / FILE).write_text(json.dumps(data, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        """Read `word_tokenizer.json` of a model's folder. Raises ConfigError that names the file."""
        path = folder / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ConfigError(f"{path}: format {data['format']!r}, this version reads {FORMAT}")
            return cls([str(word) for word in data["words"]], int(data["context_length"]))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: not a word tokenizer: {error}") from error
        except ConfigError as error:
            raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def is_word_tokenizer(folder: Path) -> bool:
    """Whether a model's folder has a vocabulary of its own; otherwise `open_clip.get_tokenizer` knows what it takes."""
    return (folder / FILE).is_file()
