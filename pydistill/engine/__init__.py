"""The C++ engine's student, CUDA graphs of Python steps, and streams."""
