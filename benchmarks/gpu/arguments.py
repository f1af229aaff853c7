"""Argument types of the programs in this folder."""

from __future__ import annotations

import argparse

import torch


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Leave with one sentence and exit status 2 unless the device is there, and the folder that results go to."""
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no NVIDIA GPU is visible")
    if not options.out.is_dir():
        parser.error(f"argument OUT_DIR: there is no folder {options.out}")
