// The loops that convolution.h declares; compiled once for each instruction set.
#include "lanes.h"
#include "product.h"
// lanes.h comes first: it sets the instruction set.
#include "../../kernels/winograd.h"
#include "convolution.h"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

namespace winograd = kernels::winograd;

constexpr int64_t kPositions = 16;

constexpr int64_t panels_of(int64_t channels, int64_t panel) { return (channels + panel - 1) / panel; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
PYDISTILL_INLINE Lanes<T> load_up_to(const T* from, int64_t count) {
  return count >= Lanes<T>::kSize ? Lanes<T>::load(from) : Lanes<T>::load(from, count);
}

template <typename T>
PYDISTILL_INLINE void store_up_to(Lanes<T> lanes, T* to, int64_t count) {
  if (count >= Lanes<T>::kSize) {
    lanes.store(to);
  } else {
    lanes.store(to, count);
  }
}

struct Tile {
  int64_t image;
  int64_t row;     // of its first output
  int64_t column;  // of its first output
};

PYDISTILL_INLINE Tile tile_at(const Tiles& tiles, int64_t index) {
  const int64_t column = index % tiles.columns();
  const int64_t row = index / tiles.columns();
  return {row / tiles.rows(), 2 * (row % tiles.rows()), 2 * column};
}

template <typename T>
void transform_weights(const T* weights, int64_t output_stride, int64_t input_stride, bool flipped,
                       int64_t inputs, int64_t outputs, int64_t first, int64_t last, T* spectrum) {
  using V = Lanes<T>;
  const int64_t panels = panels_of(outputs, kPanel<T>);
  for (int64_t output = first; output < last; output += V::kSize) {
    const int64_t count = least(V::kSize, outputs - output);
    const int64_t panel = output / kPanel<T>;
    const int64_t column = output % kPanel<T>;
    for (int64_t input = 0; input < inputs; ++input) {
      V window[9];
      T numbers[9][V::kSize] = {};
      for (int64_t lane = 0; lane < count; ++lane) {
        const T* from = weights + (output + lane) * output_stride + input * input_stride;
        for (int tap = 0; tap < 9; ++tap) {
          numbers[flipped ? 8 - tap : tap][lane] = from[tap];
        }
      }
      for (int tap = 0; tap < 9; ++tap) {
        window[tap] = V::load(numbers[tap]);
      }
      V transformed[16];
      winograd::both<3, 4>(winograd::Weight<V>(), window, transformed);
      for (int64_t position = 0; position < kPositions; ++position) {
        transformed[position].store(spectrum + ((position * panels + panel) * inputs + input) * kPanel<T> +
                                    column);
      }
    }
    // The rest of a panel that the outputs do not fill.
    if (output + V::kSize >= outputs && column == 0) {
      for (int64_t position = 0; position < kPositions; ++position) {
        for (int64_t input = 0; input < inputs; ++input) {
          V(T(0)).store(spectrum + ((position * panels + panel) * inputs + input) * kPanel<T> + V::kSize);
        }
      }
    }
  }
}

// Calls write(panel, column, count) for each vector of channels, `count` of whose lanes are channels (0: none
// is, and the vector only fills up a panel).
template <typename T, typename Write>
PYDISTILL_INLINE void for_each_vector(int64_t channels, const Write& write) {
  const int64_t panels = panels_of(channels, kPanel<T>);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t column = 0; column < kPanel<T>; column += Lanes<T>::kSize) {
      const int64_t channel = panel * kPanel<T> + column;
      const int64_t left = channels - channel;
      write(panel, column, left < 0 ? 0 : least(left, Lanes<T>::kSize));
    }
  }
}

