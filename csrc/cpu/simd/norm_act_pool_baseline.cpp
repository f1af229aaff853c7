#include "norm_act_pool.inl"
