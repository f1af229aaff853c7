#include "augment.inl"
