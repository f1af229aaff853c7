"""The published scripts' command lines, run by this package: `python -m pydistill.compat.mtt <distill.py's flags>`.

Modules `mtt`, `att`, `tesla` and `mct` take the flags of those repositories' distillation scripts and read their
buffers, `buffer` those of MTT's buffer.py; docs/compat.md says what each flag does here.
"""
