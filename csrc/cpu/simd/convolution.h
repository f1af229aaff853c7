// The loops of 3x3 convolutions over vector registers, as engine/convolution_cpu.cpp runs them on threads. No
// torch here.
//
// Images are channels-last, [images, height, width, channels]. What is multiplied is kept in panels of
// `panel` columns, so that the block of a product (product.h) reads it without gaps; the last panel is filled
// up with zeros.
#pragma once

#include <cstdint>

#include "../../kernels/host_device.h"
#include "../isa.h"

namespace pydistill::cpu {

// The tiles of 2x2 outputs that cover a batch of planes; an odd last row or column belongs to a tile that is
// cut.
struct Tiles {
  int64_t images;
  int64_t height;  // of a plane, in pixels
  int64_t width;

  PYDISTILL_HOST_DEVICE int64_t rows() const { return (height + 1) / 2; }
  PYDISTILL_HOST_DEVICE int64_t columns() const { return (width + 1) / 2; }
  PYDISTILL_HOST_DEVICE int64_t count() const { return images * rows() * columns(); }
};

// A spectrum holds 16 matrices, one for each of the 4x4 positions of a transformed tile:
//   of images   [16, panels of channels, tiles, panel]        `tiles` rounded up to whole blocks of `rows`
//   of weights  [16, panels of outputs, inputs, panel]
// One term of a product: out += images x weights, position by position.
template <typename T>
struct SpectralTerm {
  const T* images;
  const T* weights;
};

// One term of a weight gradient: out += transpose(images) x gradients.
template <typename T>
struct GradientTerm {
  const T* images;     // [16, panels of inputs, tiles, panel]
  const T* gradients;  // [16, panels of outputs, tiles, panel]
};

template <typename T>
struct ConvolutionLoops {
  int64_t panel;  // columns of a panel
  int64_t rows;   // rows of a block

  // G w G' of the outputs [first, last), multiples of `panel` but for the end: weights [outputs, inputs, 3,
  // 3] by its strides; `flipped` turns each window by half a turn.
  void (*transform_weights)(const T* weights, int64_t output_stride, int64_t input_stride, bool flipped,
                            int64_t inputs, int64_t outputs, int64_t first, int64_t last, T* spectrum);

  // B' x B of the tiles [first, last): what a convolution with one ring of zeros reads.
  void (*transform_images)(const Tiles& tiles, int64_t channels, const T* images, int64_t first, int64_t last,
                           int64_t padded_tiles, T* spectrum);

  // A dy A' of the tiles [first, last).
  void (*transform_gradients)(const Tiles& tiles, int64_t channels, const T* gradients, int64_t first,
                              int64_t last, int64_t padded_tiles, T* spectrum);

  // One panel of the outputs of the tiles [first, last), `first` a multiple of `rows`: A' [sum of terms] A.
  // `scratch` holds [16, last - first rounded up, panel].
  void (*outputs)(const Tiles& tiles, int64_t inputs, int64_t outputs, int64_t panel,
                  const SpectralTerm<T>* terms, int terms_count, int64_t first, int64_t last,
                  int64_t padded_tiles, T* scratch, T* images);

  // Adds the terms to the spectrum of the weight gradient at one of the 16 positions, for the panels of
  // outputs [first, last): sums [16, panels of outputs, inputs rounded up to whole blocks, panel].
  void (*weight_gradient)(int64_t position, int64_t inputs, int64_t outputs, const GradientTerm<T>* terms,
                          int terms_count, int64_t first, int64_t last, int64_t padded_tiles, T* sums);

  // G' m G of the panels of outputs [first, last): gradient [outputs, inputs, 3, 3], contiguous.
  void (*finish_weight_gradient)(const T* sums, int64_t inputs, int64_t outputs, int64_t first, int64_t last,
                                 T* gradient);

  // A plain product of `row_count` rows, for few input channels, where the window is unrolled into rows of 9
  // inputs: out [row_count, columns] (rows `out_row` apart) = sum of left [row_count, depth] x right [panels,
  // depth, panel].
  void (*product)(int64_t row_count, int64_t columns, int64_t depth, const T* const* lefts, int64_t left_row,
                  const T* const* rights, int terms_count, T* out, int64_t out_row);

  // sums [left_columns rounded up to whole blocks, columns rounded up to panels] += transpose(left) x right;
  // left [row_count, left_columns] in rows `left_row` apart, readable up to whole blocks; right [row_count,
  // columns].
  void (*transposed_product)(int64_t row_count, int64_t left_columns, int64_t columns, const T* left,
                             int64_t left_row, const T* right, T* sums);
};

template <typename T>
const ConvolutionLoops<T>& convolution_loops();

namespace baseline {
template <typename T>
const ConvolutionLoops<T>& convolution_loops();
}
namespace avx2 {
template <typename T>
const ConvolutionLoops<T>& convolution_loops();
}
namespace avx512 {
template <typename T>
const ConvolutionLoops<T>& convolution_loops();
}

// Those of the instruction set that this processor runs.
template <typename T>
const ConvolutionLoops<T>& convolution_loops() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512:
      return avx512::convolution_loops<T>();
    case Isa::kAvx2:
      return avx2::convolution_loops<T>();
    case Isa::kBaseline:
      break;
  }
#endif
  return baseline::convolution_loops<T>();
}

}  // namespace pydistill::cpu
