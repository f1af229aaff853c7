// Softmax cross-entropy of rows of logits, its gradient, and the tangents of both. For one row a [K] with
// labels y of mass m = sum y, p = softmax(a), and a tangent at of a:
//   loss = m log(sum exp a) - <y, a>       da = m p - y                 dy = -log p
//   losst = m <p, at> - <y, at>            dat = m p (at - <p, at>)     dyt = -(at - <p, at>)
// each times `scale`, which stands for 1/B of the whole batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace pydistill::kernels {

// Labels as class numbers: y is 1 at the number and 0 elsewhere. A number outside [0, K) makes y NaN, and
// with it all that comes of the row; nothing is read there.
template <typename scalar_t>
struct ClassNumbers {
  const int64_t* numbers;  // [B]
  int64_t classes;         // K

  PYDISTILL_HOST_DEVICE scalar_t weight(int64_t row, int64_t column) const {
    const int64_t number = numbers[row];
    if (number < 0 || number >= classes) {
      return static_cast<scalar_t>(NAN);
    }
    return number == column ? scalar_t(1) : scalar_t(0);
  }

  // y * value; zero at the other classes even where the value is infinite.
  PYDISTILL_HOST_DEVICE double weighted(int64_t row, int64_t column, scalar_t value) const {
    const scalar_t own = weight(row, column);
    return own == scalar_t(0) ? 0.0 : static_cast<double>(own) * static_cast<double>(value);
  }
};

// Labels as rows of any mass.
template <typename scalar_t>
struct LabelRows {
  const scalar_t* rows;  // [B, K]
  int64_t classes;       // K

  PYDISTILL_HOST_DEVICE scalar_t weight(int64_t row, int64_t column) const {
    return rows[row * classes + column];
  }

  PYDISTILL_HOST_DEVICE double weighted(int64_t row, int64_t column, scalar_t value) const {
    return static_cast<double>(weight(row, column)) * static_cast<double>(value);
  }
};

// A map over rows, as the engines in cpu/ and cuda/ drive it. Of each row they take the largest score(), then
//   accumulate(sums, ...) for every column, combine(sums, sums) in a fixed order, finish(largest, sums) ->
//   Row, write_row(row, Row) once and write(row, column, Row) for every column.
// Sums are kept in double. Each result is left out where its pointer is null.
template <typename scalar_t, typename Labels>
struct SoftmaxXent {
  const scalar_t* logits;  // [B, K]
  Labels labels;           // of the same rows
  int64_t classes;         // K
  scalar_t scale;
  scalar_t* losses;       // [B]
  scalar_t* grad_logits;  // [B, K]
  scalar_t* grad_labels;  // [B, K]

  using Score = scalar_t;
  struct Sums {
    double exponentials;  // sum exp(a - largest)
    double mass;          // sum y
    double scores;        // sum y (a - largest)
  };
  struct Row {
    scalar_t largest;
    scalar_t sum;  // of the exponentials
    scalar_t log_sum;
    scalar_t mass;
    scalar_t loss;
  };

  PYDISTILL_HOST_DEVICE int64_t columns() const { return classes; }

  PYDISTILL_HOST_DEVICE Score score(int64_t row, int64_t column) const {
    return logits[row * classes + column];
  }

  PYDISTILL_HOST_DEVICE static Sums identity() { return {0.0, 0.0, 0.0}; }

  PYDISTILL_HOST_DEVICE void accumulate(Sums& sums, int64_t row, int64_t column, Score largest) const {
    const scalar_t below = score(row, column) - largest;
    sums.exponentials += static_cast<double>(std::exp(below));
    sums.mass += static_cast<double>(labels.weight(row, column));
    sums.scores += labels.weighted(row, column, below);
  }

  PYDISTILL_HOST_DEVICE static Sums combine(const Sums& a, const Sums& b) {
    return {a.exponentials + b.exponentials, a.mass + b.mass, a.scores + b.scores};
  }

  PYDISTILL_HOST_DEVICE Row finish(Score largest, const Sums& sums) const {
    const double log_sum = std::log(sums.exponentials);
    return {largest, static_cast<scalar_t>(sums.exponentials), static_cast<scalar_t>(log_sum),
            static_cast<scalar_t>(sums.mass), static_cast<scalar_t>(sums.mass * log_sum - sums.scores)};
  }

  PYDISTILL_HOST_DEVICE void write_row(int64_t row, const Row& shared) const {
    if (losses != nullptr) {
      losses[row] = scale * shared.loss;
    }
  }

  PYDISTILL_HOST_DEVICE void write(int64_t row, int64_t column, const Row& shared) const {
    const int64_t i = row * classes + column;
    const scalar_t below = logits[i] - shared.largest;
    if (grad_logits != nullptr) {
      const scalar_t probability = std::exp(below) / shared.sum;
      grad_logits[i] = scale * (shared.mass * probability - labels.weight(row, column));
    }
    if (grad_labels != nullptr) {
      grad_labels[i] = scale * (shared.log_sum - below);
    }
  }
};

