"""Text: files of it, BERT's tokenizer, and training a WordPiece vocabulary."""
