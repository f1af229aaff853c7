// The convolutions' loops, for every instruction set that this processor has, against sums over the window in
// double.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "../cpu/simd/convolution.h"
#include "check.h"

namespace {

using pydistill::cpu::ConvolutionLoops;
using pydistill::cpu::GradientTerm;
using pydistill::cpu::Isa;
using pydistill::cpu::SpectralTerm;
using pydistill::cpu::Tiles;

std::mt19937 generator(0);

template <typename T>
std::vector<T> normal(int64_t count) {
  std::normal_distribution<double> distribution;
  std::vector<T> numbers(static_cast<size_t>(count));
  for (T& number : numbers) {
    number = static_cast<T>(distribution(generator));
  }
  return numbers;
}

int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

struct Shape {
  Tiles tiles;
  int64_t inputs;
  int64_t outputs;

  int64_t pixels() const { return tiles.images * tiles.height * tiles.width; }
};

// z [images, height, width, outputs] by the definition; Sum is the type it is summed in.
template <typename Sum, typename T>
std::vector<Sum> convolve(const Shape& shape, const std::vector<T>& x, const std::vector<T>& weights) {
  const auto [images, height, width] = shape.tiles;
  std::vector<Sum> z(static_cast<size_t>(shape.pixels() * shape.outputs));
  for (int64_t at = 0; at < shape.pixels(); ++at) {
    const int64_t column = at % width;
    const int64_t row = at / width % height;
    const int64_t image = at / width / height;
    for (int64_t output = 0; output < shape.outputs; ++output) {
      Sum sum = 0;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t y = row + tap / 3 - 1;
        const int64_t c = column + tap % 3 - 1;
        if (y < 0 || y >= height || c < 0 || c >= width) {
          continue;
        }
        for (int64_t input = 0; input < shape.inputs; ++input) {
          sum += static_cast<Sum>(
                     x[static_cast<size_t>(((image * height + y) * width + c) * shape.inputs + input)]) *
                 static_cast<Sum>(weights[static_cast<size_t>((output * shape.inputs + input) * 9 + tap)]);
        }
      }
      z[static_cast<size_t>(at * shape.outputs + output)] = sum;
    }
  }
  return z;
}

template <typename A, typename B>
double relative_error(const std::vector<A>& actual, const std::vector<B>& expected) {
  double difference = 0;
  double norm = 0;
  CHECK(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double gap = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    difference += gap * gap;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / norm);
}

// The convolution of the loops, in blocks of `block` tiles.
template <typename T>
struct Run {
  const ConvolutionLoops<T>& loops;
  Shape shape;
  int64_t padded = rounded_up(shape.tiles.count(), loops.rows);

  int64_t panels(int64_t channels) const { return rounded_up(channels, loops.panel) / loops.panel; }
  std::vector<T> spectrum(int64_t channels) const {
    return std::vector<T>(static_cast<size_t>(16 * panels(channels) * padded * loops.panel));
  }
  std::vector<T> weights(const std::vector<T>& given, bool flipped) const {
    const int64_t outputs = flipped ? shape.inputs : shape.outputs;
    const int64_t inputs = flipped ? shape.outputs : shape.inputs;
    // Filled with what must not be left: the loops write every number of it.
    std::vector<T> transformed(static_cast<size_t>(16 * panels(outputs) * inputs * loops.panel), T(NAN));
    loops.transform_weights(given.data(), flipped ? 9 : shape.inputs * 9, flipped ? shape.inputs * 9 : 9,
                            flipped, inputs, outputs, 0, outputs, transformed.data());
    return transformed;
  }
  std::vector<T> images(const std::vector<T>& x, int64_t channels) const {
    std::vector<T> transformed = spectrum(channels);
    loops.transform_images(shape.tiles, channels, x.data(), 0, shape.tiles.count(), padded,
                           transformed.data());
    return transformed;
  }
  std::vector<T> outputs(const std::vector<SpectralTerm<T>>& terms, int64_t inputs, int64_t outputs,
                         int64_t block) const {
    std::vector<T> z(static_cast<size_t>(shape.pixels() * outputs));
    std::vector<T> scratch(static_cast<size_t>(16 * rounded_up(block, loops.rows) * loops.panel));
    for (int64_t first = 0; first < shape.tiles.count(); first += block) {
      for (int64_t panel = 0; panel < panels(outputs); ++panel) {
        loops.outputs(shape.tiles, inputs, outputs, panel, terms.data(), static_cast<int>(terms.size()),
                      first, std::min(first + block, shape.tiles.count()), padded, scratch.data(), z.data());
      }
    }
    return z;
  }
};

