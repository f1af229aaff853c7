"""Command lines of the published scripts: `python -m pydistill.compat.mtt <flags of distill.py>`.

Modules `mtt`, `att`, `tesla`, `mct`, `ftd` and `datm` accept the flags of the distillation scripts in those
repositories and read their buffers; `buffer` accepts those of MTT's buffer.py. docs/compat.md describes the flags.
"""