template <typename T>
void transform_images(const Tiles& tiles, int64_t channels, const T* images, int64_t first, int64_t last,
                      int64_t padded_tiles, T* spectrum) {
  using V = Lanes<T>;
  const int64_t panels = panels_of(channels, kPanel<T>);
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiles, index);
    const T* image = images + tile.image * tiles.height * tiles.width * channels;
    const bool inside =
        tile.row > 0 && tile.column > 0 && tile.row + 2 < tiles.height && tile.column + 2 < tiles.width;
    for_each_vector<T>(
        channels, [&](int64_t panel, int64_t column, int64_t count) __attribute__((always_inline)) {
          const int64_t channel = panel * kPanel<T> + column;
          V patch[16];
          if (inside && count == V::kSize) {
            const T* corner = image + ((tile.row - 1) * tiles.width + tile.column - 1) * channels + channel;
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) {
              patch[i] = V::load(corner + ((i / 4) * tiles.width + i % 4) * channels);
            }
          } else {
            for (int i = 0; i < 16; ++i) {
              const int64_t row = tile.row - 1 + i / 4;
              const int64_t pixel = tile.column - 1 + i % 4;
              const bool exists = row >= 0 && row < tiles.height && pixel >= 0 && pixel < tiles.width;
              patch[i] = exists ? load_up_to(image + (row * tiles.width + pixel) * channels + channel, count)
                                : V(T(0));
            }
          }
          V transformed[16];
          winograd::both<4, 4>(winograd::Input<V>(), patch, transformed);
#pragma GCC unroll 16
          for (int64_t position = 0; position < kPositions; ++position) {
            transformed[position].store(
                spectrum + ((position * panels + panel) * padded_tiles + index) * kPanel<T> + column);
          }
        });
  }
}

template <typename T>
void transform_gradients(const Tiles& tiles, int64_t channels, const T* gradients, int64_t first,
                         int64_t last, int64_t padded_tiles, T* spectrum) {
  using V = Lanes<T>;
  const int64_t panels = panels_of(channels, kPanel<T>);
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiles, index);
    const T* image = gradients + tile.image * tiles.height * tiles.width * channels;
    for_each_vector<T>(
        channels, [&](int64_t panel, int64_t column, int64_t count) __attribute__((always_inline)) {
          const int64_t channel = panel * kPanel<T> + column;
          V outputs[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const int64_t row = tile.row + i / 2;
            const int64_t pixel = tile.column + i % 2;
            outputs[i] = row < tiles.height && pixel < tiles.width
                             ? load_up_to(image + (row * tiles.width + pixel) * channels + channel, count)
                             : V(T(0));
          }
          V transformed[16];
          winograd::both<2, 4>(winograd::OutputGradient<V>(), outputs, transformed);
#pragma GCC unroll 16
          for (int64_t position = 0; position < kPositions; ++position) {
            transformed[position].store(
                spectrum + ((position * panels + panel) * padded_tiles + index) * kPanel<T> + column);
          }
        });
  }
}

template <typename T>
void outputs(const Tiles& tiles, int64_t inputs, int64_t outputs, int64_t panel, const SpectralTerm<T>* terms,
             int terms_count, int64_t first, int64_t last, int64_t padded_tiles, T* scratch, T* images) {
  using V = Lanes<T>;
  const int64_t input_panels = panels_of(inputs, kPanel<T>);
  const int64_t output_panels = panels_of(outputs, kPanel<T>);
  const int64_t block_tiles = (last - first + kRows - 1) / kRows * kRows;
  for (int64_t position = 0; position < kPositions; ++position) {
    for (int64_t tile = 0; tile < block_tiles; tile += kRows) {
      Block<T> block;
      for (int i = 0; i < terms_count; ++i) {
        const T* left = terms[i].images + (position * input_panels * padded_tiles + first + tile) * kPanel<T>;
        const T* right = terms[i].weights + (position * output_panels + panel) * inputs * kPanel<T>;
        for (int64_t input = 0; input < inputs; input += kPanel<T>) {
          block.add(least(kPanel<T>, inputs - input), left, kPanel<T>, 1, right, kPanel<T>);
          left += padded_tiles * kPanel<T>;
          right += kPanel<T> * kPanel<T>;
        }
      }
      T* to = scratch + (position * block_tiles + tile) * kPanel<T>;
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        block.sums[row][0].store(to + row * kPanel<T>);
        block.sums[row][1].store(to + row * kPanel<T> + V::kSize);
      }
    }
  }
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiles, index);
    T* image = images + tile.image * tiles.height * tiles.width * outputs;
    for (int64_t column = 0; column < kPanel<T>; column += V::kSize) {
      const int64_t channel = panel * kPanel<T> + column;
      const int64_t count = least(outputs - channel, V::kSize);
      if (count <= 0) {
        continue;
      }
      V products[16];
#pragma GCC unroll 16
      for (int64_t position = 0; position < kPositions; ++position) {
        products[position] = V::load(scratch + (position * block_tiles + index - first) * kPanel<T> + column);
      }
      V pixels[4];
      winograd::both<4, 2>(winograd::Output<V>(), products, pixels);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t row = tile.row + i / 2;
        const int64_t pixel = tile.column + i % 2;
        if (row < tiles.height && pixel < tiles.width) {
          store_up_to(pixels[i], image + (row * tiles.width + pixel) * outputs + channel, count);
        }
      }
    }
  }
}