template <typename T>
void test_against_the_definition(const ConvolutionLoops<T>& loops, const Shape& shape) {
  const double bound = sizeof(T) == 8 ? 1e-14 : 2e-6;
  const Run<T> run{loops, shape};
  const auto x = normal<T>(shape.pixels() * shape.inputs);
  const auto x_tangent = normal<T>(shape.pixels() * shape.inputs);
  const auto w = normal<T>(shape.outputs * shape.inputs * 9);
  const auto w_tangent = normal<T>(shape.outputs * shape.inputs * 9);
  const auto dz = normal<T>(shape.pixels() * shape.outputs);

  const auto z = convolve<double>(shape, x, w);
  const auto spectrum = run.images(x, shape.inputs);
  const auto weights = run.weights(w, false);
  for (const int64_t block : {loops.rows, 2 * loops.rows, int64_t{64}}) {
    CHECK(relative_error(run.outputs({{spectrum.data(), weights.data()}}, shape.inputs, shape.outputs, block),
                         z) <= bound);
  }

  // Two terms: the tangent of the convolution.
  auto z_tangent = convolve<double>(shape, x_tangent, w);
  const auto second = convolve<double>(shape, x, w_tangent);
  for (size_t i = 0; i < z_tangent.size(); ++i) {
    z_tangent[i] += second[i];
  }
  const auto spectrum_tangent = run.images(x_tangent, shape.inputs);
  const auto weights_tangent = run.weights(w_tangent, false);
  CHECK(relative_error(run.outputs({{spectrum_tangent.data(), weights.data()},
                                    {spectrum.data(), weights_tangent.data()}},
                                   shape.inputs, shape.outputs, 64),
                       z_tangent) <= bound);

  // The gradient in x is linear in x: <dz, z(x')> = <dx, x'>.
  const auto dz_spectrum = run.images(dz, shape.outputs);
  const auto turned = run.weights(w, true);
  const auto dx = run.outputs({{dz_spectrum.data(), turned.data()}}, shape.outputs, shape.inputs, 64);
  const auto z_of_tangent = convolve<double>(shape, x_tangent, w);
  double by_z = 0;
  double by_x = 0;
  double scale = 0;
  for (size_t i = 0; i < dz.size(); ++i) {
    by_z += static_cast<double>(dz[i]) * z_of_tangent[i];
    scale += std::fabs(static_cast<double>(dz[i]) * z_of_tangent[i]);
  }
  for (size_t i = 0; i < dx.size(); ++i) {
    by_x += static_cast<double>(dx[i]) * static_cast<double>(x_tangent[i]);
  }
  CHECK(std::fabs(by_z - by_x) <= bound * scale);

  // The gradient in w, summed over two slices of the positions' panels.
  std::vector<T> gradients = run.spectrum(shape.outputs);
  loops.transform_gradients(shape.tiles, shape.outputs, dz.data(), 0, shape.tiles.count(), run.padded,
                            gradients.data());
  std::vector<T> sums(static_cast<size_t>(16 * run.panels(shape.outputs) *
                                          rounded_up(shape.inputs, loops.rows) * loops.panel));
  const GradientTerm<T> term = {spectrum.data(), gradients.data()};
  for (int64_t position = 0; position < 16; ++position) {
    for (int64_t panel = 0; panel < run.panels(shape.outputs); ++panel) {
      loops.weight_gradient(position, shape.inputs, shape.outputs, &term, 1, panel, panel + 1, run.padded,
                            sums.data());
    }
  }
  std::vector<T> dw(w.size());
  loops.finish_weight_gradient(sums.data(), shape.inputs, shape.outputs, 0, run.panels(shape.outputs),
                               dw.data());
  by_z = by_x = 0;
  for (size_t i = 0; i < dz.size(); ++i) {
    by_z += static_cast<double>(dz[i]) * second[i];
  }
  for (size_t i = 0; i < dw.size(); ++i) {
    by_x += static_cast<double>(dw[i]) * static_cast<double>(w_tangent[i]);
  }
  CHECK(std::fabs(by_z - by_x) <= bound * scale);
}

// In float32 the minimal filtering is no less accurate than the plain sum over the window.
void test_no_less_accurate_than_the_sum(const ConvolutionLoops<float>& loops) {
  const Shape shape = {{2, 8, 8}, 128, 64};
  double filtered = 0;
  double summed = 0;
  for (int seed = 0; seed < 5; ++seed) {
    const Run<float> run{loops, shape};
    const auto x = normal<float>(shape.pixels() * shape.inputs);
    const auto w = normal<float>(shape.outputs * shape.inputs * 9);
    const auto exact = convolve<double>(shape, x, w);
    const auto spectrum = run.images(x, shape.inputs);
    const auto weights = run.weights(w, false);
    filtered += relative_error(
        run.outputs({{spectrum.data(), weights.data()}}, shape.inputs, shape.outputs, 64), exact);
    summed += relative_error(convolve<float>(shape, x, w), exact);
  }
  CHECK(filtered <= summed);
}

