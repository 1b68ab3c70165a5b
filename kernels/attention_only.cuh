// Which attention kernels are compiled. All of them takes a compiler 10 to 20 seconds a file, and a model uses one
// type, one size of heads, and dropout, documents or none: a program that compiles at its start defines ATTENTION_ONLY and, of the
// names below, those that it wants (-DATTENTION_ONLY -DATTENTION_BF16 -DATTENTION_D64 -DATTENTION_PLAIN). Without
// ATTENTION_ONLY: all.
#pragma once

#ifndef ATTENTION_ONLY
#define ATTENTION_F32
#define ATTENTION_BF16
#define ATTENTION_F16
// Heads of the tensor-core kernels.
#define ATTENTION_D64
#define ATTENTION_D128
// Without, with dropout, and within documents (the generic kernels are told by arguments).
#define ATTENTION_PLAIN
#define ATTENTION_DROPOUT
#define ATTENTION_DOCUMENTS
// Rows of a tile of the generic kernels.
#define ATTENTION_TILE64
#define ATTENTION_TILE32
#endif
