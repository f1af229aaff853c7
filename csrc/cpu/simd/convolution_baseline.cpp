#include "convolution.inl"
