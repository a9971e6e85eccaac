"""Where the training finds the small vocabulary; it lies with the package, which asks points by name."""

from mdkt_ros.tokenizer import FILE, FORMAT, PAD, START, UNKNOWN, WordTokenizer, is_word_tokenizer, split_words

__all__ = ["FILE", "FORMAT", "PAD", "START", "UNKNOWN", "WordTokenizer", "is_word_tokenizer", "split_words"]