// Adds a block to sums[row, column], rows `row_stride` apart.
template <typename T>
PYDISTILL_INLINE void add_block(const Block<T>& block, T* sums, int64_t row_stride) {
  using V = Lanes<T>;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    T* to = sums + row * row_stride;
    (V::load(to) + block.sums[row][0]).store(to);
    (V::load(to + V::kSize) + block.sums[row][1]).store(to + V::kSize);
  }
}

// So many tiles of a panel stay in the first-level cache while all inputs go over them.
constexpr int64_t kTilesAtATime = 128;

template <typename T>
void weight_gradient(int64_t position, int64_t inputs, int64_t outputs, const GradientTerm<T>* terms,
                     int terms_count, int64_t first, int64_t last, int64_t padded_tiles, T* sums) {
  const int64_t input_panels = panels_of(inputs, kPanel<T>);
  const int64_t output_panels = panels_of(outputs, kPanel<T>);
  const int64_t block_inputs = (inputs + kRows - 1) / kRows * kRows;
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t tile = 0; tile < padded_tiles; tile += kTilesAtATime) {
      const int64_t depth = least(kTilesAtATime, padded_tiles - tile);
      for (int64_t input = 0; input < block_inputs; input += kRows) {
        Block<T> block;
        for (int i = 0; i < terms_count; ++i) {
          const T* left = terms[i].images +
                          ((position * input_panels + input / kPanel<T>)*padded_tiles + tile) * kPanel<T> +
                          input % kPanel<T>;
          const T* right =
              terms[i].gradients + ((position * output_panels + panel) * padded_tiles + tile) * kPanel<T>;
          block.add(depth, left, 1, kPanel<T>, right, kPanel<T>);
        }
        add_block(block, sums + ((position * output_panels + panel) * block_inputs + input) * kPanel<T>,
                  kPanel<T>);
      }
    }
  }
}

template <typename T>
void finish_weight_gradient(const T* sums, int64_t inputs, int64_t outputs, int64_t first, int64_t last,
                            T* gradient) {
  using V = Lanes<T>;
  const int64_t panels = panels_of(outputs, kPanel<T>);
  const int64_t block_inputs = (inputs + kRows - 1) / kRows * kRows;
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t column = 0; column < kPanel<T>; column += V::kSize) {
      const int64_t output = panel * kPanel<T> + column;
      const int64_t count = least(V::kSize, outputs - output);
      for (int64_t input = 0; input < (count > 0 ? inputs : 0); ++input) {
        V products[16];
        for (int64_t position = 0; position < kPositions; ++position) {
          products[position] =
              V::load(sums + ((position * panels + panel) * block_inputs + input) * kPanel<T> + column);
        }
        V window[9];
        winograd::both<4, 3>(winograd::WeightGradient<V>(), products, window);
        T numbers[9][V::kSize];
        for (int tap = 0; tap < 9; ++tap) {
          window[tap].store(numbers[tap]);
        }
        for (int64_t lane = 0; lane < count; ++lane) {
          T* to = gradient + ((output + lane) * inputs + input) * 9;
          for (int tap = 0; tap < 9; ++tap) {
            to[tap] = numbers[tap][lane];
          }
        }
      }
    }
  }
}

