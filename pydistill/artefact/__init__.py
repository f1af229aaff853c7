"""The distilled set: its file, its torch Dataset, its figures, and other tools' formats."""