template <typename T>
void test_products(const ConvolutionLoops<T>& loops, int64_t rows, int64_t depth, int64_t columns) {
  const double bound = sizeof(T) == 8 ? 1e-13 : 2e-5;
  const int64_t left_row = rounded_up(depth, loops.rows);
  auto left = std::vector<T>(static_cast<size_t>(rows * left_row));
  const auto numbers = normal<T>(rows * depth);
  const auto right = normal<T>(depth * columns);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < depth; ++k) {
      left[static_cast<size_t>(row * left_row + k)] = numbers[static_cast<size_t>(row * depth + k)];
    }
  }
  const int64_t padded = rounded_up(columns, loops.panel);
  std::vector<T> packed(static_cast<size_t>(depth * padded));
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t column = 0; column < columns; ++column) {
      packed[static_cast<size_t>((column / loops.panel * depth + k) * loops.panel + column % loops.panel)] =
          right[static_cast<size_t>(k * columns + column)];
    }
  }
  std::vector<T> out(static_cast<size_t>(rows * columns));
  const T* lefts[] = {left.data(), left.data()};
  const T* rights[] = {packed.data(), packed.data()};
  loops.product(rows, columns, depth, lefts, left_row, rights, 2, out.data(), columns);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += 2.0 * static_cast<double>(numbers[static_cast<size_t>(row * depth + k)]) *
               static_cast<double>(right[static_cast<size_t>(k * columns + column)]);
      }
      CHECK(std::fabs(static_cast<double>(out[static_cast<size_t>(row * columns + column)]) - sum) <=
            bound * 10);
    }
  }

  // transpose(left) x out, which has the rows of left.
  std::vector<T> sums(static_cast<size_t>(left_row * padded));
  loops.transposed_product(rows, depth, columns, left.data(), left_row, out.data(), sums.data());
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t column = 0; column < columns; ++column) {
      double sum = 0;
      double scale = 1;
      for (int64_t row = 0; row < rows; ++row) {
        const double product = static_cast<double>(numbers[static_cast<size_t>(row * depth + k)]) *
                               static_cast<double>(out[static_cast<size_t>(row * columns + column)]);
        sum += product;
        scale += std::fabs(product);
      }
      CHECK(std::fabs(static_cast<double>(sums[static_cast<size_t>(k * padded + column)]) - sum) <=
            bound * scale);
    }
  }
}

template <typename T>
void test_all(const ConvolutionLoops<T>& loops) {
  for (const int64_t inputs : {int64_t{1}, int64_t{5}, loops.panel - 1, loops.panel, loops.panel + 1}) {
    for (const int64_t outputs : {int64_t{1}, loops.panel / 2, loops.panel, loops.panel + 3}) {
      test_against_the_definition(loops, {{2, 5, 4}, inputs, outputs});
    }
  }
  for (const int64_t height : {1, 2, 3, 8}) {
    for (const int64_t width : {1, 2, 7}) {
      test_against_the_definition(loops, {{3, height, width}, 6, 7});
    }
  }
  for (const int64_t rows : {int64_t{1}, loops.rows - 1, loops.rows, loops.rows + 1, int64_t{65}}) {
    for (const int64_t columns : {int64_t{1}, loops.panel / 2, loops.panel, loops.panel + 1}) {
      test_products(loops, rows, 27, columns);
      test_products(loops, rows, 130, columns);
    }
  }
}

}  // namespace

int main() {
  test_all(pydistill::cpu::baseline::convolution_loops<float>());
  test_all(pydistill::cpu::baseline::convolution_loops<double>());
#if defined(__x86_64__)
  if (pydistill::cpu::isa() >= Isa::kAvx2) {
    test_all(pydistill::cpu::avx2::convolution_loops<float>());
    test_all(pydistill::cpu::avx2::convolution_loops<double>());
  }
  if (pydistill::cpu::isa() >= Isa::kAvx512) {
    test_all(pydistill::cpu::avx512::convolution_loops<float>());
    test_all(pydistill::cpu::avx512::convolution_loops<double>());
  }
#endif
  test_no_less_accurate_than_the_sum(pydistill::cpu::convolution_loops<float>());
  return 0;
}