// Copies up to kRows rows of `columns` numbers into a block of whole rows, zeros for the rest.
template <typename T>
PYDISTILL_INLINE void copy_rows(const T* from, int64_t row_stride, int64_t row_count, int64_t columns, T* to,
                                int64_t to_stride) {
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < to_stride; ++column) {
      to[row * to_stride + column] =
          row < row_count && column < columns ? from[row * row_stride + column] : T(0);
    }
  }
}

template <typename T>
void product(int64_t row_count, int64_t columns, int64_t depth, const T* const* lefts, int64_t left_row,
             const T* const* rights, int terms_count, T* out, int64_t out_row) {
  using V = Lanes<T>;
  constexpr int64_t kDepth = 64;  // of the rows that are copied to fill the last block
  T rows[kRows * kDepth];
  for (int64_t row = 0; row < row_count; row += kRows) {
    const int64_t count = least(kRows, row_count - row);
    for (int64_t column = 0; column < columns; column += kPanel<T>) {
      Block<T> block;
      for (int i = 0; i < terms_count; ++i) {
        const T* left = lefts[i] + row * left_row;
        const T* right = rights[i] + column * depth;
        if (count == kRows) {
          block.add(depth, left, left_row, 1, right, kPanel<T>);
        } else {
          for (int64_t k = 0; k < depth; k += kDepth) {
            const int64_t part = least(kDepth, depth - k);
            copy_rows(left + k, left_row, count, part, rows, kDepth);
            block.add(part, rows, kDepth, 1, right + k * kPanel<T>, kPanel<T>);
          }
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        T* to = out + (row + i) * out_row + column;
        store_up_to(block.sums[i][0], to, least(columns - column, V::kSize));
        if (columns - column > V::kSize) {
          store_up_to(block.sums[i][1], to + V::kSize, least(columns - column - V::kSize, V::kSize));
        }
      }
    }
  }
}

template <typename T>
void transposed_product(int64_t row_count, int64_t left_columns, int64_t columns, const T* left,
                        int64_t left_row, const T* right, T* sums) {
  constexpr int64_t kRowsAtATime = 64;
  const int64_t padded_columns = panels_of(columns, kPanel<T>) * kPanel<T>;
  T packed[kRowsAtATime * kPanel<T>];  // a panel that the columns do not fill
  for (int64_t row = 0; row < row_count; row += kRowsAtATime) {
    const int64_t depth = least(kRowsAtATime, row_count - row);
    for (int64_t column = 0; column < columns; column += kPanel<T>) {
      const T* from = right + row * columns + column;
      int64_t from_row = columns;
      if (columns - column < kPanel<T>) {
        for (int64_t k = 0; k < depth; ++k) {
          for (int64_t i = 0; i < kPanel<T>; ++i) {
            packed[k * kPanel<T> + i] = column + i < columns ? from[k * columns + i] : T(0);
          }
        }
        from = packed;
        from_row = kPanel<T>;
      }
      for (int64_t i = 0; i < left_columns; i += kRows) {
        Block<T> block;
        block.add(depth, left + row * left_row + i, 1, left_row, from, from_row);
        add_block(block, sums + i * padded_columns + column, padded_columns);
      }
    }
  }
}

template <typename T>
constexpr ConvolutionLoops<T> kLoops = {
    kPanel<T>,
    kRows,
    transform_weights<T>,
    transform_images<T>,
    transform_gradients<T>,
    outputs<T>,
    weight_gradient<T>,
    finish_weight_gradient<T>,
    product<T>,
    transposed_product<T>,
};

}  // namespace

template <>
const ConvolutionLoops<float>& convolution_loops<float>() {
  return kLoops<float>;
}
template <>
const ConvolutionLoops<double>& convolution_loops<double>() {
  return kLoops<double>;
}

}  // namespace pydistill::cpu::PYDISTILL_ISA