// The same with a tangent of the logits; the gradient comes along, since it shares the exponentials.
template <typename scalar_t, typename Labels>
struct SoftmaxXentTangent {
  const scalar_t* logits;          // [B, K]
  const scalar_t* logits_tangent;  // [B, K]
  Labels labels;                   // of the same rows
  int64_t classes;                 // K
  scalar_t scale;
  scalar_t* loss_tangents;        // [B]
  scalar_t* grad_logits;          // [B, K]
  scalar_t* grad_logits_tangent;  // [B, K]
  scalar_t* grad_labels_tangent;  // [B, K]

  using Score = scalar_t;
  struct Sums {
    double exponentials;  // sum exp(a - largest)
    double tangents;      // sum exp(a - largest) at
    double mass;          // sum y
    double moved;         // sum y at
  };
  struct Row {
    scalar_t largest;
    scalar_t sum;           // of the exponentials
    scalar_t mean_tangent;  // <p, at>
    scalar_t mass;
    scalar_t loss_tangent;
  };

  PYDISTILL_HOST_DEVICE int64_t columns() const { return classes; }

  PYDISTILL_HOST_DEVICE Score score(int64_t row, int64_t column) const {
    return logits[row * classes + column];
  }

  PYDISTILL_HOST_DEVICE static Sums identity() { return {0.0, 0.0, 0.0, 0.0}; }

  PYDISTILL_HOST_DEVICE void accumulate(Sums& sums, int64_t row, int64_t column, Score largest) const {
    const scalar_t tangent = logits_tangent[row * classes + column];
    const double exponential = static_cast<double>(std::exp(score(row, column) - largest));
    sums.exponentials += exponential;
    sums.tangents += exponential * static_cast<double>(tangent);
    sums.mass += static_cast<double>(labels.weight(row, column));
    sums.moved += labels.weighted(row, column, tangent);
  }

  PYDISTILL_HOST_DEVICE static Sums combine(const Sums& a, const Sums& b) {
    return {a.exponentials + b.exponentials, a.tangents + b.tangents, a.mass + b.mass, a.moved + b.moved};
  }

  PYDISTILL_HOST_DEVICE Row finish(Score largest, const Sums& sums) const {
    const double mean_tangent = sums.tangents / sums.exponentials;
    return {largest, static_cast<scalar_t>(sums.exponentials), static_cast<scalar_t>(mean_tangent),
            static_cast<scalar_t>(sums.mass), static_cast<scalar_t>(sums.mass * mean_tangent - sums.moved)};
  }

  PYDISTILL_HOST_DEVICE void write_row(int64_t row, const Row& shared) const {
    if (loss_tangents != nullptr) {
      loss_tangents[row] = scale * shared.loss_tangent;
    }
  }

  PYDISTILL_HOST_DEVICE void write(int64_t row, int64_t column, const Row& shared) const {
    const int64_t i = row * classes + column;
    const scalar_t spread = logits_tangent[i] - shared.mean_tangent;
    if (grad_logits != nullptr || grad_logits_tangent != nullptr) {
      const scalar_t share = shared.mass * (std::exp(logits[i] - shared.largest) / shared.sum);
      if (grad_logits != nullptr) {
        grad_logits[i] = scale * (share - labels.weight(row, column));
      }
      if (grad_logits_tangent != nullptr) {
        grad_logits_tangent[i] = scale * (share * spread);
      }
    }
    if (grad_labels_tangent != nullptr) {
      grad_labels_tangent[i] = -scale * spread;
    }
  }
};

// The sum of the rows' losses, a map with a reduction (sgd_step.h) that writes nothing on its way.
template <typename scalar_t>
struct LossSum {
  const scalar_t* losses;  // [B]
  scalar_t* loss;          // []

  struct State {
    double sum;
  };
  struct Constants {};
  using Item = scalar_t;

  PYDISTILL_HOST_DEVICE Constants constants() const { return {}; }
  PYDISTILL_HOST_DEVICE static State identity() { return {0.0}; }
  PYDISTILL_HOST_DEVICE Item load(int64_t i) const { return losses[i]; }
  PYDISTILL_HOST_DEVICE void accumulate(State& state, Constants, int64_t, Item item) const {
    state.sum += static_cast<double>(item);
  }
  PYDISTILL_HOST_DEVICE static State combine(const State& a, const State& b) { return {a.sum + b.sum}; }
  PYDISTILL_HOST_DEVICE void finish(const State& state) const { *loss = static_cast<scalar_t>(state.sum); }
};

}  // namespace pydistill::kernels
