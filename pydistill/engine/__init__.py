"""The C++ student from Python, CUDA graphs and streams."""
